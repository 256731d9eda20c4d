"""Make the golden files of one format version, once: files that no later release may stop decoding.

    python -m tests.golden.make_golden tests/golden/v1
    python -m tests.golden.make_golden tests/golden/v1-levels --levels

They lean on a random-weight bundle of their own, kept beside them, so that better weights in the embedded bundle leave
them alone. An existing folder is never touched.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import rdeic_rt
from rdeic_export.bundle.build import build
from rdeic_rt import Codec, container
from tests.micro import make_micro

CROPS = {"astronaut": (96, 130), "coffee": (64, 64), "rocket": (1, 1), "chelsea": (33, 150)}  # height, width
LIMITS = {
    "max_difference": {"value": 2, "reason": "fp32 kernels differ between ONNX Runtime versions and CPUs by rounding"},
    "psnr_db": {"value": 50.0, "reason": "two levels may appear, but not everywhere"},
}
# `make_micro.MICRO_LEVELS`, smaller still.
LEVELS_CONFIG = replace(
    make_micro.MICRO_LEVELS,
    unet=replace(make_micro.MICRO.unet, channels=(8, 16)),
    compression=replace(
        make_micro.MICRO_LEVELS.compression,
        latent_channels=8,
        slices=(4, 4),
        context_widths=(8, 8),
        analysis_width=8,
        synthesis_width=8,
    ),
)
CROPS_AT_LEVELS = {"coffee": (64, 64), "chelsea": (33, 150)}


def main() -> None:
    """Write bundle, files, exact latents and pixels."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("target", type=Path, help="folder to make")
    p.add_argument("--levels", action="store_true", help="rates that share their graphs, and files at levels between")
    args = p.parse_args()
    target = args.target
    if target.exists():
        sys.exit(f"{target} exists; golden files are never made again. A new format version gets a new folder.")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder)
        chosen = make_micro.levels_recipe(weights, LEVELS_CONFIG) if args.levels else make_micro.recipe(weights)
        build(chosen, [make_micro.PHOTOS], [], target / "bundle")
    codec = rdeic_rt.load(target / "bundle", backend="cpu")
    for name, (height, width) in (CROPS_AT_LEVELS if args.levels else CROPS).items():
        photo = np.asarray(Image.open(make_micro.PHOTOS / f"{name}.jpg").convert("RGB"))
        crop = np.ascontiguousarray(photo[100 : 100 + height, 100 : 100 + width])
        for number, data in (at_levels if args.levels else at_rates)(codec, crop):
            stem = target / f"{name}_r{number}"
            stem.with_suffix(".rdc").write_bytes(data)
            np.savez_compressed(stem.with_suffix(".npz"), y_hat=codec.read_latents(data).tensors["y_hat"])
            Image.fromarray(codec.decode(data)).save(stem.with_suffix(".png"))
    (target / "limits.json").write_text(json.dumps(LIMITS, indent=1) + "\n")


def at_rates(codec: Codec, crop: NDArray[np.uint8]) -> Iterator[tuple[int, bytes]]:
    """Yield an image at each rate of the bundle."""
    for rate in codec.bundle.rates:
        yield rate.index, codec.encode(crop, rate=rate.index)


def at_levels(codec: Codec, crop: NDArray[np.uint8]) -> Iterator[tuple[int, bytes]]:
    """Yield an image at the level of each rate, at one between, and, said to be so, at the last, beyond all rates."""
    for rate in (0.0, 0.37, 1.0):
        data = codec.encode(crop, rate=rate)
        yield container.parse(data).header.rate, data
    assert codec.bundle.levels is not None
    last = codec.bundle.levels.count - 1
    file = container.parse(data)
    yield last, container.pack(replace(file.header, rate=last), file.z, file.y)


if __name__ == "__main__":
    main()
