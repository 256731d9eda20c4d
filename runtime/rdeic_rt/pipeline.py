"""The pipeline of `Codec.decode_many` and `encode_many`: the next files are read while one is processed.

    workers  read 0 │ read 1      │ read 2      │          read: the file, its entropy decoding, and the noise
    caller          │ denoise 0   │ denoise 1   │ denoise 2

Each worker holds one more set of latents, or one more image that is encoded, in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar, cast

from . import files
from .errors import CancelledError, RdeicError

Source: TypeAlias = str | Path | bytes | bytearray | memoryview | BinaryIO
"""A file: its path, its content, or a stream that it is read from."""
ImageSource: TypeAlias = Source | Any
"""An image file, or anything that `Codec.encode` accepts."""
OnError: TypeAlias = Callable[[Any, RdeicError | OSError], None]

MAX_WORKERS = 64  # more do not help, and each keeps a thread and an image
_S = TypeVar("_S")
_T = TypeVar("_T")
_U = TypeVar("_U")


def content_of(source: Source, limit_bytes: int) -> bytes:
    """Return the bytes of a file; LimitExceededError if there are more, OSError if it cannot be read."""
    if isinstance(source, str | Path):
        return files.read_bytes(source, limit_bytes)
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    return files.read_stream(source, limit_bytes, str(getattr(source, "name", "a stream")))


def in_order(
    sources: Iterable[_S], ahead: Callable[[_S], _T], then: Callable[[_T], _U], workers: int, on_error: OnError | None
) -> Iterator[tuple[_S, _U]]:
    """Yield (source, then(ahead(source))) in order, with ``ahead`` done by workers, each one source ahead.

    Args:
        sources: any.
        ahead: called by the workers.
        then: called by the caller.
        workers: how many, 1 or more; no more than `MAX_WORKERS` are taken.
        on_error: called with a source and its RdeicError or OSError, which is otherwise raised.

    Raises:
        ValueError: workers < 1.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1")
    return _yield_in_order(sources, ahead, then, min(workers, MAX_WORKERS), on_error)


def _yield_in_order(
    sources: Iterable[_S], ahead: Callable[[_S], _T], then: Callable[[_T], _U], workers: int, on_error: OnError | None
) -> Iterator[tuple[_S, _U]]:
    waiting: deque[tuple[_S, Future[_T]]] = deque()
    remaining = iter(sources)
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="rdeic_rt.pipeline") as pool:
        try:
            while True:
                for source in remaining:
                    waiting.append((source, cast("Future[_T]", pool.submit(copy_context().run, ahead, source))))
                    if len(waiting) > workers:
                        break
                if not waiting:
                    return
                source, future = waiting.popleft()
                try:
                    result = then(future.result())
                except CancelledError:
                    raise
                except (RdeicError, OSError) as error:
                    if on_error is None:
                        raise
                    on_error(source, error)
                else:
                    yield source, result
        finally:
            for _, future in waiting:
                future.cancel()
