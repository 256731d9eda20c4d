"""The rate's step table: timesteps and (a, b, c), and the rows that stand for the time embedding of each step.

Every sampler is the same update, z_(n-1) = a z_n + b output + c noise, with its scalars computed once at export: a
network's output may be eps or z_0. What it would compute from a timestep is a table too, one row a step (see
docs/bundle.md, "Step tables").
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import npz
from .bundle_file import Source
from .errors import BundleCorruptError

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Schedule:
    """The fixed loop of one sampler, steps in running order.

    Attributes:
        name: its key in ``bundle.json``.
        sampler: ``ddpm``, ``ddim`` or ``resshift``; only for people and for choosing among schedules of one kind.
        timesteps: 0..999, the networks' input at each step.
        abar_start: abar_N in z_N = sqrt(abar_N) z_c + sqrt(1 - abar_N) eps.
        a, b, c: update coefficients of each step.

    Raises:
        ValueError: tables of different lengths, a coefficient that is not finite as float32, or abar_start outside
            0..1.
    """

    name: str
    sampler: str
    timesteps: tuple[int, ...]
    abar_start: float
    a: tuple[float, ...]
    b: tuple[float, ...]
    c: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = [len(table) for table in (self.timesteps, self.a, self.b, self.c)]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise ValueError(f"timesteps, a, b and c have {lengths} entries; they need one a step")
        if not all(abs(value) <= _FLOAT32_MAX for value in (*self.a, *self.b, *self.c)):
            raise ValueError("a coefficient is not a finite float32")
        if not 0.0 <= self.abar_start <= 1.0:
            raise ValueError(f"abar_start is {self.abar_start}, outside 0..1")

    @property
    def n_steps(self) -> int:
        """L, the number of denoising steps."""
        return len(self.timesteps)

    def coefficients(self, step: int) -> NDArray[np.float32]:
        """Return (a, b, c) of a step, 0 <= step < n_steps, as float32 [3]: the input ``coefficients`` of unet_step."""
        return np.array([self.a[step], self.b[step], self.c[step]], np.float32)

    def start_weights(self) -> NDArray[np.float32]:
        """Return (sqrt(abar_N), sqrt(1 - abar_N)), float32 [2]: the weights of z_c and of the noise in z_N."""
        return np.array([math.sqrt(self.abar_start), math.sqrt(1.0 - self.abar_start)], np.float32)


def load_step_rows(file: Source, n_steps: int, widths: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
    """Return the step table in an .npz file, which replaces the time embedding: float32 [L, D] per role.

    Row n is the input ``step`` of the role's graph at step n.

    Args:
        file: holds a float32 array for each role.
        n_steps: L, rows that all must have.
        widths: role -> D, columns that its graph's input ``step`` has.

    Raises:
        BundleCorruptError: not such a file, or arrays of another type or shape.
    """
    arrays = load_arrays(file)
    return {role: float_rows(file, arrays, role, n_steps, width) for role, width in widths.items()}


def float_rows(
    file: Source, arrays: Mapping[str, NDArray[np.generic]], name: str, count: int, width: int
) -> NDArray[np.float32]:
    """Return an array of a file, float32 [count, width].

    Raises:
        BundleCorruptError: it is missing, of another type or shape, or has a value that is not finite.
    """
    array = arrays.get(name)
    if array is None or array.dtype != np.float32 or array.shape != (count, width):
        found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
        raise BundleCorruptError(f"{file.path}: array {name!r} is {found}, should be float32 [{count}, {width}]")
    checked = array.astype(np.float32, copy=False)
    if not np.isfinite(checked).all():
        raise BundleCorruptError(f"{file.path}: array {name!r} has a value that is not finite")
    return checked


# What numpy and zipfile raise on damaged files; they have no list of it.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_arrays(file: Source) -> dict[str, NDArray[np.generic]]:
    """Return every array of an .npz file by name; BundleCorruptError if it is not one that `npz.read` takes."""
    data = file.read()
    try:
        return npz.read(data)
    except _DAMAGE as error:
        raise BundleCorruptError(f"{file.path}: not a readable .npz file: {error}") from None
