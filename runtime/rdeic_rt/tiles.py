"""Tiles of an image: their positions, how they are cut, and how their outputs are blended.

    ├──────── tile 0 ────────┤
                     ├──────── tile 1 ────────┤
    1  1  1  1  1  1  .8 .2  0
                      .2 .8  1  1  1  1  1  1          weights: a ramp in the middle of the overlap

The noise is drawn for the whole image. Only latents and image are as large as the image, and they stay on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import stopping
from .limits import Size
from .tensor_spec import TensorSpec

# With it, a tiled photo is 34 to 38 dB from the whole one and shows no seams (tests/runtime/test_tiles.py). Half of it
# costs 0.6 to 1.5 dB, and twice as much gains nothing.
OVERLAP_PX = 128
MIN_TILE_PX = 2 * OVERLAP_PX
# On the `cpu` backend the embedded bundle then decodes 4000x3000 in 0.5 GB instead of 3.4, in about the same time
# (docs/tiling.md).
DEFAULT_TILE_PX = 1024


@dataclass(frozen=True)
class Axis:
    """Tiles along one side, in pixels.

    Attributes:
        length: of the padded image.
        tile: length of every tile.
        starts: of the tiles, increasing; the first is 0 and the last ends with the image.
        ramp: length over which two neighbours are blended; they overlap by at least that much.
    """

    length: int
    tile: int
    starts: tuple[int, ...]
    ramp: int

    def seam(self, index: int) -> int:
        """Return where the ramp from the previous tile begins: it is centred in the overlap."""
        return (self.starts[index] + self.starts[index - 1] + self.tile - self.ramp) // 2


@dataclass(frozen=True)
class Tile:
    """One tile, by its row and column."""

    row: int
    column: int


@dataclass(frozen=True)
class Tiling:
    """The tile grid of an image.

    Attributes:
        rows, columns: the tiles along each side.
        unit_px: sides and starts of tiles are multiples of it, as those of images are.
    """

    rows: Axis
    columns: Axis
    unit_px: int

    @property
    def is_single(self) -> bool:
        """Whether one tile is the whole image."""
        return self.count == 1

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def tile(self) -> Size:
        """Size of every tile."""
        return Size(height=self.rows.tile, width=self.columns.tile)

    def tiles(self) -> Iterator[Tile]:
        """Yield every tile, row by row."""
        for row in range(len(self.rows.starts)):
            for column in range(len(self.columns.starts)):
                yield Tile(row, column)


def tiles_of(size: Size, tile_px: int, largest: Size | None, unit_px: int) -> Tiling:
    """Return the tiles of a padded image: as few as the bounds allow, and then as small as that number allows.

    Args:
        size: of the padded image, multiples of unit_px.
        tile_px: a tile has at most tile_px squared pixels; of a long and narrow image, more than tile_px along a side.
        largest: height and width that no tile may exceed, from `Backend.largest_size`; None for no such bound.
        unit_px: sides and starts of tiles are multiples of it.

    Raises:
        ValueError: tile_px < MIN_TILE_PX.
    """
    check_tile_px(tile_px)
    height, width = size.height, size.width
    if largest is not None:
        height, width = min(height, largest.height), min(width, largest.width)
    if height * width > tile_px**2:
        short = min(height, width, tile_px)
        long = tile_px**2 // short
        height, width = (min(height, short), min(width, long)) if height <= width else (min(height, long), short)
    return Tiling(_axis(size.height, height, unit_px), _axis(size.width, width, unit_px), unit_px)


def check_tile_px(tile_px: int) -> None:
    """Raise ValueError for tiles that would be mostly overlap."""
    if tile_px < MIN_TILE_PX:
        raise ValueError(f"tile_px is {tile_px}; it must be at least {MIN_TILE_PX}, twice what tiles overlap")


class Canvas:
    """An array of the whole image, filled tile by tile, row by row.

    Tiles are blended into a strip of their height, and the finished strip into the array: each value is a weighted
    mean of the tiles there, with weights that sum to one. Integers are rounded after each of the two.
    """

    def __init__(self, tiling: Tiling, spec: TensorSpec) -> None:
        axis, px = _lie(spec, tiling)
        # Indices cannot be mixed: each is taken from one tile.
        ramp = spec.dtype != "int64"
        self._rows, self._columns = (_scaled(side, px, ramp) for side in (tiling.rows, tiling.columns))
        self._axes = axis, axis + 1
        self._strip: NDArray[Any] | None = None
        self._array: NDArray[Any] | None = None

    def add(self, tile: Tile, piece: NDArray[Any]) -> None:
        """Add the output for a tile; tiles must be added in the order of `Tiling.tiles`."""
        y_axis, x_axis = self._axes
        if self._strip is None or tile.column == 0:
            self._strip = np.empty(_replaced(piece.shape, x_axis, self._columns.length), piece.dtype)
        _lay(self._strip, piece, self._columns, tile.column, x_axis)
        if tile.column < len(self._columns.starts) - 1:
            return
        if self._array is None:
            self._array = np.empty(_replaced(self._strip.shape, y_axis, self._rows.length), piece.dtype)
        # In parts, so that large images can stop: by channels or, if these are the last axis, by columns of tiles.
        axis, step = (1, 1) if y_axis > 1 else (x_axis, self._columns.tile)
        for start in range(0, self._strip.shape[axis], step):
            stopping.go_on()
            part = (*[slice(None)] * axis, slice(start, start + step))
            _lay(self._array[part], self._strip[part], self._rows, tile.row, y_axis)
        self._strip = None

    @property
    def array(self) -> NDArray[Any]:
        """The blended array, complete once the last tile was added."""
        if self._array is None:
            raise ValueError("no row of tiles is complete")
        return self._array


def crop(array: NDArray[Any], spec: TensorSpec, tiling: Tiling, tile: Tile) -> NDArray[Any]:
    """Return a tile of an array of the whole image, C-contiguous; the array itself if it is the same for all sizes."""
    if spec.grid is None:
        return array
    axis, px = _lie(spec, tiling)
    where = [slice(None)] * array.ndim
    for number, side, index in ((axis, tiling.rows, tile.row), (axis + 1, tiling.columns, tile.column)):
        start = side.starts[index] // px
        where[number] = slice(start, start + side.tile // px)
    return np.ascontiguousarray(array[tuple(where)])


def _axis(length: int, bound: int, unit_px: int) -> Axis:
    """Return the tiles of one side, none longer than the bound."""
    bound = max(bound // unit_px, 1) * unit_px
    if length <= bound:
        return Axis(length, length, (0,), 0)
    ramp = min(OVERLAP_PX, bound // 2 // unit_px * unit_px)
    shared = -(-ramp // unit_px) * unit_px  # as tiles begin and end at units, so does what two of them share
    count = -(-(length - shared) // (bound - shared))
    tile = -(-(length + (count - 1) * shared) // count // unit_px) * unit_px
    starts = tuple(index * (length - tile) // (count - 1) // unit_px * unit_px for index in range(count))
    return Axis(length, tile, starts, ramp)


def _scaled(axis: Axis, px_per_position: int, ramp: bool) -> Axis:
    return Axis(
        axis.length // px_per_position,
        axis.tile // px_per_position,
        tuple(start // px_per_position for start in axis.starts),
        axis.ramp // px_per_position if ramp else 0,
    )


def _lie(spec: TensorSpec, tiling: Tiling) -> tuple[int, int]:
    """Return the axis of a tensor's rows, and how many pixels along a side one position stands for."""
    assert spec.grid is not None, f"{spec.name} does not lie over the image"
    return spec.grid.axis, tiling.unit_px // spec.grid.per_unit


def _lay(target: NDArray[Any], piece: NDArray[Any], axis: Axis, index: int, number: int) -> None:
    """Blend a piece into the target: along an axis it fades in at its seam, and replaces the target after it."""
    target, piece = np.moveaxis(target, number, 0), np.moveaxis(piece, number, 0)
    start = axis.starts[index]
    if index == 0:
        target[: axis.tile] = piece
        return
    seam = axis.seam(index)
    full = seam + axis.ramp
    if axis.ramp:
        weight = ((np.arange(axis.ramp, dtype=np.float32) + 0.5) / axis.ramp).reshape(-1, *[1] * (piece.ndim - 1))
        below = target[seam:full].astype(np.float32)
        mixed = below + (piece[seam - start : full - start] - below) * weight
        target[seam:full] = mixed if np.issubdtype(target.dtype, np.floating) else np.rint(mixed)
    target[full : start + axis.tile] = piece[full - start :]


def _replaced(shape: tuple[int, ...], number: int, length: int) -> tuple[int, ...]:
    return (*shape[:number], length, *shape[number + 1 :])
