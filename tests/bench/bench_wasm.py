"""Entropy decoding in WebAssembly against librdeic on one thread, in one run, with every kernel of this CPU.

    cmake -B build && cmake --build build
    .ci/web
    python tests/bench/bench_wasm.py --build build [--size 768x512] [--runs 15] [--rounds 3]

The two sides take turns; a time is that of the fastest run, as other work on the machine only adds to it. Printed are
the CPU, its instruction sets that matter here, node, and for each rate the times and how many times as long WebAssembly
takes.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import rdeic_rt

ROOT = Path(__file__).parents[2]
SETS = ("sse2", "ssse3", "avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp", "i8mm")


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", type=Path, default=ROOT / "build", help="folder of a native build, with its tests")
    p.add_argument("--size", default="768x512", help="of the image, in pixels")
    p.add_argument("--runs", type=int, default=15, help="of each decode, by one process")
    p.add_argument("--rounds", type=int, default=3, help="processes of each side")
    args = p.parse_args()
    model, sets = cpu()
    node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    print(f"{model}; {sets}; node {node}; one thread, {args.size}, fastest of {args.rounds} x {args.runs} runs")
    width, height = map(int, args.size.split("x"))
    photo = Image.open(ROOT / "tests/data/photos/coffee.jpg").convert("RGB").resize((width, height))
    for name in ("tiny-2", "diffo-tiny"):
        folder = ROOT / "engines" / name
        codec = rdeic_rt.load(folder, backend="cpu", threads=1)
        with tempfile.TemporaryDirectory() as temporary:
            paths = []
            for rate in codec.bundle.rates:
                paths.append(Path(temporary) / f"{rate.index}.rdc")
                paths[-1].write_bytes(codec.encode(np.asarray(photo), rate=rate.index))
            native = [str(args.build / "tests/cpp/bench_entropy"), str(folder), str(args.runs), *map(str, paths)]
            wasm = ["node", str(ROOT / "tests/bench/bench_wasm.mjs"), *native[1:]]
            times: dict[tuple[int, str], float] = {}
            for _ in range(args.rounds):
                kernels = [line.split() for line in output(native)]
                per_file = len(kernels) // len(paths)
                for number, (kernel, ms) in enumerate(kernels):
                    keep(times, number // per_file, kernel, float(ms))
                for number, ms in enumerate(output(wasm)):
                    keep(times, number, "WebAssembly", float(ms))
        for rate in codec.bundle.rates:
            mine = {kernel: ms for (index, kernel), ms in times.items() if index == rate.index}
            ours = mine.pop("WebAssembly")
            others = ", ".join(f"{kernel} {ms:.1f} ms ({ours / ms:.1f}x)" for kernel, ms in mine.items())
            print(f"{name}, rate {rate.index}: WebAssembly {ours:.1f} ms; native {others}")


def output(command: list[str]) -> list[str]:
    """Return the lines that a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def keep(times: dict[tuple[int, str], float], index: int, kernel: str, ms: float) -> None:
    """Keep the faster of two times."""
    times[index, kernel] = min(ms, times.get((index, kernel), ms))


def cpu() -> tuple[str, str]:
    """Return the CPU's name, and which instruction sets it has of those that kernels could use."""
    facts = dict(
        (key.strip(), value.strip())
        for key, _, value in (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    )
    has = set((facts.get("flags") or facts.get("Features") or "").split())
    return facts.get("model name", "unknown CPU"), " ".join(name for name in SETS if name in has)


if __name__ == "__main__":
    main()
