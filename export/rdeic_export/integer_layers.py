"""One float layer -> one integer layer, fitted to what it sees (docs/format.md, "Integer layers").

Every uint8 tensor has a `Grid`: the real number each byte stands for, by channel. A layer's weights are rounded with its
input's steps folded in; ranges are those with the least squared error on the samples; and a bias makes up for what
rounding shifts on average. Layers are fitted in order, each on the output of the integer layers before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rdeic_rt.entropy.nets import LUT_SIZE, MAX_WEIGHT

Arrays = dict[str, NDArray[Any]]
Floats = list[NDArray[np.float32]]
"""A float tensor [H, W, C] of every sample."""

_MULT_BITS = 24  # of a layer's largest multiplier
_CLIPS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # fractions of a range that are tried
_ROWS = 1 << 14  # positions that a range is fitted to
_SMALLEST = 1e-9  # of a range, so that nothing is divided by zero
_LUT_TOP = LUT_SIZE // 2 - 1


@dataclass(frozen=True)
class Grid:
    """Byte b of channel c stands for (b - zero[c]) * step[c].

    Attributes:
        step: float64 [C], > 0.
        zero: int64 [C]; within 0 ... 255 where the tensor is padded.
    """

    step: NDArray[np.float64]
    zero: NDArray[np.int64]

    def real(self, values: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what bytes [..., C] stand for."""
        return ((values.astype(np.int64) - self.zero) * self.step).astype(np.float32)


@dataclass(frozen=True)
class Signal:
    """A uint8 tensor [H, W, C] of every sample, with its grid."""

    values: list[NDArray[np.uint8]]
    grid: Grid

    def map(self, function: Callable[[NDArray[Any]], NDArray[Any]], repeat: int = 1) -> Signal:
        """Return the signal with each sample rearranged; ``repeat`` input channels share one output channel's grid."""
        return Signal([function(v) for v in self.values], Grid(self.grid.step[::repeat], self.grid.zero[::repeat]))


