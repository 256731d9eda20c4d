"""Pictures: files and arrays to uint8 RGB and back, upright, padded for the model and cropped again.

    file ─ read_image ─▶ RGB + Metadata ─ pad ─▶ model ... model ─ crop ─▶ RGB ─ write_image ─▶ file

What a codec for RGB cannot keep (grey, alpha, palettes, CMYK, 16 bits, further frames) is converted, with a warning in
the log; what cannot be converted without guessing is refused.
"""

from __future__ import annotations

import logging
import struct
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from . import exif, files
from .container import Metadata
from .errors import ImageError, LimitExceededError
from .limits import DEFAULT_LIMITS, Limits, Size

_log = logging.getLogger("rdeic_rt.pixels")

# What Pillow's readers are known to raise for damaged files, beside the errors it documents.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Reading these runs another program on the file.
_REFUSED_FORMATS = {"EPS"}
_DIRECT_MODES = {"1", "L", "P", "PA", "LA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
_DEEP_GREY_MODES = {"I;16", "I;16B", "I;16L", "I;16N"}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Each of the two items that `container.pack` takes, with room for the record headers.
_MAX_ITEM_BYTES = DEFAULT_LIMITS.max_metadata_bytes // 2 - 16
# After the signature, and length, type, width and height of the chunk IHDR, which must come first.
_PNG_BIT_DEPTH_AT = 24
_TAG_BITS_PER_SAMPLE = 0x0102
_TAG_ORIENTATION = 0x0112
_TAG_EXIF_IFD = 0x8769


def read_image(source: str | Path | BinaryIO, limits: Limits = DEFAULT_LIMITS) -> tuple[NDArray[np.uint8], Metadata]:
    """Return a picture as it is meant to be seen, and the metadata worth keeping.

    The EXIF orientation is applied, and set to 1 in the EXIF that is returned. An ICC profile of RGB samples is
    returned; samples of another kind are converted to sRGB by their profile, which is dropped. EXIF is taken from
    JPEG, PNG, WebP and AVIF; each item may take 2 MiB.

    Args:
        source: a path, ``-`` for standard input, or a stream at its beginning.
        limits: of the file and the picture.
    Returns:
        uint8 [H, W, 3], RGB, C-contiguous; and the metadata.
    Raises:
        ImageError: not a picture, damaged, cut short, too large, or of a kind that is not supported.
        OSError: it cannot be read.
    """
    try:
        if isinstance(source, (str, Path)):
            data = files.read_bytes(source, limits.max_file_bytes)
        else:
            data = files.read_stream(source, limits.max_file_bytes, str(getattr(source, "name", "picture")))
    except LimitExceededError as error:
        raise ImageError(str(error)) from None
    return _read(_load(data, limits), data)


def rgb_and_metadata(image: Image.Image) -> tuple[NDArray[np.uint8], Metadata]:
    """Return a PIL image as `read_image` returns a file: pixels as they are meant to be seen, and metadata.

    Args:
        image: one that was read from a file and not changed since is turned as its EXIF says.
    Returns:
        uint8 [H, W, 3], RGB, C-contiguous; and the metadata.
    Raises:
        ImageError: its file is damaged, or of a kind that is not supported.
    """
    rgb, icc, exif = _upright(image)
    return np.array(rgb), _kept(icc, exif)


def as_rgb(image: object) -> NDArray[np.uint8]:
    """Return an image in memory as uint8 [H, W, 3], RGB, C-contiguous; it may share memory with the argument.

    Args:
        image: a PIL image; or an array, or anything with ``__array__`` or ``__dlpack__`` in host memory: uint8
            [H, W, 3], [H, W] or [H, W, 1] (grey), or [H, W, 4] (the last is alpha; composited on white). A PIL image
            read from a file and not changed since is turned as its EXIF says; `read_image` also returns its metadata.
    Raises:
        ValueError: another shape or dtype.
        TypeError: not an image at all.
        ImageError: a PIL image whose file is damaged, or of a kind that is not supported.
    """
    if isinstance(image, Image.Image):
        return np.array(_upright(image)[0])
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
        array = np.asarray(_flatten(Image.fromarray(np.ascontiguousarray(array), "RGBA")))
    return np.ascontiguousarray(array)


def pad(image: NDArray[np.uint8], multiple_px: int) -> NDArray[np.uint8]:
    """Return the image continued to the right and below by its mirror image, to sides that are multiples.

    The mirror stands on the last row and column, which are not repeated; where more is needed than there is, the
    reflection is reflected in turn, and a side of one pixel is repeated. Works for any size.

    Args:
        image: [H, W, channels].
        multiple_px: of each side of the result, at least 1.
    """
    rows = _reflected(image.shape[0], multiple_px)
    columns = _reflected(image.shape[1], multiple_px)
    return np.ascontiguousarray(image[rows][:, columns])


def padded_size(size: Size, multiple_px: int) -> Size:
    """Return the size that `pad` gives an image of this one."""
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
    """How a format is written: Pillow's name and options, and what it can carry beside pixels."""

    pillow_name: str
    options: dict[str, Any]
    keeps_icc: bool = True
    keeps_exif: bool = True


# All but JPEG lose nothing. PNG's level 3 takes a third of the time of Pillow's default, 6, for 6 % more bytes.
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
        ValueError: no format has it; the message lists those there are.
    """
    name = str(path).lower()
    for suffix, format_name in _FORMAT_OF_SUFFIX.items():
        if name.endswith(suffix):
            return format_name
    raise ValueError(f"{path}: pictures are written as one of {', '.join(_FORMAT_OF_SUFFIX)}")


def write_image(
    target: str | Path | BinaryIO,
    image: NDArray[np.uint8],
    metadata: Metadata | None = None,
    format: str | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Write a picture, atomically where the target is a path.

    PNG, WebP, TIFF, BMP and PPM keep every pixel; JPEG is written with quality 95 and full colour resolution. What the
    format cannot carry of the metadata is left out, with a warning in the log.

    Args:
        target: a path, ``-`` for standard output, or a stream.
        image: uint8 [H, W, 3], RGB.
        metadata: ICC profile and EXIF to put into the file.
        format: png, jpeg, webp, tiff, bmp or ppm; None for what the path's suffix says, and PNG for a stream.
        overwrite: replace a file that exists.
    Raises:
        ValueError: the format or suffix is unknown, or the image is not uint8 [H, W, 3].
        ImageError: the format cannot hold a picture of this size.
        FileExistsError: there is such a file, and it may not be replaced.
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
        options["exif"] = exif.PREFIX + metadata.exif
    for name, data, option in (("ICC profile", metadata.icc, "icc_profile"), ("EXIF", metadata.exif, "exif")):
        if data and option not in options:
            _log.warning("%s cannot carry this %s of %d bytes; it is left out", kind.pillow_name, name, len(data))
    encoded = BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(image)).save(encoded, kind.pillow_name, **options)
    except (OSError, ValueError) as error:
        height, width = image.shape[:2]
        raise ImageError(f"{width}x{height} pixels cannot be written as {kind.pillow_name}: {error}") from None
    return encoded.getvalue()


def _load(data: bytes, limits: Limits) -> ImageFile.ImageFile:
    """Return the first frame, decoded; nothing is decoded of a picture that is too large."""
    try:
        image = Image.open(BytesIO(data))
        limits.check_size(Size(height=image.height, width=image.width))
        if image.format in _REFUSED_FORMATS:
            raise ImageError(f"{image.format} pictures are not supported; convert it to PNG")
        # A camera's MPO holds one picture, and smaller copies or other views of it.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            _warn("the first of several frames; the others are left out")
        image.load()
    except UnidentifiedImageError:
        start = data[:8].hex(" ") or "nothing"
        raise ImageError(
            f"not a picture in a format that Pillow reads, or damaged at its beginning ({len(data)} bytes: {start} ...)"
        ) from None
    except LimitExceededError as error:
        raise ImageError(str(error)) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{error}; raise PIL.Image.MAX_IMAGE_PIXELS too if the picture is trusted") from None
    except _PILLOW_ERRORS as error:
        raise ImageError(_undecodable(error)) from None
    return image


def _read(image: ImageFile.ImageFile, data: bytes) -> tuple[NDArray[np.uint8], Metadata]:
    if image.format == "TIFF" and _TAG_EXIF_IFD in image.getexif():
        _log.warning("EXIF is not kept from TIFF files")
    if image.mode not in _DEEP_GREY_MODES and _bits_per_sample(image, data) > 8:
        _warn("coded with 8 bits a sample; it has more")
    orientation, upright_exif = _orientation_of(image)
    rgb, icc = _convert(image)
    return np.array(_turn(rgb, orientation)), _kept(icc, upright_exif)


def _upright(image: Image.Image) -> tuple[Image.Image, bytes | None, bytes | None]:
    """Return a PIL image in RGB, turned as its EXIF says, its ICC profile, and its EXIF with orientation 1."""
    try:
        image.load()
    except _PILLOW_ERRORS as error:
        raise ImageError(_undecodable(error)) from None
    orientation, upright_exif = _orientation_of(image)
    if orientation != 1 and not isinstance(image, ImageFile.ImageFile):
        _log.warning("the image's EXIF orientation %d is not applied; see ImageOps.exif_transpose", orientation)
        orientation = 1
    rgb, icc = _convert(image)
    return _turn(rgb, orientation), icc, upright_exif


def _kept(icc: bytes | None, exif: bytes | None) -> Metadata:
    """Return what a file keeps of these: not what is too large."""
    metadata = Metadata(icc=icc, exif=exif)
    for name, item in (("icc", metadata.icc), ("exif", metadata.exif)):
        if item and len(item) > _MAX_ITEM_BYTES:
            _log.warning("the picture's %s takes %d bytes; it is left out", name.upper(), len(item))
            metadata = replace(metadata, **{name: None})
    return metadata


def _convert(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """Return the image in mode RGB, and its ICC profile if that is one of RGB samples."""
    icc = image.info.get("icc_profile") or None
    samples = icc[16:20] if icc and len(icc) >= 128 and icc[36:40] == b"acsp" else None
    if image.mode in _DEEP_GREY_MODES or (image.mode == "I" and getattr(image, "format", None) in ("PNG", "PPM")):
        _warn("coded with 8 bits a sample; it has more")
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8), "L")
    if image.mode not in _DIRECT_MODES:
        raise ImageError(f"samples of Pillow's mode {image.mode} are not supported; convert the picture to 8-bit RGB")
    if image.mode in ("1", "L", "LA"):
        _warn("grey, and is coded as colour")
    elif image.mode == "CMYK":
        _warn("CMYK, and is coded as RGB")
    elif image.mode in ("P", "PA"):
        _warn("indexed by a palette, and is coded as RGB")
    if image.has_transparency_data:
        image = _flatten(image.convert("RGBA"))
    if samples == b"RGB " and image.mode != "CMYK":
        return image.convert("RGB"), icc
    if samples in (b"GRAY", b"CMYK"):
        image = _srgb_by_profile(image, icc or b"", samples)
    elif icc is not None:
        _log.warning("the picture's ICC profile does not describe its samples; it is left out")
    return image.convert("RGB"), None


def _srgb_by_profile(image: Image.Image, icc: bytes, samples: bytes) -> Image.Image:
    """Return the image in sRGB, converted by its profile; unchanged when the profile is not one for it."""
    from PIL import ImageCms

    mode = "CMYK" if samples == b"CMYK" else "L"
    if (image.mode == "CMYK") == (mode == "CMYK"):
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            converted = ImageCms.profileToProfile(
                image.convert(mode), profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass
    _log.warning("the picture's ICC profile cannot be applied; it is left out")
    return image


def _bits_per_sample(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the bits a sample of a PNG or TIFF, which Pillow's mode does not always show; 8 for other formats."""
    if image.format == "PNG":
        return data[_PNG_BIT_DEPTH_AT]
    if image.format == "TIFF":
        return int(np.max(image.getexif().get(_TAG_BITS_PER_SAMPLE, 8)))
    return 8


def _flatten(image: Image.Image) -> Image.Image:
    """Return an RGBA image composited on white, in mode RGB."""
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB")
    _warn("partly transparent, and is composited on white")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _orientation_of(image: Image.Image) -> tuple[int, bytes | None]:
    """Return a picture's orientation, and its EXIF with orientation 1 if it has one that is well-formed."""
    if image.format == "TIFF":
        # A field of the picture itself here; recent Pillows have applied and removed it.
        return int(image.getexif().get(_TAG_ORIENTATION, 1)), None
    found = image.info.get("exif")
    try:
        if found is None and "Raw profile type exif" in image.info:
            # How ImageMagick used to put EXIF into PNG, before PNG had a chunk for it.
            found = image.getexif().tobytes()
        found = found.removeprefix(exif.PREFIX) if isinstance(found, bytes) else None
        return exif.split_orientation(found) if found else (1, None)
    except _PILLOW_ERRORS as error:
        _log.warning("the picture's EXIF is malformed: %s. It is left out, and no orientation is applied", error)
        return 1, None


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def _reflected(length: int, multiple: int) -> NDArray[np.intp]:
    """Return for each position of the padded side the position it is copied from."""
    period = max(2 * (length - 1), 1)
    folded = np.arange(-(-length // multiple) * multiple) % period
    return np.minimum(folded, period - folded) if length > 1 else np.zeros_like(folded)


def _undecodable(error: Exception) -> str:
    reason = str(error) or type(error).__name__
    return f"the picture cannot be decoded: {reason}. Fetch it again, or convert it to PNG"


def _warn(problem: str) -> None:
    _log.warning("the picture is %s", problem)
