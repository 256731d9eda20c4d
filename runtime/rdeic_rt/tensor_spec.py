"""One tensor in ``bundle.json``: name, type and symbolic shape (docs/bundle.md, "Shapes")."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

BATCH, ROWS, COLUMNS = "batch", "hz", "wz"
_FREE = re.compile(r"(?:([2-9]|[1-9][0-9]{1,3})\*)?([a-z]+)\Z", re.ASCII)


@dataclass(frozen=True)
class Grid:
    """The position of a tensor on the image grid.

    Attributes:
        axis: of its rows; its columns are the next.
        per_unit: positions along a side for each unit, ``size_multiple_px`` pixels of the padded image.
    """

    axis: int
    per_unit: int


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: in the graph.
        dtype: ``uint8``, ``int64``, ``float32`` or ``float16``.
        shape: of each dimension the size, or the name of a free one: ``batch``, or ``K*hz`` and ``K*wz`` for K
            positions in each unit of the padded image's height and width (1 is not written).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @cached_property
    def grid(self) -> Grid | None:
        """Its grid; None for a tensor that is the same for all sizes."""
        for axis, dim in enumerate(self.shape):
            if isinstance(dim, str) and _free(dim)[1] == ROWS:
                return Grid(axis, _free(dim)[0])
        return None

    @property
    def free(self) -> frozenset[str]:
        """The names of its free dimensions."""
        return frozenset(_free(dim)[1] for dim in self.shape if isinstance(dim, str))

    def resolve(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape for sizes of the free dimensions, such as ``{"batch": 1, "hz": 8, "wz": 12}``.

        Raises:
            KeyError: there is no size for one.
        """
        return tuple(dim if isinstance(dim, int) else _resolved(dim, sizes) for dim in self.shape)

    def sizes_in(self, shape: Sequence[int]) -> dict[str, int]:
        """Return the sizes of the free dimensions of an array that is this tensor, as `resolve` takes them."""
        free = [(_free(dim), side) for dim, side in zip(self.shape, shape, strict=True) if isinstance(dim, str)]
        return {name: side // factor for (factor, name), side in free}

    def check(self, unit_px: int) -> None:
        """Raise ValueError unless the shape follows docs/bundle.md, for units of so many pixels."""
        free = [(axis, *_free(dim)) for axis, dim in enumerate(self.shape) if isinstance(dim, str)]
        names = [name for _, _, name in free]
        if unknown := set(names) - {BATCH, ROWS, COLUMNS}:
            raise ValueError(f"{self.name} is {list(self.shape)}: {sorted(unknown)[0]!r} is none of batch, hz and wz")
        if any(factor != 1 for _, factor, name in free if name == BATCH) or names.count(BATCH) > 1:
            raise ValueError(f"{self.name} is {list(self.shape)}: there is one batch, without a factor")
        sides = [(axis, factor) for axis, factor, name in free if name != BATCH]
        if not sides:
            return
        if [name for name in names if name != BATCH] != [ROWS, COLUMNS]:
            raise ValueError(f"{self.name} is {list(self.shape)}: hz and wz come together, once, and in this order")
        (rows, down), (columns, across) = sides
        if columns != rows + 1 or down != across:
            raise ValueError(f"{self.name} is {list(self.shape)}: hz and wz are neighbours, and have one factor")
        if unit_px % down:
            raise ValueError(f"{self.name} is {list(self.shape)}: {down} does not divide size_multiple_px, {unit_px}")


def _free(dim: str) -> tuple[int, str]:
    """Return factor and name of a free dimension; a text that is none is the name of an unknown one."""
    match = _FREE.match(dim)
    return (int(match[1] or 1), match[2]) if match else (1, dim)


def _resolved(dim: str, sizes: Mapping[str, int]) -> int:
    factor, name = _free(dim)
    return factor * sizes[name]
