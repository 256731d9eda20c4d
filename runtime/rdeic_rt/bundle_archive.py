"""A bundle in a ``.tar``, ``.tar.gz`` or ``.zip``: read from one that is not to be trusted, and written.

    bundle.json, unet.onnx, ...          the bundle at the top
    tiny-2/bundle.json, ...              or in one folder

All names are looked at before any content is. An archive with an absolute name or ``..``, a link, a device, a name that
comes twice, or headers without end is refused as a whole. Nothing is unpacked by an archive's own account: callers ask
for the files that ``bundle.json`` lists, and read of each no more than that says.
"""

from __future__ import annotations

import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from . import limits
from .errors import BundleCorruptError
from .files import Stream

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
_MANIFEST = "bundle.json"
_BLOCK_BYTES = 1 << 16
# What the readers of tar and zip raise for bytes that no writer makes.
_FAULTS = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError),
    *(ValueError, OverflowError, IndexError, KeyError, RecursionError, NotImplementedError, struct.error),
)
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that zip has: equal bundles give equal archives


def is_archive(name: str) -> bool:
    """Return whether a file or an address is an archive, by its suffix."""
    return name.lower().endswith(SUFFIXES)


class Archive:
    """A bundle in an archive; a context manager.

    Raises:
        BundleCorruptError: from every method, and from what is read of files: it is damaged, hostile or no archive.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Look through the names.

        Args:
            path: of the archive. What kind it is, its first bytes say.
            limit_bytes: the most that is unpacked in looking through it.
        """
        self._path = path
        self._file = path.open("rb")
        try:
            with _faults_of(path):
                first = self._file.read(4)
                self._file.seek(0)
                if first.startswith(b"PK"):
                    self._entries: Mapping[str, _Entry] = _zip_entries(_Guarded(self._file, limit_bytes))
                else:
                    gz = first.startswith(b"\x1f\x8b")
                    raw = cast(BinaryIO, gzip.GzipFile(fileobj=self._file)) if gz else self._file
                    self._entries = _tar_entries(_Guarded(raw, limit_bytes), raw)
                self._root = _root(self._entries)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def files(self, names: Collection[str]) -> Iterator[tuple[str, Stream]]:
        """Yield those of these files of the bundle that there are, in the archive's order.

        Each is to be read before the next is asked for.
        """
        for name, entry in self._entries.items():
            inside = name.removeprefix(self._root)
            if name.startswith(self._root) and inside in names:
                with _faults_of(self._path):
                    stream = entry.open()
                yield inside, _Faultless(stream, self._path)


def write(stream: BinaryIO, name: str, folder: str, files: Mapping[str, Path]) -> None:
    """Write a bundle's files to an archive, under a folder; equal content gives equal bytes.

    Args:
        stream: where to. It can seek, for a zip.
        name: of the archive, whose suffix says the kind.
        folder: name of the folder in the archive.
        files: paths in it -> files with the content, in the order to write them.
    """
    if name.lower().endswith(".zip"):
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
            for file, path in files.items():
                info = zipfile.ZipInfo(f"{folder}/{file}", _TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                info.file_size = path.stat().st_size
                with path.open("rb") as source, packed.open(info, "w") as target:
                    while block := source.read(_BLOCK_BYTES):
                        target.write(block)
        return
    if name.lower().endswith(".tar"):
        _write_tar(stream, folder, files)
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=6, mtime=0) as packed_stream:
        _write_tar(cast(BinaryIO, packed_stream), folder, files)


def _write_tar(stream: BinaryIO, folder: str, files: Mapping[str, Path]) -> None:
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as packed:
        for file, path in files.items():
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size = path.stat().st_size
            with path.open("rb") as source:
                packed.addfile(info, source)


class _Entry(Protocol):
    def open(self) -> Stream: ...


class _TarEntry:
    """Content at a position of what a tar archive unpacks to."""

    def __init__(self, raw: BinaryIO, position: int, size_bytes: int) -> None:
        self._raw, self._position, self._left = raw, position, size_bytes

    def open(self) -> Stream:
        self._raw.seek(self._position)
        return self

    def read(self, n_bytes: int, /) -> bytes:
        block = self._raw.read(min(n_bytes, self._left))
        self._left -= len(block)
        return block


