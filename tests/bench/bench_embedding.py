"""librdeic against the Python runtime, in one run: start to first image, warm decodes, memory, size.

    cmake -B build && cmake --build build
    python tests/bench/bench_embedding.py --build build [--size 768x512] [--processes 5] [--runs 5] [--threads 2]

Each process opens the bundle with its hashes checked, decodes a file once and then some times more; processes of the
two sides alternate. Times count from before the process is started: Python's imports are part of its start.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

import rdeic_rt

ROOT = Path(__file__).parents[2]
# The same as bench_decode.c prints, by the same clocks.
PYTHON = """
import sys, time
import rdeic_rt
from rdeic_rt.cli.measure import peak_rss_bytes
bundle, path, threads, runs, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
data = open(path, "rb").read()
codec = rdeic_rt.load(bundle, backend="cpu", threads=threads)
times = [1e3 * time.monotonic() - start]
for run in range(runs + 1):
    begin = start if run == 0 else 1e3 * time.monotonic()
    codec.decode(data)
    times.append(1e3 * time.monotonic() - begin)
print(*times, peak_rss_bytes() / 1024)
"""


@dataclass(frozen=True)
class Run:
    """One process, in ms but for the peak.

    Attributes:
        ready: from before it was started until the bundle was open.
        first: likewise until the first image.
        warm: of each further decode.
        cpu: processor time of the process.
        peak_mb: largest resident set.
    """

    ready: float
    first: float
    warm: tuple[float, ...]
    cpu: float
    peak_mb: float


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", type=Path, required=True, help="CMake's build folder")
    p.add_argument("--bundle", type=Path, default=ROOT / "engines/tiny-2")
    p.add_argument("--size", default="768x512", help="width x height of the photo")
    p.add_argument("--rate", type=int, help="of the file; the bundle's default unless given")
    p.add_argument("--processes", type=int, default=5, help="of each side")
    p.add_argument("--runs", type=int, default=5, help="warm decodes of each process")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    args = p.parse_args()
    width, height = map(int, args.size.split("x"))
    photo = Image.open(ROOT / "tests/data/photos/coffee.jpg").convert("RGB").resize((width, height))
    data = rdeic_rt.load(args.bundle, backend="cpu").encode(np.asarray(photo), rate=args.rate)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.rdc"
        path.write_bytes(data)
        arguments = [str(args.bundle), str(path), str(args.threads), str(args.runs)]
        sides = {
            "librdeic": [str(args.build / "tests/cpp/bench_decode"), *arguments],
            "Python": [sys.executable, "-c", PYTHON, *arguments],
        }
        for command in sides.values():
            run(command)  # fills the system's file cache
        found: dict[str, list[Run]] = {side: [] for side in sides}
        for _ in range(args.processes):
            for side, command in sides.items():
                found[side].append(run(command))
    print(f"rdeic-rt {version('rdeic-rt')}, onnxruntime {version('onnxruntime')}, {platform.machine()}", end=", ")
    print(f"{args.threads} threads, {args.size}, {len(data)} bytes; medians of {args.processes} processes\n")
    print(f"{'':34s}{'librdeic':>10s}{'Python':>10s}{'ratio':>8s}")
    row("process start to bundle open, ms", found, lambda r: [r.ready])
    row("process start to first image, ms", found, lambda r: [r.first])
    row("warm decode, ms", found, lambda r: r.warm)
    row("start, less a warm decode, ms", found, lambda r: [r.first - statistics.median(r.warm)])
    row("processor time of the process, ms", found, lambda r: [r.cpu])
    row("peak memory, MB", found, lambda r: [r.peak_mb])
    library = next(args.build.glob("librdeic.so.*.*.*"))
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder) / "librdeic.so"
        subprocess.run(["strip", "-o", str(stripped), str(library)], check=True)
        print(f"\nlibrary: {stripped.stat().st_size / 1e3:.0f} kB stripped, beside ONNX Runtime")


def run(command: Sequence[str]) -> Run:
    """Run one process and return what it says, and its processor time."""
    before = os.times()
    done = subprocess.run([*command, str(1e3 * time.monotonic())], check=True, capture_output=True, text=True)
    after = os.times()
    ready, first, *warm, peak_kb = map(float, done.stdout.split())
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(ready, first, tuple(warm), 1e3 * cpu, peak_kb / 1024)


def row(name: str, found: dict[str, list[Run]], values: Callable[[Run], Sequence[float]]) -> None:
    """Print one line: both medians, and how many times more Python takes."""
    medians = [statistics.median(v for r in runs for v in values(r)) for runs in found.values()]
    print(f"{name:34s}{medians[0]:10.1f}{medians[1]:10.1f}{medians[1] / medians[0]:8.2f}")


if __name__ == "__main__":
    main()
