"""Image files to uint8 RGB, upright, in sRGB or in colours that a profile describes; and the metadata worth keeping.

    file ─ take apart ─▶ Parts ─ Pillow ─▶ samples ─ grey, alpha, palette, 16 bits ─▶ RGB ─ colours ─▶ RGB + profile
                           └─ EXIF, XMP ─▶ orientation ───────────────────────────────── turn ─┘

Files that other readers accept are accepted; conversions, guesses and omissions are reported as warnings in the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from . import box_file, exif, files, icc, image_formats, image_samples, jpeg_file, pillow_guard
from .container import Metadata
from .errors import ImageError, ImageTooLargeError, LimitExceededError
from .image_parts import Parts
from .limits import DEFAULT_LIMITS, Limits, Size

_log = logging.getLogger("rdeic_rt.image_reader")

# Reading these runs another program on the file.
_REFUSED_FORMATS = {"EPS"}
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
# The part of the image that may be guessed in a truncated file. If more is missing, the file is rejected.
_MOST_MISSING = 1 / 16
# What these formats' plugins return is upright, and still has the EXIF of before.
_TURNED_BY_PLUGIN = {"JXL", "HEIF", "HEIC"}


@dataclass(frozen=True)
class _Decoded:
    """A decoded file, and the orientation that is still to be applied.

    Attributes:
        image: its first frame, loaded.
        parts: its metadata.
        orientation: 1 to 8.
        exif: with orientation 1.
    """

    image: Image.Image
    parts: Parts
    orientation: int
    exif: bytes | None


def read_image(source: str | Path | BinaryIO, limits: Limits = DEFAULT_LIMITS) -> tuple[NDArray[np.uint8], Metadata]:
    """Return an image upright and in RGB, and the metadata worth keeping.

    The orientation in EXIF, or where that has none in XMP, is applied, and set to 1 in the EXIF that is returned. An
    ICC profile of RGB samples is returned unless it is one of sRGB; samples of another kind are converted to sRGB by
    their profile, which is dropped. EXIF is taken from JPEG, PNG, WebP and AVIF, without its thumbnail; each item may
    take 2 MiB.

    Args:
        source: a path, ``-`` for standard input, or a stream at its beginning.
        limits: of the file and the image. While an image above Pillow's own limit is opened,
            ``PIL.Image.MAX_IMAGE_PIXELS`` is raised for the process.
    Returns:
        uint8 [H, W, 3], RGB, C-contiguous; and the metadata.
    Raises:
        ImageError: not an image, damaged, cut short, or of a kind that is not supported.
        ImageTooLargeError: its file, or its size in pixels, is over a limit.
        DeviceMemoryError: there is not enough memory to decode it.
        OSError: it cannot be read.
    """
    try:
        if isinstance(source, (str, Path)):
            data = files.read_bytes(source, limits.max_file_bytes)
        else:
            data = files.read_stream(source, limits.max_file_bytes, str(getattr(source, "name", "image")))
        with pillow_guard.quiet():
            return _finished(_decoded(data, limits))
    except LimitExceededError as error:
        raise ImageTooLargeError(str(error)) from None


def rgb_and_metadata(image: Image.Image) -> tuple[NDArray[np.uint8], Metadata]:
    """Return a PIL image as `read_image` returns a file: upright RGB pixels, and metadata.

    Args:
        image: if it was read from a file and not changed since, it is oriented by its EXIF or XMP.
    Returns:
        uint8 [H, W, 3], RGB, C-contiguous; and the metadata.
    Raises:
        ImageError: its file is damaged, or of a kind that is not supported.
    """
    with pillow_guard.quiet():
        with pillow_guard.errors():
            image.load()
        parts = _parts_of_pil(image)
        orientation, kept = _orientation(parts, _tiff_orientation(image), image)
        if orientation != 1 and not isinstance(image, ImageFile.ImageFile):
            _log.warning("the image's EXIF orientation %d is not applied; see ImageOps.exif_transpose", orientation)
            orientation = 1
        return _finished(_Decoded(image, parts, orientation, kept))


def _finished(decoded: _Decoded) -> tuple[NDArray[np.uint8], Metadata]:
    """Return a decoded file's pixels and metadata, and log what was left out."""
    for problem in decoded.parts.problems:
        _log.warning("%s", problem)
    with pillow_guard.errors():
        rgb, profile = image_samples.rgb_of(decoded.image, decoded.parts)
    method = _TRANSPOSE.get(decoded.orientation)
    return np.array(rgb if method is None else rgb.transpose(method)), _kept(profile, decoded.exif)


