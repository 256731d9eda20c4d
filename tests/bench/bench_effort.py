"""What `encode --effort` buys: PSNR of files that are no larger, and how much longer it takes.

    python -m tests.bench.bench_effort PHOTOS [--bundle B] [--limit N] [--efforts 0 1 2 4]

Both sides are measured in one run. PHOTOS is a folder.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from PIL import Image

import rdeic_rt
from rdeic_eval.psnr import psnr_db
from rdeic_rt.cli import cpu
from rdeic_rt.cli.eval import find_photos


def main() -> None:
    """Print one row per rate and effort: means over all photos, and the ratio of times to effort 0."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("photos", help="folder, or one photo")
    p.add_argument("--bundle", help="bundle to measure (default: the embedded one)")
    p.add_argument("--limit", type=int, help="only the first N photos")
    p.add_argument("--efforts", type=int, nargs="+", default=[0, 1, 2, 4])
    args = p.parse_args()
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in find_photos([args.photos])[: args.limit]]
    codec = rdeic_rt.load(args.bundle)
    codec.decode(codec.encode(photos[0]))
    print(f"{cpu.summary()}, {len(photos)} photos\n")
    print("| rate | effort | bytes | preview dB | decode dB | time | better than effort 0 |")
    print("|---|---|---|---|---|---|---|")
    for rate in codec.bundle.rates:
        plain: list[float] = []
        plain_seconds = 0.0
        for effort in args.efforts:
            began = time.perf_counter()
            files = [codec.encode(photo, rate.index, effort=effort) for photo in photos]
            seconds = time.perf_counter() - began
            previews = [psnr_db(codec.preview(data), photo) for data, photo in zip(files, photos, strict=True)]
            decodes = [psnr_db(codec.decode(data), photo) for data, photo in zip(files, photos, strict=True)]
            if not plain:
                plain, plain_seconds = decodes, seconds
            better = sum(a > b for a, b in zip(decodes, plain, strict=True))
            row = f"{rate.index} | {effort} | {sum(map(len, files))} | {np.mean(previews):.2f} | {np.mean(decodes):.2f}"
            print(f"| {row} | x {seconds / plain_seconds:.1f} | {better} of {len(photos)} |", flush=True)


if __name__ == "__main__":
    main()
