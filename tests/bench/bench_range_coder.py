"""What the range coder in Python costs beside constriction: entropy coding alone, and a whole decode.

    python tests/bench/bench_range_coder.py [PHOTO ...] [--runs 7]

Each photo is encoded with the embedded bundle, then the two coders take turns, so that a busy moment hits both. Prints
medians and ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import rdeic_rt
from rdeic_rt import timing
from rdeic_rt.entropy import coder, constriction_coder, range_coder

PHOTOS = Path(__file__).resolve().parents[1] / "data" / "photos"
MODULES = {"constriction": constriction_coder, "Python": range_coder}


def codec_with(name: str) -> rdeic_rt.Codec:
    """Return a codec on the CPU whose tables are made for one of the coders."""
    take(name)
    codec = rdeic_rt.load(backend="cpu", threads=1)
    codec.encode(np.zeros((64, 64, 3), np.uint8))
    return codec


def take(name: str) -> None:
    """Let encoders and decoders that are made from now on be of this coder."""
    setattr(coder, "implementation", lambda: MODULES[name])  # noqa: B010


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall time of the work, and of entropy coding in it."""
    with timing.collect() as times:
        began = time.perf_counter()
        work()
        whole = time.perf_counter() - began
    return whole, times.total_ms()["entropy"] / 1e3


def main() -> None:
    """Time both coders in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", nargs="*", type=Path, default=sorted(PHOTOS.glob("*.jpg"))[:3])
    parser.add_argument("--runs", type=int, default=7, help="of each. Default: 7")
    args = parser.parse_args()
    codecs = {name: codec_with(name) for name in MODULES}
    rates = codecs["Python"].bundle.rates
    print(f"rdeic-rt {rdeic_rt.__version__}, {constriction_coder.NAME}, Python {platform.python_version()}, 1 thread,")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {args.runs} runs, median")
    print(f"{'':28} {'entropy decoding, ms':>32} {'whole decode, ms':>32}")
    print(f"{'photo, rate':28}" + 2 * f" {'constriction':>12} {'Python':>10} {'ratio':>8}")
    for path in args.photos:
        with Image.open(path) as photo:
            image = photo.convert("RGB")
        for rate in (rates[0].index, rates[-1].index):
            take("constriction")
            data = codecs["constriction"].encode(image, rate)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in codecs}
            for run in range(args.runs + 1):
                for name, codec in codecs.items():
                    take(name)
                    seconds = seconds_of(lambda: codec.decode(data))  # noqa: B023
                    if run:
                        found[name].append(seconds)
            row = f"{f'{path.stem} {image.width}x{image.height}, {rate}':28}"
            for part in (1, 0):
                fast, slow = (1e3 * statistics.median(pair[part] for pair in found[name]) for name in found)
                row += f" {fast:12.1f} {slow:10.1f} {slow / fast:8.2f}"
            print(row)


if __name__ == "__main__":
    main()
