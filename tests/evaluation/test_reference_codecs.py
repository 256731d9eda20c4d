from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import rdeic_rt
from rdeic_eval import reference_codecs
from rdeic_eval.reference_codecs import CODECS, BundleCodec, Encodings, OtherCodec
from rdeic_rt import Codec, container
from rdeic_rt.errors import ImageError
from tests.conftest import REPOSITORY, missing

GOLDEN_BUNDLE = REPOSITORY / "tests" / "golden" / "v1" / "bundle"


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
        image, decode_ms = files.decode(file)
        assert image.shape == cut.shape
        assert image.dtype == np.uint8
        assert decode_ms > 0
        assert file.encode_ms > 0
        sizes.append(len(file.data))
    assert sizes == sorted(sizes, reverse=True)


def test_higher_quality_is_closer_to_the_photo(other: OtherCodec, photo: NDArray[np.uint8]) -> None:
    files = Encodings(other, photo[:96, :128])
    errors = []
    for quality in (other.qualities[0], other.qualities[-1]):
        image, _ = files.decode(files.at(quality))
        errors.append(np.square(image.astype(float) - photo[:96, :128]).mean())
    assert errors[1] < errors[0] / 4


def test_sweep_is_of_qualities_that_exist_in_order() -> None:
    for codec in CODECS:
        assert set(codec.sweep) <= set(codec.qualities)
        assert list(codec.sweep) == sorted(set(codec.sweep))


def test_image_a_codec_refuses_is_an_image_error_that_names_it() -> None:
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


def test_another_bundle_is_compared_with_at_any_size_it_can_reach(codec: Codec, photo: NDArray[np.uint8]) -> None:
    other = BundleCodec(codec)
    assert other.name == codec.bundle.name
    assert len(other.sweep) == len(codec.bundle.rates)
    files = Encodings(other, photo[:96, :128])
    sizes = [len(files.at(quality).data) for quality in other.sweep]
    assert sizes == sorted(sizes)
    target = (sizes[1] + sizes[2]) // 2
    found = files.at_least(target)
    assert other.sweep[1] < found.quality < other.sweep[2]  # a rate between two
    assert target <= len(found.data) < sizes[2]
    image, _ = files.decode(found)
    np.testing.assert_array_equal(image, codec.decode(found.data))


def test_a_bundle_without_rates_between_has_its_own_only(photo: NDArray[np.uint8]) -> None:
    other = BundleCodec(rdeic_rt.load(GOLDEN_BUNDLE, backend="cpu"))
    assert list(other.qualities) == list(other.sweep) == [0, 1]
    small, large = (other.encode(Image.fromarray(photo[:64, :64]), quality) for quality in other.qualities)
    assert container.parse(small).header.rate != container.parse(large).header.rate
