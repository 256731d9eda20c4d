"""The integer hyper and context networks: their layers (from layers.py) and how these are chained.

    hyper        codebook[index] ─ hyper.0 ─ hyper.1 ─ ...          (blocks, each drawn at `HyperBlock`)
    contexts     y_hat of slices before i ─ channel.<i>.0 ─ .1 ─ .2        anchors of slice i ─ local.<i>
    parameters   hyper, contexts ─ anchor.<i>.0 ─ .1 ─ .2 ─▶ scales, means        (likewise nonanchor.<i>)

The names are those of the arrays in a bundle's entropy .npz.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .arrays import ArrayReader
from .layers import WIDE_LIMIT, Layer, Levels, MatMul, Requantize, Wide, bands
from .order import Slice

SLOPE_BITS: Final = 16


@dataclass(frozen=True)
class HyperBlock:
    """A residual block, which may double the grid::

        x ─┬─ first ─ (shuffle) ─ second ─ leaky ─┐
           └─ skip ─ (shuffle) ───────────────── + ─ out

    Attributes:
        doubles: whether it shuffles, and so doubles height and width.
        first: convolution with a table.
        second, skip: convolutions with wide outputs.
        slope: of leaky, in units of 2**-16.
        out: makes the sum a tensor.
    """

    doubles: bool
    first: Layer
    second: Layer
    slope: int
    skip: Layer
    out: Requantize

    @staticmethod
    def read(reader: ArrayReader, name: str, channels: int, doubles: bool) -> HyperBlock:
        """Read the arrays ``<name>.*`` of a block with so many input channels."""
        first = Layer.read(reader, f"{name}.first", [channels], None, lut=True)
        hidden = first.outputs // 4 if doubles else first.outputs
        second = Layer.read(reader, f"{name}.second", [hidden], None, lut=False)
        outputs = second.outputs
        reader.check(
            not doubles or first.outputs % 4 == 0, f"{first.outputs} outputs of '{name}.first' are no multiple of 4"
        )
        skip = Layer.read(reader, f"{name}.skip", [channels], 4 * outputs if doubles else outputs, lut=False)
        slope = reader.number(f"{name}.slope", 0, 1 << SLOPE_BITS)
        out = Requantize.read(reader, f"{name}.out", outputs, 2 * WIDE_LIMIT)
        return HyperBlock(doubles, first, second, slope, skip, out)

    def __call__(self, matmul: MatMul, x: Levels) -> Levels:
        """Return the block's output, uint16 [H, W, outputs] or [2H, 2W, outputs], of x, uint16 [H, W, channels]."""
        shuffle = pixel_shuffle if self.doubles else _unchanged
        hidden = shuffle(self.first.levels(matmul, x))
        main, skipped = self.second.wide(matmul, hidden), shuffle(self.skip.wide(matmul, x))
        height, width, channels = main.shape
        out = np.empty(main.shape, np.uint16)
        for rows in bands(height, width * channels):
            out[rows] = self.out(leaky(main[rows], self.slope) + skipped[rows])
        return out


@dataclass(frozen=True)
class HyperNet:
    """VQ indices -> hyper parameters of y (h_s of RDEIC, section 3.1).

    Attributes:
        codebook: uint16 [K, N], the code vectors.
        blocks: in order; two of them double the grid.
    """

    codebook: Levels
    blocks: tuple[HyperBlock, ...]

    @staticmethod
    def read(reader: ArrayReader, codes: int) -> HyperNet:
        """Read ``codebook`` and ``hyper.*``."""
        codebook = reader.take("codebook", np.uint16, (codes, None))
        doubles = reader.take("hyper.doubles", np.uint8, (None,)).tolist()
        reader.check(
            sorted(doubles, reverse=True)[:3] in ([1, 1], [1, 1, 0]), "'hyper.doubles' has not two ones and zeros"
        )
        blocks: list[HyperBlock] = []
        channels = codebook.shape[1]
        for index, double in enumerate(doubles):
            blocks.append(HyperBlock.read(reader, f"hyper.{index}", channels, bool(double)))
            channels = blocks[-1].second.outputs
        return HyperNet(codebook, tuple(blocks))

    @property
    def width(self) -> int:
        """Channels of the output."""
        return self.blocks[-1].second.outputs

    @property
    def scale(self) -> int:
        """Positions of the output along a side, for each index."""
        return 1 << sum(block.doubles for block in self.blocks)

    def __call__(self, matmul: MatMul, vq_indices: NDArray[np.int32]) -> Levels:
        """Return the hyper parameters, uint16 [4 hz, 4 wz, width], of indices [hz, wz], each in 0 ... K - 1."""
        x = self.codebook[vq_indices]
        for block in self.blocks:
            x = block(matmul, x)
        return x


