"""Write what ``exact.test.mjs`` expects: a file at every rate of the embedded bundles, and hashes of latents and noise.

    python -m tests.web.make_files

Run it again when the weights of an embedded bundle change: its files need them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

import rdeic_rt
from rdeic_rt.noise import gaussian

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "files"


def main() -> None:
    """Write ``files/<bundle>_r<rate>.rdc`` and ``files/expected.json``."""
    FOLDER.mkdir(exist_ok=True)
    photo = np.asarray(Image.open(ROOT / "tests/data/photos/coffee.jpg").convert("RGB"))
    latents = {}
    for name in ("tiny-2", "diffo-tiny"):
        codec = rdeic_rt.load(ROOT / "engines" / name, backend="cpu", threads=1)
        for rate in codec.bundle.rates:
            data = codec.encode(np.ascontiguousarray(photo[:150, :200]), rate=rate.index)
            tensors = codec.read_latents(data).tensors
            path = f"{name}_r{rate.index}.rdc"
            (FOLDER / path).write_bytes(data)
            latents[path] = sha256(b"".join(tensors[key].tobytes() for key in sorted(tensors)))
    noise = [
        {"dims": dims, "seed": str(seed), "draw": draw, "sha256": sha256(gaussian(tuple(dims), seed, draw).tobytes())}
        for dims, seed, draw in (([1, 4, 64, 96], 2**64 - 1, 0), ([1, 4, 33, 7], 1344991580, 3), ([5], 0, 1))
    ]
    (FOLDER / "expected.json").write_text(json.dumps({"latents": latents, "noise": noise}, indent=2) + "\n")


def sha256(data: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
