"""Colours arrive as they were meant: profiles, code points, gamma, HDR; what cannot be kept is said."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from rdeic_rt import box_file, colour, icc, pixels
from tests.images import png, png_chunk, psnr_db, saved

from .test_pixels import DISPLAY_P3, grey_profile

Rgb = NDArray[np.uint8]
MISMATCH = "ICC profile does not describe its samples"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = colour.from_code_points(12, 13)
BT2020 = colour.from_code_points(9, 13)


@pytest.fixture
def small(photo: Rgb) -> Rgb:
    return np.ascontiguousarray(photo[60:107, 100:163])


def with_header(profile: bytes, samples: bytes) -> bytes:
    return profile[:16] + samples + profile[20:]


def gamma_profile(space: colour.Space, exponent: float) -> bytes:
    """Return the profile of a space with a pure power as its transfer function."""
    curve = b"para\0\0\0\0\0\3\0\0"
    at = colour.icc_profile(space).index(curve)
    whole = bytearray(colour.icc_profile(space))
    whole[at : at + 16] = b"para\0\0\0\0\0\0\0\0" + struct.pack(">i", round(exponent * 65536))
    return bytes(whole)


# ICC profiles.


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_read_image_grey_profile_on_a_colour_image_is_left_out(
    small: Rgb, format: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain, _ = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), format)))
    image, metadata = pixels.read_image(
        io.BytesIO(saved(Image.fromarray(small), format, icc_profile=grey_profile(gamma=1.0)))
    )
    np.testing.assert_array_equal(image, plain)
    assert metadata.icc is None
    assert caplog.text.count(MISMATCH) == 1


@pytest.mark.parametrize("samples", [b"CMYK", b"Lab ", b"GRAY", b"XYZ ", b"6CLR"])
def test_read_image_profile_of_other_samples_on_rgb_is_left_out(
    small: Rgb, samples: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    data = saved(Image.fromarray(small), icc_profile=with_header(DISPLAY_P3, samples))
    image, metadata = pixels.read_image(io.BytesIO(data))
    np.testing.assert_array_equal(image, small)
    assert metadata.icc is None
    assert MISMATCH in caplog.text


@pytest.mark.parametrize("samples", [b"RGB ", b"GRAY"])
def test_read_image_profile_of_other_samples_on_cmyk_is_left_out(
    small: Rgb, samples: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    cmyk = Image.fromarray(small).convert("CMYK")
    plain, _ = pixels.read_image(io.BytesIO(saved(cmyk, "JPEG")))
    data = saved(cmyk, "JPEG", icc_profile=with_header(DISPLAY_P3, samples))
    image, metadata = pixels.read_image(io.BytesIO(data))
    np.testing.assert_array_equal(image, plain)
    assert metadata.icc is None
    assert MISMATCH in caplog.text


def test_read_image_rgb_profile_on_a_grey_image_is_applied(small: Rgb) -> None:
    grey = Image.fromarray(small).convert("L")
    for format in ("PNG", "TIFF"):
        for profile, exponent in ((gamma_profile(colour.Space(name="RGB"), 1.0), 1.0), (SRGB, None)):
            image, metadata = pixels.read_image(io.BytesIO(saved(grey, format, icc_profile=profile)))
            light = np.asarray(grey) / 255
            expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
            assert np.abs(image - (np.asarray(grey) if exponent is None else expected)[..., None]).max() <= 2
            assert metadata.icc is None


@pytest.mark.parametrize(
    "profile", [SRGB, colour.icc_profile(colour.Space(name="another name"))], ids=["littlecms", "ours"]
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_read_image_srgb_profile_is_left_out_and_told_when_asked(
    small: Rgb, format: str, profile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, metadata = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), format, icc_profile=profile)))
    assert metadata.icc is None
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "is that of sRGB" in caplog.text


def test_read_image_profile_that_calls_itself_srgb_and_is_not_is_kept(
    small: Rgb, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for space in (P3, BT2020):
        assert space is not None
        liar = colour.icc_profile(colour.Space(space.primaries, space.white, name="sRGB IEC61966-2.1"))
        _, metadata = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), icc_profile=liar)))
        assert metadata.icc == liar
    assert "kept: ICC profile 'sRGB IEC61966-2.1', " in caplog.text


def test_read_image_damaged_profile_is_left_out_with_a_warning(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    for damaged in (DISPLAY_P3[:200], DISPLAY_P3[:128] + bytes(300)):
        caplog.clear()
        image, metadata = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), icc_profile=damaged)))
        np.testing.assert_array_equal(image, small)
        assert metadata.icc is None
        assert "ICC profile cannot be applied" in caplog.text


def test_read_image_profile_of_which_a_part_is_missing_is_left_out(
    small: Rgb, caplog: pytest.LogCaptureFixture
) -> None:
    data = saved(Image.fromarray(small), "JPEG", icc_profile=DISPLAY_P3 + bytes(100_000))
    at = data.index(b"ICC_PROFILE\0\2")
    length = int.from_bytes(data[at - 2 : at], "big")
    image, metadata = pixels.read_image(io.BytesIO(data[: at - 4] + data[at - 2 + length :]))
    assert image.shape == small.shape and metadata.icc is None
    assert "ICC profile is damaged (1 of 2 parts)" in caplog.text


def test_read_image_lab_tiff_is_converted(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    lab = ImageCms.profileToProfile(
        Image.fromarray(small), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    image, metadata = pixels.read_image(io.BytesIO(saved(lab, "TIFF")))
    assert np.abs(image.astype(int) - small).max() <= 6
    assert metadata.icc is None
    assert "CIELAB" in caplog.text


def test_in_srgb_converts_by_the_profile(small: Rgb) -> None:
    assert P3 is not None
    converted = pixels.in_srgb(small, DISPLAY_P3)
    assert np.abs(converted.astype(int) - colour.converted(small, P3, colour.Space())).max() <= 1
    assert pixels.in_srgb(small, None) is small
    assert pixels.in_srgb(small, b"no profile") is small


def test_read_image_profile_of_bmp_is_kept(small: Rgb) -> None:
    height, width = small.shape[:2]
    rows = np.zeros((height, -(-3 * width // 4) * 4), np.uint8)
    rows[:, : 3 * width] = small[::-1, :, ::-1].reshape(height, -1)
    info = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, rows.size, 0, 0, 0, 0) + bytes(16)
    info += b"DEBM" + bytes(36 + 12) + struct.pack("<IIII", 4, 124 + rows.size, len(DISPLAY_P3), 0)
    data = (
        struct.pack("<2sIHHI", b"BM", 138 + rows.size + len(DISPLAY_P3), 0, 0, 138) + info + rows.tobytes() + DISPLAY_P3
    )
    image, metadata = pixels.read_image(io.BytesIO(data))
    np.testing.assert_array_equal(image, small)
    assert metadata.icc == DISPLAY_P3


def test_read_image_cmyk_jpeg_without_adobes_marker_is_not_inverted(small: Rgb) -> None:
    cmyk = Image.fromarray(small).convert("CMYK")
    data = saved(cmyk, "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    upright, _ = pixels.read_image(io.BytesIO(data))
    bare = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    inverted, _ = pixels.read_image(io.BytesIO(bare))
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(inverted, np.asarray(ImageChops.invert(image).convert("RGB")))
    with Image.open(io.BytesIO(bare)) as image:
        np.testing.assert_array_equal(pixels.as_rgb(image), inverted)
    assert psnr_db(upright, small) > 30


# Code points.


def cicp(primaries: int, transfer: int) -> bytes:
    return png_chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


def test_read_image_code_points_of_a_wide_gamut_become_a_profile(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    for primaries, name in ((12, "Display P3"), (9, "BT.2020"), (11, "DCI-P3")):
        image, metadata = pixels.read_image(io.BytesIO(png(small, cicp(primaries, 13))))
        np.testing.assert_array_equal(image, small)
        assert metadata.icc is not None and icc.description(metadata.icc) == name
    assert caplog.records == []


def test_icc_profile_says_what_the_code_points_say(small: Rgb) -> None:
    for space in (P3, BT2020):
        assert space is not None
        seen = icc.to_srgb(Image.fromarray(small), colour.icc_profile(space))
        assert np.abs(np.asarray(seen).astype(int) - colour.converted(small, space, colour.Space())).max() <= 1


@pytest.mark.parametrize(("primaries", "transfer"), [(1, 13), (2, 2), (1, 1), (1, 6)])
def test_read_image_code_points_of_srgb_change_nothing(
    small: Rgb, primaries: int, transfer: int, caplog: pytest.LogCaptureFixture
) -> None:
    image, metadata = pixels.read_image(io.BytesIO(png(small, cicp(primaries, transfer))))
    np.testing.assert_array_equal(image, small)
    assert metadata.icc is None and caplog.records == []


@pytest.mark.parametrize(("primaries", "transfer"), [(99, 13), (1, 9), (0, 0)])
def test_read_image_code_points_not_known_are_told(
    small: Rgb, primaries: int, transfer: int, caplog: pytest.LogCaptureFixture
) -> None:
    image, _ = pixels.read_image(io.BytesIO(png(small, cicp(primaries, transfer))))
    np.testing.assert_array_equal(image, small)
    assert f"colour space (primaries {primaries}, transfer {transfer}) is not known" in caplog.text


def test_read_image_code_points_count_more_than_a_profile_in_png(small: Rgb) -> None:
    profile = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(DISPLAY_P3))
    assert pixels.read_image(io.BytesIO(png(small, profile)))[1].icc == DISPLAY_P3
    assert pixels.read_image(io.BytesIO(png(small, profile, cicp(1, 13))))[1].icc is None


def pq_of(nits: float) -> float:
    power = (nits / 10_000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_read_image_pq_is_converted_with_white_at_203_nits(dtype: type, caplog: pytest.LogCaptureFixture) -> None:
    nits = np.array([0.0, 20.3, 101.5, 203.0, 1000.0])
    highest = np.iinfo(dtype).max
    samples: NDArray[Any] = np.array([round(pq_of(value) * highest) for value in nits], dtype)[None, :, None].repeat(
        3, 2
    )
    for primaries in (1, 9):
        image, metadata = pixels.read_image(io.BytesIO(png(samples, cicp(primaries, 16))))
        light = np.minimum(nits / 203, 1)
        expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
        assert np.abs(image[0] - expected[:, None]).max() <= (3 if dtype is np.uint8 else 1)
        assert metadata.icc is None
    assert "HDR (PQ), and is coded as SDR" in caplog.text


def test_read_image_hlg_has_white_at_three_quarters(caplog: pytest.LogCaptureFixture) -> None:
    samples = np.array([0.0, 0.75, 1.0])[None, :, None].repeat(3, 2)
    image, _ = pixels.read_image(io.BytesIO(png((samples * 65535).astype(np.uint16), cicp(9, 18))))
    assert image[0, 0].max() == 0 and image[0, 1].min() >= 253 and image[0, 2].min() == 255
    assert "HDR (HLG), and is coded as SDR" in caplog.text


# gAMA and cHRM.

SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def gama(value: float) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chrm(values: tuple[float, ...]) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))


def test_read_image_gamma_of_srgb_changes_nothing(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    usual = [[gama(0.45455)], [gama(0.45455), chrm(SRGB_PRIMARIES)], [chrm(SRGB_PRIMARIES)]]
    overruled = [gama(1.0), chrm(ADOBE_PRIMARIES), png_chunk(b"sRGB", b"\0")]
    for chunks in (*usual, overruled):
        image, metadata = pixels.read_image(io.BytesIO(png(small, *chunks)))
        np.testing.assert_array_equal(image, small)
        assert metadata.icc is None
    assert caplog.records == []


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_read_image_linear_samples_are_converted(dtype: type, channels: int) -> None:
    highest = np.iinfo(dtype).max
    light = np.linspace(0, 1, 256)
    samples: NDArray[Any] = np.round(light * highest).astype(dtype)[None, :, None].repeat(channels, 2)
    data = png(samples, gama(1.0))
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    image, metadata = pixels.read_image(io.BytesIO(data))
    assert np.abs(image[0] - expected[:, None]).max() <= 1
    assert metadata.icc is None
    if dtype is np.uint8:
        with Image.open(io.BytesIO(data)) as opened:
            np.testing.assert_array_equal(pixels.as_rgb(opened), image)


def test_read_image_wide_gamut_of_chromaticities_becomes_a_profile(small: Rgb) -> None:
    image, metadata = pixels.read_image(io.BytesIO(png(small, gama(1 / 2.19921875), chrm(ADOBE_PRIMARIES))))
    assert metadata.icc is not None
    seen = pixels.in_srgb(image, metadata.icc)
    adobe = colour.from_gamma(1 / 2.19921875, ADOBE_PRIMARIES)
    assert adobe is not None
    expected = colour.converted(small, adobe, colour.Space())
    assert np.abs(seen.astype(int) - expected).max() <= 3


def test_read_image_numbers_that_describe_no_colours_are_told(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    for chunks in ([gama(1000.0)], [chrm((0.0,) * 8)], [chrm((0.3, 0.3) * 4)], [gama(0.00001)]):
        caplog.clear()
        image, metadata = pixels.read_image(io.BytesIO(png(small, *chunks)))
        np.testing.assert_array_equal(image, small)
        assert metadata.icc is None
        assert "describe no colours" in caplog.text


# AVIF and gain maps.


def avif(image: Rgb, primaries: int, transfer: int) -> bytes:
    data = saved(Image.fromarray(image), "AVIF", quality=95, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def test_read_image_avif_code_points_are_read(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    plain, metadata = pixels.read_image(io.BytesIO(avif(small, 1, 13)))
    assert metadata.icc is None and caplog.records == []
    image, metadata = pixels.read_image(io.BytesIO(avif(small, 12, 13)))
    np.testing.assert_array_equal(image, plain)
    assert metadata.icc is not None and icc.description(metadata.icc) == "Display P3"
    image, metadata = pixels.read_image(io.BytesIO(avif(small, 9, 16)))
    assert metadata.icc is None
    assert "HDR (PQ), and is coded as SDR" in caplog.text


@pytest.mark.parametrize(("flags", "bits"), [(0x00, 8), (0x40, 10), (0x60, 12)])
def test_take_apart_avif_tells_the_bits_of_a_sample(small: Rgb, flags: int, bits: int) -> None:
    data = bytearray(saved(Image.fromarray(small), "AVIF"))
    at = data.index(b"av1C") + 6
    data[at] = data[at] & 0x9F | flags
    assert box_file.take_apart_avif(bytes(data)).bits_per_sample == bits


def test_read_image_gain_map_is_told(small: Rgb, caplog: pytest.LogCaptureFixture) -> None:
    packet = b'<rdf:Description hdrgm:Version="1.0"/>'
    image, _ = pixels.read_image(io.BytesIO(saved(Image.fromarray(small), "JPEG", xmp=packet)))
    assert image.shape == small.shape
    assert "gain map for HDR displays" in caplog.text