@dataclass(frozen=True)
class SliceNets:
    """The networks that predict one slice (channel and local context, entropy parameters).

    Attributes:
        quantise: y_hat of the slice -> tensor, for the contexts of this and later slices.
        zero: uint16 [width], the value that represents 0 in that tensor.
        channel: from the previous slices; empty for the first.
        local: from this slice's anchors.
        anchor, nonanchor: entropy parameters of the two passes, (hyper[, channel]) and (hyper[, channel], local).
    """

    slice: Slice
    quantise: Requantize
    zero: Levels
    channel: tuple[Layer, ...]
    local: Layer
    anchor: tuple[Layer, ...]
    nonanchor: tuple[Layer, ...]

    @staticmethod
    def read(reader: ArrayReader, part: Slice, hyper_width: int, y_limit: int) -> SliceNets:
        """Read ``y.<i>``, ``channel.<i>``, ``local.<i>``, ``anchor.<i>`` and ``nonanchor.<i>``."""
        i = part.index
        channel = tuple(_chain(reader, f"channel.{i}", part.start)) if i else ()
        local = Layer.read(reader, f"local.{i}", [part.width], None, lut=False)
        widths, parts = [hyper_width], [".hyper"]
        if channel:
            widths, parts = [*widths, channel[-1].outputs], [*parts, ".channel"]
        anchor = _parameters(reader, f"anchor.{i}", part.width, widths, parts)
        widths, parts = [*widths, local.outputs], [*parts, ".local"]
        nonanchor = _parameters(reader, f"nonanchor.{i}", part.width, widths, parts)
        return SliceNets(
            slice=part,
            quantise=Requantize.read(reader, f"y.{i}", part.width, y_limit),
            zero=reader.take(f"y.{i}.zero", np.uint16, (part.width,)),
            channel=channel,
            local=local,
            anchor=anchor,
            nonanchor=nonanchor,
        )

    def channel_context(self, matmul: MatMul, y_levels: Levels) -> Levels | None:
        """Return the context from earlier slices in y_levels [H, W, M], uint16 [H, W, n]; None for the first."""
        if not self.channel:
            return None
        x = y_levels[..., : self.slice.start]
        for layer in self.channel:
            x = layer.levels(matmul, x)
        return x

    def local_context(self, matmul: MatMul, y_levels: Levels) -> Levels:
        """Return the context from this slice's anchors at the non-anchors, uint16 [H, W/2, n]."""
        return self.local.levels(matmul, y_levels[..., self.slice.channels], anchors=False)

    def parameters(self, matmul: MatMul, contexts: Sequence[Levels], *, anchors: bool) -> tuple[Wide, Wide]:
        """Return (scales, means) of a pass, int32 [H, W/2, width] each, of its contexts, uint16 [H, W/2, n] each."""
        first, middle, last = self.anchor if anchors else self.nonanchor
        both = last.wide(matmul, middle.levels(matmul, first.levels(matmul, *contexts)))
        return both[..., : self.slice.width], both[..., self.slice.width :]


def leaky(values: Wide, slope: int) -> Wide:
    """Return values with negative ones times slope / 2**16, rounded half up; int32, same shape."""
    scaled = (np.multiply(values, slope, dtype=np.int64) + (1 << SLOPE_BITS - 1)) >> SLOPE_BITS
    return np.where(values < 0, scaled, values).astype(np.int32)


def pixel_shuffle(x: NDArray[Any]) -> NDArray[Any]:
    """Return [2H, 2W, C] of x [H, W, 4C]: channel 4c + 2r + s goes to row offset r, column offset s of channel c."""
    height, width, channels = x.shape
    split = x.reshape(height, width, channels // 4, 2, 2)
    return split.transpose(0, 3, 1, 4, 2).reshape(2 * height, 2 * width, channels // 4)


def _unchanged(x: NDArray[Any]) -> NDArray[Any]:
    return x


def _chain(reader: ArrayReader, name: str, channels: int) -> Iterator[Layer]:
    for index in range(3):
        layer = Layer.read(reader, f"{name}.{index}", [channels], None, lut=index < 2)
        channels = layer.outputs
        yield layer


def _parameters(
    reader: ArrayReader, name: str, width: int, widths: Sequence[int], parts: Sequence[str]
) -> tuple[Layer, ...]:
    first = Layer.read(reader, f"{name}.0", widths, None, parts, lut=True)
    middle = Layer.read(reader, f"{name}.1", [first.outputs], None, lut=True)
    last = Layer.read(reader, f"{name}.2", [middle.outputs], 2 * width, lut=False)
    return first, middle, last
