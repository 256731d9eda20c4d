"""Images above a bound, in overlapping tiles of one size that are blended: graphs take the memory of one tile.

    ├──────── tile 0 ────────┤
                     ├──────── tile 1 ────────┤
    1  1  1  1  1  1  .8 .2  0
                      .2 .8  1  1  1  1  1  1          weights: a ramp in the middle of what two tiles share

Every denoising step runs all tiles, cut from one latent of the whole image, and blends what they give before the next
step, so that tiles cannot drift apart; the noise is that of the whole image. Only latents, hint and picture are as
large as the image, and they stay on the host.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import analysis, denoise, synthesis, timing, vae
from .backends.base import Backend, Buffer, Graph
from .bundle import LEVEL
from .denoise import Denoiser
from .limits import Size
from .reconstruct import GUIDANCE, START, Y_HAT, Decoder, Previewer, step_noise

# With it, a tiled photo is 34 to 38 dB from the whole one and shows no seams (tests/runtime/test_tiling.py). Half of it
# costs 0.6 to 1.5 dB, and twice as much gains nothing.
OVERLAP_PX = 128
MIN_TILE_PX = 2 * OVERLAP_PX
# On the `cpu` backend the embedded bundle then decodes 4000x3000 in 0.5 GB instead of 3.4, in about the same time
# (docs/tiling.md).
DEFAULT_TILE_PX = 1024

_Y_PX, _LATENT_PX, _HYPER_PX = 16, 8, 64  # along a side, for one position (docs/bundle.md, "Graphs")
_NCHW, _NHWC = (2, 3), (1, 2)


@dataclass(frozen=True)
class Axis:
    """Tiles along one side, in pixels.

    Attributes:
        length: of the padded image.
        tile: length of every tile.
        starts: of the tiles, increasing; the first is 0 and the last ends with the image.
        ramp: over which two neighbours are blended; they share at least that much.
    """

    length: int
    tile: int
    starts: tuple[int, ...]
    ramp: int

    def seam(self, index: int) -> int:
        """Return where the ramp from the tile before this one begins: it is centred in what the two share."""
        return (self.starts[index] + self.starts[index - 1] + self.tile - self.ramp) // 2


@dataclass(frozen=True)
class Tile:
    """One tile of a grid, by its row and column."""

    row: int
    column: int


@dataclass(frozen=True)
class Grid:
    """Where the tiles of an image lie."""

    rows: Axis
    columns: Axis

    @property
    def is_single(self) -> bool:
        """Whether one tile is the whole image."""
        return len(self.rows.starts) == len(self.columns.starts) == 1

    @property
    def tile(self) -> Size:
        """Size of every tile."""
        return Size(height=self.rows.tile, width=self.columns.tile)

    def tiles(self) -> Iterator[Tile]:
        """Yield every tile, row by row."""
        for row in range(len(self.rows.starts)):
            for column in range(len(self.columns.starts)):
                yield Tile(row, column)


def grid(size: Size, tile_px: int, largest: Size | None, multiple_px: int) -> Grid:
    """Return the tiles of a padded image: as few as the bounds allow, and then as small as that number allows.

    Args:
        size: of the padded image, multiples of multiple_px.
        tile_px: a tile has at most tile_px squared pixels; of a long and narrow image, more than tile_px along a side.
        largest: height and width that no tile may exceed, from `Backend.largest_size`; None for no such bound.
        multiple_px: sides and starts of tiles are multiples of it.

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
    return Grid(_axis(size.height, height, multiple_px), _axis(size.width, width, multiple_px))


def check_tile_px(tile_px: int) -> None:
    """Raise ValueError for tiles that would be mostly overlap."""
    if tile_px < MIN_TILE_PX:
        raise ValueError(f"tile_px is {tile_px}; it must be at least {MIN_TILE_PX}, twice what tiles overlap")


