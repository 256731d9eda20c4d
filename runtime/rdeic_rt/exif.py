"""The one field of EXIF that matters to a codec: which way up the image is."""

from __future__ import annotations

import struct

# What JPEG and others put before the TIFF structure.
PREFIX = b"Exif\0\0"

_TAG_ORIENTATION = 0x0112
_TYPE_SHORT = 3
_ENTRY_BYTES = 12


class ExifError(ValueError):
    """Not EXIF that a reader could find an orientation in, or the lack of one."""


def split_orientation(exif: bytes) -> tuple[int, bytes]:
    """Return the orientation, and the same EXIF with orientation 1.

    The field is set in place, as everything else in EXIF refers to byte positions. A directory that has the field
    twice is refused, as readers disagree about which counts.

    Args:
        exif: a TIFF structure, from its byte-order mark on.
    Returns:
        The orientation, 1 to 8: 1 is upright, and what is taken where there is none; and EXIF of the same length.
    Raises:
        ExifError: it is malformed.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        raise ExifError("no byte-order mark")
    upright = bytearray(exif)
    found: list[int] = []
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (n_entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for n in range(n_entries):
            entry = directory + 2 + n * _ENTRY_BYTES
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH2x", exif, entry)
            if tag == _TAG_ORIENTATION:
                if kind != _TYPE_SHORT or count != 1 or value > 8:
                    raise ExifError("the orientation is malformed")
                found.append(value or 1)
                struct.pack_into(f"{order}H", upright, entry + 8, 1)
    except struct.error:
        raise ExifError("it is cut short") from None
    if len(found) > 1:
        raise ExifError("it has several orientations")
    return found[0] if found else 1, bytes(upright)
