"""How long `import rdeic_rt` and the start of the command take, in fresh processes.

    python tests/bench/bench_import.py [--runs 15]

Prints the median and the fastest of the runs beside those of an interpreter that does nothing, a part of every row.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import rdeic_rt

CASES = {
    "python, doing nothing": ["-c", "pass"],
    "import rdeic_rt": ["-c", "import rdeic_rt"],
    "import rdeic_rt; rdeic_rt.Codec": ["-c", "import rdeic_rt; rdeic_rt.Codec"],
    "rdeic-rt --help": ["-m", "rdeic_rt", "--help"],
    "rdeic-rt info engines/tiny-2": ["-m", "rdeic_rt", "info", str(Path(__file__).parents[2] / "engines" / "tiny-2")],
}


def seconds_of(arguments: list[str]) -> float:
    """Return the wall time of one fresh interpreter with these arguments."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Time every case, interleaved so that a busy moment hits them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15, help="processes per case. Default: 15")
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(runs):
        for name, arguments in CASES.items():
            times[name].append(seconds_of(arguments))

    print(f"rdeic-rt {rdeic_rt.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {runs} runs")
    nothing = min(times["python, doing nothing"])
    print(f"{'':34} median s  fastest s  beyond python")
    for name, values in times.items():
        print(f"{name:34} {statistics.median(values):8.3f} {min(values):10.3f} {min(values) - nothing:14.3f}")


if __name__ == "__main__":
    main()
