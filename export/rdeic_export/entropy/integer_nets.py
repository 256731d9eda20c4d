"""The float entropy networks, layer by layer, as integer networks; each layer is fitted on the output of those before.

The arithmetic that the samples run through is the runtime's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdeic_rt.entropy.arrays import ArrayReader
from rdeic_rt.entropy.hyperprior import GRID_BITS, Y_LIMIT
from rdeic_rt.entropy.layers import Layer, MatMul, Requantize
from rdeic_rt.entropy.nets import SLOPE_BITS, HyperBlock, pixel_shuffle
from rdeic_rt.entropy.order import Slice, scatter, slices_of, squeeze
from rdeic_rt.errors import ExportError

from ..modules.compression import EntropyNetworks, ResBlock, UpBlock
from ..modules.diffo.index_context import ContextNets
from .integer_layers import (
    GELU,
    LEAKY,
    Activation,
    Arrays,
    Fit,
    Floats,
    Grid,
    Signal,
    activated,
    convolve,
    fit,
    level_grid,
    requantised,
    rescaled,
)
from .priors import SCALE_BITS

_WIDE_TOP: Final = 1 << 14  # the largest sample of a wide tensor; the format holds 64 times more


def fit_hyper(
    codec: EntropyNetworks, indices: list[NDArray[Any]], matmul: MatMul, arrays: Arrays
) -> tuple[Signal, Floats]:
    """Add ``codebook`` and ``hyper.*`` to the arrays.

    Returns:
        The hyper parameters of each sample as the integer networks, and as the float networks have them.
    """
    codes = codec.quantize.embedding.weight.detach().numpy()
    grid = level_grid([codes[None]], padded=True, fine=True)
    arrays["codebook"] = grid.levels(codes)
    signal = Signal([arrays["codebook"][i] for i in indices], grid)
    floats: Floats = [codes[i] for i in indices]
    blocks = list(codec.hyper_dec)
    arrays["hyper.doubles"] = np.array([isinstance(block, UpBlock) for block in blocks], np.uint8)
    for index, block in enumerate(blocks):
        signal, floats = _fit_block(
            f"hyper.{index}", block, signal, floats, matmul, arrays, padded=index + 1 < len(blocks)
        )
    return signal, floats


def fit_slices(
    codec: EntropyNetworks, latents: list[Tensor], hyper: Signal, hyper_float: Floats, matmul: MatMul, arrays: Arrays
) -> None:
    """Add the arrays of every slice's networks; contexts are made of the float networks' y_hat.

    Args:
        codec: the float networks.
        latents: y of each sample, float [1, M, hy, wy].
        hyper, hyper_float: what `fit_hyper` returned.
        matmul: matrix product of the runtime.
        arrays: added to.
    """
    predictions = [
        list(codec.predict(y, torch.from_numpy(h).permute(2, 0, 1)[None]))
        for y, h in zip(latents, hyper_float, strict=True)
    ]
    earlier: list[Signal] = []
    earlier_float: Floats = [np.zeros((*h.shape[:2], 0), np.float32) for h in hyper_float]
    for part in slices_of(codec.config.slices):
        i = part.index
        y_hat = [_hwc(p[i].y_hat) for p in predictions]
        signal = _quantise_slice(part, y_hat, arrays)
        contexts, contexts_float = [hyper], [hyper_float]
        if i:
            joined = _concatenate(earlier)
            context, context_float = _fit_chain(
                f"channel.{i}", codec.channel_context[i], [joined], [earlier_float], matmul, arrays, None
            )
            contexts, contexts_float = [hyper, context], [hyper_float, context_float]
        for anchors in (True, False):
            seen = [_squeezed(c, anchors=anchors) for c in contexts]
            seen_float = [[squeeze(v, anchors=anchors) for v in f] for f in contexts_float]
            nets, name, parts = codec.entropy_parameters_anchor, f"anchor.{i}", [".hyper", ".channel"]
            if not anchors:
                local, local_float = _fit_local(part, codec.local_context[i], signal, y_hat, matmul, arrays)
                seen, seen_float = [*seen, local], [*seen_float, local_float]
                nets, name, parts = codec.entropy_parameters_nonanchor, f"nonanchor.{i}", [*parts, ".local"]
            unit = np.repeat([2.0**-SCALE_BITS, 2.0**-GRID_BITS], part.width)
            _fit_chain(name, nets[i], seen, seen_float, matmul, arrays, unit, parts if i else [parts[0], *parts[2:]])
        earlier.append(signal)
        earlier_float = [np.concatenate(pair, axis=-1) for pair in zip(earlier_float, y_hat, strict=True)]


def fit_index_context(nets: ContextNets, maps: Sequence[Tensor], matmul: MatMul, arrays: Arrays) -> None:
    """Add ``codebook`` and ``context.*`` to the arrays.

    First layers, which most of the weights are of, are coarse: that costs a class now and then.

    Args:
        nets: the float networks, which give the scores of classes.
        maps: indices of samples, int64 [Hq, Wq] each.
        matmul: matrix product of the runtime.
        arrays: added to.
    """
    codes = nets.get_buffer("codes").numpy()
    grid = level_grid([codes[None]], padded=True, fine=False)
    arrays["codebook"] = grid.levels(codes)
    planes: list[Floats] = [
        [_hwc(plane) for plane in of_pass] for of_pass in zip(*(nets.planes(one[None]) for one in maps), strict=True)
    ]
    signals = [Signal([grid.levels(plane) for plane in of_pass], grid) for of_pass in planes]
    reach = max(float(scores.abs().max()) for one in maps for scores, _ in nets(one[None]) if scores.numel())
    unit = np.full(nets.outputs, reach / _WIDE_TOP)
    for number, net in enumerate(nets.nets, 1):
        parts = [f".{earlier}" for earlier in range(number)]
        inputs = signals[:number], planes[:number]
        _fit_chain(f"context.{number}", net, *inputs, matmul, arrays, unit, parts, first_fine=False)


def _fit_block(
    name: str, block: nn.Module, x: Signal, floats: Floats, matmul: MatMul, arrays: Arrays, *, padded: bool
) -> tuple[Signal, Floats]:
    """Fit one block of the hyper network; ``padded`` if its output is."""
    if isinstance(block, UpBlock):
        first, second, skip = cast(nn.Conv2d, block.subpel_conv[0]), block.conv, cast(nn.Conv2d, block.upsample[0])
        shuffle, shared, slope = pixel_shuffle, 4, 0.1
    elif isinstance(block, ResBlock) and isinstance(block.adaptor, nn.Conv2d):
        first, second, skip = block.conv1, block.conv2, block.adaptor
        shuffle, shared, slope = _unchanged, 1, 0.01
    else:
        raise ExportError(f"{name}: a {type(block).__name__} without a convolution in its skip cannot be made integer")

    first_float = [_conv(first, v) for v in floats]
    hidden = _activate(
        f"{name}.first", fit([first.weight], [x], first_float, fine=True), LEAKY, [x], matmul, arrays, shared=shared
    )
    hidden = hidden.map(shuffle, shared)
    second_float = [_conv(second, shuffle(LEAKY(v))) for v in first_float]
    skip_float = [_conv(skip, v) for v in floats]
    second_fit, skip_fit = (
        fit([second.weight], [hidden], second_float, fine=True),
        fit([skip.weight], [x], skip_float, fine=True),
    )
    out_float = [np.where(a < 0, slope * a, a) + shuffle(b) for a, b in zip(second_float, skip_float, strict=True)]

    reach = [np.abs(v).max((0, 1)) for v in (*second_float, *map(shuffle, skip_float), *out_float)]
    unit = (np.max(reach, axis=0) + 1e-9).astype(np.float64) / _WIDE_TOP
    grid = level_grid(out_float, padded=padded, fine=True)
    arrays |= requantised(f"{name}.second", second_fit, unit)
    arrays |= requantised(f"{name}.skip", skip_fit, np.repeat(unit, shared))
    arrays |= rescaled(f"{name}.out", unit, grid)
    arrays[f"{name}.slope"] = np.array([round(slope * 2**SLOPE_BITS)], np.int32)
    ready = HyperBlock.read(ArrayReader(arrays), name, x.grid.step.size, shared == 4)
    return Signal([ready(matmul, v) for v in x.values], grid), out_float


def _fit_chain(
    name: str,
    net: nn.Module,
    inputs: list[Signal],
    floats: list[Floats],
    matmul: MatMul,
    arrays: Arrays,
    unit: NDArray[np.float64] | None,
    parts: Sequence[str] = ("",),
    *,
    first_fine: bool = True,
) -> tuple[Signal, Floats]:
    """Fit convolution, GELU, convolution, GELU, convolution.

    Args:
        name: of the layers, before their number.
        net: the float layers.
        inputs, floats: what the first layer sees, in the integer and in the float networks.
        matmul: matrix product of the runtime.
        arrays: added to.
        unit: what one unit of each output is worth; None for an output of bytes.
        parts: names of the inputs; the float layer has them in the reverse order (local, channel, hyper).
        first_fine: whether the first layer is fine, as all are unless the output is of bytes.

    Returns:
        The output in both networks; of the integer one only if it is bytes.
    """
    convolutions = [layer for layer in cast(nn.Sequential, net) if isinstance(layer, nn.Conv2d)]
    for index, layer in enumerate(convolutions):
        label = f"{name}.{index}"
        joined = [np.concatenate(group[::-1], axis=-1) for group in zip(*floats, strict=True)]
        target = [_conv(layer, v) for v in joined]
        weights = torch.split(layer.weight, [s.grid.step.size for s in inputs[::-1]], dim=1)[::-1]
        fitted = fit(weights, inputs, target, fine=unit is not None and (first_fine or index > 0))
        if index + 1 < len(convolutions):
            inputs = [_activate(label, fitted, GELU, inputs, matmul, arrays, parts)]
            floats = [[GELU(v) for v in target]]
        elif unit is None:
            return _linear(label, fitted, target, inputs, matmul, arrays), target
        else:
            arrays |= requantised(label, fitted, unit, parts=parts)
        parts = ("",)
    return inputs[0], target


def _fit_local(
    part: Slice, layer: nn.Module, signal: Signal, y_hat: Floats, matmul: MatMul, arrays: Arrays
) -> tuple[Signal, Floats]:
    """Fit the local context of a slice; return it at the non-anchors."""
    convolution = cast(nn.Conv2d, layer)
    anchors_only = signal.map(lambda v: _without_nonanchors(v, signal.grid.zero.astype(np.uint16)))
    target = [_conv(convolution, _without_nonanchors(v, np.zeros(1, np.float32))) for v in y_hat]
    fitted = fit([convolution.weight], [anchors_only], target, fine=True)
    context = _linear(f"local.{part.index}", fitted, target, [anchors_only], matmul, arrays)
    return _squeezed(context, anchors=False), [squeeze(v, anchors=False) for v in target]


def _quantise_slice(part: Slice, y_hat: Floats, arrays: Arrays) -> Signal:
    grid = level_grid(y_hat, padded=True, fine=False)
    name = f"y.{part.index}"
    arrays |= rescaled(name, np.full(part.width, 2.0**-GRID_BITS), grid)
    arrays[f"{name}.zero"] = grid.zero.astype(np.uint16)
    rescale = Requantize.read(ArrayReader(arrays), name, part.width, Y_LIMIT)
    return Signal([rescale(np.rint(v * 2**GRID_BITS).astype(np.int32)) for v in y_hat], grid)


def _activate(
    name: str,
    fitted: Fit,
    activation: Activation,
    inputs: list[Signal],
    matmul: MatMul,
    arrays: Arrays,
    parts: Sequence[str] = ("",),
    shared: int = 1,
) -> Signal:
    """Finish a layer with a table, and run it."""
    own, grid = activated(name, fitted, activation, parts, shared)
    arrays |= own
    return Signal(_run(name, inputs, parts, matmul, own, lut=True), grid)


def _linear(name: str, fitted: Fit, target: Floats, inputs: list[Signal], matmul: MatMul, arrays: Arrays) -> Signal:
    """Finish a layer with bytes, not to be padded, and run it."""
    grid = level_grid(target, padded=False, fine=True)
    own = requantised(name, fitted, grid.step, grid.zero)
    arrays |= own
    return Signal(_run(name, inputs, ("",), matmul, own, lut=False), grid)


def _run(
    name: str, inputs: list[Signal], parts: Sequence[str], matmul: MatMul, arrays: Arrays, *, lut: bool
) -> list[NDArray[np.uint16]]:
    layer = Layer.read(ArrayReader(arrays), name, [s.grid.step.size for s in inputs], None, parts, lut=lut)
    return [layer.levels(matmul, *grids) for grids in zip(*(s.values for s in inputs), strict=True)]


def _conv(layer: nn.Conv2d, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return convolve(x, layer.weight, layer.bias)


def _concatenate(signals: list[Signal]) -> Signal:
    values = [np.concatenate(group, axis=-1) for group in zip(*(s.values for s in signals), strict=True)]
    steps, zeros = ([getattr(s.grid, field) for s in signals] for field in ("step", "zero"))
    return Signal(values, Grid(np.concatenate(steps), np.concatenate(zeros)))


def _squeezed(signal: Signal, *, anchors: bool) -> Signal:
    return signal.map(lambda v: squeeze(v, anchors=anchors))


def _without_nonanchors(grid: NDArray[Any], zero: NDArray[Any]) -> NDArray[Any]:
    out = grid.copy()
    scatter(out, np.broadcast_to(zero, (grid.shape[0], grid.shape[1] // 2, grid.shape[2])), anchors=False)
    return out


def _hwc(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor[0].permute(1, 2, 0).numpy())


def _unchanged(x: NDArray[Any]) -> NDArray[Any]:
    return x
