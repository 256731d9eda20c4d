"""A family is one file: what `toy` has in common with RDEIC is nothing but the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import BundleCorruptError, BundleError, Codec, DecodeOptions, entropy, families
from rdeic_rt.limits import Size
from tests.images import psnr_db

from ..backends import fake_tensorrt
from ..backends.fake_cuda import FakeCuda
from . import toy


@pytest.fixture
def toy_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(families, "FAMILIES", {**families.FAMILIES, "toy": toy.Toy()})
    monkeypatch.setattr(entropy, "MODELS", {**entropy.MODELS, toy.VERSION: toy.Bytes.load})
    return toy.write(tmp_path / "toy")


@pytest.fixture
def codec(toy_folder: Path) -> Codec:
    return rdeic_rt.load(toy_folder, backend="cpu")


def in_numpy(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the preview of an image whose sides are multiples of 32."""
    height, width, _ = image.shape
    codes = image[..., 0].reshape(height // 8, 8, width // 8, 8).mean((1, 3)).astype(np.int64)
    tone = np.rint(image[..., 1].reshape(height // 32, 32, width // 32, 32).mean((1, 3)))
    red, green = np.kron(codes, np.ones((8, 8))), np.kron(tone, np.ones((32, 32)))
    return np.stack([red, green, red], axis=2).astype(np.uint8)


def test_encode_and_preview_are_what_the_family_says(codec: Codec, photo: NDArray[np.uint8]) -> None:
    image = photo[:288, :448]
    data = codec.encode(image)
    latents = codec.read_latents(data)
    assert latents.tensors["codes"].shape == (1, 36, 56)
    assert latents.tensors["tone"].shape == (1, 1, 9, 14)
    np.testing.assert_array_equal(codec.preview(data), in_numpy(image))


def test_decode_of_any_size_adds_the_noise_of_its_seed(codec: Codec, photo: NDArray[np.uint8]) -> None:
    for height, width in ((1, 1), (33, 70), (300, 451)):
        data = codec.encode(photo[:height, :width])
        decoded = codec.decode(data, DecodeOptions(seed=1))
        assert decoded.shape == (height, width, 3)
        assert 0 < np.abs(decoded.astype(int) - codec.preview(data)).max() <= 36
    assert (codec.decode(data, DecodeOptions(seed=2)) != decoded).any()


def test_in_tiles_is_the_same_as_whole(codec: Codec, toy_folder: Path, photo: NDArray[np.uint8]) -> None:
    """No graph of the toy looks further than a position of the coarsest grid, so that tiles are exact."""
    in_tiles = rdeic_rt.load(toy_folder, backend="cpu", tile_px=256)
    data = codec.encode(photo)
    assert in_tiles.encode(photo) == data
    np.testing.assert_array_equal(in_tiles.preview(data), codec.preview(data))
    np.testing.assert_array_equal(
        in_tiles.decode(data, DecodeOptions(seed=3)), codec.decode(data, DecodeOptions(seed=3))
    )


def test_on_a_gpu_it_is_recorded_and_replayed(
    tensorrt: Any, cuda: FakeCuda, codec: Codec, toy_folder: Path, photo: NDArray[np.uint8]
) -> None:
    fake_tensorrt.write_plans(toy_folder)
    fast = rdeic_rt.load(toy_folder, backend="tensorrt")
    data = codec.encode(photo[:96, :128])
    assert fast.encode(photo[:96, :128]) == data
    for _ in range(4):
        assert np.abs(fast.decode(data).astype(int) - codec.decode(data)).max() <= 1
    assert cuda.calls["cudaGraphLaunch"] == 2
    large = rdeic_rt.load(toy_folder, backend="tensorrt", tile_px=256)
    whole = codec.decode(codec.encode(photo))
    assert psnr_db(large.decode(codec.encode(photo)), whole) > 60


def test_steps_and_sharpness_mean_nothing_to_it(codec: Codec, photo: NDArray[np.uint8]) -> None:
    data = codec.encode(photo[:32, :32])
    with pytest.raises(ValueError, match="does not decode in steps that can be chosen"):
        codec.decode(data, DecodeOptions(steps=1))
    with pytest.raises(ValueError, match="cannot be guided"):
        codec.decode(data, DecodeOptions(sharpness=0.5))
    assert codec.bundle.n_steps(codec.bundle.rates[0]) == 1


def test_without_its_row_the_bundle_is_refused(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(BundleError, match=r"family 'toy' is not part of this version of rdeic-rt, which has: rdeic"):
        rdeic_rt.load(toy_folder, backend="cpu")


def test_without_its_entropy_model_files_cannot_be_made(
    codec: Codec, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entropy, "MODELS", {1: entropy.MODELS[1]})
    with pytest.raises(BundleCorruptError, match="'version' is 1000, should be 1"):
        codec.encode(photo[:32, :32])


def test_latents_have_the_size_of_the_image_and_no_other(codec: Codec, photo: NDArray[np.uint8]) -> None:
    data = codec.encode(photo[:64, :32])
    latents = codec.read_latents(data)
    assert latents.size == Size(64, 32)
    assert latents.rate.schedule is None
