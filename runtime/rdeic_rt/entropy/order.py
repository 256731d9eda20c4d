"""The coding order of y: slices, two checkerboard passes each, and in a pass the symbols grouped by scale index.

Slices of channels are coded in order. In each, the anchors (row + column odd, ``A``) are coded first, then the
non-anchors (``n``), which are conditioned on them. A pass is squeezed to half the width::

    n A n A        anchors  A A      non-anchors  n n
    A n A n   ─▶            A A                   n n
    n A n A                 A A                   n n

and its symbols are numbered by row, then column, then channel. Symbols whose scale index is under the model's
``skip_below`` are not coded. The others are coded by increasing scale index, those of one index in the order of their
numbers, so that each group takes a single call of the coder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Slice:
    """Channels ``start`` to ``stop - 1`` of y."""

    index: int
    start: int
    stop: int

    @property
    def channels(self) -> slice:
        """The slice's channels, to index the last axis with."""
        return slice(self.start, self.stop)

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.stop - self.start


def slices_of(widths: tuple[int, ...]) -> tuple[Slice, ...]:
    """Return the slices of y in coding order, given the number of channels of each."""
    stops = np.cumsum(widths).tolist()
    return tuple(Slice(i, stop - width, stop) for i, (width, stop) in enumerate(zip(widths, stops, strict=True)))


def squeeze(grid: NDArray[Scalar], *, anchors: bool) -> NDArray[Scalar]:
    """Return the anchors, or the non-anchors, of a grid [H, W, ...] as a new array [H, W/2, ...]; H and W are even."""
    height, width, *rest = grid.shape
    out = np.empty((height, width // 2, *rest), grid.dtype)
    first = int(anchors)
    out[0::2] = grid[0::2, first::2]
    out[1::2] = grid[1::2, 1 - first :: 2]
    return out


def scatter(grid: NDArray[Scalar], values: NDArray[Scalar], *, anchors: bool) -> None:
    """Write values [H, W/2, ...] to the anchors, or the non-anchors, of a grid [H, W, ...]; undoes `squeeze`."""
    first = int(anchors)
    grid[0::2, first::2] = values[0::2]
    grid[1::2, 1 - first :: 2] = values[1::2]


def groups(scale_index: NDArray[np.uint8], skip_below: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield (scale index, numbers of its symbols in rising order) for each group of a pass, in coding order.

    Args:
        scale_index: uint8 [n], of each symbol of the pass by number.
        skip_below: symbols of a smaller scale index belong to no group.
    """
    coded = np.flatnonzero(scale_index >= skip_below)
    keys = scale_index[coded]
    ordered = coded[np.argsort(keys, kind="stable")]
    start = 0
    for index, count in enumerate(np.bincount(keys).tolist()):
        if count:
            yield index, ordered[start : start + count]
            start += count
