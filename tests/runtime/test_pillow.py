"""What programs do with Pillow's images works with .rdc files."""

from __future__ import annotations

import io
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

import rdeic_rt
from rdeic_rt import Codec, DecodeOptions, pillow
from rdeic_rt.container import Metadata

from .test_pixels import DISPLAY_P3

Rgb = NDArray[np.uint8]

EXIF = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0"


def unregister() -> None:
    """Take back what importing the module does to Pillow in the whole process: other tests want .rdc to be no image."""
    for known in (Image.OPEN, Image.SAVE, Image.MIME):
        known.pop(pillow.FORMAT, None)
    Image.EXTENSION.pop(pillow.EXTENSION, None)
    if pillow.FORMAT in Image.ID:
        Image.ID.remove(pillow.FORMAT)


unregister()


@pytest.fixture(autouse=True)
def registered(golden_bundle: Path) -> Iterator[None]:
    pillow.register_rdc_opener(bundle=golden_bundle, backend="cpu", threads=1)
    yield
    pillow.register_rdc_opener()
    unregister()


@pytest.fixture(scope="module")
def part(photo: Rgb) -> Rgb:
    return np.ascontiguousarray(photo[60:140, 80:176])


@pytest.fixture(scope="module")
def data(golden_codec: Codec, part: Rgb) -> bytes:
    return golden_codec.encode(part, metadata=Metadata(icc=DISPLAY_P3, exif=EXIF))


@pytest.fixture
def path(data: bytes, tmp_path: Path) -> Path:
    (tmp_path / "photo.rdc").write_bytes(data)
    return tmp_path / "photo.rdc"


def test_open_reads_the_header_and_load_the_pixels(path: Path, data: bytes, golden_codec: Codec) -> None:
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("RDC", "RGB", (96, 80))
        assert image.get_format_mimetype() == "image/x-rdc"
        header = rdeic_rt.read_header(data).header
        assert image.info == {
            "rate": header.rate,
            "model_id": header.model_id.hex(),
            "bpp": pytest.approx(8 * len(data) / (96 * 80)),
            "icc_profile": DISPLAY_P3,
            "exif": b"Exif\0\0" + EXIF,
        }
        assert image.getexif()[0x0112] == 1
        np.testing.assert_array_equal(np.asarray(image), golden_codec.decode(data))
        np.testing.assert_array_equal(np.asarray(image.copy()), np.asarray(image))


@pytest.mark.parametrize("wrap", [io.BytesIO, lambda data: io.BytesIO(memoryview(data))])
def test_open_reads_streams(wrap: type[io.BytesIO], data: bytes, golden_codec: Codec) -> None:
    image = Image.open(wrap(data))
    assert image.convert("L").crop((0, 0, 10, 12)).size == (10, 12)
    np.testing.assert_array_equal(np.asarray(image), golden_codec.decode(data))


