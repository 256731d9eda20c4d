"""Photos -> one array of squares, uint8 [N, side, side, 3], that the training stages map into memory.

python -m training.cut_crops --photos photos.tar --out runs/crops.npy
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from . import data


def main() -> None:
    """Write the array; the same photos, count, side and seed give the same bytes."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--photos", type=Path, nargs="+", required=True, help="folders, tar archives or files of photos")
    p.add_argument("--out", type=Path, required=True, help="the .npy file")
    p.add_argument("--count", type=int, default=24000, help="number of crops")
    p.add_argument(
        "--side", type=int, default=224, help="their side in pixels; the upper limit of --crop-px in training"
    )
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    photos = data.load_photos(args.photos, args.side)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    partial = args.out.with_suffix(".tmp")
    squares = open_memmap(partial, mode="w+", dtype=np.uint8, shape=(args.count, args.side, args.side, 3))
    for index, square in enumerate(data.cut(photos, args.count, args.side, args.seed)):
        squares[index] = square
    squares.flush()
    partial.replace(args.out)
    print(f"{args.out}: {args.count} squares of {args.side} px from {len(photos)} photos")


if __name__ == "__main__":
    main()
