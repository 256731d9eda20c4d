from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rdeic_eval import reference_codecs
from rdeic_eval.reference_codecs import CODECS, Encodings, OtherCodec
from rdeic_rt.errors import ImageError
from tests.conftest import missing


@pytest.fixture(params=CODECS, ids=lambda codec: codec.id)
def other(request: pytest.FixtureRequest) -> OtherCodec:
    found = reference_codecs.available([request.param.id]).codecs
    return found[0] if found else missing(f"{request.param.name}")


def test_at_least_finds_the_quality_where_a_size_is_first_reached(other: OtherCodec, photo: NDArray[np.uint8]) -> None:
    files = Encodings(other, photo[:96, :128])
    low, middle = other.qualities[0], other.qualities[len(other.qualities) // 4]
    target = (len(files.at(low).data) + len(files.at(middle).data)) // 2
    found = files.at_least(target)

    assert low < found.quality <= middle
    assert len(found.data) >= target > len(files.at(found.quality - 1).data)
    assert files.at_least(len(found.data)).data == found.data


def test_at_least_beyond_what_a_codec_can_do_is_its_end(other: OtherCodec, photo: NDArray[np.uint8]) -> None:
    files = Encodings(other, photo[:32, :32])
    assert files.at_least(1).quality == other.qualities[0]
    assert files.at_least(10**6).quality == other.qualities[-1]


def test_files_are_made_once_and_decode_to_the_photo_s_size(other: OtherCodec, photo: NDArray[np.uint8]) -> None:
    cut = photo[:97, :131]
    sizes = []
    for scale in (1.0, 0.25, 0.01):
        files = Encodings(other, cut, scale)
        file = files.at(other.qualities[20])
        assert files.at(other.qualities[20]) is file
        picture, decode_ms = files.decode(file)
        assert picture.shape == cut.shape
        assert picture.dtype == np.uint8
        assert decode_ms > 0
        assert file.encode_ms > 0
        sizes.append(len(file.data))
    assert sizes == sorted(sizes, reverse=True)


def test_higher_quality_is_closer_to_the_photo(other: OtherCodec, photo: NDArray[np.uint8]) -> None:
    files = Encodings(other, photo[:96, :128])
    errors = []
    for quality in (other.qualities[0], other.qualities[-1]):
        picture, _ = files.decode(files.at(quality))
        errors.append(np.square(picture.astype(float) - photo[:96, :128]).mean())
    assert errors[1] < errors[0] / 4


def test_sweep_is_of_qualities_that_exist_in_order() -> None:
    for codec in CODECS:
        assert set(codec.sweep) <= set(codec.qualities)
        assert list(codec.sweep) == sorted(set(codec.sweep))


def test_picture_a_codec_refuses_is_an_image_error_that_names_it() -> None:
    webp = next(codec for codec in CODECS if codec.id == "webp")
    with pytest.raises(ImageError, match="WebP cannot encode 17000x1 pixels"):
        webp.encode(Image.new("RGB", (17000, 1)), 50)


def test_available_names_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    found = reference_codecs.available(["jxl", "jpeg"])

    assert [codec.id for codec in found.codecs] == ["jpeg"]
    assert list(found.libraries) == ["JPEG"]
    assert "pip install pillow-jxl-plugin" in found.left_out["JPEG XL"]


def test_available_of_an_unknown_codec_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="no codec bmp; there are jpeg, webp, avif, jxl"):
        reference_codecs.available(["jpeg", "bmp"])
