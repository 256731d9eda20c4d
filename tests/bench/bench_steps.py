"""What denoising in one step saves: decode times of a one-step bundle and of another in 2 and 5 steps, in one run.

    python -m tests.bench.bench_steps [--one-step diffo-tiny] [--bundle tiny-2] [--backend cpu] [--size 768x512]

Decodes take turns, so that whatever else the machine does slows all of them. Ratios are to the first line.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from PIL import Image

import rdeic_rt
from rdeic_rt import DecodeOptions, timing
from rdeic_rt.cli import cpu

PHOTO = Path(__file__).parents[1] / "data" / "photos" / "astronaut.jpg"


def main() -> None:
    """Print one row per decode: the whole, and what of it is denoising and entropy decoding."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--one-step", default="diffo-tiny", help="bundle that decodes in one step")
    p.add_argument("--bundle", default="tiny-2", help="bundle that decodes in several")
    p.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5], help="steps of that bundle")
    p.add_argument("--backend", default="cpu")
    p.add_argument("--size", default="768x512", help="width and height")
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--threads", type=int)
    args = p.parse_args()
    width, height = map(int, args.size.split("x"))
    photo = np.asarray(Image.open(PHOTO).convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    codecs = {
        name: rdeic_rt.load(name, backend=args.backend, threads=args.threads) for name in (args.one_step, args.bundle)
    }
    cases = []
    for name, codec in codecs.items():
        for rate in codec.bundle.rates if name == args.one_step else codec.bundle.rates[-1:]:
            data = codec.encode(photo, rate.index)
            for steps in [1] if name == args.one_step else args.steps:
                cases.append((f"{name}, rate {rate.index}, L = {steps}", codec, data, steps))
    whole: dict[str, list[float]] = {}
    stages: dict[str, list[dict[str, float]]] = {}
    for number in range(args.rounds + 1):
        for label, codec, data, steps in cases:
            began = time.perf_counter()
            codec.decode(data, DecodeOptions(steps=steps))
            ms = 1e3 * (time.perf_counter() - began)
            with timing.collect(wait=codec.synchronize) as collected:
                codec.decode(data, DecodeOptions(steps=steps))
            if number:  # the first round loads
                whole.setdefault(label, []).append(ms)
                stages.setdefault(label, []).append(dict(collected.total_ms()))
    print(f"{cpu.summary()}; {args.size}, backend {args.backend}, medians of {args.rounds} rounds in ms\n")
    print("| decode | bpp | whole | entropy | denoise | ratio |\n|---|---|---|---|---|---|")
    first = statistics.median(whole[cases[0][0]])
    for label, _, data, _ in cases:
        parts = [statistics.median(one.get(name, 0.0) for one in stages[label]) for name in ("entropy", "denoise")]
        median = statistics.median(whole[label])
        numbers = " | ".join(f"{value:.1f}" for value in (median, *parts))
        print(f"| {label} | {8 * len(data) / (width * height):.4f} | {numbers} | {median / first:.2f} |")


if __name__ == "__main__":
    main()
