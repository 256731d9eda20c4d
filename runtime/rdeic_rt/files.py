"""Bounded reads and atomic writes; `-` is standard input or output, in binary.

How outputs are written, for every command and for the library:

    -                          standard output
    a pipe, device, /dev/fd/N  written to directly
    a regular file, or none    a temporary file next to it is renamed once complete; symbolic links are followed

An error names the output as the caller did.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

from .errors import LimitExceededError

STREAM = "-"
_CHUNK_BYTES = 2**20
# Names of what is open already, a regular file perhaps: to replace it would leave whoever has it open with the old one.
_OPEN_FILES = ("/dev/fd/", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/proc/")
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_temporaries: set[Path] = set()  # those that are written at the moment


class Stream(Protocol):
    """What files are read from."""

    def read(self, n_bytes: int, /) -> bytes:
        """Return at most that many bytes, none at the end."""


def read_bytes(path: str | Path, limit_bytes: int) -> bytes:
    """Return the content of a file, or of standard input for `-`.

    Args:
        path: what to read; a pipe or a device will do.
        limit_bytes: the most that is read.
    Raises:
        LimitExceededError: there is more.
        OSError: it cannot be read.
    """
    if str(path) == STREAM:
        return read_stream(_standard(sys.stdin, "standard input"), limit_bytes, "standard input")
    with open(path, "rb") as stream:
        return read_stream(stream, limit_bytes, str(path))


def read_stream(stream: Stream, limit_bytes: int, name: str) -> bytes:
    """Return the rest of a stream; memory grows with its length, never with the limit.

    Raises:
        LimitExceededError: there is more than `limit_bytes`.
        OSError: it cannot be read.
    """
    whole = bytearray()
    while chunk := stream.read(min(_CHUNK_BYTES, limit_bytes + 1 - len(whole))):
        whole += chunk
        if len(whole) > limit_bytes:
            raise LimitExceededError(f"{name}: more than {limit_bytes} bytes (limit max_file_bytes)")
    return bytes(whole)


def is_stream(path: str | Path) -> bool:
    """Return whether a path is written to directly: `-`, a pipe, a device, or an open file of a process.

    Raises:
        OSError: it cannot be determined, for another reason than a missing file.
    """
    if str(path) == STREAM:
        return True
    if os.path.abspath(path).startswith(_OPEN_FILES):
        return True
    existing = _stat(path)
    return existing is not None and not stat.S_ISREG(existing.st_mode) and not stat.S_ISDIR(existing.st_mode)


def atomic_write(path: str | Path, content: bytes | Callable[[BinaryIO], object], *, overwrite: bool = True) -> None:
    """Write a file atomically, through a temporary file next to it that is then renamed.

    A symbolic link is followed. A replaced file passes on its permissions and, where that is allowed, its owner.
    A process ended by SIGTERM or SIGHUP leaves no temporary file. An output that is not a regular file (`is_stream`) is
    written to directly.

    Args:
        path: the file.
        content: its bytes, or a function that writes them to the given stream. If the function raises, nothing
            changes.
        overwrite: replace a file that exists. Without it, exactly one of several writers of one name succeeds.
    Raises:
        FileExistsError: the file exists, and must not be replaced.
        OSError: it cannot be written; its ``filename`` is ``path``, or names standard output.
    """
    name = "standard output" if str(path) == STREAM else str(path)
    try:
        if is_stream(path):
            _write_stream(path, _whole(content))
        else:
            _write_file(path, content, overwrite=overwrite)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, name) from error


def _write_stream(path: str | Path, whole: bytes) -> None:
    if str(path) == STREAM:
        output = _standard(sys.stdout, "standard output")
        output.write(whole)
        output.flush()
        return
    with open(path, "wb", buffering=0) as stream:
        left = memoryview(whole)
        while left:
            left = left[stream.write(left) or 0 :]


def _write_file(path: str | Path, content: bytes | Callable[[BinaryIO], object], *, overwrite: bool) -> None:
    existing = _stat(path)
    target = Path(os.path.realpath(path))
    if existing is not None:
        if stat.S_ISDIR(existing.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not overwrite:
            raise _exists()
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    temporary = target.with_name(f".rdeic-{secrets.token_hex(8)}.tmp")
    mode = 0o666 if existing is None else 0o600  # what is to be private is so from the start
    with removed_at_the_end(temporary):
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if not overwrite:
            _take_free_name(temporary, target)
            return
        if existing is not None:
            _pass_on(existing, temporary)
        os.replace(temporary, target)


@contextmanager
def removed_at_the_end(temporary: Path) -> Iterator[None]:
    """Remove a file or folder that still exists after the block, or when a signal ends the process before that."""
    with removed_when_ended():
        _temporaries.add(temporary)
        try:
            yield
        finally:
            remove(temporary)
            _temporaries.discard(temporary)


@contextmanager
def removed_when_ended() -> Iterator[None]:
    """Make SIGTERM and SIGHUP remove the temporary files of all threads before they end the process.

    This takes effect only in the main thread, which must be in such a block while other threads write. Existing signal
    handlers are not replaced.
    """

    def end(number: int, _: object) -> None:
        for temporary in list(_temporaries):
            remove(temporary)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    changed = []
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, end)
                    changed.append(number)
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder as far as that can be done, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _pass_on(existing: os.stat_result, temporary: Path) -> None:
    """Give a file the owner, where that is allowed, and the permissions of the one that it replaces."""
    if hasattr(os, "chown"):
        try:
            os.chown(temporary, existing.st_uid, existing.st_gid)
        except OSError:
            pass
    os.chmod(temporary, stat.S_IMODE(existing.st_mode))


def _stat(path: str | Path) -> os.stat_result | None:
    """Return what is known of a file, None where there is none."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _take_free_name(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists() from None
    except OSError:
        # A file system without hard links: creating the name exclusively reserves it, and then it is ours to replace.
        try:
            open(target, "xb").close()
        except FileExistsError:
            raise _exists() from None
        os.replace(temporary, target)


def _exists() -> FileExistsError:
    return FileExistsError(errno.EEXIST, "exists, and overwriting it was not allowed")


def _whole(content: bytes | Callable[[BinaryIO], object]) -> bytes:
    if not callable(content):
        return content
    stream = BytesIO()
    content(stream)
    return stream.getvalue()


def _standard(stream: TextIO | None, name: str) -> BinaryIO:
    if stream is None:
        raise OSError(f"{name} is closed")
    return stream.buffer
