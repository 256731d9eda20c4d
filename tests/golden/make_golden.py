"""Make the golden files of one format version, once: files that no later release may stop decoding.

    python -m tests.golden.make_golden tests/golden/v1

They lean on a random-weight bundle of their own, kept beside them, so that better weights in the embedded bundle leave
them alone. An existing folder is never touched.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import build_engines
import rdeic_rt
from tests.micro import make_micro

CROPS = {"astronaut": (96, 130), "coffee": (64, 64), "rocket": (1, 1), "chelsea": (33, 150)}  # height, width
LIMITS = {
    "max_difference": {"value": 2, "reason": "fp32 kernels differ between ONNX Runtime versions and CPUs by rounding"},
    "psnr_db": {"value": 50.0, "reason": "two levels may appear, but not everywhere"},
}


def main() -> None:
    """Write bundle, files, exact latents and pixels."""
    target = Path(sys.argv[1])
    if target.exists():
        sys.exit(f"{target} exists; golden files are never made again. A new format version gets a new folder.")
    with tempfile.TemporaryDirectory() as weights:
        build_engines.build(make_micro.recipe(Path(weights)), [make_micro.PHOTOS], [], target / "bundle")
    codec = rdeic_rt.load(target / "bundle", backend="cpu")
    for name, (height, width) in CROPS.items():
        photo = np.asarray(Image.open(make_micro.PHOTOS / f"{name}.jpg").convert("RGB"))
        crop = np.ascontiguousarray(photo[100 : 100 + height, 100 : 100 + width])
        for rate in codec.bundle.rates:
            data = codec.encode(crop, rate=rate.index)
            stem = target / f"{name}_r{rate.index}"
            stem.with_suffix(".rdc").write_bytes(data)
            np.savez_compressed(stem.with_suffix(".npz"), y_hat=codec.read_latents(data).y_hat)
            Image.fromarray(codec.decode(data)).save(stem.with_suffix(".png"))
    (target / "limits.json").write_text(json.dumps(LIMITS, indent=1) + "\n")


if __name__ == "__main__":
    main()
