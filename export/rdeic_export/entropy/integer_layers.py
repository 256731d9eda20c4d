"""One float layer -> one integer layer, fitted to its inputs (docs/format.md, "Integer layers").

Every tensor of levels 0 ... 65535 has a `Grid`, which maps each level to a real number, by channel. A layer's weights
are rounded with its input's steps folded in, and a bias corrects the mean error of rounding. Layers are fitted
in order, each on the output of the integer layers before it.

Coarse layers, with 8-bit activations and 7-bit weights, add about 1.5 % noise each. That is precise enough for the
channel context, which takes most of the arithmetic. Everywhere else it would cost 4 % of the rate: if most symbols are
0, the difference between two small scales matters. Those layers are fine.
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

from rdeic_rt.entropy.layers import FINE_HIGH, LUT_SIZE, MAX_LEVEL, MAX_WEIGHT
from rdeic_rt.errors import ExportError

Arrays = dict[str, NDArray[Any]]
Floats = list[NDArray[np.float32]]
"""A float tensor [H, W, C] of every sample."""

_COARSE_MULT_BITS, _FINE_MULT_BITS = 24, 18  # of a layer's largest multiplier; 64 bits have room for the sums
_MARGIN = (
    0.5  # added to a range on either side if 16 bits see it: costs a bit of them, and other photos are not clipped
)
_CLIPS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # fractions of a range that are tried
_ROWS = 1 << 14  # positions that errors are measured at
_SMALLEST_SHARE = (
    1e-3  # least range of a channel in that of all, so that one that hardly varies gets no huge multiplier
)
_SMALLEST = 1e-9
_LUT_TOP = LUT_SIZE // 2 - 1


@dataclass(frozen=True)
class Grid:
    """Level x of channel c stands for (x - zero[c]) * step[c].

    Attributes:
        step: float64 [C], > 0.
        zero: int64 [C]; within 0 ... 65535 where the tensor is padded. Its low byte is 128, so that a coarse input,
            which sees the high bytes only, has its 0 there too and rounds instead of truncating.
    """

    step: NDArray[np.float64]
    zero: NDArray[np.int64]

    def real(self, levels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return what levels [..., C] stand for."""
        return ((levels.astype(np.int64) - self.zero) * self.step).astype(np.float32)

    def levels(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Return the levels that stand for real numbers [..., C] as nearly as the grid can."""
        return np.clip(np.rint(values / self.step) + self.zero, 0, MAX_LEVEL).astype(np.uint16)

    def coarse(self) -> Grid:
        """Return the grid of the high bytes."""
        return Grid(self.step * 256, self.zero >> 8)


@dataclass(frozen=True)
class Signal:
    """A tensor, uint16 [H, W, C], of every sample, with its grid."""

    values: list[NDArray[np.uint16]]
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
        weights: int64 [k, k, C, outputs] of each input: a coarse one's u, a fine one's 128 * u + v.
        steps: float64 [outputs] of each input: what one unit of its sum is worth.
        bias: float64 [outputs].
        grids: of each input, coarse or fine as its weights are.
        fine: whether the inputs are fine.
        values: its output on every sample.
    """

    weights: list[NDArray[np.int64]]
    steps: list[NDArray[np.float64]]
    bias: NDArray[np.float64]
    grids: list[Grid]
    fine: bool
    values: Floats


def fit(weights: Sequence[Tensor], inputs: Sequence[Signal], target: Floats, *, fine: bool) -> Fit:
    """Round the weights of a layer, and set its bias so that its mean output on the samples is the float layer's.

    Args:
        weights: float [outputs, C, k, k] for each input.
        inputs: of the integer layer.
        target: output of the float layer, [H, W, outputs].
        fine: whether the inputs are seen with 16 bits and have weights of 14, or with 8 and 7.
    """
    rounded, steps, grids = [], [], []
    sums = [np.zeros_like(t) for t in target]
    for weight, signal in zip(weights, inputs, strict=True):
        grid = signal.grid if fine else signal.grid.coarse()
        seen = signal.values if fine else [v >> 8 for v in signal.values]
        folded = weight.detach().double().numpy().transpose(2, 3, 1, 0) * grid.step[:, None]
        power = np.mean([((v - grid.zero) ** 2.0).mean((0, 1)) for v in seen], axis=0)
        largest = MAX_WEIGHT * FINE_HIGH if fine else MAX_WEIGHT
        step = _weight_steps(folded, power + 1, largest)
        integers = np.clip(np.rint(folded / step), -largest, largest)
        kernel = torch.from_numpy((integers * step / grid.step[:, None]).transpose(3, 2, 0, 1)).float()
        sums = [s + convolve(grid.real(v), kernel) for s, v in zip(sums, seen, strict=True)]
        rounded.append(integers.astype(np.int64))
        steps.append(step)
        grids.append(grid)
    errors = np.concatenate([(t - s).reshape(-1, t.shape[-1]) for t, s in zip(target, sums, strict=True)])
    bias = errors.mean(0, dtype=np.float64)
    return Fit(rounded, steps, bias, grids, fine, [s + bias.astype(np.float32) for s in sums])


def convolve(x: NDArray[np.float32], weight: Tensor, bias: Tensor | None = None) -> NDArray[np.float32]:
    """Return the float convolution [H, W, outputs] of x [H, W, C], padded with zeros to the same size."""
    image = torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None]
    return F.conv2d(image, weight, bias, padding=weight.shape[-1] // 2)[0].permute(1, 2, 0).numpy()


def level_grid(values: Floats, *, padded: bool, fine: bool) -> Grid:
    """Return the grid for values [H, W, C].

    Args:
        values: on the samples.
        padded: whether there must be a level for 0.
        fine: whether all layers see the tensor with 16 bits. If some see 8, the range is the one with the least squared
            error, which leaves the rarest values out.
    """
    rows = _rows(values)
    centre = np.zeros(rows.shape[1]) if padded else rows.mean(0)
    slack = _SMALLEST_SHARE * np.abs(rows).max() + _SMALLEST
    low, high = np.minimum(rows.min(0), centre) - slack, np.maximum(rows.max(0), centre) + slack

    def grid(bottom: NDArray[Any], top: NDArray[Any]) -> Grid:
        step = (top - bottom).astype(np.float64) / MAX_LEVEL
        return Grid(step, _zero(-bottom / step))

    if fine:
        return grid(low - _MARGIN * (high - low), high + _MARGIN * (high - low))
    rows = _thinned(rows)
    candidates = [grid(centre + clip * (low - centre), centre + clip * (high - centre)) for clip in _CLIPS]
    errors = [((g.coarse().real(g.levels(rows) >> 8) - rows) ** 2).mean(0) for g in candidates]
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
    rows = _rows(layer.values)
    rows = rows.reshape(len(rows), -1, shared).swapaxes(1, 2).reshape(len(rows) * shared, -1)
    axis = 0 if activation.is_homogeneous else None
    slack = _SMALLEST_SHARE * np.abs(rows).max() + _SMALLEST
    reach = np.broadcast_to(np.abs(rows).max(axis) + slack, rows.shape[1:]).astype(np.float64)
    candidates = np.stack([clip * reach / _LUT_TOP for clip in ((1 + _MARGIN,) if layer.fine else _CLIPS)])
    rows = _thinned(rows)
    wanted = activation(rows)
    errors = []
    for unit in candidates:
        lut, grid = _lut(activation, unit)
        taken = lut[np.clip(np.rint(rows / unit).astype(np.int64) + LUT_SIZE // 2, 0, LUT_SIZE - 1)]
        error = grid.coarse().real(taken >> 8) - wanted
        errors.append(np.broadcast_to((error**2).mean(axis), rows.shape[1:]))
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
    shift = _shift(max(float(r.max()) for r in ratios), _FINE_MULT_BITS if layer.fine else _COARSE_MULT_BITS)
    offset = np.rint(layer.bias / unit * 2.0**shift).astype(np.int64) + (1 << shift - 1)
    if zero is not None:
        offset += zero << shift
    arrays: Arrays = {}
    for part, weight, ratio, grid in zip(parts, layer.weights, ratios, layer.grids, strict=True):
        mult = np.rint(ratio * 2.0**shift).astype(np.int64)
        offset -= mult * (weight * grid.zero[:, None]).sum((0, 1, 2))
        arrays[f"{name}{part}.mult"] = _int32(mult, name)
        if layer.fine:
            high = (weight + FINE_HIGH // 2) // FINE_HIGH
            low = weight - high * FINE_HIGH
            # v multiplies 256 * (x >> 8), not x, so its share of 0 is that of the high byte.
            offset += mult * (low * (grid.zero % 256)[:, None]).sum((0, 1, 2))
            arrays[f"{name}{part}.weight_low"] = low.astype(np.int8)
        else:
            high = weight
        arrays[f"{name}{part}.weight"] = high.astype(np.int8)
        if weight.shape[0] > 1:
            zero_levels = grid.zero if layer.fine else grid.zero * 256 + 128
            arrays[f"{name}{part}.zero"] = zero_levels.astype(np.uint16)
    return arrays | {f"{name}.offset": offset, f"{name}.shift": np.array([shift], np.int32)}


def rescaled(name: str, unit: NDArray[np.float64], grid: Grid) -> Arrays:
    """Return the arrays that bring integers, worth ``unit`` each, to levels of a grid, by channel."""
    ratio = unit / grid.step
    shift = _shift(float(ratio.max()), _COARSE_MULT_BITS)
    return {
        f"{name}.mult": _int32(np.rint(ratio * 2.0**shift), name),
        f"{name}.offset": (grid.zero << shift) + (1 << shift - 1),
        f"{name}.shift": np.array([shift], np.int32),
    }


def _lut(activation: Activation, unit: NDArray[np.float64]) -> tuple[NDArray[np.uint16], Grid]:
    """Return the table of a function of arguments t * unit, and the grid of its levels.

    A homogeneous function has one table whatever the unit; another one needs the same unit in every channel.
    """
    scale = 1.0 if activation.is_homogeneous else float(unit[0])
    values = activation(np.arange(-LUT_SIZE // 2, LUT_SIZE // 2) * scale)
    step = (values.max() - values.min()) / MAX_LEVEL
    zero = _zero(-values.min() / step)
    lut = np.clip(np.rint(values / step) + zero, 0, MAX_LEVEL).astype(np.uint16)
    return lut, Grid(step * unit / scale, np.full(unit.shape, zero))


def _weight_steps(folded: NDArray[np.float64], power: NDArray[np.float64], largest: int) -> NDArray[np.float64]:
    """Return the step of each output's weights [k, k, C, outputs] that costs least; ``power`` weighs the channels."""
    reach = np.abs(folded).max((0, 1, 2)) + _SMALLEST
    candidates = [clip * reach / largest for clip in _CLIPS]
    errors: list[NDArray[np.float64]] = []
    for step in candidates:
        restored = np.clip(np.rint(folded / step), -largest, largest) * step
        errors.append(((restored - folded) ** 2 * power[:, None]).sum((0, 1, 2)))
    best: NDArray[np.float64] = np.stack(candidates)[np.argmin(errors, axis=0), np.arange(reach.size)]
    return best


def _rows(values: Floats) -> NDArray[np.float32]:
    """Return the positions of all samples as rows [n, C]."""
    return np.concatenate([v.reshape(-1, v.shape[-1]) for v in values])


def _thinned(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return about `_ROWS` rows, evenly spread, or all if there are fewer."""
    return rows[:: max(1, len(rows) // _ROWS)]


def _zero(level: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the level nearest to ``level`` whose low byte is 128."""
    return np.rint((level - 128) / 256).astype(np.int64) * 256 + 128


def _int32(mult: NDArray[Any], name: str) -> NDArray[np.int32]:
    if np.abs(mult).max() >= 2**31:
        raise ExportError(f"{name}: its output does not vary on the samples. Calibrate with more, or other, photos")
    return mult.astype(np.int32)


def _shift(largest_ratio: float, mult_bits: int) -> int:
    return int(np.clip(mult_bits - np.ceil(np.log2(largest_ratio)), 1, 62))
