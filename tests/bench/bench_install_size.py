"""What an installation of the runtime weighs: the wheel, and a fresh virtual environment with it and all it needs.

    python tests/bench/bench_install_size.py

Builds the wheel, installs it without extras (from the package index that pip is set up with) and adds up file sizes.
What the virtual environment holds before (pip) is not counted, nor are the .pyc files that Python makes by itself.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1_000_000


def sizes_by_package(site: Path) -> dict[str, int]:
    """Return the bytes of each top-level entry of a site-packages folder, without compiled .pyc files."""
    return {
        entry.name: sum(
            file.stat().st_size
            for file in ([entry] if entry.is_file() else entry.rglob("*"))
            if file.is_file() and file.suffix != ".pyc"
        )
        for entry in site.iterdir()
    }


def main() -> None:
    """Build, install, measure, print."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
        subprocess.run([sys.executable, *build], check=True, stdout=subprocess.DEVNULL)
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / "bin" / "python")
        where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
        before = sizes_by_package(site)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", str(wheel)], check=True)
        added = {name: size for name, size in sizes_by_package(site).items() if name not in before}

        print(f"{wheel.name}: {wheel.stat().st_size / MEGABYTE:.1f} MB; {platform.platform()}")
        print(f"installed without extras, beyond an empty environment: {sum(added.values()) / MEGABYTE:.1f} MB")
        for name, size in sorted(added.items(), key=lambda item: -item[1])[:12]:
            print(f"  {size / MEGABYTE:8.1f} MB  {name}")


if __name__ == "__main__":
    main()
