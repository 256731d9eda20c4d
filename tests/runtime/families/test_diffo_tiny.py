"""The embedded bundle of family `diffo`: real photos at the sizes and the quality that its model card promises."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_eval.psnr import psnr_db
from rdeic_rt import Codec, DecodeOptions
from rdeic_rt.limits import Size

# Of each rate: bits per pixel of fixed width without the container, and PSNR of the test photo at least.
RATES = ((6 / 16**2, 24.0), (11 / 32**2, 22.4))


@pytest.mark.parametrize("rate", [0, 1])
def test_a_photo_has_the_size_and_the_quality_of_its_rate(
    rate: int, diffo_codec: Codec, photo: NDArray[np.uint8]
) -> None:
    data = diffo_codec.encode(photo, rate)
    fixed_bpp, least_db = RATES[rate]
    bpp = 8 * len(data) / (photo.shape[0] * photo.shape[1])
    assert 0.5 * fixed_bpp < bpp < 1.3 * fixed_bpp  # padding and container count
    image = diffo_codec.decode(data)
    assert image.shape == photo.shape
    assert psnr_db(image, photo) > least_db
    # What a blank image of the photo's mean colour would do is far below.
    assert psnr_db(np.broadcast_to(photo.mean((0, 1)).round().astype(np.uint8), photo.shape), photo) < least_db - 3


def test_decoding_adds_detail_to_the_preview(diffo_codec: Codec, photo: NDArray[np.uint8]) -> None:
    def detail(image: NDArray[np.uint8]) -> float:
        return float(np.abs(np.diff(image.astype(np.float32).mean(2), axis=1)).mean())

    data = diffo_codec.encode(photo)
    preview, image = diffo_codec.preview(data), diffo_codec.decode(data)
    assert psnr_db(preview, photo) > RATES[0][1]
    assert detail(preview) < detail(image) < 1.2 * detail(photo)


def test_a_seed_changes_the_noise_alone(diffo_codec: Codec, photo: NDArray[np.uint8]) -> None:
    data = diffo_codec.encode(photo[:128, :128])
    images = [diffo_codec.decode(data, DecodeOptions(seed=seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(images[0], images[1])
    assert 25 < psnr_db(images[0], images[2]) < 60


@pytest.mark.parametrize("rate", [0, 1])
def test_fixed_size_follows_from_the_image_size(rate: int, diffo_codec: Codec, photo: NDArray[np.uint8]) -> None:
    expected = diffo_codec.fixed_size_bytes(Size(height=photo.shape[0], width=photo.shape[1]), rate)
    data = diffo_codec.encode(photo, rate, fixed_size=True)
    grey = diffo_codec.encode(np.full_like(photo, 128), rate, fixed_size=True)
    assert len(data) == len(grey) == expected
    np.testing.assert_array_equal(
        diffo_codec.decode(data), diffo_codec.decode(diffo_codec.encode(photo, rate), DecodeOptions(seed=_seed(data)))
    )


def test_sharpness_is_refused_with_the_reason(diffo_codec: Codec, photo: NDArray[np.uint8]) -> None:
    data = diffo_codec.encode(photo[:64, :64])
    with pytest.raises(ValueError, match="cannot be guided"):
        diffo_codec.decode(data, DecodeOptions(sharpness=1.5))


def test_other_threads_give_the_same_file(diffo_codec: Codec, photo: NDArray[np.uint8]) -> None:
    single = rdeic_rt.load(diffo_codec.bundle.folder, backend="cpu", threads=1)
    for rate in (0, 1):
        assert single.encode(photo, rate) == diffo_codec.encode(photo, rate)


def _seed(data: bytes) -> int:
    """Return the seed that decoding takes from a file."""
    return rdeic_rt.container.parse(data).crc
