"""Transparency of every kind is composited on white, and samples of every depth are scaled."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rdeic_rt import pixels
from tests.images import png, png_chunk, saved

Rgb = NDArray[np.uint8]
COMPOSITED = "composited on white"


@pytest.fixture
def small(photo: Rgb) -> Rgb:
    return np.ascontiguousarray(photo[60:107, 100:163])


def trns(*values: int) -> bytes:
    return png_chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_read_image_transparent_grey_of_any_depth_is_white(bits: int, caplog: pytest.LogCaptureFixture) -> None:
    highest = (1 << bits) - 1
    dtype: type[Any] = np.uint16 if bits == 16 else np.uint8
    grey: NDArray[Any] = np.linspace(0, highest, 64 * 48).round().astype(dtype).reshape(48, 64, 1)
    key = int(grey[20, 30, 0]) if bits > 1 else 0
    image, _ = pixels.read_image(io.BytesIO(png(grey, trns(key), bits=bits if bits < 8 else 0)))
    expected = np.round(grey.astype(np.float64) * 255 / highest).astype(np.uint8)
    expected[grey == key] = 255
    np.testing.assert_array_equal(image, expected.repeat(3, 2))
    assert COMPOSITED in caplog.text


def test_read_image_transparent_grey_of_another_value_stays(caplog: pytest.LogCaptureFixture) -> None:
    grey = np.full((4, 4, 1), 0x1234, np.uint16)
    image, _ = pixels.read_image(io.BytesIO(png(grey, trns(0x1235))))
    assert (image == 0x12).all()
    assert COMPOSITED not in caplog.text


def test_read_image_transparent_colour_of_16_bits_is_compared_with_all_bits(
    small: Rgb, caplog: pytest.LogCaptureFixture
) -> None:
    deep = small.astype(np.uint16) * 257
    deep[10:20, :, 0] += 1
    image, _ = pixels.read_image(io.BytesIO(png(deep, trns(*(int(value) for value in deep[3, 4])))))
    is_key = (deep == deep[3, 4]).all(2)
    assert (image[is_key] == 255).all()
    np.testing.assert_array_equal(image[~is_key], small[~is_key])
    assert COMPOSITED in caplog.text
    image, _ = pixels.read_image(io.BytesIO(png(deep, trns(*(int(value) ^ 1 for value in deep[3, 4])))))
    np.testing.assert_array_equal(image, small)


def test_read_image_transparent_colour_of_8_bits_counts_its_lower_bits(small: Rgb) -> None:
    key = tuple(int(value) for value in small[3, 4])
    for chunk in (trns(*key), trns(*(0x5500 | value for value in key))):
        image, _ = pixels.read_image(io.BytesIO(png(small, chunk)))
        assert (image[3, 4] == 255).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_read_image_palette_with_alpha_is_composited(small: Rgb, format: str, caplog: pytest.LogCaptureFixture) -> None:
    palette = Image.fromarray(small).quantize(16)
    alpha = bytes(range(0, 256, 16))
    if format == "PNG":
        data = saved(palette, transparency=alpha)
    else:
        cover = Image.fromarray(np.array(np.frombuffer(alpha, np.uint8)[np.asarray(palette)]))
        source = palette.convert("PA")
        source.putalpha(cover)
        data = saved(source, "TIFF")
    image, _ = pixels.read_image(io.BytesIO(data))
    cover_of = np.frombuffer(alpha, np.uint8)[np.asarray(palette)][:, :, None] / 255
    expected = cover_of * np.asarray(palette.convert("RGB")) + (1 - cover_of) * 255
    assert np.abs(image - expected).max() <= 1
    assert COMPOSITED in caplog.text


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_read_image_alpha_of_any_depth_is_composited(
    small: Rgb, dtype: type, channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    factor = 257 if dtype is np.uint16 else 1
    alpha = np.tile(np.linspace(0, 255, small.shape[1]).round(), (small.shape[0], 1))[:, :, None]
    colour = small if channels == 4 else small[:, :, :1]
    samples: NDArray[Any] = (np.concatenate([colour, alpha], 2) * factor).astype(dtype)
    image, _ = pixels.read_image(io.BytesIO(png(samples)))
    assert np.abs(image - (alpha / 255 * colour + 255 - alpha)).max() <= 1
    assert COMPOSITED in caplog.text


def test_read_image_premultiplied_alpha_of_tiff_is_composited(small: Rgb) -> None:
    alpha = np.tile(np.linspace(40, 255, small.shape[1]).round(), (small.shape[0], 1))[:, :, None]
    multiplied = (small * alpha / 255).round()
    rgba = np.concatenate([multiplied, alpha], 2).astype(np.uint8)
    data = bytearray(saved(Image.fromarray(rgba), "TIFF"))
    at = data.index(struct.pack("<HHI", 338, 3, 1))
    data[at + 8 : at + 10] = struct.pack("<H", 1)
    image, _ = pixels.read_image(io.BytesIO(data))
    assert np.abs(image - (multiplied + 255 - alpha)).max() <= 4


@pytest.mark.parametrize("mode", ["La", "RGBa", "LA", "PA", "RGBA"])
def test_as_rgb_images_of_every_mode_with_alpha_are_composited(small: Rgb, mode: str) -> None:
    source = Image.fromarray(small).convert("RGBA")
    source.putalpha(128)
    steps = {"La": ["LA", "La"], "LA": ["LA"], "RGBa": ["RGBa"], "PA": [], "RGBA": []}[mode]
    image = source.quantize(256).convert("PA") if mode == "PA" else source
    for step in steps:
        image = image.convert(step)
    if mode == "PA":
        image.putalpha(128)
    assert image.mode == mode
    colours = np.asarray(image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA"))[..., :3]
    assert np.abs(pixels.as_rgb(image) - (128 * colours.astype(float) + 127 * 255) / 255).max() <= 1.5


def test_as_rgb_transparent_16_bit_grey_is_white() -> None:
    deep = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64, 1)
    with Image.open(io.BytesIO(png(deep, trns(int(deep[20, 30, 0]))))) as image:
        converted = pixels.as_rgb(image)
    assert (converted[20, 30] == 255).all()
    assert (converted[20, 31] < 255).all()


def tiff_16(samples: NDArray[np.uint16], bits: int, photometric: int) -> bytes:
    height, width = samples.shape
    if bits == 12:
        pairs = samples.reshape(-1, 2).astype(np.uint32)
        body = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs)
    else:
        body = samples.astype("<u2").tobytes()
    fields = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    fields += [(279, len(body))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    directory = struct.pack("<H", len(fields)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


@pytest.mark.parametrize(("bits", "photometric"), [(16, 1), (16, 0), (12, 1)])
def test_read_image_deep_grey_tiff_is_scaled_from_its_range(bits: int, photometric: int) -> None:
    highest = (1 << bits) - 1
    deep = np.linspace(0, highest, 64 * 48).round().astype(np.uint16).reshape(48, 64)
    image, _ = pixels.read_image(io.BytesIO(tiff_16(deep, bits, photometric)))
    expected = np.round(deep * (255 / highest)).astype(np.uint8)
    np.testing.assert_array_equal(image[..., 0], expected if photometric else 255 - expected)


@pytest.mark.parametrize("magic", [b"P6", b"P5"])
def test_read_image_deep_netpbm_says_so_once(magic: bytes, caplog: pytest.LogCaptureFixture) -> None:
    channels = 3 if magic == b"P6" else 1
    deep = np.linspace(0, 4095, 8 * 6 * channels).round().astype(">u2")
    image, _ = pixels.read_image(io.BytesIO(magic + b"\n# a comment\n8 6\n4095\n" + deep.tobytes()))
    assert np.abs(image.reshape(-1)[:: 3 // channels] - deep / 4095 * 255).max() <= 1
    assert caplog.text.count("coded with 8 bits a sample") == 1


def test_read_image_deep_jpeg_2000_says_so(caplog: pytest.LogCaptureFixture) -> None:
    deep = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    image, _ = pixels.read_image(io.BytesIO(saved(Image.fromarray(deep), "JPEG2000")))
    assert np.abs(image[..., 0] - deep / 257).max() <= 1
    assert caplog.text.count("coded with 8 bits a sample") == 1