def _decoded(data: bytes, limits: Limits) -> _Decoded:
    parts, field = image_formats.take_apart(data, limits, _MOST_MISSING)
    image = _load(parts, limits)
    parts.exif = parts.exif or _bytes_of(image.info.get("exif"))
    parts.xmp = parts.xmp or _bytes_of(image.info.get("xmp"))
    parts.icc = parts.icc or _bytes_of(image.info.get("icc_profile"))
    orientation, kept = _orientation(parts, field, image)
    return _Decoded(image, parts, orientation, kept)


def _load(parts: Parts, limits: Limits) -> Image.Image:
    """Return the first frame, decoded; nothing is decoded of an image that is too large."""
    data = parts.pillow_data
    try:
        return _load_as_it_is(data, parts, limits)
    except ImageError as error:
        without_exif = box_file.without_exif(data) if box_file.is_avif(data) else data
        if without_exif != data:
            image = _load_as_it_is(without_exif, parts, limits)
            parts.problems.append("the image's EXIF is malformed; it is left out")
            return image
        if not isinstance(error.__cause__, (OSError, IndexError)):
            raise
        return _completed(data, parts, limits, error)


def _load_as_it_is(data: bytes, parts: Parts, limits: Limits) -> Image.Image:
    try:
        with pillow_guard.errors():
            return _open_and_load(data, parts, limits)
    except ImageError as error:
        if not isinstance(error.__cause__, Image.DecompressionBombError):
            raise
    # Above Pillow's own limit; our limit is checked before anything is decoded.
    with pillow_guard.errors(), pillow_guard.any_size():
        return _open_and_load(data, parts, limits)


def _open_and_load(data: bytes, parts: Parts, limits: Limits) -> Image.Image:
    try:
        image = Image.open(BytesIO(data))
    except UnidentifiedImageError:
        start = data[:8].hex(" ") or "nothing"
        raise ImageError(
            f"not an image in a format that Pillow reads, or damaged at its beginning ({len(data)} bytes: {start} ...)"
        ) from None
    limits.check_size(Size(height=image.height, width=image.width))
    if image.format in _REFUSED_FORMATS:
        raise ImageError(f"{image.format} images are not supported; convert it to PNG")
    has_more = image.format not in ("PNG", "JPEG") and _has_more_frames(data)
    image.load()
    frames = "the image is the first of several frames; the others are left out"
    if has_more and frames not in parts.problems:
        parts.problems.append(frames)
    return image


def _has_more_frames(data: bytes) -> bool:
    """Return whether there is another frame, which may be damaged without harm to the first."""
    try:
        with Image.open(BytesIO(data)) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:
        return True


def _completed(data: bytes, parts: Parts, limits: Limits, error: ImageError) -> Image.Image:
    """Return the image of a file that lacks its end, if most of it is present.

    The file is decoded several times with different data appended. Pixels that differ are missing from the file.

    Raises:
        ImageError: more is missing than may be guessed; `error` if the missing part cannot be determined.
    """
    n_bytes = len(data) // 8 + 2**16
    # Without 0xFF, which would begin a marker.
    noise = np.random.default_rng(0).integers(0, 255, (2, n_bytes), np.uint8)
    ends = [bytes(n_bytes), noise[0].tobytes(), noise[1].tobytes()]
    if data.startswith(jpeg_file.SIGNATURE):
        if not jpeg_file.are_all_scans_begun(data):
            raise error
        data = data.rstrip(b"\xff")
        ends = [jpeg_file.END, *(end + jpeg_file.END for end in ends[1:])]
    try:
        image, *others = (_load_as_it_is(data + end, parts, limits) for end in ends)
    except ImageError:
        raise error from None
    differs = np.zeros((image.height, image.width), bool)
    for other in others:
        differs |= (np.asarray(image) != np.asarray(other)).reshape(*differs.shape, -1).any(2)
    missing = float(differs.mean())
    if missing > _MOST_MISSING:
        raise ImageError(f"the image is cut short: {100 * missing:.0f} % of it is missing. Fetch it again") from None
    if missing:
        parts.problems.append(f"the image is cut short: {100 * missing:.2g} % of it is guessed")
    else:
        parts.problems.append("the image's file is cut short; all of its pixels are there")
    return image


