"""Bounded reads and atomic writes; `-` is standard input or output, in binary."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TextIO

from .errors import LimitExceededError

STREAM = "-"
_CHUNK_BYTES = 2**20


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


def read_stream(stream: BinaryIO, limit_bytes: int, name: str) -> bytes:
    """Return what is left in a stream; memory grows with what is there, never with the limit.

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


def atomic_write(path: str | Path, content: bytes | Callable[[BinaryIO], object], *, overwrite: bool = True) -> None:
    """Write a file so that it is there whole or not at all: to a temporary file beside it, which then takes its name.

    A symbolic link is followed; a file that is replaced passes on its permissions. What is not a regular file, such as
    `/dev/null` or a named pipe, is written to directly, and `-` is standard output.

    Args:
        path: the file.
        content: its bytes, or a function that writes them to the stream it is given. When the function raises, nothing
            has changed.
        overwrite: replace a file that exists. Without it, of several writers of one name exactly one succeeds.
    Raises:
        FileExistsError: there is such a file, and it may not be replaced.
        OSError: it cannot be written.
    """
    if str(path) == STREAM:
        whole = _whole(content)
        output = _standard(sys.stdout, "standard output")
        output.write(whole)
        output.flush()
        return
    target = Path(os.path.realpath(path))
    existing = target.stat() if target.exists() else None
    if existing is not None and not stat.S_ISREG(existing.st_mode):
        whole = _whole(content)
        with open(target, "wb") as stream:
            stream.write(whole)
        return
    if existing is not None and not overwrite:
        raise _exists(path)
    temporary = target.with_name(f".rdeic-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if overwrite:
            if existing is not None:
                os.chmod(temporary, stat.S_IMODE(existing.st_mode))
            os.replace(temporary, target)
        else:
            _take_free_name(temporary, target, path)
    finally:
        temporary.unlink(missing_ok=True)


def _take_free_name(temporary: Path, target: Path, asked_for: str | Path) -> None:
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists(asked_for) from None
    except OSError:
        # A file system without hard links: creating the name exclusively reserves it, and then it is ours to replace.
        try:
            open(target, "xb").close()
        except FileExistsError:
            raise _exists(asked_for) from None
        os.replace(temporary, target)


def _exists(path: str | Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "exists, and overwriting it was not allowed", str(path))


def _whole(content: bytes | Callable[[BinaryIO], object]) -> bytes:
    if not callable(content):
        return content
    stream = BytesIO()
    content(stream)
    return stream.getvalue()


def _standard(stream: TextIO | None, name: str) -> BinaryIO:
    if stream is None:
        raise OSError(errno.EBADF, f"{name} is closed")
    return stream.buffer
