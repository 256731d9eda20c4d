"""The integer networks on a real GPU: every integer of the golden files, and of a photo, as on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import BackendUnavailableError, Codec

from ..conftest import REPOSITORY

pytestmark = pytest.mark.gpu

GOLDEN = sorted((REPOSITORY / "tests" / "golden").glob("v*"))


def load_on_gpu(folder: Path, data: bytes) -> Codec:
    """Return a codec that has read a file with its networks on the GPU; skips where nothing compiles them."""
    try:
        codec = rdeic_rt.load(folder, backend="cuda", precision="fp32")
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    codec.read_latents(data)
    place = codec.description()["entropy networks"]
    if "NVRTC cannot be loaded" in place:
        pytest.skip(place)
    assert place == "gpu"
    return codec


@pytest.mark.parametrize("version", GOLDEN, ids=lambda path: path.name)
def test_golden_files_decode_to_their_integers(version: Path) -> None:
    files = sorted(version.glob("*.rdc"))
    codec = load_on_gpu(version / "bundle", files[0].read_bytes())
    for path in files:
        for _ in range(3):
            y_hat = codec.read_latents(path.read_bytes()).tensors["y_hat"]
            assert y_hat.tobytes() == np.load(path.with_suffix(".npz"))["y_hat"].tobytes()
    assert codec.description()["entropy networks"] == "gpu"


@pytest.mark.parametrize("rate", [0, 1, 2])
def test_photo_codes_as_on_the_cpu(embedded_bundle: Path, codec: Codec, photo: NDArray[np.uint8], rate: int) -> None:
    data = codec.encode(photo, rate)
    there = load_on_gpu(embedded_bundle, data)
    expected = codec.read_latents(data).tensors["y_hat"]
    for _ in range(20):
        assert there.read_latents(data).tensors["y_hat"].tobytes() == expected.tobytes()
    assert there.description()["entropy networks"] == "gpu"
