"""What `rdeic-rt eval` costs in processor time: this checkout against another one.

    git worktree add ../before COMMIT
    python tests/bench/bench_eval.py --before ../before

Each side evaluates the same photo of 512x384 once, with its own default bundle and judges, beside JPEG and WebP, and
draws curves and sheet.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from rdeic_rt.cli import cpu

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "tests/data/photos/coffee.jpg"
WORDS = ["eval", str(PHOTO), "--codecs", "jpeg,webp", "--sheet", "sheet.png", "--plot", "curves.png"]


def processor_seconds(checkout: Path) -> float:
    """Return the user and system time of one evaluation by a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "runtime"), "RDEIC_RT_BUNDLES": str(checkout / "engines")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rdeic_rt", *WORDS]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure both, and print the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="folder of the checkout to compare with")
    before, after = (processor_seconds(side.resolve()) for side in (parser.parse_args().before, ROOT))
    print(cpu.summary())
    print(f"before {before:.1f} s, after {after:.1f} s of processor time, ratio {after / before:.3f}")


if __name__ == "__main__":
    main()
