"""What other readers open is opened; whatever else one file does, it ends in an image or an `ImageError`."""

from __future__ import annotations

import io
import logging
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from rdeic_rt import jpeg_file, pixels
from rdeic_rt.errors import DeviceMemoryError, ImageError
from rdeic_rt.limits import Limits
from tests.images import png, png_chunk, psnr_db, saved, with_png_chunks

from .test_pixels import DISPLAY_P3, exif_bytes

Rgb = NDArray[np.uint8]
COMPLETE = "cut short; all of its pixels are there"


@pytest.fixture
def part(photo: Rgb) -> Rgb:
    return np.ascontiguousarray(photo[60:140, 100:196])


def read(data: bytes, limits: Limits | None = None) -> Rgb:
    return pixels.read_image(io.BytesIO(data), limits or Limits())[0]


# Files that lack their end.


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_read_image_jpeg_without_end_marker_is_whole(
    part: Rgb, progressive: bool, subsampling: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = saved(Image.fromarray(part), "JPEG", quality=90, progressive=progressive, subsampling=subsampling)
    assert data.endswith(b"\xff\xd9")
    for cut in (1, 2):
        caplog.clear()
        np.testing.assert_array_equal(read(data[:-cut]), read(data))
        assert COMPLETE in caplog.text


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_read_image_jpeg_cut_short_is_guessed_where_little_is_missing(
    part: Rgb, options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    data = saved(Image.fromarray(part), "JPEG", quality=90, **options)
    whole = read(data)
    for cut in (10, 20, 30):
        caplog.clear()
        image = read(data[:-cut])
        differs = (image != whole).any(2)
        assert differs.mean() < 1 / 16
        assert not differs[: part.shape[0] // 2].any()
        assert "cut short" in caplog.text and "is guessed" in caplog.text
    with pytest.raises(ImageError, match=r"cut short: \d+ % of it is missing"):
        read(data[: len(data) * 3 // 4])


def test_read_image_progressive_jpeg_that_lacks_scans_is_refused(part: Rgb) -> None:
    data = saved(Image.fromarray(part), "JPEG", quality=90, progressive=True)
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 3
    assert jpeg_file.are_all_scans_begun(data)
    for start in starts[1:-1]:
        assert not jpeg_file.are_all_scans_begun(data[:start])
        with pytest.raises(ImageError):
            read(data[:start])


@pytest.mark.parametrize("cut", [1, 4, 8, 12, 16, 20])
def test_read_image_png_without_its_last_bytes_is_whole(part: Rgb, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    np.testing.assert_array_equal(read(saved(Image.fromarray(part))[:-cut]), part)
    assert (COMPLETE in caplog.text) == (cut > 4)


def test_read_image_interlaced_png_cut_short_repeats_rows_where_few_are_missing(
    part: Rgb, caplog: pytest.LogCaptureFixture
) -> None:
    for height, width in ((80, 96), (79, 33), (1, 5), (5, 1), (2, 2)):
        data = interlaced_png(part[:height, :width])
        np.testing.assert_array_equal(read(data), part[:height, :width])
        np.testing.assert_array_equal(read(data[:-18]), part[:height, :width])
        assert COMPLETE in caplog.text
    image = read(interlaced_png(part)[:-300])
    missing = np.flatnonzero((image != part).any((1, 2)))
    assert 1 <= len(missing) <= 5 and (missing % 2 == 1).all() and missing[-1] == 79
    np.testing.assert_array_equal(image[missing], image[missing[:1] - 2].repeat(len(missing), 0))
    with pytest.raises(ImageError, match=r"cut short: \d+ % of it is missing"):
        read(interlaced_png(part)[:9000])


def interlaced_png(image: Rgb) -> bytes:
    height, width = image.shape[:2]
    raw = b""
    for x, y, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows = image[y::down, x::across]
        raw += b"".join(b"\0" + row.tobytes() for row in rows if row.size)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")


def test_read_image_png_cut_short_repeats_rows_where_few_are_missing(
    part: Rgb, caplog: pytest.LogCaptureFixture
) -> None:
    data = saved(Image.fromarray(part))
    image = read(data[:-200])
    missing = int((image != part).any((1, 2)).sum())
    assert 1 <= missing <= 5
    np.testing.assert_array_equal(image[-missing:], image[-missing - 1 :][:1].repeat(missing, 0))
    assert "of 80, repeat those before them" in caplog.text
    with pytest.raises(ImageError, match="cut short: [0-9]+ % of it is missing"):
        read(data[: len(data) // 2])


@pytest.mark.parametrize("format", ["BMP", "PPM", "TIFF", "SGI"])
def test_read_image_uncompressed_file_cut_short_by_a_few_bytes_is_read(
    part: Rgb, format: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = saved(Image.fromarray(part), format)
    for cut in (1, 2, 90):
        caplog.clear()
        assert (read(data[:-cut]) != part).any(2).mean() <= (cut + 2) / 3 / 7680 * 3
        assert "is guessed" in caplog.text


# Metadata that is damaged, odd or large.


@pytest.mark.parametrize(
    "name", [b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"tIME", b"gAMA", b"cHRM", b"iCCP", b"eXIf", b"tRNS", b"bKGD", b"prIv"]
)
def test_read_image_png_with_a_damaged_ancillary_chunk_is_read(part: Rgb, name: bytes) -> None:
    for data in (b"", b"k", b"Comment\0\xff\xff\xff", bytes(40)):
        whole = with_png_chunks(saved(Image.fromarray(part)), png_chunk(name, data))
        np.testing.assert_array_equal(read(whole), part)
        damaged = png_chunk(name, data)[:-1] + b"\x55"
        np.testing.assert_array_equal(read(with_png_chunks(saved(Image.fromarray(part)), damaged)), part)


def test_read_image_png_chunk_that_is_damaged_is_left_out_with_a_warning(
    part: Rgb, caplog: pytest.LogCaptureFixture
) -> None:
    key = struct.pack(">3H", *(int(value) for value in part[0, 0]))
    for name, data, what in (
        (b"tRNS", key, "transparency"),
        (b"iCCP", b"p\0\0" + zlib.compress(DISPLAY_P3), "ICC profile"),
        (b"cICP", b"\x0c\x0d\0\1", "colour space"),
    ):
        caplog.clear()
        chunk = bytearray(png_chunk(name, data))
        chunk[-1] ^= 1
        image, metadata = pixels.read_image(io.BytesIO(png(part, bytes(chunk))))
        np.testing.assert_array_equal(image, part)
        assert metadata.icc is None
        assert f"the image's {what} is damaged; it is left out" in caplog.text


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt"])
@pytest.mark.parametrize("keyword", [b"Comment", b"XML:com.adobe.xmp", b"Raw profile type exif"])
def test_read_image_png_with_much_text_is_read(part: Rgb, name: bytes, keyword: bytes) -> None:
    text = b"a" * 70_000_000 if name == b"zTXt" else b"a" * 3_000_000
    packed = zlib.compress(text)
    data = {
        b"tEXt": keyword + b"\0" + text,
        b"zTXt": keyword + b"\0\0" + packed,
        b"iTXt": keyword + b"\0\1\0\0\0" + packed,
    }[name]
    for _ in range(2):
        np.testing.assert_array_equal(read(with_png_chunks(saved(Image.fromarray(part)), png_chunk(name, data))), part)


def test_read_image_png_frames_are_left_out_however_damaged(part: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    control = png_chunk(b"acTL", struct.pack(">II", 3, 0))
    frame = png_chunk(b"fcTL", struct.pack(">5I2H2B", 7, 9999, 9999, 0, 0, 1, 1, 0, 0))
    np.testing.assert_array_equal(read(png(part, control, frame)), part)
    assert "the first of several frames" in caplog.text


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe2MPF\0II*\0\x08\0\0\0\xff\xff",
        b"\xff\xe2MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\x01\0\0\0\x05\0\0\0\0\0\0\0",
        b"\xff\xe1Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"\xff\xedPhotoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02ab",
        b"\xff\xe0JFIF",
        b"\xff\xeeAdobe",
        b"\xff\xe2ICC_PROFILE\0",
        b"\xff\xe2ICC_PROFILE\0\1\2",
        b"\xff\xe1http://ns.adobe.com/xap/1.0/\0\xff\xfe",
    ],
)
def test_read_image_jpeg_with_a_damaged_segment_is_read(part: Rgb, segment: bytes) -> None:
    data = saved(Image.fromarray(part), "JPEG")
    length = struct.pack(">H", len(segment))
    damaged = data[:2] + segment[:2] + length + segment[2:] + data[2:]
    assert psnr_db(read(damaged), read(data)) > 60


def test_read_image_avif_with_exif_that_pillow_fails_on_is_read(part: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    data = saved(Image.fromarray(part), "AVIF", exif=exif_bytes(None))
    at = data.index(exif_bytes(None).removeprefix(b"Exif\0\0"))
    image = read(data[:at] + b"XX" + data[at + 2 :])
    np.testing.assert_array_equal(image, read(data))
    assert "EXIF is malformed" in caplog.text


TIFF_TAGS = [256, 258, 259, 262, 273, 274, 277, 278, 279, 282, 284, 296, 338, 339, 700, 34665, 34675, 34853]


@given(st.sampled_from(TIFF_TAGS), st.integers(0, 20), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_read_image_tiff_with_an_odd_field_gives_an_image_or_image_error(
    tag: int, kind: int, count: int, value: int
) -> None:
    image = Image.radial_gradient("L").resize((24, 20)).convert("RGB")
    fields = TiffImagePlugin.ImageFileDirectory_v2()
    for number in (274, 700, 34665, 34675, 34853):
        fields.tagtype[number] = 4
        fields[number] = 6
    data = bytearray(saved(image, "TIFF", tiffinfo=fields))
    at = next(n for n in range(10, len(data), 12) if int.from_bytes(data[n : n + 2], "little") >= tag)
    data[at : at + 12] = struct.pack("<HHII", tag, kind, count, value)
    try:
        rgb = read(bytes(data), Limits(max_pixels=2**20))
    except ImageError:
        return
    assert rgb.ndim == 3


def test_read_image_broken_second_page_does_no_harm(part: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    image = Image.fromarray(part)
    tiff = bytearray(saved(image, "TIFF"))
    (directory,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, directory)
    struct.pack_into("<I", tiff, directory + 2 + 12 * count, len(tiff) - 3)
    np.testing.assert_array_equal(read(bytes(tiff)), part)
    gif = saved(image.quantize(64), "GIF", save_all=True, append_images=[Image.fromarray(part[::-1]).quantize(64)])
    first = read(gif)
    np.testing.assert_array_equal(read(gif[: gif.rindex(b"\x2c") + 20]), first)
    assert caplog.text.count("the first of several frames") == 3


# Whatever Pillow does.


@pytest.mark.parametrize(
    "error", [AttributeError("a"), AssertionError(), RecursionError("b"), KeyError("c"), Warning()]
)
@pytest.mark.parametrize("where", ["open", "load"])
def test_read_image_whatever_pillow_raises_is_an_image_error(
    part: Rgb, error: Exception, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image if where == "open" else ImageFile.ImageFile, where, fail)
    with pytest.raises(ImageError, match="cannot be decoded"):
        read(saved(Image.fromarray(part), "BMP"))


def test_read_image_without_memory_raises_device_memory_error(part: Rgb, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(DeviceMemoryError, match="not enough memory to read the image"):
        read(saved(Image.fromarray(part), "BMP"))


@pytest.mark.parametrize("action", ["error", "always"])
def test_read_image_warnings_of_pillow_are_neither_errors_nor_seen(
    part: Rgb, action: str, recwarn: pytest.WarningsRecorder
) -> None:
    fields = TiffImagePlugin.ImageFileDirectory_v2()
    fields.tagtype[282] = 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fields[282] = (1.0, 2.0, 3.0)
        tiff = saved(Image.fromarray(part), "TIFF", tiffinfo=fields)
    jpeg = saved(Image.fromarray(part), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0" + bytes(20))
    palette = saved(Image.fromarray(part).quantize(16), transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]
        for data in (tiff, jpeg, palette):
            assert read(data).shape == part.shape
        with pytest.raises(ImageError, match="100000000 pixels: 67108864 are allowed"):
            read(saved(Image.new("1", (10_000, 10_000))))
        filters = list(warnings.filters)
    assert len(recwarn) == 0
    assert filters[0][0] == action


def test_read_image_beyond_pillows_limit_follows_the_limit_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for format in ("PNG", "TIFF", "GIF", "WEBP", "JPEG"):
        data = saved(Image.new("L", (100, 90), 128), format)
        assert read(data).shape == (90, 100, 3)
        with pytest.raises(ImageError, match=r"100x90 is 9000 pixels: 8999 are allowed \(limit max_pixels\)"):
            read(data, Limits(max_pixels=8999))
        assert Image.MAX_IMAGE_PIXELS == 1000


def test_read_image_from_many_threads_gives_the_same(photo_paths: list[Path]) -> None:
    filters = list(warnings.filters)
    expected = {path: pixels.read_image(path)[0] for path in photo_paths}
    found: list[bool] = []

    def work() -> None:
        for path in photo_paths:
            found.append(bool(np.array_equal(pixels.read_image(path)[0], expected[path])))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4 * len(photo_paths)
    assert warnings.filters == filters


def test_importing_the_reader_changes_nothing_of_pillow() -> None:
    assert sys.modules["PIL.ImageFile"].LOAD_TRUNCATED_IMAGES is False
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
    assert logging.getLogger("PIL").level == logging.NOTSET
