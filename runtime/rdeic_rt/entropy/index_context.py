"""A context model of VQ indices: what has been decoded of a neighbourhood chooses the table of the next index.

Positions come in four passes over squares of two by two::

    0 2 0 2        pass 0        the prior
    3 1 3 1        pass p >= 1   code vectors of passes before p ─ context.<p>.0 ─ .1 ─ .2 ─▶ C scores
    0 2 0 2                      the class is the first maximum of the scores, and each class has a table
    3 1 3 1

Indices of a pass are coded by rising class, those of one class by row, then column, so that one call of the coder
serves a class. Networks and tables are integers (docs/format.md, "Entropy model 3").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .arrays import ArrayReader
from .coder import TOTAL_MASS, Distribution
from .layers import Layer, Levels, MatMul, bands, matmul_of_onnxruntime
from .order import groups

PASSES: Final = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Row and column of each pass's positions in a square, in coding order."""
MAX_CLASSES: Final = 256
MANTISSA_BITS: Final = 3
"""A weight is (8 + the low 3 bits of a byte) << its high 5 bits."""

Code = Callable[[Distribution, NDArray[np.intp]], NDArray[np.int32]]
"""(distribution, numbers of positions [n] in the grid by row) -> their indices, int32 [n], coded."""


@dataclass(frozen=True)
class IndexContext:
    """Integer networks and tables. May be used by several threads at once.

    Attributes:
        codebook: uint16 [K, N], what the networks see of each index.
        nets: three layers each, of passes 1 to 3; the first has an input for each pass before.
        tables: of each class.
        matmul: the matrix product the networks run on.
    """

    codebook: Levels
    nets: tuple[tuple[Layer, Layer, Layer], ...]
    tables: tuple[Distribution, ...]
    matmul: MatMul

    @staticmethod
    def read(reader: ArrayReader, codes: int, threads: int | None = None) -> IndexContext:
        """Read ``codebook``, ``class_weights`` and ``context.*`` of a model with so many code vectors."""
        codebook = reader.take("codebook", np.uint16, (codes, None))
        weights = reader.take("class_weights", np.uint8, (None, codes))
        n_classes = weights.shape[0]
        reader.check(n_classes <= MAX_CLASSES, f"'class_weights' has {n_classes} rows, should have 1 to {MAX_CLASSES}")
        nets = tuple(_read_net(reader, number, codebook.shape[1], n_classes) for number in range(1, len(PASSES)))
        tables = tuple(Distribution(masses_of(row)) for row in weights)
        return IndexContext(codebook, nets, tables, matmul_of_onnxruntime(threads))

    def walk(self, prior: Distribution, size: tuple[int, int], code: Code) -> NDArray[np.int32]:
        """Return the indices of a grid, int32 of shape ``size``, each group coded by ``code`` in coding order."""
        grid = np.zeros(size, np.int32)
        numbers = np.arange(grid.size, dtype=np.intp).reshape(size)
        for number, (top, left) in enumerate(PASSES):
            places = numbers[top::2, left::2]
            if not places.size:
                continue
            if number == 0:
                grid.put(places, code(prior, places.ravel()))
                continue
            for index, members in groups(self.classes(number, grid).ravel(), 0):
                chosen = places.ravel()[members]
                grid.put(chosen, code(self.tables[index], chosen))
        return grid

    def classes(self, number: int, grid: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return the class of each position of a pass from 1 on, uint8, of indices [Hq, Wq] known of those before."""
        first, middle, last = self.nets[number - 1]
        top, left = PASSES[number]
        classes: NDArray[np.uint8] = np.empty(grid[top::2, left::2].shape, np.uint8)
        halves = [(side + 1) // 2 for side in grid.shape]
        margin = max(part.kernel for part in first.inputs) // 2
        for rows in bands(classes.shape[0], halves[1] * max(layer.outputs for layer in (first, middle, last))):
            start, stop = max(0, rows.start - margin), min(halves[0], rows.stop + margin)
            squares = grid[2 * start : 2 * stop]
            seen = list(self._planes(squares, first, (stop - start, halves[1])))
            features: Levels = first.levels(self.matmul, *seen)
            features = features[rows.start - start : rows.stop - start, : classes.shape[1]]
            scores = last.wide(self.matmul, middle.levels(self.matmul, features))
            classes[rows] = scores.argmax(-1)  # the first of equal ones
        return classes

    def _planes(self, squares: NDArray[np.int32], first: Layer, shape: tuple[int, int]) -> Iterator[Levels]:
        """Yield what the inputs of a layer see, uint16 [*shape, N]: ``zero`` where the grid has no position."""
        for (top, left), part in zip(PASSES, first.inputs, strict=False):
            assert part.zero is not None  # `_read_net` has checked
            vectors: Levels = self.codebook[squares[top::2, left::2]]
            plane = np.empty((*shape, vectors.shape[-1]), np.uint16)
            plane[:] = part.zero
            plane[: vectors.shape[0], : vectors.shape[1]] = vectors
            yield plane


def masses_of(weights: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return masses, int32 [K] of sum 2**24, in proportion to weights that are coded as one byte each, uint8 [K]."""
    wide: NDArray[np.int64] = (1 << MANTISSA_BITS) + (weights & (1 << MANTISSA_BITS) - 1).astype(np.int64)
    wide <<= weights >> MANTISSA_BITS
    masses = 1 + wide * (TOTAL_MASS - wide.size) // wide.sum()
    masses[wide.argmax()] += TOTAL_MASS - masses.sum()
    found: NDArray[np.int32] = masses.astype(np.int32)
    return found


def _read_net(reader: ArrayReader, number: int, width: int, n_classes: int) -> tuple[Layer, Layer, Layer]:
    name = f"context.{number}"
    parts = [f".{earlier}" for earlier in range(number)]
    first = Layer.read(reader, f"{name}.0", [width] * number, None, parts, lut=True)
    reader.check(all(part.kernel > 1 for part in first.inputs), f"'{name}.0' has a kernel of 1x1")
    middle = Layer.read(reader, f"{name}.1", [first.outputs], None, lut=True)
    last = Layer.read(reader, f"{name}.2", [middle.outputs], n_classes, lut=False)
    for place, layer in ((1, middle), (2, last)):
        reader.check(layer.inputs[0].kernel == 1, f"'{name}.{place}' has a kernel other than 1x1")
    return first, middle, last