def test_opening_imports_no_onnx_runtime(path: Path) -> None:
    program = """
import sys
import rdeic_rt.pillow
from PIL import Image
image = Image.open(sys.argv[1])
print(image.size, "onnxruntime" in sys.modules)
"""
    run = [sys.executable, "-c", program, str(path)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "(96, 80) False\n"


def test_load_closes_the_file_and_so_does_leaving_it(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        image = Image.open(path)
        image.load()
        path.unlink()
        image.rotate(90)
        image.close()


def test_thumbnails_of_half_the_size_or_less_are_previews(
    data: bytes, golden_codec: Codec, golden_bundle: Path
) -> None:
    def thumbnail(side: int) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        image.thumbnail((side, side))
        return image

    def scaled(pixels: Rgb, side: int) -> Image.Image:
        image = Image.fromarray(pixels)
        image.thumbnail((side, side))
        return image

    preview, whole = golden_codec.preview(data), golden_codec.decode(data)
    assert thumbnail(24).tobytes() == scaled(preview, 24).tobytes()
    assert thumbnail(80).tobytes() == scaled(whole, 80).tobytes()
    pillow.register_rdc_opener(bundle=golden_bundle, backend="cpu", threads=1, preview_thumbnails=False)
    assert thumbnail(24).tobytes() == scaled(whole, 24).tobytes()


def test_options_reach_the_codec(data: bytes, golden_codec: Codec, golden_bundle: Path) -> None:
    pillow.register_rdc_opener(bundle=golden_bundle, backend="cpu", threads=1, sharpness=0.5, seed=7)
    expected = golden_codec.decode(data, DecodeOptions(sharpness=0.5, seed=7))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)


def test_files_find_their_bundle(data: bytes, golden_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow.register_rdc_opener(backend="cpu", threads=1)
    with pytest.raises(OSError, match="no installed bundle"):
        Image.open(io.BytesIO(data)).load()
    monkeypatch.setenv("RDEIC_RT_BUNDLES", str(golden_bundle.parent))
    assert Image.open(io.BytesIO(data)).getpixel((3, 3)) is not None


def test_images_can_be_pickled_and_shared(data: bytes, golden_codec: Codec) -> None:
    expected = golden_codec.decode(data)
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(Image.open(io.BytesIO(data))))), expected)

    def opened(_: int) -> Rgb:
        return np.asarray(Image.open(io.BytesIO(data)))

    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(opened, range(16)):
            np.testing.assert_array_equal(image, expected)


def test_save_writes_what_encode_does(part: Rgb, golden_codec: Codec, tmp_path: Path) -> None:
    image = Image.fromarray(part)
    image.save(tmp_path / "a.rdc", rate=1)
    assert (tmp_path / "a.rdc").read_bytes() == golden_codec.encode(part, 1)
    stream = io.BytesIO()
    image.save(stream, "RDC", target_size=5000)
    assert stream.getvalue() == golden_codec.encode(part, target_bytes=5000)
    with pytest.raises(OSError, match="smallest"):
        image.save(io.BytesIO(), "RDC", target_size=3)
    with pytest.raises(ValueError, match="rate 9 is not one of"):
        image.save(io.BytesIO(), "RDC", rate=9)
    with pytest.warns(UserWarning, match="no quality"):
        image.save(io.BytesIO(), "RDC", quality=30)


def test_save_keeps_metadata_unless_told_otherwise(data: bytes) -> None:
    image = Image.open(io.BytesIO(data))

    def saved(**options: object) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "RDC", **options)
        return Image.open(stream)

    assert saved().info["icc_profile"] == DISPLAY_P3
    assert saved().info["exif"] == b"Exif\0\0" + EXIF
    assert not {"icc_profile", "exif"} & saved(icc_profile=None, exif=b"").info.keys()
    own = Image.Exif()
    own[0x010E] = "a photo"
    assert saved(exif=own).getexif()[0x010E] == "a photo"


def test_every_cut_and_any_damage_is_an_error_that_programs_expect(data: bytes, golden_codec: Codec) -> None:
    rng = random.Random(5)
    damaged = [data[:length] for length in range(len(data))]
    for _ in range(2000):
        at = rng.randrange(8 * len(data))
        damaged.append(data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :])
    for changed in damaged:
        with pytest.raises((OSError, SyntaxError, UnidentifiedImageError)):
            Image.open(io.BytesIO(changed)).load()


def test_a_file_cut_short_is_decoded_where_pillow_is_told_to(
    data: bytes, golden_codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = data[: 3 * len(data) // 4]
    with pytest.raises(OSError, match="The file is cut short"):
        Image.open(io.BytesIO(cut))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    expected = golden_codec.decode(cut, DecodeOptions(allow_partial=True))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(cut))), expected)


def test_an_image_that_is_too_large_is_refused_before_anything_is_decoded(
    data: bytes, golden_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow.register_rdc_opener(bundle=golden_bundle, limits=rdeic_rt.Limits(max_pixels=100))
    with pytest.raises(OSError, match="max_pixels"):
        Image.open(io.BytesIO(data))
    pillow.register_rdc_opener(bundle=golden_bundle)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))