def analyse(
    backend: Backend,
    graph: Graph,
    image: NDArray[np.uint8],
    tiles: Grid,
    level: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return y and the VQ indices of an image as `analysis.run` does, tile by tile; y is blended, indices are cut."""
    y, vq_indices = Canvas(tiles, _Y_PX, _NCHW), Canvas(tiles, _HYPER_PX, _NHWC, ramp=False)
    for tile in tiles.tiles():
        outputs = analysis.run_batch(backend, graph, _crop(image[None], tiles, tile, 1, _NHWC), level)
        for canvas, output in zip((y, vq_indices), outputs, strict=True):
            canvas.add(tile, output)
    return y.array[0], vq_indices.array[0].astype(np.int32)


def reconstruct(
    backend: Backend, decoder: Decoder, inputs: Mapping[str, NDArray[np.float32]], tiles: Grid, key: Hashable
) -> NDArray[np.uint8]:
    """Return the padded image, uint8 [1, h, w, 3], RGB: `reconstruct.run`, tile by tile.

    Args:
        backend: where the graphs run.
        decoder: of the rate.
        inputs: of the whole image, from `reconstruct.inputs`.
        tiles: of the padded image.
        key: names the decoder; see `Backend.execute`.

    Raises:
        BackendError: a graph could not be run.
    """
    denoiser = decoder.denoiser
    with timing.stage("synthesis"):
        z_c, hint = _synthesise(backend, decoder.synthesis, inputs, tiles)
    with timing.stage("start"):
        of_z_c, of_noise = denoiser.schedule.start_weights()
        z_n = of_z_c * z_c + of_noise * inputs[START]
    with timing.stage("denoise"):
        for step in range(denoiser.schedule.n_steps):
            named = {"z_n": z_n, "hint": hint, "noise": inputs.get(step_noise(step))}
            z_n = _step(backend, denoiser, step, named, inputs.get(GUIDANCE), tiles, key)
    return _pixels(backend, decoder.vae_decoder, z_n, tiles, key)


def preview(
    backend: Backend, previewer: Previewer, inputs: Mapping[str, NDArray[np.float32]], tiles: Grid, key: Hashable
) -> NDArray[np.uint8]:
    """Return the padded preview, uint8 [1, h, w, 3], RGB: `reconstruct.preview`, tile by tile.

    Args:
        backend: where the graphs run.
        previewer: of the rate.
        inputs: of the whole image, from `reconstruct.preview_inputs`.
        tiles: of the padded image.
        key: names the previewer; see `Backend.execute`.

    Raises:
        BackendError: a graph could not be run.
    """
    with timing.stage("synthesis"):
        z_c, _ = _synthesise(backend, previewer.synthesis, inputs, tiles)
    return _pixels(backend, previewer.vae_decoder, z_c, tiles, key)


class Canvas:
    """An array of the whole image, filled tile by tile, row by row.

    Tiles are blended into a strip as high as they are, and the finished strip into the array: each value is a mean of
    what the tiles give there, with weights that sum to one. Integers are rounded after each of the two.
    """

    def __init__(self, tiles: Grid, px_per_position: int, axes: tuple[int, int], *, ramp: bool = True) -> None:
        self._rows, self._columns = (_scaled(axis, px_per_position, ramp) for axis in (tiles.rows, tiles.columns))
        self._axes = axes
        self._strip: NDArray[Any] | None = None
        self._array: NDArray[Any] | None = None

    def add(self, tile: Tile, piece: NDArray[Any]) -> None:
        """Take in what was made of a tile; tiles come in the order of `Grid.tiles`."""
        y_axis, x_axis = self._axes
        if self._strip is None or tile.column == 0:
            self._strip = np.empty(_replaced(piece.shape, x_axis, self._columns.length), piece.dtype)
        _lay(self._strip, piece, self._columns, tile.column, x_axis)
        if tile.column < len(self._columns.starts) - 1:
            return
        if self._array is None:
            self._array = np.empty(_replaced(self._strip.shape, y_axis, self._rows.length), piece.dtype)
        _lay(self._array, self._strip, self._rows, tile.row, y_axis)
        self._strip = None

    @property
    def array(self) -> NDArray[Any]:
        """What the tiles made, complete once the last was added."""
        if self._array is None:
            raise ValueError("no row of tiles is complete")
        return self._array


def _synthesise(
    backend: Backend, graph: Graph, inputs: Mapping[str, NDArray[np.float32]], tiles: Grid
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    z_c, hint = Canvas(tiles, _LATENT_PX, _NCHW), Canvas(tiles, _LATENT_PX, _NCHW)
    level = backend.put(inputs[LEVEL]) if LEVEL in inputs else None
    for tile in tiles.tiles():
        outputs = synthesis.run(graph, backend.put(_crop(inputs[Y_HAT], tiles, tile, _Y_PX, _NCHW)), level)
        for canvas, output in zip((z_c, hint), outputs, strict=True):
            canvas.add(tile, backend.get(output))
    return z_c.array, hint.array


def _step(
    backend: Backend,
    denoiser: Denoiser,
    step: int,
    named: Mapping[str, NDArray[np.float32] | None],
    guidance: NDArray[np.float32] | None,
    tiles: Grid,
    key: Hashable,
) -> NDArray[np.float32]:
    """Return z_(n-1) of the whole image."""

    def run(buffers: Mapping[str, Buffer]) -> Buffer:
        return denoise.run_step(
            backend, denoiser, step, buffers["z_n"], buffers["hint"], buffers.get("noise"), buffers.get("guidance")
        )

    canvas = Canvas(tiles, _LATENT_PX, _NCHW)
    for tile in tiles.tiles():
        inputs = {
            name: _crop(array, tiles, tile, _LATENT_PX, _NCHW) for name, array in named.items() if array is not None
        }
        if guidance is not None:
            inputs["guidance"] = guidance
        canvas.add(tile, backend.get(backend.execute((key, "step", step), run, inputs)))
    return canvas.array


def _pixels(backend: Backend, graph: Graph, z_0: NDArray[np.float32], tiles: Grid, key: Hashable) -> NDArray[np.uint8]:
    """Return the padded image that the VAE decoder makes of z_0."""
    vae.check_finite(z_0)
    with timing.stage("vae"):
        image = Canvas(tiles, 1, _NHWC)
        for tile in tiles.tiles():
            inputs = {"z_0": _crop(z_0, tiles, tile, _LATENT_PX, _NCHW)}
            image.add(tile, backend.get(backend.execute((key, "vae"), partial(_decode, graph), inputs)))
    return image.array


def _decode(graph: Graph, buffers: Mapping[str, Buffer]) -> Buffer:
    return vae.decode(graph, buffers["z_0"])


def _axis(length: int, bound: int, multiple_px: int) -> Axis:
    """Return the tiles of one side, none longer than the bound."""
    bound = max(bound // multiple_px, 1) * multiple_px
    if length <= bound:
        return Axis(length, length, (0,), 0)
    ramp = min(OVERLAP_PX, bound // 2 // multiple_px * multiple_px)
    count = -(-(length - ramp) // (bound - ramp))
    tile = -(-(length + (count - 1) * ramp) // count // multiple_px) * multiple_px
    starts = tuple(index * (length - tile) // (count - 1) // multiple_px * multiple_px for index in range(count))
    return Axis(length, tile, starts, ramp)


def _scaled(axis: Axis, px_per_position: int, ramp: bool) -> Axis:
    return Axis(
        axis.length // px_per_position,
        axis.tile // px_per_position,
        tuple(start // px_per_position for start in axis.starts),
        axis.ramp // px_per_position if ramp else 0,
    )


def _crop(array: NDArray[Any], tiles: Grid, tile: Tile, px_per_position: int, axes: tuple[int, int]) -> NDArray[Any]:
    """Return a tile of an array of the whole image, C-contiguous."""
    where = [slice(None)] * array.ndim
    for number, axis, index in zip(axes, (tiles.rows, tiles.columns), (tile.row, tile.column), strict=True):
        start = axis.starts[index] // px_per_position
        where[number] = slice(start, start + axis.tile // px_per_position)
    return np.ascontiguousarray(array[tuple(where)])


def _lay(target: NDArray[Any], piece: NDArray[Any], axis: Axis, index: int, number: int) -> None:
    """Put a piece over what lies in the target already: along an axis it fades in at its seam, and then replaces it."""
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
