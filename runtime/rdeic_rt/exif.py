"""The EXIF fields that a codec needs: the orientation, and the position of the thumbnail."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# What JPEG and others put before the TIFF structure; some writers put it twice.
PREFIX = b"Exif\0\0"

TAG_ORIENTATION = 0x0112
# Directories that a field points to: EXIF, GPS, interoperability, and TIFF's own.
_POINTERS = (0x8769, 0x8825, 0xA005, 0x014A)
# Offset and length of what a directory describes: a thumbnail as JPEG, or as strips of samples.
_THUMBNAIL = ((0x0201, 0x0202), (0x0111, 0x0117))
_TYPE_SHORT = 3
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
# struct's letters of the integer types.
INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_ENTRY_BYTES = 12
_MAX_DIRECTORIES = 32
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|\s*>)\s*)([1-8])(?![0-9])""")


@dataclass(frozen=True)
class Upright:
    """EXIF of an image whose orientation has been applied.

    Attributes:
        orientation: original orientation, 1 (upright) to 8; None if nothing valid was found.
        exif: the same EXIF, of the same length, with orientation 1; None if it is malformed.
        problems: faults, to be reported to the user.
    """

    orientation: int | None
    exif: bytes | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """One field of a directory, ``at`` the byte where its 12 bytes begin."""

    at: int
    tag: int
    kind: int
    count: int


def upright(exif: bytes) -> Upright:
    """Return an image's orientation, and its EXIF for the image once it is turned.

    Whatever integer type the field has is read. It is set to 1 in place, as everything else in EXIF refers to byte
    positions, and so it is in XMP that lies within the EXIF. Of several fields the first one counts.

    Args:
        exif: a TIFF structure, from its byte-order mark on. Any bytes are taken.
    """
    order = _byte_order(exif)
    if order is None:
        return Upright(None, None, ("it has no byte-order mark",))
    changed = bytearray(exif)
    found: list[int] = []
    problems: list[str] = []
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        for entry in _entries(exif, order, directory):
            if entry.tag == TAG_ORIENTATION:
                found.append(_orientation(exif, order, entry))
                struct.pack_into(f"{order}HHIHH", changed, entry.at, TAG_ORIENTATION, _TYPE_SHORT, 1, 1, 0)
    except struct.error:
        problems.append("it is cut short")
    valid = [value for value in found if 1 <= value <= 8]
    # Some cameras write 0 for an unknown orientation.
    if any(value not in range(9) for value in found):
        problems.append("its orientation is none of 1 to 8")
    if len(set(valid)) > 1:
        problems.append(f"it has several orientations, of which {valid[0]} is taken")
    is_whole = "it is cut short" not in problems
    kept = _XMP_ORIENTATION.sub(rb"\g<1>1", bytes(changed)) if is_whole else None
    return Upright(valid[0] if valid else None, kept, tuple(problems))


def xmp_orientation(xmp: bytes) -> int | None:
    """Return the orientation, 1 to 8, in an XMP packet; None if it has none."""
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[2]) if found else None


def without_thumbnail(exif: bytes) -> bytes:
    """Return EXIF without its thumbnail: it shows another image than the one it is kept with, and may outweigh it.

    What only the thumbnail's directories refer to is overwritten with zeros, and cut off where it lies at the end;
    nothing else moves. EXIF that is malformed is returned as it is.
    """
    order = _byte_order(exif)
    if order is None:
        return exif
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        link = directory + 2 + len(list(_entries(exif, order, directory))) * _ENTRY_BYTES
        (thumbnail,) = struct.unpack_from(f"{order}I", exif, link)
    except struct.error:
        return exif
    if thumbnail == 0:
        return exif
    is_kept = bytearray(b"\1" * len(exif))
    for start, end in _ranges(exif, order, thumbnail, follow_links=True):
        is_kept[start:end] = bytes(len(is_kept[start:end]))
    is_kept[0:8] = b"\1" * 8
    for start, end in _ranges(exif, order, directory, follow_links=False):
        is_kept[start:end] = b"\1" * len(is_kept[start:end])
    changed = bytearray(value if kept else 0 for value, kept in zip(exif, is_kept, strict=True))
    struct.pack_into(f"{order}I", changed, link, 0)
    return bytes(changed[: is_kept.rfind(1) + 1])


def _byte_order(exif: bytes) -> str | None:
    return {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])


def _entries(exif: bytes, order: str, directory: int) -> Iterator[_Entry]:
    """Yield a directory's fields; struct.error where it is cut short."""
    (n_entries,) = struct.unpack_from(f"{order}H", exif, directory)
    for n in range(n_entries):
        at = directory + 2 + n * _ENTRY_BYTES
        tag, kind, count, _ = struct.unpack_from(f"{order}HHI4s", exif, at)
        yield _Entry(at, tag, kind, count)


def _orientation(exif: bytes, order: str, entry: _Entry) -> int:
    """Return the first value of the field, -1 if it has none that is an integer."""
    letter = INTEGER_TYPES.get(entry.kind)
    if letter is None or entry.count == 0:
        return -1
    at = entry.at + 8
    if entry.count * _TYPE_BYTES[entry.kind] > 4:
        (at,) = struct.unpack_from(f"{order}I", exif, at)
    value: int
    (value,) = struct.unpack_from(order + letter, exif, at)
    return value


def _ranges(exif: bytes, order: str, directory: int, *, follow_links: bool) -> list[tuple[int, int]]:
    """Return which bytes a directory and those that it points to take, as far as they are well-formed.

    Args:
        exif, order: the structure and its byte order.
        directory: where the first one begins.
        follow_links: take also the directories that come after it, and the thumbnails that they describe.
    """
    ranges: list[tuple[int, int]] = []
    waiting, seen = [directory], set[int]()
    while waiting and len(seen) < _MAX_DIRECTORIES:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        try:
            entries = list(_entries(exif, order, at))
            end = at + 2 + len(entries) * _ENTRY_BYTES
            (following,) = struct.unpack_from(f"{order}I", exif, end)
        except struct.error:
            continue
        ranges.append((at, end + 4))
        values: dict[int, list[int]] = {}
        for entry in entries:
            n_bytes = entry.count * _TYPE_BYTES.get(entry.kind, 1)
            (start,) = struct.unpack_from(f"{order}I", exif, entry.at + 8)
            if n_bytes > 4:
                ranges.append((start, min(start + n_bytes, len(exif))))
            values[entry.tag] = _integers(exif, order, entry, start if n_bytes > 4 else entry.at + 8)
        waiting += [pointer for tag in _POINTERS for pointer in values.get(tag, []) if pointer]
        if follow_links:
            waiting += [following] if following else []
            for offset_tag, length_tag in _THUMBNAIL:
                pairs = zip(values.get(offset_tag, []), values.get(length_tag, []), strict=False)
                ranges += [(start, min(start + length, len(exif))) for start, length in pairs]
    return [(start, end) for start, end in ranges if 0 <= start < end]


def _integers(exif: bytes, order: str, entry: _Entry, start: int) -> list[int]:
    """Return the values of a field that may be a pointer or the place of a thumbnail; none of other types."""
    letter = {3: "H", 4: "I", 13: "I"}.get(entry.kind)
    if letter is None or entry.count > 4096:
        return []
    try:
        return list(struct.unpack_from(f"{order}{entry.count}{letter}", exif, start))
    except struct.error:
        return []
