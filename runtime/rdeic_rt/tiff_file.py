"""TIFF: the fields that Pillow would interpret are removed from the file and read here.

Pillow applies the orientation of a field or XMP, fails on fields of an unexpected type, and reads EXIF that is not
kept. It gets a file in which the orientation is 1 and the other fields are empty.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .exif import INTEGER_TYPES, TAG_ORIENTATION, xmp_orientation
from .image_parts import Parts

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TAG_BITS_PER_SAMPLE = 0x0102
_TAG_PHOTOMETRIC = 0x0106
_TAG_XMP = 0x02BC
_TAG_ICC = 0x8773
_TAG_EXIF = 0x8769
_TAG_GPS = 0x8825
_TAG_INTEROPERABILITY = 0xA005
_TYPE_SHORT, _TYPE_UNDEFINED = 3, 7
_LETTERS = {**INTEGER_TYPES, 16: "Q", 17: "q"}
_WHITE_IS_ZERO = 0
_MAX_ENTRIES = 4096


@dataclass(frozen=True)
class _Layout:
    """How a file's first directory is written.

    Attributes:
        order: struct's byte order.
        directory: where it begins.
        count: struct's letter of the number of entries.
        entry: of tag, type, count and value.
    """

    order: str
    directory: int
    count: str
    entry: struct.Struct


@dataclass(frozen=True)
class _Field:
    """One field of the directory, and the byte where its entry begins."""

    at: int
    kind: int
    count: int
    value: bytes


def take_apart(data: bytes) -> tuple[Parts, int | None]:
    """Return the parts of a TIFF file, and the orientation in its field, 1 to 8; None if it has none.

    Malformed files are left to Pillow.
    """
    parts = Parts(data)
    try:
        layout = _layout(data)
        fields = _fields(data, layout)
    except struct.error:
        return parts, None
    bits = _integers(data, layout, fields.get(_TAG_BITS_PER_SAMPLE))
    parts.bits_per_sample = max((min(n, 64) for n in bits), default=8)
    parts.sample_max = 2**12 - 1 if bits == [12] else 2**16 - 1
    parts.is_inverted = _integers(data, layout, fields.get(_TAG_PHOTOMETRIC)) == [_WHITE_IS_ZERO]
    parts.icc = _bytes(data, layout, fields.get(_TAG_ICC))
    parts.xmp = _bytes(data, layout, fields.get(_TAG_XMP))
    if _TAG_EXIF in fields:
        parts.problems.append("EXIF is not kept from TIFF files")
    changed = bytearray(data)
    taken = [fields[tag] for tag in (_TAG_XMP, _TAG_EXIF, _TAG_GPS, _TAG_INTEROPERABILITY) if tag in fields]
    for field in taken:
        _overwrite(changed, layout, field, _TYPE_UNDEFINED, b"\0")
    orientation = None
    if TAG_ORIENTATION in fields:
        field = fields[TAG_ORIENTATION]
        values = _integers(data, layout, field)
        value = values[0] if values else -1
        orientation = value if 1 <= value <= 8 else None
        if orientation is None and value != 0:
            parts.problems.append("the image's orientation is none of 1 to 8, and is not applied")
        _overwrite(changed, layout, field, _TYPE_SHORT, struct.pack(f"{layout.order}H", 1))
        taken.append(field)
    if taken:
        parts.pillow_data = bytes(changed)
    if orientation is None and parts.xmp:
        orientation = xmp_orientation(parts.xmp)
    return parts, orientation


def _layout(data: bytes) -> _Layout:
    order = "<" if data[:1] == b"I" else ">"
    if data[:4] in (b"II+\0", b"MM\0+"):
        (directory,) = struct.unpack_from(f"{order}Q", data, 8)
        return _Layout(order, directory, "Q", struct.Struct(f"{order}HHQ8s"))
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    return _Layout(order, directory, "H", struct.Struct(f"{order}HHI4s"))


def _fields(data: bytes, layout: _Layout) -> dict[int, _Field]:
    """Return the first directory's fields by tag, the first of each; struct.error where it is cut short."""
    if layout.directory >= len(data):
        raise struct.error
    (count,) = struct.unpack_from(layout.order + layout.count, data, layout.directory)
    at = layout.directory + struct.calcsize(layout.order + layout.count)
    fields: dict[int, _Field] = {}
    for _ in range(min(count, _MAX_ENTRIES)):
        tag, kind, n, value = layout.entry.unpack_from(data, at)
        fields.setdefault(tag, _Field(at, kind, n, value))
        at += layout.entry.size
    return fields


def _bytes(data: bytes, layout: _Layout, field: _Field | None) -> bytes | None:
    """Return the bytes of a field, whatever its type; None if there is none, or not all of it."""
    if field is None:
        return None
    n_bytes = field.count * struct.calcsize("=" + _LETTERS.get(field.kind, "B"))
    if n_bytes <= len(field.value):
        return field.value[:n_bytes]
    start = int.from_bytes(field.value, "little" if layout.order == "<" else "big")
    return data[start : start + n_bytes] if start + n_bytes <= len(data) else None


def _integers(data: bytes, layout: _Layout, field: _Field | None) -> list[int]:
    """Return the values of a field of integers; none if it is of another type."""
    if field is None or field.kind not in _LETTERS or not 0 < field.count <= _MAX_ENTRIES:
        return []
    content = _bytes(data, layout, field)
    return [] if content is None else list(struct.unpack(f"{layout.order}{field.count}{_LETTERS[field.kind]}", content))


def _overwrite(changed: bytearray, layout: _Layout, field: _Field, kind: int, value: bytes) -> None:
    """Give a field another type, and one value."""
    (tag,) = struct.unpack_from(f"{layout.order}H", changed, field.at)
    layout.entry.pack_into(changed, field.at, tag, kind, 1, value)