class _ZipEntry:
    def __init__(self, packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._packed, self._info = packed, info

    def open(self) -> Stream:
        return self._packed.open(self._info)


class _Guarded:
    """What headers are read through: no read is large, and all of them and all positions are bounded."""

    def __init__(self, raw: BinaryIO, limit_bytes: int) -> None:
        self._raw, self._limit_bytes = raw, limit_bytes
        self._left = limits.MAX_ARCHIVE_HEADER_BYTES
        self.is_open = False  # whether headers have been read, and content follows

    def read(self, n_bytes: int = -1) -> bytes:
        if self.is_open:
            return self._raw.read(n_bytes)
        if n_bytes < 0:  # the end of a zip, which is short
            n_bytes = limits.MAX_ARCHIVE_READ_BYTES
        if n_bytes > limits.MAX_ARCHIVE_READ_BYTES or self._left < 0:
            raise tarfile.ReadError("its headers are too long")
        block = self._raw.read(n_bytes)
        self._left -= len(block)
        return block

    def seek(self, position: int, whence: int = 0) -> int:
        if whence == 0 and not 0 <= position <= self._limit_bytes:
            raise tarfile.ReadError(f"it unpacks to more than {self._limit_bytes} bytes, which is the limit")
        return self._raw.seek(position, whence)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._raw.tell()


class _Faultless:
    """A stream of an archive that raises BundleCorruptError for whatever is wrong with it."""

    def __init__(self, stream: Stream, path: Path) -> None:
        self._stream, self._path = stream, path

    def read(self, n_bytes: int, /) -> bytes:
        with _faults_of(self._path):
            return self._stream.read(n_bytes)


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    try:
        yield
    except _FAULTS as error:
        raise BundleCorruptError(f"{path}: not an archive that can be read: {error}") from None


def _tar_entries(guarded: _Guarded, raw: BinaryIO) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    seen: set[str] = set()
    position = -1
    with tarfile.open(fileobj=cast(BinaryIO, guarded), mode="r:") as packed:
        while member := packed.next():
            # With what a hostile archive says of each they take memory without end. typeshed does not know the list.
            packed.members.clear()  # type: ignore[attr-defined]
            if member.size < 0 or member.offset <= position:
                raise tarfile.ReadError(f"{member.name!r} has a size that is none")
            position = member.offset
            if not (member.isdir() or (member.isreg() and not member.issparse())):
                raise tarfile.ReadError(f"{member.name!r} is a link, a device or the like")
            name = _checked(member.name, seen, is_folder=member.isdir())
            if not member.isdir():
                entries[name] = _TarEntry(raw, member.offset_data, member.size)
    return entries


def _zip_entries(guarded: _Guarded) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    seen: set[str] = set()
    packed = zipfile.ZipFile(cast(BinaryIO, guarded))
    guarded.is_open = True
    for info in packed.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise zipfile.BadZipFile(f"{info.filename!r} is a link, a device or the like")
        if info.flag_bits & 1:
            raise zipfile.BadZipFile(f"{info.filename!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"{info.filename!r} is packed in a way that is not taken here")
        name = _checked(info.orig_filename, seen, is_folder=info.is_dir())
        if not info.is_dir():
            entries[name] = _ZipEntry(packed, info)
    return entries


def _checked(name: str, seen: set[str], *, is_folder: bool) -> str:
    """Return a name with "./" taken off, once it is known to lie in the archive, and to be there only once."""
    plain = name.removeprefix("./").rstrip("/") if is_folder else name.removeprefix("./")
    parts = plain.split("/")
    if plain in ("", ".") and is_folder:
        return plain
    if any(part in ("", ".", "..") for part in parts) or any(c in plain for c in "\\\0") or ":" in parts[0]:
        raise tarfile.ReadError(f"{name[:80]!r} is not a path in the archive")
    if len(plain) > 2 * limits.MAX_PATH_BYTES:
        raise tarfile.ReadError(f"a name of {len(plain)} characters")
    if not is_folder and plain in seen:
        raise tarfile.ReadError(f"{plain!r} comes twice")
    seen.add(plain)
    if len(seen) > limits.MAX_ARCHIVE_ENTRIES:
        raise tarfile.ReadError(f"more than {limits.MAX_ARCHIVE_ENTRIES} entries")
    return plain


def _root(names: Collection[str]) -> str:
    """Return the folder of the bundle, with a slash at its end where it is not the archive's top."""
    found = [name for name in names if name.split("/")[-1] == _MANIFEST and name.count("/") <= 1]
    if len(found) != 1:
        where = ", ".join(found[:3]) if found else "none, at the top or in a folder there"
        raise tarfile.ReadError(f"it should hold one {_MANIFEST}: there is {where}")
    return found[0].removesuffix(_MANIFEST)
