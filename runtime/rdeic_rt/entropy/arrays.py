"""Checked access to the arrays of an entropy model, and the model id that they hash to."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleCorruptError

Arrays = Mapping[str, NDArray[Any]]
Scalar = TypeVar("Scalar", bound=np.generic)


def model_id(arrays: Arrays) -> bytes:
    """Return 4 bytes that identify an entropy model: the start of the SHA-256 of its arrays in canonical form.

    That form is, for each array in the order of the names' bytes: the length of the name, the name in ASCII, the length
    of the dtype's name, the dtype's name, the number of dimensions, each dimension, then the elements in C order.
    Lengths and dimensions are unsigned 32-bit integers; all integers are little endian.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        for text in (name, array.dtype.name):
            encoded = text.encode("ascii")
            digest.update(struct.pack("<I", len(encoded)) + encoded)
        digest.update(struct.pack(f"<{1 + array.ndim}I", array.ndim, *array.shape))
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.digest()[:4]


class ArrayReader:
    """Takes arrays by name and checks each; `close` finds arrays that were not taken.

    Raises:
        BundleCorruptError: from every call, if an array is missing or invalid.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def take(self, name: str, dtype: type[Scalar], shape: tuple[int | None, ...]) -> NDArray[Scalar]:
        """Return an array of this dtype and shape (None: one or more), contiguous."""
        array = self._arrays.get(name)
        wanted = f"{np.dtype(dtype).name} [{', '.join('n' if n is None else str(n) for n in shape)}]"
        if array is None:
            raise BundleCorruptError(f"entropy model: no array {name!r}, which should be {wanted}. {_HINT}")
        fits = array.ndim == len(shape) and all(
            n >= 1 and n == (n if expected is None else expected)
            for n, expected in zip(array.shape, shape, strict=True)
        )
        if array.dtype.newbyteorder("=") != np.dtype(dtype) or not fits:
            raise BundleCorruptError(
                f"entropy model: array {name!r} is {array.dtype.name} {list(array.shape)}, should be {wanted}. {_HINT}"
            )
        self._taken.add(name)
        return np.ascontiguousarray(array, np.dtype(dtype))

    def number(self, name: str, low: int, high: int) -> int:
        """Return the value of an int32 array of one element, low <= value <= high."""
        value = int(self.take(name, np.int32, (1,))[0])
        self.check(low <= value <= high, f"{name!r} is {value}, should be {low} to {high}")
        return value

    def check(self, condition: bool | np.bool_, problem: str) -> None:
        """Raise with this problem unless the condition holds."""
        if not condition:
            raise BundleCorruptError(f"entropy model: {problem}. {_HINT}")

    def close(self) -> None:
        """Check that every array was taken."""
        unknown = sorted(self._arrays.keys() - self._taken)
        self.check(not unknown, f"unknown arrays {unknown}")


_HINT = "Get the bundle again, or export it again"
