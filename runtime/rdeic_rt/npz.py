"""The arrays in an .npz file, read within the limits of `limits` and never unpickled.

    zip directory ─▶ number, names, lengths ─▶ member ─▶ .npy header ─▶ rank, length ─▶ elements

Lengths in the directory are checked against the file's own length before anything is unpacked, and those in a header
against the unpacked data before an array is created.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from . import limits

_SUFFIX: Final = ".npy"
_ENCRYPTED: Final = 1
_Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
# By major version; in the third the text is UTF-8, which the headers of plain arrays are in any of them.
_READ_HEADER: dict[int, Callable[..., _Header]] = {
    1: npy.read_array_header_1_0,
    2: npy.read_array_header_2_0,
    3: npy.read_array_header_2_0,
}


def read(data: bytes) -> dict[str, NDArray[Any]]:
    """Return every array of an .npz file by name.

    Raises:
        ValueError: it exceeds `limits`, or a member is not an array; for damaged files also whatever zipfile and numpy
            raise.
    """
    arrays: dict[str, NDArray[Any]] = {}
    unclaimed_bytes, left_bytes = len(data), limits.MAX_ARRAYS_BYTES
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
        if len(members) > limits.MAX_ARRAYS:
            raise ValueError(f"{len(members)} arrays; at most {limits.MAX_ARRAYS} are allowed")
        for member in members:
            if len(member.filename.encode()) > limits.MAX_ARRAY_NAME_BYTES:
                raise ValueError(f"a name of more than {limits.MAX_ARRAY_NAME_BYTES} bytes")
            name = member.filename.removesuffix(_SUFFIX)
            if name in arrays:
                raise ValueError(f"array {name!r} comes twice")
            if member.flag_bits & _ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"array {name!r} is neither stored nor deflated")
            # No two members lie in one place.
            if (
                member.compress_size > unclaimed_bytes
                or member.file_size // limits.MAX_DEFLATE_RATIO > member.compress_size
                or member.file_size > left_bytes
            ):
                raise ValueError(f"array {name!r} announces {member.file_size} bytes, which cannot be or are too many")
            unclaimed_bytes -= member.compress_size
            left_bytes -= member.file_size
            arrays[name] = _array(name, archive.read(member))
    return arrays


def _array(name: str, data: bytes) -> NDArray[Any]:
    """Return the array in an .npy file."""
    stream = BytesIO(data)
    try:
        major, _ = npy.read_magic(stream)
        read_header = _READ_HEADER[major]
    except (ValueError, KeyError):
        raise ValueError(f"{name!r} is no array") from None
    shape, is_fortran, dtype = read_header(stream, max_header_size=limits.MAX_ARRAY_HEADER_BYTES)
    if dtype.hasobject:
        raise ValueError(f"array {name!r} holds Python objects")
    if len(shape) > limits.MAX_ARRAY_RANK:
        raise ValueError(f"array {name!r} has {len(shape)} dimensions; at most {limits.MAX_ARRAY_RANK} are allowed")
    start, wanted = stream.tell(), math.prod(shape) * dtype.itemsize
    if len(data) - start != wanted:
        raise ValueError(f"array {name!r} has {len(data) - start} bytes of elements, should have {wanted}")
    elements = np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if is_fortran else "C")
    return elements.copy(order="K")  # since what lies behind a header may not be aligned
