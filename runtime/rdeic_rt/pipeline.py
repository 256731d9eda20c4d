"""decode_many(): entropy decoding of the next image overlaps denoising of this one.

    worker   read 0 │ read 1      │ read 2      │
    caller          │ denoise 0   │ denoise 1   │ denoise 2

One worker and one image ahead: entropy decoding is short beside denoising, and memory stays that of one image and one
more set of latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import files
from .errors import RdeicError

if TYPE_CHECKING:
    from .codec import Codec
    from .latents import Latents


def decode_many(
    codec: Codec,
    paths: Iterable[str | Path],
    *,
    sharpness: float,
    seed: int | None,
    steps: int | None,
    on_error: Callable[[str | Path, RdeicError | OSError], None] | None,
) -> Iterator[tuple[str | Path, NDArray[np.uint8]]]:
    """Yield (path, image) for each file in order; everything else as in `Codec.decode_many`."""

    def read(path: str | Path) -> Latents:
        return codec.read_latents(files.read_bytes(path, codec.limits.max_file_bytes))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rdeic_rt.decode_many") as worker:
        for path, latents in _one_ahead(worker, read, paths):
            try:
                image = codec.reconstruct(latents.result(), sharpness=sharpness, seed=seed, steps=steps)
            except (RdeicError, OSError) as error:
                if on_error is None:
                    raise
                on_error(path, error)
            else:
                yield path, image


def _one_ahead(
    worker: ThreadPoolExecutor, read: Callable[[str | Path], Latents], paths: Iterable[str | Path]
) -> Iterator[tuple[str | Path, Future[Latents]]]:
    waiting: tuple[str | Path, Future[Latents]] | None = None
    for path in paths:
        started = (path, worker.submit(copy_context().run, read, path))
        if waiting is not None:
            yield waiting
        waiting = started
    if waiting is not None:
        yield waiting
