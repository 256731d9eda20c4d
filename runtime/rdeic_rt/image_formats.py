"""Takes apart a file of any format: by the module of its format, or here where there is little to find."""

from __future__ import annotations

import re

from . import box_file, jpeg_file, png_file, tiff_file
from .image_parts import Parts
from .limits import Limits

# BITMAPV5HEADER, counted from the file's beginning: size of the header, colour space, place and size of the profile.
_BMP_HEADER_AT, _BMP_V5_BYTES = 14, 124
_BMP_SPACE_AT, _BMP_EMBEDDED = 70, b"DEBM"
_BMP_PROFILE_AT = 126
_QOI_SPACE_AT, _QOI_LINEAR = 13, b"\1"


def take_apart(data: bytes, limits: Limits, most_missing: float) -> tuple[Parts, int | None]:
    """Return a file's parts, and the orientation in a field of the format itself, as in TIFF; otherwise None.

    Args:
        data: the file.
        limits: of the image.
        most_missing: the part of the image that may be guessed when the file is cut short.
    Raises:
        LimitExceededError: the image is too large.
        ImageError: more of it is missing than may be guessed.
    """
    if data.startswith(png_file.SIGNATURE):
        return png_file.take_apart(data, limits, most_missing), None
    if data.startswith(jpeg_file.SIGNATURE):
        return jpeg_file.take_apart(data), None
    if data.startswith(tiff_file.SIGNATURES):
        return tiff_file.take_apart(data)
    if box_file.is_avif(data):
        return box_file.take_apart_avif(data), None
    if data.startswith(box_file.JPEG_2000_SIGNATURES):
        return box_file.take_apart_jpeg_2000(data), None
    parts = Parts(data)
    if data[:1] == b"P" and data[1:2] in b"2356":
        parts.bits_per_sample = _bits_of_netpbm(data)
    elif data[:2] == b"\x01\xda" and data[3:4] == b"\2":  # SGI, of two bytes a sample
        parts.bits_per_sample = 16
    elif data[:2] == b"BM":
        parts.icc = _profile_of_bmp(data)
    elif data[:4] == b"qoif" and data[_QOI_SPACE_AT : _QOI_SPACE_AT + 1] == _QOI_LINEAR:
        parts.gamma = 1.0
    return parts, None


def _bits_of_netpbm(data: bytes) -> int:
    """Return the bits of a sample of PGM or PPM: its greatest value stands after width and height."""
    words = re.sub(rb"#[^\n]*", b"", data[:2048]).split(maxsplit=4)[1:4]
    return max(8, int(words[2]).bit_length()) if len(words) == 3 and words[2].isdigit() else 8


def _profile_of_bmp(data: bytes) -> bytes | None:
    """Return the profile that the latest version of BMP may have; Pillow does not look for it."""
    is_latest = int.from_bytes(data[_BMP_HEADER_AT : _BMP_HEADER_AT + 4], "little") == _BMP_V5_BYTES
    if not is_latest or data[_BMP_SPACE_AT : _BMP_SPACE_AT + 4] != _BMP_EMBEDDED:
        return None
    at, n_bytes = (int.from_bytes(data[n : n + 4], "little") for n in (_BMP_PROFILE_AT, _BMP_PROFILE_AT + 4))
    return data[_BMP_HEADER_AT + at : _BMP_HEADER_AT + at + n_bytes] or None