@dataclass(frozen=True)
class Activation:
    """A function of one number; ``is_homogeneous`` if scaling the argument by s > 0 scales the value by s."""

    function: Callable[[Tensor], Tensor]
    is_homogeneous: bool

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the function of each element."""
        return self.function(torch.from_numpy(values)).numpy()


GELU = Activation(F.gelu, is_homogeneous=False)
LEAKY = Activation(F.leaky_relu, is_homogeneous=True)  # slope 0.01


@dataclass(frozen=True)
class Fit:
    """A layer with rounded weights, before requantisation.

    Attributes:
        weights: int8 [k, k, C, outputs] of each input.
        steps: float64 [outputs] of each input: what one unit of its sum is worth.
        bias: float64 [outputs].
        grids: of each input.
        values: its output on every sample.
    """

    weights: list[NDArray[np.int8]]
    steps: list[NDArray[np.float64]]
    bias: NDArray[np.float64]
    grids: list[Grid]
    values: Floats


def fit(weights: Sequence[Tensor], inputs: Sequence[Signal], target: Floats) -> Fit:
    """Round the weights of a layer, and set its bias so that its mean output on the samples is the float layer's.

    Args:
        weights: float [outputs, C, k, k] for each input.
        inputs: of the integer layer.
        target: output of the float layer, [H, W, outputs].
    """
    rounded, steps, grids = [], [], []
    sums: Floats = [np.zeros_like(t) for t in target]
    for weight, signal in zip(weights, inputs, strict=True):
        folded = weight.detach().double().numpy().transpose(2, 3, 1, 0) * signal.grid.step[:, None]
        power = np.mean([((v - signal.grid.zero) ** 2.0).mean((0, 1)) for v in signal.values], axis=0)
        step = _weight_steps(folded, power + 1)
        integers = np.clip(np.rint(folded / step), -MAX_WEIGHT, MAX_WEIGHT).astype(np.int8)
        kernel = torch.from_numpy((integers * step / signal.grid.step[:, None]).transpose(3, 2, 0, 1)).float()
        sums = [s + convolve(signal.grid.real(v), kernel) for s, v in zip(sums, signal.values, strict=True)]
        rounded.append(integers)
        steps.append(step)
        grids.append(signal.grid)
    errors = np.concatenate([(t - s).reshape(-1, t.shape[-1]) for t, s in zip(target, sums, strict=True)])
    bias = errors.mean(0, dtype=np.float64)
    return Fit(rounded, steps, bias, grids, [s + bias.astype(np.float32) for s in sums])


def convolve(x: NDArray[np.float32], weight: Tensor, bias: Tensor | None = None) -> NDArray[np.float32]:
    """Return the float convolution [H, W, outputs] of x [H, W, C], padded with zeros to the same size."""
    image = torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None]
    return F.conv2d(image, weight, bias, padding=weight.shape[-1] // 2)[0].permute(1, 2, 0).numpy()


def byte_grid(values: Floats, *, padded: bool) -> Grid:
    """Return the grid with the least squared error for values [H, W, C]; if ``padded``, one with a byte for 0."""
    rows = _sample(values)
    centre = np.zeros(rows.shape[1]) if padded else rows.mean(0)
    low, high = np.minimum(rows.min(0), centre), np.maximum(rows.max(0), centre)
    low, high = low - _SMALLEST, high + _SMALLEST

    def grid(clip: float) -> Grid:
        bottom, top = centre + clip * (low - centre), centre + clip * (high - centre)
        step = (top - bottom) / 255
        return Grid(step, np.rint(-bottom / step).astype(np.int64))

    candidates = [grid(clip) for clip in _CLIPS]
    errors = [((g.real(bytes_of(rows, g)) - rows) ** 2).mean(0) for g in candidates]
    best = np.argmin(errors, axis=0), np.arange(rows.shape[1])
    return Grid(np.stack([g.step for g in candidates])[best], np.stack([g.zero for g in candidates])[best])


def activated(
    name: str, layer: Fit, activation: Activation, parts: Sequence[str] = ("",), shared: int = 1
) -> tuple[Arrays, Grid]:
    """Return the arrays of a layer that ends in a table, and the grid of its output.

    Args:
        name: of the layer.
        layer: its weights.
        activation: what the table holds.
        parts: what follows the layer's name in the names of each input's arrays.
        shared: each run of so many output channels has one grid (they become one channel).
    """
    rows = _sample(layer.values)
    rows = rows.reshape(len(rows), -1, shared).swapaxes(1, 2).reshape(len(rows) * shared, -1)
    wanted = activation(rows)
    axis = 0 if activation.is_homogeneous else None
    reach = np.broadcast_to(np.abs(rows).max(axis) + _SMALLEST, rows.shape[1:])
    candidates = np.stack([clip * reach / _LUT_TOP for clip in _CLIPS])
    errors = []
    for unit in candidates:
        lut, grid = _lut(activation, unit)
        taken = lut[np.clip(np.rint(rows / unit).astype(np.int64) + LUT_SIZE // 2, 0, LUT_SIZE - 1)]
        errors.append(np.broadcast_to(((grid.real(taken) - wanted) ** 2).mean(axis), rows.shape[1:]))
    unit = np.repeat(candidates[np.argmin(errors, axis=0), np.arange(rows.shape[1])], shared)
    lut, grid = _lut(activation, unit)
    return requantised(name, layer, unit, parts=parts) | {f"{name}.lut": lut}, grid


def requantised(
    name: str,
    layer: Fit,
    unit: NDArray[np.float64],
    zero: NDArray[np.int64] | None = None,
    parts: Sequence[str] = ("",),
) -> Arrays:
    """Return the arrays of a layer whose integer output t stands for (t - zero) * unit, by channel."""
    ratios = [step / unit for step in layer.steps]
    shift = _shift(max(float(r.max()) for r in ratios))
    offset = np.rint(layer.bias / unit * 2.0**shift).astype(np.int64) + _half(shift)
    if zero is not None:
        offset += zero << shift
    arrays: Arrays = {}
    for part, weight, ratio, grid in zip(parts, layer.weights, ratios, layer.grids, strict=True):
        mult = np.rint(ratio * 2.0**shift).astype(np.int64)
        offset -= mult * (weight.astype(np.int64) * grid.zero[:, None]).sum((0, 1, 2))
        arrays[f"{name}{part}.weight"] = weight
        arrays[f"{name}{part}.mult"] = mult.astype(np.int32)
        if weight.shape[0] > 1:
            arrays[f"{name}{part}.zero"] = grid.zero.astype(np.uint8)
    return arrays | {f"{name}.offset": offset, f"{name}.shift": np.array([shift], np.int32)}


def rescaled(name: str, unit: NDArray[np.float64], grid: Grid) -> Arrays:
    """Return the arrays that bring integers, worth ``unit`` each, to bytes of a grid, by channel."""
    ratio = unit / grid.step
    shift = _shift(float(ratio.max()))
    return {
        f"{name}.mult": np.rint(ratio * 2.0**shift).astype(np.int32),
        f"{name}.offset": (grid.zero << shift) + _half(shift),
        f"{name}.shift": np.array([shift], np.int32),
    }


def _lut(activation: Activation, unit: NDArray[np.float64]) -> tuple[NDArray[np.uint8], Grid]:
    """Return the table from t + 512 to a byte, and the bytes' grid, for arguments t * unit.

    A homogeneous function has one table whatever the unit; another one needs the same unit in every channel.
    """
    scale = 1.0 if activation.is_homogeneous else float(unit[0])
    values = activation(np.arange(-LUT_SIZE // 2, LUT_SIZE // 2) * scale)
    step = (values.max() - values.min()) / 255
    zero = int(np.rint(-values.min() / step))
    lut = np.clip(np.rint(values / step) + zero, 0, 255).astype(np.uint8)
    return lut, Grid(step * unit / scale, np.full(unit.shape, zero))


def _weight_steps(folded: NDArray[np.float64], power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the step of each output's weights [k, k, C, outputs] that costs least; ``power`` weighs the channels."""
    reach = np.abs(folded).max((0, 1, 2)) + _SMALLEST
    candidates = [clip * reach / MAX_WEIGHT for clip in _CLIPS]
    errors = []
    for step in candidates:
        restored = np.clip(np.rint(folded / step), -MAX_WEIGHT, MAX_WEIGHT) * step
        errors.append(((restored - folded) ** 2 * power[:, None]).sum((0, 1, 2)))
    return np.stack(candidates)[np.argmin(errors, axis=0), np.arange(reach.size)]


def bytes_of(rows: NDArray[Any], grid: Grid) -> NDArray[np.uint8]:
    """Return the bytes that stand for real numbers [..., C] on a grid, as nearly as it can."""
    return np.clip(np.rint(rows / grid.step) + grid.zero, 0, 255).astype(np.uint8)


def _sample(values: Floats) -> NDArray[np.float32]:
    """Return at most about `_ROWS` rows [n, C], evenly spread over the positions of all samples."""
    rows = np.concatenate([v.reshape(-1, v.shape[-1]) for v in values])
    return rows[:: max(1, len(rows) // _ROWS)]


def _shift(largest_ratio: float) -> int:
    return int(np.clip(_MULT_BITS - np.ceil(np.log2(largest_ratio)), 1, 62))


def _half(shift: int) -> int:
    return 1 << (shift - 1)
