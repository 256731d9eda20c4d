"""Latents: a file after entropy decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from .container import Metadata
from .limits import Size
from .manifest import Rate


@dataclass(frozen=True)
class Cut:
    """What is missing of a file that was cut short.

    Attributes:
        missing_bytes: of the file, 1 or more.
        complete_slices: how many slices of the latents are as in the whole file, from the first on; all of them where
            only metadata or checksum are missing.
        n_slices: how many there are.
    """

    missing_bytes: int
    complete_slices: int
    n_slices: int


@dataclass(frozen=True)
class Latents:
    """A file after entropy decoding: all that is left to do is arithmetic.

    Attributes:
        size: of the source image.
        rate: the bundle's rate it was made with.
        tensors: name -> array with the batch as its first dimension, exact; of family ``rdeic`` ``y_hat``, float32
            [1, M, h/16, w/16].
        crc: the file's checksum, or that of what is there of a file cut short; the default seed.
        metadata: ICC profile and EXIF that travel with the image; EXIF with orientation 1, whoever wrote the file.
        cut: what is missing; None for a whole file.
    """

    size: Size
    rate: Rate
    tensors: Mapping[str, NDArray[Any]]
    crc: int
    metadata: Metadata
    cut: Cut | None = None