def _parts_of_pil(image: Image.Image) -> Parts:
    """Return what Pillow has kept of the file that an image was read from."""
    info = image.info
    parts = Parts(
        b"",
        exif=_bytes_of(info.get("exif")),
        # Under both names, by versions of Pillow and by formats.
        xmp=_bytes_of(info.get("xmp") or info.get("XML:com.adobe.xmp")),
        icc=_bytes_of(info.get("icc_profile")),
        is_srgb="srgb" in info,
        is_inverted=image.format in ("JPEG", "MPO") and "adobe" not in info,
        is_turned_by_decoder=image.format in ("AVIF", *_TURNED_BY_PLUGIN),
    )
    if image.format == "PNG":
        parts.gamma = info.get("gamma") or None
        parts.chromaticities = info.get("chromaticity")
    if parts.exif is None and "Raw profile type exif" in info:
        with pillow_guard.errors():
            # How ImageMagick used to put EXIF into PNG, before PNG had a chunk for it.
            parts.exif = image.getexif().tobytes()
    transparent = info.get("transparency")
    if image.mode in image_samples.DEEP_GREY_MODES and isinstance(transparent, int):
        parts.transparent = (transparent,)
    return parts


def _tiff_orientation(image: Image.Image) -> int | None:
    """Return the orientation that Pillow has left in a TIFF image: of a type that it does not apply."""
    if image.format != "TIFF":
        return None
    with pillow_guard.errors():
        value = image.getexif().get(exif.TAG_ORIENTATION)
    if isinstance(value, bytes) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, int) and value in _TRANSPOSE else None


def _bytes_of(value: object) -> bytes | None:
    """Return what Pillow keeps as bytes, or now and then as text; None where there is nothing of use."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return bytes(value) if isinstance(value, bytes) and value else None


def _orientation(parts: Parts, field: int | None, image: Image.Image) -> tuple[int, bytes | None]:
    """Return the orientation that is still to be applied, and EXIF with orientation 1 where it is well-formed.

    Args:
        parts: of the file.
        field: orientation in a field of the image itself, as in TIFF; it takes precedence over EXIF and XMP.
        image: as Pillow has opened it.
    """
    found, kept = None, None
    if image.format == "TIFF":
        return field or 1, None
    data = parts.exif or b""
    while data.startswith(exif.PREFIX):
        data = data.removeprefix(exif.PREFIX)
    if data:
        upright = exif.upright(data)
        found, kept = upright.orientation, upright.exif
        for problem in upright.problems:
            left_out = "" if kept else ". It is left out"
            _log.warning("the image's EXIF is malformed: %s%s", problem, left_out)
    if image.format in _TURNED_BY_PLUGIN:
        found = 1
    if found is None and parts.xmp and not parts.is_turned_by_decoder:
        found = exif.xmp_orientation(parts.xmp)
    return found or 1, exif.without_thumbnail(kept) if kept else None


def _kept(profile: bytes | None, exif_kept: bytes | None) -> Metadata:
    """Return the metadata that is kept, and log it; items that are too large are dropped."""
    metadata = Metadata(icc=profile, exif=exif_kept)
    for name, item in (("icc", metadata.icc), ("exif", metadata.exif)):
        if item and len(item) > _MAX_ITEM_BYTES:
            _log.warning("the image's %s takes %d bytes; it is left out", name.upper(), len(item))
            metadata = replace(metadata, **{name: None})
    if metadata.icc and _log.isEnabledFor(logging.INFO):
        _log.info("kept: ICC profile %r, %d bytes", icc.description(metadata.icc), len(metadata.icc))
    if metadata.exif:
        _log.info("kept: EXIF, %d bytes", len(metadata.exif))
    return metadata
