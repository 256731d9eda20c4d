"""Colour space and bits per sample from the boxes of AVIF and JPEG 2000 files, which Pillow does not return."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from .image_parts import Parts

_AVIF_BRANDS = (b"avif", b"avis")
JPEG_2000_SIGNATURES = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
# Boxes that hold others, and the number of bytes before these.
_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"jp2h": 0}
_CODESTREAM = b"\xff\x4f\xff\x51"
_MAX_BOXES = 4096
# The box that gives an item its type: version and flags, number of the item, number of its protection.
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2})Exif", re.DOTALL)


def is_avif(data: bytes) -> bool:
    """Return whether a file begins as AVIF does."""
    return data[4:8] == b"ftyp" and any(brand in data[8:64] for brand in _AVIF_BRANDS)


def take_apart_avif(data: bytes) -> Parts:
    """Return colours and bits of an AVIF file; Pillow reads its metadata."""
    parts = Parts(data, is_turned_by_decoder=True)
    for name, body in _boxes(data, 0, len(data)):
        if name == b"av1C" and len(body) >= 3:
            has_more, has_twelve = body[2] & 0x40, body[2] & 0x20
            parts.bits_per_sample = max(parts.bits_per_sample, (12 if has_twelve else 10) if has_more else 8)
        elif name == b"colr" and body[:4] == b"nclx" and len(body) >= 8 and parts.cicp is None:
            parts.cicp = struct.unpack(">HH", body[4:8])
    if b"tmap" in data[:4096]:
        parts.problems.append("the image has a gain map for HDR displays, which is left out")
    return parts


def take_apart_jpeg_2000(data: bytes) -> Parts:
    """Return colours and bits of a JPEG 2000 file."""
    parts = Parts(data)
    for name, body in _boxes(data, 0, len(data)):
        if name == b"colr" and body[:1] in (b"\2", b"\3") and parts.icc is None:
            parts.icc = body[3:] or None
    at = data.find(_CODESTREAM)
    sizes = data[at + 6 : at + 6 + 36] if at >= 0 else b""
    if len(sizes) == 36:
        n_components = int.from_bytes(sizes[34:36], "big")
        depths = data[at + 42 : at + 42 + 3 * n_components : 3]
        parts.bits_per_sample = max(((depth & 0x7F) + 1 for depth in depths), default=8)
    return parts


def without_exif(data: bytes) -> bytes:
    """Return an AVIF file in which no reader finds EXIF, as its item has no type: for EXIF that Pillow fails on."""
    return _EXIF_ITEM.sub(rb"\g<1>\0\0\0\0", data)


def _boxes(data: bytes, at: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each box that holds no others, those in others too."""
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        length, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1 and at + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, start)
            start = at + 16
        stop = end if length == 0 else at + length
        if stop > end or stop < start:
            return
        if name in _CONTAINERS and depth < 8:
            yield from _boxes(data, start + _CONTAINERS[name], stop, depth + 1)
        elif name != b"mdat":
            yield name, data[start : min(stop, start + 2**23)]
        at = stop
