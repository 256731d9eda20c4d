"""Closed-loop encoding: the decoding error is added to the image, and it is encoded again.

    image ── + ─ encode, at the finest level that makes no larger file ─ file ─ decode ─┬─▶ error
             └───────────────────────── SHARE x (image - decoded) ─────────────────────┘

The analysis transform is trained for all images; this adapts its input to the error of one. Only forward passes are
needed. A correction costs bits, which a coarser level compensates, so the file with the least error is not always the
last one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_EFFORT: Final = 4
"""Rounds at most; each takes as long as encoding to a target does, and a decode."""
SHARE: Final = 0.1
"""How much of the error is added in a round. A quarter costs more bits than it is worth at small rates."""


def check_effort(effort: int) -> None:
    """Raise ValueError unless it is 0 to `MAX_EFFORT`."""
    if not 0 <= operator.index(effort) <= MAX_EFFORT:
        raise ValueError(f"effort is {effort}; it must be a whole number from 0 to {MAX_EFFORT}")


def improved(
    rgb: NDArray[np.uint8],
    data: bytes,
    rounds: int,
    encode: Callable[[NDArray[np.uint8]], bytes | None],
    decode: Callable[[bytes], NDArray[np.uint8]],
) -> bytes:
    """Return ``data``, or another file that fits, decoded with less squared error.

    Args:
        rgb: the image, uint8 [H, W, 3].
        data: its file.
        rounds: how many more files to try at most.
        encode: makes the finest file of an image that fits; None if there is none.
        decode: the image in a file, uint8 [H, W, 3].
    """
    best, shown = data, decode(data)
    least = _error(rgb, shown)
    aim = rgb.astype(np.float32)
    for _ in range(rounds):
        aim += SHARE * (rgb - shown.astype(np.float32))
        tried = encode(np.rint(aim.clip(0, 255)).astype(np.uint8))
        if tried is None:
            break
        shown = decode(tried)
        error = _error(rgb, shown)
        if error < least:
            best, least = tried, error
    return best


def _error(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the mean squared error, in levels of 0 to 255."""
    return float(np.square(image.astype(np.float32) - other).mean(dtype=np.float64))
