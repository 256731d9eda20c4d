"""Images in and out: orientation, metadata, kinds of samples, damage, padding, formats."""

from __future__ import annotations

import io
import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from rdeic_rt import colour, exif, pixels
from rdeic_rt.container import Metadata, Size
from rdeic_rt.errors import ImageError
from rdeic_rt.limits import Limits
from tests.images import psnr_db

Rgb = NDArray[np.uint8]
ORIENTATION = 0x0112
DISPLAY_P3 = colour.icc_profile(colour.Space(((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), name="Display P3"))


def saved(image: Image.Image, format: str = "PNG", **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return io.BytesIO(stream.getvalue())


def exif_bytes(orientation: int | None) -> bytes:
    fields = Image.Exif()
    fields[0x010F] = "A camera maker"
    fields[0x0132] = "2015:02:11 18:03:32"
    if orientation is not None:
        fields[ORIENTATION] = orientation
    return fields.tobytes()


def parsed_exif(data: bytes) -> Image.Exif:
    fields = Image.Exif()
    fields.load(exif.PREFIX + data)
    return fields


@pytest.fixture
def small(photo: Rgb) -> Rgb:
    return np.ascontiguousarray(photo[60:107, 100:163])


# Reading: what an image is.


def test_read_image_photos_have_their_size_and_pixels(photo_paths: list[Path]) -> None:
    sizes = {}
    for path in photo_paths:
        image, metadata = pixels.read_image(path)
        sizes[path.stem] = image.shape
        assert image.dtype == np.uint8 and image.flags.c_contiguous
        assert metadata.exif is None
        with Image.open(path) as source:
            np.testing.assert_array_equal(image, np.asarray(source))
    expected = {"astronaut": (471, 313, 3), "chelsea": (300, 451, 3), "coffee": (384, 512, 3), "rocket": (320, 480, 3)}
    assert sizes == expected


def test_read_image_path_string_and_stream_give_the_same(photo_paths: list[Path]) -> None:
    path = photo_paths[0]
    expected = pixels.read_image(path)[0]
    np.testing.assert_array_equal(pixels.read_image(str(path))[0], expected)
    with path.open("rb") as stream:
        np.testing.assert_array_equal(pixels.read_image(stream)[0], expected)


def test_read_image_plain_rgb_photo_logs_nothing(photo_paths: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    for path in photo_paths:
        pixels.read_image(path)
    assert caplog.records == []


def test_read_image_missing_file_raises_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pixels.read_image(tmp_path / "none.jpg")


# Orientation and metadata.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_read_image_orientation_is_applied_once(small: Rgb, format: str, orientation: int) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    stream = saved(Image.fromarray(small), format, exif=exif_bytes(orientation), **options)
    image, metadata = pixels.read_image(stream)
    turned = {
        1: small,
        2: small[:, ::-1],
        3: small[::-1, ::-1],
        4: small[::-1],
        5: small.transpose(1, 0, 2),
        6: small[::-1].transpose(1, 0, 2),
        7: small[::-1, ::-1].transpose(1, 0, 2),
        8: small[:, ::-1].transpose(1, 0, 2),
    }
    np.testing.assert_array_equal(image, turned[orientation])
    if format != "TIFF":
        assert metadata.exif is not None
        kept = parsed_exif(metadata.exif)
        assert (kept[ORIENTATION], kept[0x010F], kept[0x0132]) == (1, "A camera maker", "2015:02:11 18:03:32")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_orientation_of_written_image_stays_upright(small: Rgb, orientation: int) -> None:
    image, metadata = pixels.read_image(saved(Image.fromarray(small), exif=exif_bytes(orientation)))
    for format in ("png", "webp"):
        stream = io.BytesIO()
        pixels.write_image(stream, image, metadata, format)
        again, metadata_again = pixels.read_image(io.BytesIO(stream.getvalue()))
        np.testing.assert_array_equal(again, image)
        assert metadata_again == metadata


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_read_image_without_orientation_keeps_exif_byte_for_byte(small: Rgb, format: str) -> None:
    stream = saved(Image.fromarray(small), format, exif=exif_bytes(None))
    image, metadata = pixels.read_image(stream)
    assert image.shape == small.shape
    assert metadata.exif == exif_bytes(None).removeprefix(exif.PREFIX)


def test_read_image_big_endian_exif_is_understood(small: Rgb) -> None:
    data = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, ORIENTATION, 3, 1, 6, 0, 0)
    image, metadata = pixels.read_image(saved(Image.fromarray(small), exif=data))
    np.testing.assert_array_equal(image, small[::-1].transpose(1, 0, 2))
    assert metadata.exif == data.replace(b"\0\6\0\0", b"\0\1\0\0")


@pytest.mark.parametrize(
    "data",
    [b"neither II nor MM", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"],
    ids=["byte order", "outside", "cut"],
)
def test_read_image_malformed_exif_is_left_out_with_a_warning(
    small: Rgb, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    image, metadata = pixels.read_image(saved(Image.fromarray(small), exif=data))
    np.testing.assert_array_equal(image, small)
    assert metadata == Metadata()
    assert "EXIF is malformed" in caplog.text


def test_read_image_exif_in_a_png_text_chunk_is_applied_and_kept(small: Rgb) -> None:
    plain = saved(Image.fromarray(small)).getvalue()
    raw = exif_bytes(8)
    text = b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode())
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    image, metadata = pixels.read_image(io.BytesIO(plain[:33] + chunk + plain[33:]))
    np.testing.assert_array_equal(image, small[:, ::-1].transpose(1, 0, 2))
    assert metadata.exif is not None and parsed_exif(metadata.exif)[ORIENTATION] == 1


def test_read_image_rgb_profile_is_kept_and_written_again(small: Rgb, tmp_path: Path) -> None:
    image, metadata = pixels.read_image(saved(Image.fromarray(small), icc_profile=DISPLAY_P3))
    np.testing.assert_array_equal(image, small)
    assert metadata.icc == DISPLAY_P3
    for suffix in ("png", "jpg", "webp", "tiff"):
        path = tmp_path / f"out.{suffix}"
        pixels.write_image(path, image, metadata)
        assert pixels.read_image(path)[1].icc == metadata.icc


def test_read_image_profile_of_other_samples_is_left_out_with_a_warning(
    small: Rgb, caplog: pytest.LogCaptureFixture
) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for icc in (lab, b"not a profile"):
        caplog.clear()
        image, metadata = pixels.read_image(saved(Image.fromarray(small), icc_profile=icc))
        np.testing.assert_array_equal(image, small)
        assert metadata.icc is None
        assert "ICC profile does not describe its samples" in caplog.text


def test_read_image_grey_profile_is_applied(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    grey = Image.fromarray(small).convert("L")
    image, metadata = pixels.read_image(saved(grey, icc_profile=grey_profile(gamma=1.0)))
    assert metadata.icc is None
    # Linear light: mid-grey samples are light in sRGB.
    linear = np.asarray(grey) / 255
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(image[:, :, 0] - expected).max() < 3
    assert "grey" in caplog.text


def grey_profile(gamma: float) -> bytes:
    """The least ICC profile that describes grey samples: a white point and a curve."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    text = b"text\0\0\0\0none\0\0\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78) + b"\0"
    tags, offset, body = b"", 132 + 12 * 4, b""
    for name, data in ((b"wtpt", white), (b"kTRC", curve), (b"cprt", text), (b"desc", description)):
        tags += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = offset + len(body)
    head = struct.pack(
        ">I4sI4s4s4s12x4s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp", b"\0\0\0\0"
    )
    head += bytes(68 - len(head)) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return head + bytes(128 - len(head)) + struct.pack(">I", 4) + tags + body


def test_read_image_oversized_metadata_is_left_out_with_a_warning(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    image, metadata = pixels.read_image(
        saved(Image.fromarray(small), "WEBP", lossless=True, icc_profile=DISPLAY_P3 + bytes(3_000_000))
    )
    np.testing.assert_array_equal(image, small)
    assert metadata.icc is None
    assert f"ICC takes {3_000_000 + len(DISPLAY_P3)} bytes" in caplog.text


# Kinds of samples.


def test_read_image_grey_becomes_equal_channels(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    grey = Image.fromarray(small).convert("L")
    for format in ("PNG", "PPM", "TIFF"):
        image, _ = pixels.read_image(saved(grey, format))
        np.testing.assert_array_equal(image, np.repeat(np.asarray(grey)[:, :, None], 3, 2))
        assert "grey, and is coded as colour" in caplog.text


def test_read_image_one_bit_becomes_black_and_white(small: Rgb) -> None:
    bilevel = Image.fromarray(small).convert("1")
    image, _ = pixels.read_image(saved(bilevel))
    np.testing.assert_array_equal(image, np.repeat(np.asarray(bilevel, np.uint8)[:, :, None] * 255, 3, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_image_alpha_is_composited_on_white(small: Rgb, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    source = Image.fromarray(small).convert(mode)
    alpha = np.tile(np.linspace(0, 255, small.shape[1]).astype(np.uint8), (small.shape[0], 1))
    source.putalpha(Image.fromarray(alpha))
    image, _ = pixels.read_image(saved(source))
    opaque = np.asarray(source.convert("RGBA").convert("RGB"), np.float64)
    cover = alpha[:, :, None] / 255
    assert np.abs(image - (cover * opaque + (1 - cover) * 255)).max() <= 1
    assert (image[:, 0] == 255).all()
    assert "composited on white" in caplog.text


def test_read_image_opaque_alpha_keeps_every_pixel_without_a_warning(
    small: Rgb, caplog: pytest.LogCaptureFixture
) -> None:
    image, _ = pixels.read_image(saved(Image.fromarray(small).convert("RGBA")))
    np.testing.assert_array_equal(image, small)
    assert caplog.records == []


def test_read_image_palette_and_its_transparency_are_converted(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    palette = Image.fromarray(small).quantize(64)
    expected = np.array(palette.convert("RGB"))
    np.testing.assert_array_equal(pixels.read_image(saved(palette))[0], expected)
    assert "palette" in caplog.text
    expected[np.asarray(palette) == 5] = 255
    for format in ("PNG", "GIF"):
        image, _ = pixels.read_image(saved(palette, format, transparency=5))
        np.testing.assert_array_equal(image, expected)


def test_read_image_transparent_colour_of_rgb_becomes_white(small: Rgb) -> None:
    image, _ = pixels.read_image(saved(Image.fromarray(small), transparency=tuple(int(v) for v in small[3, 4])))
    assert (image[3, 4] == 255).all()
    np.testing.assert_array_equal(image[(small != small[3, 4]).any(2)], small[(small != small[3, 4]).any(2)])


def test_read_image_cmyk_jpeg_becomes_rgb(photo: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    cmyk = Image.fromarray(photo).convert("CMYK")
    image, metadata = pixels.read_image(saved(cmyk, "JPEG", quality=95, icc_profile=b"cmyk profile"))
    assert psnr_db(image, photo) > 30
    assert metadata.icc is None
    assert "CMYK" in caplog.text


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_read_image_16_bit_grey_is_scaled_not_clipped(format: str, caplog: pytest.LogCaptureFixture) -> None:
    deep = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    if format == "PPM":  # which not every Pillow writes with 16 bits
        file = io.BytesIO(b"P5 64 48 65535\n" + deep.astype(">u2").tobytes())
    else:
        file = saved(Image.fromarray(deep), format)
    image, _ = pixels.read_image(file)
    np.testing.assert_array_equal(image[:, :, 1], np.round(deep / 257).astype(np.uint8))
    assert caplog.text.count("coded with 8 bits a sample") == 1


def test_read_image_16_bit_rgb_png_is_scaled_with_a_warning(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    height, width = small.shape[:2]
    rows = (small.astype(">u2") * 257).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    image, _ = pixels.read_image(io.BytesIO(png))
    np.testing.assert_array_equal(image, small)
    assert "coded with 8 bits a sample" in caplog.text


@pytest.mark.parametrize("mode", ["F", "I"])
def test_read_image_samples_without_a_known_range_are_refused(small: Rgb, mode: str) -> None:
    with pytest.raises(ImageError, match=f"mode {mode} are not supported"):
        pixels.read_image(saved(Image.fromarray(small).convert("L").convert(mode), "TIFF"))


def test_read_image_animation_gives_its_first_frame(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Image.fromarray(small), Image.fromarray(small[::-1].copy())
    image, _ = pixels.read_image(saved(first, "TIFF", save_all=True, append_images=[second]))
    np.testing.assert_array_equal(image, small)
    assert "the first of several frames" in caplog.text


# Damage, and what is too large.


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM"])
def test_read_image_cut_short_raises_image_error(photo: Rgb, format: str) -> None:
    data = saved(Image.fromarray(photo), format).getvalue()
    for length in (0, 1, 10, 100, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ImageError):
            pixels.read_image(io.BytesIO(data[:length]))


def test_read_image_truncated_jpeg_says_so(photo_paths: list[Path]) -> None:
    with pytest.raises(ImageError, match=r"cut short: \d+ % of it is missing. Fetch it again"):
        pixels.read_image(io.BytesIO(photo_paths[0].read_bytes()[:20_000]))


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\x89RDC\x01", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_read_image_not_an_image_raises_image_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        pixels.read_image(io.BytesIO(data))


@given(st.data())
def test_read_image_damaged_anywhere_gives_an_image_or_image_error(data: st.DataObject) -> None:
    good = DAMAGED[data.draw(st.sampled_from(sorted(DAMAGED)))]
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    try:
        image, _ = pixels.read_image(io.BytesIO(bad), Limits(max_pixels=2**20))
    except ImageError:
        return
    assert image.dtype == np.uint8 and image.ndim == 3


DAMAGED = {
    format: saved(Image.radial_gradient("L").resize((24, 20)).convert("RGB"), format, exif=exif_bytes(6)).getvalue()
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF")
}


def test_read_image_too_large_is_refused_before_it_is_decoded() -> None:
    bomb = saved(Image.new("L", (6000, 6000)))
    with pytest.raises(ImageError, match=r"6000x6000 is 36000000 pixels: 10000000 are allowed"):
        pixels.read_image(bomb, Limits(max_pixels=10_000_000))
    huge = bytearray(saved(Image.new("L", (10, 10))).getvalue())
    huge[16:24] = struct.pack(">II", 60_000, 60_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(bytes(huge[12:29])))
    with pytest.raises(ImageError, match="pixels"):
        pixels.read_image(io.BytesIO(huge))


def test_read_image_file_over_the_limit_raises_image_error(photo_paths: list[Path]) -> None:
    with pytest.raises(ImageError, match="more than 1000 bytes"):
        pixels.read_image(photo_paths[0], Limits(max_file_bytes=1000))
    with pytest.raises(ImageError, match="more than 1000 bytes"):
        pixels.read_image(io.BytesIO(photo_paths[0].read_bytes()), Limits(max_file_bytes=1000))


# Images in memory.


def test_as_rgb_arrays_of_every_layout_are_converted(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    assert pixels.as_rgb(small) is small
    np.testing.assert_array_equal(pixels.as_rgb(small[:, ::-1]), small[:, ::-1])
    assert pixels.as_rgb(small[:, ::-1]).flags.c_contiguous
    assert caplog.records == []
    grey = small[:, :, 1]
    for array in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(pixels.as_rgb(array), np.repeat(grey[:, :, None], 3, 2))
    assert "grey" in caplog.text
    alpha = np.dstack([small, np.full(small.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(pixels.as_rgb(alpha), small)
    alpha[:5, :, 3] = 0
    composited = pixels.as_rgb(alpha)
    assert (composited[:5] == 255).all()
    np.testing.assert_array_equal(composited[5:], small[5:])


def test_as_rgb_anything_with_an_array_protocol_is_taken(small: Rgb) -> None:
    class WithArray:
        def __array__(self, dtype: object = None, copy: object = None) -> Rgb:
            return small

    class WithDlpack:
        def __dlpack__(self, **options: Any) -> object:
            return small.__dlpack__(**options)

        def __dlpack_device__(self) -> object:
            return small.__dlpack_device__()

    np.testing.assert_array_equal(pixels.as_rgb(WithArray()), small)
    np.testing.assert_array_equal(pixels.as_rgb(WithDlpack()), small)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "image is float32, should be uint8"),
        (np.zeros((4, 4, 3), np.uint16), "image is uint16"),
        (np.zeros((4, 4, 3), bool), "image is bool"),
        (np.zeros((3, 4, 4), np.uint8)[..., None], r"image is \[3, 4, 4, 1\]"),
        (np.zeros((3, 4, 5), np.uint8), r"image is \[3, 4, 5\], should be \[H, W, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"image is \[0, 4, 3\]"),
        (np.zeros(4, np.uint8), r"image is \[4\]"),
    ],
)
def test_as_rgb_wrong_array_raises_value_error(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels.as_rgb(array)


@pytest.mark.parametrize("image", ["photo.jpg", b"bytes", None, [[1, 2], [3, 4]]])
def test_as_rgb_not_an_image_raises_type_error(image: object) -> None:
    with pytest.raises(TypeError, match="is not a PIL image or an array"):
        pixels.as_rgb(image)


def test_as_rgb_pil_image_equals_the_file_read(photo_paths: list[Path], small: Rgb) -> None:
    for path in photo_paths:
        with Image.open(path) as image:
            np.testing.assert_array_equal(pixels.as_rgb(image), pixels.read_image(path)[0])
    stream = saved(Image.fromarray(small), exif=exif_bytes(6))
    with Image.open(stream) as image:
        turned = pixels.as_rgb(image)
        np.testing.assert_array_equal(turned, small[::-1].transpose(1, 0, 2))
        np.testing.assert_array_equal(pixels.as_rgb(ImageOps.exif_transpose(image)), turned)


def test_as_rgb_derived_pil_image_is_not_turned_but_warned_about(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    with Image.open(saved(Image.fromarray(small), exif=exif_bytes(6))) as image:
        np.testing.assert_array_equal(pixels.as_rgb(image.copy()), small)
    assert "EXIF orientation 6 is not applied" in caplog.text


def test_as_rgb_truncated_pil_image_raises_image_error(photo_paths: list[Path]) -> None:
    with (
        Image.open(io.BytesIO(photo_paths[0].read_bytes()[:20_000])) as image,
        pytest.raises(ImageError, match="truncated"),
    ):
        pixels.as_rgb(image)


# Padding.


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 401), (64, 128), (300, 451), (2, 3), (1, 200), (129, 1)])
def test_pad_any_size_is_a_multiple_and_crop_is_its_inverse(photo: Rgb, height: int, width: int) -> None:
    image = photo[:height, :width]
    padded = pixels.pad(image, 64)
    assert padded.shape == (-(-height // 64) * 64, -(-width // 64) * 64, 3)
    assert padded.flags.c_contiguous
    np.testing.assert_array_equal(pixels.crop(padded, Size(height=height, width=width)), image)


def test_pad_mirrors_without_repeating_the_edge() -> None:
    row = np.array([[10, 20, 30]], np.uint8)[:, :, None]
    assert pixels.pad(row, 8)[0, :, 0].tolist() == [10, 20, 30, 20, 10, 20, 30, 20]
    assert pixels.pad(row, 8)[:, 0, 0].tolist() == [10] * 8
    assert pixels.pad(row[:, :1], 4)[:, :, 0].tolist() == [[10] * 4] * 4
    assert pixels.pad(row[:, :2], 5)[0, :, 0].tolist() == [10, 20, 10, 20, 10]


def test_pad_equals_numpys_reflection_where_that_is_defined(photo: Rgb) -> None:
    expected = np.pad(photo, ((0, 20), (0, 61), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(pixels.pad(photo, 64), expected)


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 8, 64, 96]))
def test_pad_then_crop_gives_the_image_back(height: int, width: int, multiple: int) -> None:
    image = np.arange(height * width * 3, dtype=np.uint32).astype(np.uint8).reshape(height, width, 3)
    padded = pixels.pad(image, multiple)
    assert padded.shape[0] % multiple == padded.shape[1] % multiple == 0
    np.testing.assert_array_equal(pixels.crop(padded, Size(height=height, width=width)), image)


def test_crop_larger_than_the_image_raises_value_error(small: Rgb) -> None:
    with pytest.raises(ValueError, match="cannot crop 63x47 pixels to 64x47"):
        pixels.crop(small, Size(height=47, width=64))


# Writing.


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".PNG"])
def test_write_image_lossless_format_keeps_every_pixel(photo: Rgb, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    pixels.write_image(path, photo)
    np.testing.assert_array_equal(pixels.read_image(path)[0], photo)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_write_image_jpeg_stays_close(photo: Rgb, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    pixels.write_image(str(path), photo)
    assert psnr_db(pixels.read_image(path)[0], photo) > 40


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_write_image_metadata_is_read_again(photo: Rgb, format: str) -> None:
    metadata = Metadata(icc=DISPLAY_P3, exif=exif_bytes(1).removeprefix(exif.PREFIX))
    stream = io.BytesIO()
    pixels.write_image(stream, photo, metadata, format)
    assert pixels.read_image(io.BytesIO(stream.getvalue()))[1] == metadata


@pytest.mark.parametrize(
    ("format", "metadata", "message"),
    [
        ("tiff", Metadata(exif=b"II*\0" + bytes(40)), "TIFF cannot carry this EXIF of 44 bytes"),
        ("ppm", Metadata(icc=bytes(200)), "PPM cannot carry this ICC profile of 200 bytes"),
        ("jpeg", Metadata(exif=b"II*\0" + bytes(65_533)), "JPEG cannot carry this EXIF of 65537 bytes"),
    ],
)
def test_write_image_metadata_that_does_not_fit_is_left_out_with_a_warning(
    small: Rgb, format: str, metadata: Metadata, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = io.BytesIO()
    pixels.write_image(stream, small, metadata, format)
    assert pixels.read_image(io.BytesIO(stream.getvalue()))[0].shape == small.shape
    assert message in caplog.text


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff", "bmp", "ppm"])
def test_write_image_metadata_of_a_hostile_file_is_only_carried(small: Rgb, format: str) -> None:
    stream = io.BytesIO()
    pixels.write_image(stream, small, Metadata(icc=b"\xff" * 50, exif=b"\xff" * 50), format)
    assert pixels.read_image(io.BytesIO(stream.getvalue()))[0].shape == small.shape


def test_write_image_longest_exif_of_jpeg_is_kept(small: Rgb) -> None:
    longest = exif_bytes(1).removeprefix(exif.PREFIX)
    longest += bytes(65_527 - len(longest))
    stream = io.BytesIO()
    pixels.write_image(stream, small, Metadata(exif=longest), "jpeg")
    assert pixels.read_image(io.BytesIO(stream.getvalue()))[1].exif == longest


def test_write_image_existing_file_is_replaced_or_refused(photo: Rgb, small: Rgb, tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    pixels.write_image(path, photo)
    with pytest.raises(FileExistsError):
        pixels.write_image(path, small, overwrite=False)
    np.testing.assert_array_equal(pixels.read_image(path)[0], photo)
    pixels.write_image(path, small)
    np.testing.assert_array_equal(pixels.read_image(path)[0], small)


@pytest.mark.parametrize("name", ["out", "out.gif", "out.png.bak", "png"])
def test_write_image_unknown_suffix_raises_value_error_and_writes_nothing(
    small: Rgb, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=r"images are written as one of \.png, \.jpg"):
        pixels.write_image(tmp_path / name, small)
    assert list(tmp_path.iterdir()) == []


def test_write_image_wrong_array_or_format_raises_value_error(small: Rgb) -> None:
    with pytest.raises(ValueError, match="should be uint8"):
        pixels.write_image(io.BytesIO(), small[:, :, 0])
    with pytest.raises(ValueError, match="format 'heic' is not one of: png, jpeg"):
        pixels.write_image(io.BytesIO(), small, format="heic")


def test_write_image_too_large_for_the_format_raises_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="17000x1 pixels cannot be written as WEBP"):
        pixels.write_image(tmp_path / "out.webp", np.zeros((1, 17_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_write_image_dash_is_png_on_standard_output(photo_paths: list[Path]) -> None:
    program = "from rdeic_rt import pixels; image, kept = pixels.read_image('-'); pixels.write_image('-', image, kept)"
    source = next(path for path in photo_paths if path.stem == "rocket")
    with source.open("rb") as stream:
        done = subprocess.run([sys.executable, "-c", program], stdin=stream, capture_output=True, check=True)
    assert done.stdout.startswith(b"\x89PNG")
    image, metadata = pixels.read_image(io.BytesIO(done.stdout))
    expected, expected_metadata = pixels.read_image(source)
    np.testing.assert_array_equal(image, expected)
    assert metadata == expected_metadata


def test_format_from_suffix_takes_names_and_bare_suffixes() -> None:
    assert pixels.format_from_suffix(".png") == "png"
    assert pixels.format_from_suffix(Path("a.b/photo.JPG")) == "jpeg"


def test_conversions_are_logged_below_the_packages_logger(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rdeic_rt"):
        pixels.as_rgb(small[:, :, 0])
    assert [record.name for record in caplog.records] == ["rdeic_rt.pixels"]
