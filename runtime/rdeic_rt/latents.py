"""What a file is decoded to: latents, and an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .container import Metadata
from .limits import Size
from .manifest import Rate


@dataclass(frozen=True)
class Cut:
    """How much of a truncated file is missing.

    Attributes:
        missing_bytes: bytes missing from the file, 1 or more.
        complete_slices: how many slices of the latents, from the first on, are as in the whole file; all of them if
            only metadata or checksum are missing.
        n_slices: number of slices.
    """

    missing_bytes: int
    complete_slices: int
    n_slices: int


@dataclass(frozen=True)
class Latents:
    """A file after entropy decoding.

    Attributes:
        size: of the source image.
        rate: the bundle's rate that it was encoded with.
        tensors: name -> array with the batch as its first dimension, exact; for family ``rdeic`` ``y_hat``, float32
            [1, M, h/16, w/16].
        crc: the file's checksum, or the checksum of the present bytes of a truncated file; the default seed.
        metadata: ICC profile and EXIF of the image; the EXIF orientation is 1, whichever program wrote the file.
        cut: what is missing; None for a whole file.
    """

    size: Size
    rate: Rate
    tensors: Mapping[str, NDArray[Any]]
    crc: int
    metadata: Metadata
    cut: Cut | None = None


@dataclass(frozen=True)
class Decoded:
    """A decoded file.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        rate, metadata, cut: as of `Latents`.
    """

    image: NDArray[np.uint8]
    rate: Rate
    metadata: Metadata
    cut: Cut | None = None
