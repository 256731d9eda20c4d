"""Files of every format version still decode: latents to the bit, pixels within ``limits.json``."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rdeic_rt

VERSIONS = sorted(p for p in Path(__file__).parent.glob("v*") if p.is_dir())
FILES = [path for version in VERSIONS for path in sorted(version.glob("*.rdc"))]
# A process that has never encoded, with another number of threads or another range coder, prints the latents' hash.
FRESH = """
import hashlib, sys
if sys.argv[3] == "without": sys.modules["constriction"] = None
import rdeic_rt
codec = rdeic_rt.load(sys.argv[1], backend="cpu", threads=int(sys.argv[2]))
for path in sys.argv[4:]:
    print(hashlib.sha256(codec.read_latents(open(path, "rb").read()).tensors["y_hat"].tobytes()).hexdigest())
"""


def same_latents(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_golden_files_exist() -> None:
    assert len(FILES) >= 8


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_decode_golden_file_matches(path: Path) -> None:
    codec = rdeic_rt.load(path.parent / "bundle", backend="cpu")
    data = path.read_bytes()
    expected = np.load(path.with_suffix(".npz"))["y_hat"]
    assert same_latents(codec.read_latents(data).tensors["y_hat"], expected), (
        f"{path}: latents differ; the format is broken"
    )
    limits = json.loads((path.parent / "limits.json").read_text())
    pixels, want = codec.decode(data).astype(int), np.asarray(Image.open(path.with_suffix(".png"))).astype(int)
    assert pixels.shape == want.shape
    assert np.abs(pixels - want).max() <= limits["max_difference"]["value"]
    mse = np.square(pixels - want).mean()
    assert mse == 0 or 10 * np.log10(255**2 / mse) >= limits["psnr_db"]["value"]


@pytest.mark.parametrize(("threads", "constriction"), [(1, "with"), (2, "with"), (1, "without")])
def test_decode_fresh_process_gives_the_same_latents(threads: int, constriction: str) -> None:
    for version in VERSIONS:
        files = [path for path in FILES if path.parent == version]
        command = [sys.executable, "-c", FRESH, str(version / "bundle"), str(threads), constriction, *map(str, files)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        expected = [np.load(path.with_suffix(".npz"))["y_hat"] for path in files]
        assert printed == [hashlib.sha256(y_hat.tobytes()).hexdigest() for y_hat in expected]


def test_same_latents_last_element_differs_is_false() -> None:
    a = np.zeros((1, 2, 3, 4), np.float32)
    b = a.copy()
    b[..., -1, -1] = np.float32(1e-7)
    assert same_latents(a, a.copy())
    assert not same_latents(a, b)
