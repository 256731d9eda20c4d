"""Time and memory of an engine build: seconds, and the most that all its processes hold at once (Linux).

python tests/bench/bench_build.py --random-weights sd21 --steps 2       # the options of export/build_engines.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run the build, print the two numbers and return its exit code."""
    start, peak_kb = time.perf_counter(), 0
    build = subprocess.Popen([sys.executable, ROOT / "export/build_engines.py", *sys.argv[1:]])
    while build.poll() is None:
        peak_kb = max(peak_kb, sum(map(resident_kb, family(build.pid))))
        time.sleep(0.5)
    print(f"{time.perf_counter() - start:.0f} s, peak of all processes {peak_kb / 1e6:.1f} GB")
    return build.returncode


def family(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in children.read_text().split():
                yield from family(int(child))
        except OSError:
            pass  # it has just ended


def resident_kb(pid: int) -> int:
    """Return the memory a process has in RAM; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Rss:")), 0)


if __name__ == "__main__":
    sys.exit(main())
