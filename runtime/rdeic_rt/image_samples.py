"""Samples of every kind that Pillow decodes to RGB: grey, alpha, palettes, CMYK, 16 bits, and other colour spaces."""

from __future__ import annotations

import logging
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from . import colour, icc, pillow_guard
from .errors import ImageError
from .image_parts import Parts

_log = logging.getLogger("rdeic_rt.image_samples")

DEEP_GREY_MODES = {"I;16", "I;16B", "I;16L", "I;16N"}
_GREY_MODES = {"1", "L", "LA", "La"}
_DIRECT_MODES = {*_GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
# Pillow keeps the upper bytes of 16-bit samples; read in the other order, it keeps the lower ones.
_LOWER_BYTES = "RGB;16L"


def rgb_of(image: Image.Image, parts: Parts) -> tuple[Image.Image, bytes | None]:
    """Return an image in mode RGB, and the ICC profile of its samples; None where they are sRGB.

    Args:
        image: loaded.
        parts: metadata of its file.
    Raises:
        ImageError: its samples have no known range.
    """
    mode = image.mode
    is_deep_grey = mode in DEEP_GREY_MODES or (mode == "I" and getattr(image, "format", None) in ("PNG", "PPM"))
    if not is_deep_grey and mode not in _DIRECT_MODES:
        raise ImageError(f"samples of Pillow's mode {mode} are not supported; convert the image to 8-bit RGB")
    if is_deep_grey or parts.bits_per_sample > 8:
        _warn("coded with 8 bits a sample; it has more")
    is_transparent = _transparent_pixels(image, parts, is_deep_grey)
    deep = None
    if is_deep_grey:
        deep = np.asarray(image) if image.format == "PNG" and parts.bits_per_sample == 16 else None
        image = _grey_of_deep(image, parts)
    if image.mode == "CMYK" and parts.is_inverted:
        image = ImageChops.invert(image)
    is_grey = image.mode in _GREY_MODES
    for kind, modes in (("grey", _GREY_MODES), ("CMYK", {"CMYK"}), ("of CIELAB colours", {"LAB"})):
        if image.mode in modes:
            _warn(f"{kind}, and is coded as {'colour' if is_grey else 'RGB'}")
    if image.mode in ("P", "PA"):
        _warn("indexed by a palette, and is coded as RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if is_transparent is not None:
        image = _whitened(image, is_transparent)
    elif image.has_transparency_data:
        image = flattened(image.convert("RGBA"))
    return _coloured(image, parts, is_grey=is_grey, deep=deep, is_transparent=is_transparent)


def flattened(image: Image.Image) -> Image.Image:
    """Return an RGBA image composited on white, in mode RGB."""
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB")
    _warn("partly transparent, and is composited on white")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _transparent_pixels(image: Image.Image, parts: Parts, is_deep_grey: bool) -> NDArray[np.bool_] | None:
    """Return which pixels have the value that stands for transparency, bool [H, W]; None where no value does."""
    key = parts.transparent
    if key is None:
        return None
    samples: NDArray[Any]
    values: tuple[int, ...] = key
    if len(key) == 3:
        samples = _deep_rgb(image, parts) if parts.is_deep_rgb else np.asarray(image.convert("RGB"))
    elif is_deep_grey:
        samples = np.asarray(image)[..., np.newaxis]
    else:
        samples = np.asarray(image.convert("L"))[..., np.newaxis]
        values = (key[0] * 255 // ((1 << parts.bits_per_sample) - 1),)
    is_transparent: NDArray[np.bool_] = (samples == np.array(values, samples.dtype)).all(2)
    return is_transparent


def _whitened(image: Image.Image, is_transparent: NDArray[np.bool_]) -> Image.Image:
    """Return the image with white where it is transparent."""
    if not is_transparent.any():
        return image
    _warn("partly transparent, and is composited on white")
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    samples = np.array(image.convert(mode))
    samples[is_transparent] = 255
    return Image.fromarray(samples)


def _grey_of_deep(image: Image.Image, parts: Parts) -> Image.Image:
    """Return grey samples of more than 8 bits in 8, scaled and rounded."""
    deep = np.minimum(np.asarray(image).astype(np.int64), parts.sample_max)
    grey = ((deep * 255 + parts.sample_max // 2) // parts.sample_max).astype(np.uint8)
    return Image.fromarray(255 - grey if parts.is_inverted else grey)


def _deep_rgb(image: Image.Image, parts: Parts) -> NDArray[np.uint16]:
    """Return the samples of an RGB PNG of 16 bits, uint16 [H, W, 3]."""
    with pillow_guard.any_size():
        again: Any = Image.open(BytesIO(parts.pillow_data))
        again.tile = [(*tile[:3], _LOWER_BYTES) for tile in again.tile]
        lower = np.asarray(again).astype(np.uint16)
    return np.asarray(image).astype(np.uint16) * np.uint16(256) + lower


def _coloured(
    image: Image.Image,
    parts: Parts,
    *,
    is_grey: bool,
    deep: NDArray[Any] | None,
    is_transparent: NDArray[np.bool_] | None,
) -> tuple[Image.Image, bytes | None]:
    """Return the image in RGB, in sRGB or in the colours of the profile that is returned.

    Args:
        image, parts: as for `rgb_of`; without transparency.
        is_grey: it was, whatever mode it has.
        deep: its samples if they are grey of 16 bits, [H, W].
        is_transparent: which pixels have been made white.
    """
    space = _space(parts)
    if parts.icc is not None and space is None:
        return _by_profile(image, parts.icc, is_grey=is_grey)
    if image.mode == "LAB":
        image = icc.lab_to_srgb(image) or image
    rgb = image.convert("RGB")
    if space is None or image.mode == "CMYK":
        return rgb, None
    if is_grey:
        space = colour.Space(transfer=space.transfer)
    if space.has_srgb_transfer and (space.has_srgb_primaries or space.is_wide):
        return rgb, None if space.has_srgb_primaries else colour.icc_profile(space)
    samples: NDArray[Any] = np.asarray(rgb)
    if parts.is_deep_rgb or deep is not None:
        samples = _deep_rgb(rgb, parts) if deep is None else deep[..., np.newaxis].astype(np.uint16).repeat(3, 2)
        if is_transparent is not None:
            samples[is_transparent] = 65_535
    target = colour.Space()
    if space.is_hdr:
        _warn(f"HDR ({space.transfer}), and is coded as SDR, in sRGB: what is brighter than white is clipped")
    elif space.is_wide:
        target = colour.Space(space.primaries, space.white, name=space.name)
    converted = Image.fromarray(colour.converted(samples, space, target))
    return converted, colour.icc_profile(target) if space.is_wide and not space.is_hdr else None


def _space(parts: Parts) -> colour.Space | None:
    """Return the colour space that a file names without a profile; None where it names none that counts.

    In PNG, code points take precedence over a profile, and a profile over gAMA and cHRM; in AVIF a profile comes first.
    """
    is_png = parts.pillow_data[:4] == b"\x89PNG"
    if parts.cicp is not None and (is_png or parts.icc is None):
        space = colour.from_code_points(*parts.cicp)
        if space is not None:
            return space
        _log.warning("the image's colour space (primaries %d, transfer %d) is not known; it is left out", *parts.cicp)
    if parts.icc is not None or parts.is_srgb or (parts.gamma is None and parts.chromaticities is None):
        return None
    space = colour.from_gamma(parts.gamma, parts.chromaticities)
    if space is None:
        _log.warning("the image's gamma and chromaticities describe no colours; they are left out")
    return space


def _by_profile(image: Image.Image, profile: bytes, *, is_grey: bool) -> tuple[Image.Image, bytes | None]:
    """Return the image in RGB, and its profile if its samples still need it: that of RGB samples other than sRGB."""
    samples = icc.samples_of(profile)
    mode = {"CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "L" if is_grey else "RGB")
    if mode == "RGB" and samples == b"RGB ":
        is_srgb = icc.is_srgb(profile)
        if is_srgb is None:
            _log.warning("the image's ICC profile cannot be applied; it is left out")
        elif is_srgb:
            _log.info("the image's ICC profile of %d bytes is that of sRGB; it is left out", len(profile))
        return image.convert("RGB"), None if is_srgb is None or is_srgb else profile
    usable_in = {b"GRAY": ("L",), b"CMYK": ("CMYK",), b"RGB ": ("L",)}.get(samples or b"", ())
    if mode in usable_in:
        converted = icc.to_srgb(image.convert("RGB" if samples == b"RGB " else mode), profile)
        if converted is not None:
            return converted, None
        _log.warning("the image's ICC profile cannot be applied; it is left out")
    elif mode != "LAB":
        _log.warning("the image's ICC profile does not describe its samples; it is left out")
    if mode == "LAB":
        return icc.lab_to_srgb(image) or image.convert("RGB"), None
    return image.convert("RGB"), None


def _warn(problem: str) -> None:
    _log.warning("the image is %s", problem)
