"""A file that ``bundle.json`` lists: its content, with length and SHA-256 compared each time it is read.

`Bundle` hashes every file on loading, so that damage is found at once. On use, a file is read again and the very bytes
that are returned are hashed: a file that was changed in between is rejected.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from .errors import BundleCorruptError

_BLOCK_BYTES = 1 << 20
_FETCH_AGAIN = "Get the bundle again, or export it again."


class Source(Protocol):
    """A source of bytes: a listed file, or one of the runtime's own."""

    @property
    def path(self) -> Path:
        """Path of the file, for messages."""

    def read(self) -> bytes:
        """Return its content; BundleCorruptError if that is not what the bundle lists."""


@dataclass(frozen=True)
class OwnFile:
    """A file that no bundle lists, such as one of the runtime's own: it is not checked."""

    path: Path

    def read(self) -> bytes:
        """Return its content; BundleCorruptError if there is no such file."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            raise BundleCorruptError(f"{self.path}: there is no such file") from None


@dataclass(frozen=True)
class BundleFile:
    """A listed file.

    Attributes:
        path: absolute, inside the bundle's folder.
        size_bytes: its length.
        sha256: hexadecimal digits.
        verify: whether to compare the hash; the length is compared in any case.

    Raises:
        BundleCorruptError: from every method, if the file is missing, no regular file, or has another length or hash.
        OSError: from every method, if it cannot be read.
    """

    path: Path
    size_bytes: int
    sha256: str
    verify: bool = True

    def check(self) -> None:
        """Compare length and hash, without keeping the content."""
        with self._open() as file:
            if self.verify:
                digest = hashlib.sha256()
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
                self._compare(digest.hexdigest())

    def read(self) -> bytes:
        """Return the content."""
        with self._open() as file:
            data = file.read(self.size_bytes)
        if len(data) != self.size_bytes:
            raise self._length_error(len(data))
        if self.verify:
            self._compare(hashlib.sha256(data).hexdigest())
        return data

    def map(self) -> memoryview:
        """Return the content as a memory map of the open file, which must not be empty.

        The map is of the file that was hashed, even if another file takes its name. Later writes to that file
        show through; truncating it ends the process when the missing part is accessed. Files of a bundle in use
        must therefore be replaced, not written to (docs/bundle.md, "Checks").
        """
        with self._open() as file:
            mapped = memoryview(mmap.mmap(file.fileno(), self.size_bytes, access=mmap.ACCESS_READ))
        if self.verify:
            digest = hashlib.sha256()
            for start in range(0, len(mapped), _BLOCK_BYTES):
                digest.update(mapped[start : start + _BLOCK_BYTES])
            self._compare(digest.hexdigest())
        return mapped

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """Open the file, once it is known to be one of the right length."""
        if not os.path.isfile(
            self.path
        ):  # Path's own raises where a name is too long; and a pipe would keep us waiting
            raise self._missing()
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            raise self._missing() from None
        with file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise self._missing()
            if found.st_size != self.size_bytes:
                raise self._length_error(found.st_size)
            yield file

    def _compare(self, digest: str) -> None:
        if digest != self.sha256:
            raise BundleCorruptError(
                f"{self.path}: SHA-256 is {digest}, should be {self.sha256}: its content has changed. {_FETCH_AGAIN}"
            )

    def _missing(self) -> BundleCorruptError:
        return BundleCorruptError(f"{self.path}: listed in bundle.json, but there is no such file. {_FETCH_AGAIN}")

    def _length_error(self, size_bytes: int) -> BundleCorruptError:
        return BundleCorruptError(f"{self.path}: has {size_bytes} bytes, should have {self.size_bytes}. {_FETCH_AGAIN}")
