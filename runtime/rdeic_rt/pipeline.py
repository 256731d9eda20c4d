"""decode_many() and encode_many(): files ahead are read while this one is worked on.

    workers  read 0 │ read 1      │ read 2      │          read: the file, and its entropy decoding
    caller          │ denoise 0   │ denoise 1   │ denoise 2

A worker's memory is that of one more set of latents, or of one more image that is encoded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from . import files, pixels
from .decode_options import DecodeOptions
from .errors import CancelledError, RdeicError
from .limits import Limits

if TYPE_CHECKING:
    from .codec import Codec
    from .latents import Latents

Source: TypeAlias = str | Path | bytes | BinaryIO
"""A file: its path, its content, or a stream that it is read from."""
ImageSource: TypeAlias = Source | Any
"""A file of an image, or whatever `Codec.encode` takes."""
OnError: TypeAlias = Callable[[Any, RdeicError | OSError], None]

_S = TypeVar("_S")
_T = TypeVar("_T")
_U = TypeVar("_U")


def decode_many(
    codec: Codec, sources: Iterable[Source], options: DecodeOptions, *, workers: int, on_error: OnError | None
) -> Iterator[tuple[Source, NDArray[np.uint8]]]:
    """Yield (source, image) for each file in order; as `Codec.decode_many`."""

    def read(source: Source) -> Latents:
        data = _content(source, codec.limits.max_file_bytes)
        return codec.read_latents(data, allow_partial=options.allow_partial)

    return _in_order(sources, read, lambda latents: codec.decode(latents, options), workers, on_error)


def encode_many(
    encode: Callable[..., bytes],
    sources: Iterable[ImageSource],
    limits: Limits,
    *,
    workers: int,
    on_error: OnError | None,
) -> Iterator[tuple[ImageSource, bytes]]:
    """Yield (source, file) for each image in order; as `Codec.encode_many`, with its `Codec.encode`."""

    def read(source: ImageSource) -> bytes:
        if isinstance(source, str | Path | bytes) or hasattr(source, "read"):
            stream = source if isinstance(source, str | Path) else BytesIO(_content(source, limits.max_file_bytes))
            image, metadata = pixels.read_image(stream, limits)
            return encode(image, metadata=metadata)
        return encode(source)

    return _in_order(sources, read, lambda data: data, workers, on_error)


def _content(source: Source, limit_bytes: int) -> bytes:
    if isinstance(source, str | Path):
        return files.read_bytes(source, limit_bytes)
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    return files.read_stream(source, limit_bytes, str(getattr(source, "name", "a stream")))


def _in_order(
    sources: Iterable[_S], ahead: Callable[[_S], _T], then: Callable[[_T], _U], workers: int, on_error: OnError | None
) -> Iterator[tuple[_S, _U]]:
    """Yield (source, then(ahead(source))) in order, with ``ahead`` done by workers, each one source ahead."""
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1")
    return _yield_in_order(sources, ahead, then, workers, on_error)


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
