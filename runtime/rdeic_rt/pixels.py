"""Images: files and arrays to uint8 RGB and back, upright, padded for the model and cropped again.

    file ─ read_image ─▶ RGB + Metadata ─ pad ─▶ model ... model ─ crop ─▶ RGB ─ write_image ─▶ file

What an RGB codec cannot keep (grey, alpha, palettes, CMYK, 16 bits, further frames) is converted, with a warning in
the log; what cannot be converted without guessing is rejected. `image_reader` reads files.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import exif, files, icc, pillow_guard
from .container import Metadata
from .errors import ImageError
from .image_reader import read_image, rgb_and_metadata
from .image_samples import flattened
from .limits import Size

__all__ = [
    "as_rgb",
    "crop",
    "for_upright_image",
    "format_from_suffix",
    "in_srgb",
    "pad",
    "padded_size",
    "read_image",
    "rgb_and_metadata",
    "stripped",
    "scaled_down",
    "write_image",
]

_log = logging.getLogger("rdeic_rt.pixels")


def as_rgb(image: object) -> NDArray[np.uint8]:
    """Return an image in memory as uint8 [H, W, 3], RGB, C-contiguous; it may share memory with the argument.

    Args:
        image: a PIL image; or an array, or anything with ``__array__`` or ``__dlpack__`` in host memory: uint8
            [H, W, 3], [H, W] or [H, W, 1] (grey), or [H, W, 4] (the last is alpha; composited on white). A PIL image
            read from a file and not changed since is oriented by its EXIF; `read_image` also returns its metadata.
    Raises:
        ValueError: another shape or dtype.
        TypeError: not an image at all.
        ImageError: a PIL image whose file is damaged, or of a kind that is not supported.
    """
    if isinstance(image, Image.Image):
        return rgb_and_metadata(image)[0]
    if hasattr(image, "__array__"):
        array = np.asarray(image)
    elif hasattr(image, "__dlpack__"):
        array = np.from_dlpack(image)
    else:
        raise TypeError(f"{type(image).__name__} is not a PIL image or an array")
    if array.dtype != np.uint8:
        raise ValueError(f"image is {array.dtype}, should be uint8 (0 to 255)")
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ValueError(f"image is {list(array.shape)}, should be [H, W, 3], [H, W], [H, W, 1] or [H, W, 4]")
    if array.shape[2] == 1:
        _warn("grey, and is coded as colour")
        array = np.repeat(array, 3, axis=2)
    elif array.shape[2] == 4:
        array = np.asarray(flattened(Image.fromarray(np.ascontiguousarray(array))))
    return np.ascontiguousarray(array)


def for_upright_image(metadata: Metadata) -> Metadata:
    """Return metadata with the EXIF orientation set to 1; malformed EXIF is returned unchanged."""
    if not metadata.exif:
        return metadata
    return replace(metadata, exif=exif.upright(metadata.exif).exif or metadata.exif)


def in_srgb(image: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    """Return an image converted to sRGB by its profile; the image itself if the profile cannot be applied.

    Args:
        image: uint8 [H, W, 3].
        profile: ICC profile of its samples; None: they are sRGB.
    """
    if not profile or icc.samples_of(profile) != b"RGB ":
        return image
    converted = icc.to_srgb(Image.fromarray(np.ascontiguousarray(image)), profile)
    return image if converted is None else np.array(converted)


def stripped(image: NDArray[np.uint8], metadata: Metadata) -> tuple[NDArray[np.uint8], Metadata]:
    """Return an image without its metadata, converted to sRGB by the profile that it loses, and empty metadata."""
    return in_srgb(image, metadata.icc), Metadata()


def scaled_down(image: NDArray[np.uint8], max_side_px: int) -> NDArray[np.uint8]:
    """Return an image with no side longer than that, scaled to it in its proportions (Lanczos); else the image itself.

    Args:
        image: uint8 [H, W, 3].
        max_side_px: at least 1.
    """
    if max(image.shape[:2]) <= max_side_px:
        return image
    small = Image.fromarray(np.ascontiguousarray(image))
    small.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    return np.array(small)


def pad(image: NDArray[np.uint8], multiple_px: int) -> NDArray[np.uint8]:
    """Return the image padded by reflection on the right and at the bottom, so that its sides are multiples.

    The last row and column are not repeated. Padding longer than the image is reflected again, and a side of one pixel
    is repeated. Works for any size.

    Args:
        image: [H, W, channels].
        multiple_px: of each side of the result, at least 1.
    """
    rows = _reflected(image.shape[0], multiple_px)
    columns = _reflected(image.shape[1], multiple_px)
    return np.ascontiguousarray(image[rows][:, columns])


def padded_size(size: Size, multiple_px: int) -> Size:
    """Return the size of an image of this size after `pad`."""
    height, width = (-(-side // multiple_px) * multiple_px for side in (size.height, size.width))
    return Size(height=height, width=width)


def crop(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Return the top left of the image, C-contiguous: the inverse of `pad`.

    Raises:
        ValueError: the image is smaller than that.
    """
    height, width = image.shape[:2]
    if size.height > height or size.width > width:
        raise ValueError(f"cannot crop {width}x{height} pixels to {size.width}x{size.height}")
    return np.ascontiguousarray(image[: size.height, : size.width])


@dataclass(frozen=True)
class _Format:
    """How a format is written: Pillow's name and options, and the metadata that it supports."""

    pillow_name: str
    options: dict[str, Any]
    keeps_icc: bool = True
    keeps_exif: bool = True


# All except JPEG are lossless. PNG's level 3 takes a third of the time of Pillow's default, 6, for 6 % more bytes.
_FORMATS = {
    "png": _Format("PNG", {"compress_level": 3}),
    "jpeg": _Format("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    "webp": _Format("WEBP", {"lossless": True, "method": 2}),
    "tiff": _Format("TIFF", {"compression": "tiff_adobe_deflate"}, keeps_exif=False),
    "bmp": _Format("BMP", {}, keeps_icc=False, keeps_exif=False),
    "ppm": _Format("PPM", {}, keeps_icc=False, keeps_exif=False),
}
_FORMAT_OF_SUFFIX = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
    ".ppm": "ppm",
}
# An APP1 segment of JPEG has a length of 16 bits, and the prefix.
_JPEG_MAX_EXIF_BYTES = 65_533 - len(exif.PREFIX)


def format_from_suffix(path: str | Path) -> str:
    """Return the format that a file of this name, or with this suffix, is written in.

    Raises:
        ValueError: no format has it; the message lists the supported ones.
    """
    name = str(path).lower()
    for suffix, format_name in _FORMAT_OF_SUFFIX.items():
        if name.endswith(suffix):
            return format_name
    raise ValueError(f"{path}: images are written as one of {', '.join(_FORMAT_OF_SUFFIX)}")


def write_image(
    target: str | Path | BinaryIO,
    image: NDArray[np.uint8],
    metadata: Metadata | None = None,
    format: str | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Write an image, atomically where the target is a path.

    PNG, WebP, TIFF, BMP and PPM are lossless; JPEG is written with quality 95 and full colour resolution. Metadata that
    the format does not support, and malformed EXIF, are left out, with a warning in the log. An
    orientation in EXIF is set to 1, because the image is upright.

    Args:
        target: a path, ``-`` for standard output, or a stream.
        image: uint8 [H, W, 3], RGB.
        metadata: ICC profile and EXIF to put into the file.
        format: png, jpeg, webp, tiff, bmp or ppm; None for the format of the path's suffix, and PNG for a stream.
        overwrite: replace a file that exists.
    Raises:
        ValueError: the format or suffix is unknown, or the image is not uint8 [H, W, 3].
        ImageError: the format cannot hold an image of this size.
        FileExistsError: the file exists, and must not be replaced.
        OSError: it cannot be written.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}, should be uint8 [H, W, 3]")
    if format is None:
        is_named = isinstance(target, (str, Path)) and str(target) != files.STREAM
        format = format_from_suffix(str(target)) if is_named else "png"
    if format not in _FORMATS:
        raise ValueError(f"format {format!r} is not one of: {', '.join(_FORMATS)}")
    data = _encode(image, metadata or Metadata(), format)
    if isinstance(target, (str, Path)):
        files.atomic_write(target, data, overwrite=overwrite)
    else:
        target.write(data)


def _encode(image: NDArray[np.uint8], metadata: Metadata, format_name: str) -> bytes:
    kind = _FORMATS[format_name]
    options = dict(kind.options)
    if metadata.icc and kind.keeps_icc:
        options["icc_profile"] = metadata.icc
    exif_fits = kind.keeps_exif and (format_name != "jpeg" or len(metadata.exif or b"") <= _JPEG_MAX_EXIF_BYTES)
    if metadata.exif and exif_fits:
        upright = exif.upright(metadata.exif).exif
        if upright is None:
            _log.warning("EXIF of %d bytes is malformed; it is left out", len(metadata.exif))
        options["exif"] = b"" if upright is None else exif.PREFIX + upright
    for name, data, option in (("ICC profile", metadata.icc, "icc_profile"), ("EXIF", metadata.exif, "exif")):
        if data and option not in options:
            _log.warning("%s cannot carry this %s of %d bytes; it is left out", kind.pillow_name, name, len(data))
    encoded = BytesIO()
    try:
        with pillow_guard.quiet():
            Image.fromarray(np.ascontiguousarray(image)).save(encoded, kind.pillow_name, **options)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        height, width = image.shape[:2]
        raise ImageError(f"{width}x{height} pixels cannot be written as {kind.pillow_name}: {error}") from None
    return encoded.getvalue()


def _reflected(length: int, multiple: int) -> NDArray[np.intp]:
    """Return for each position of the padded side the position it is copied from."""
    period = max(2 * (length - 1), 1)
    folded = np.arange(-(-length // multiple) * multiple) % period
    return np.minimum(folded, period - folded) if length > 1 else np.zeros_like(folded)


def _warn(problem: str) -> None:
    _log.warning("the image is %s", problem)
