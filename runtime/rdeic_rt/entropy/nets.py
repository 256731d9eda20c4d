"""The integer hyper and context networks, and the rule that makes them exact.

**The rule.** Activations are uint8, weights int8 with |w| <= 64, sums int32. Each layer then computes, in int64,

    t = (sum over its inputs of acc * mult  +  offset) >> shift          (>> rounds towards minus infinity)

per output channel, and ends in one of three ways: ``lut[clip(t, -512, 511) + 512]`` (uint8), ``clip(t, 0, 255)`` (uint8) or
``clip(t, -2**20, 2**20 - 1)`` (int32, "wide"). Nothing is a float, so the order of sums, the number of threads and the
instruction set cannot change a result. |w| <= 64 because CPUs without VNNI add two u8 x s8 products in 16 bits, which
2 * 255 * 64 cannot overflow. `Layer` refuses weights and multipliers that could leave these ranges.

Padding takes the value that stands for 0 in each channel (``zero``). Arrays are laid out [row, column, channel].

A band of rows is computed at a time, so that memory does not grow with kernel size times picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .arrays import ArrayReader
from .order import Slice, squeeze

Bytes = NDArray[np.uint8]
Wide = NDArray[np.int32]
MatMul = Callable[[NDArray[np.uint8], NDArray[np.int8]], NDArray[np.int32]]
"""(uint8 [m, k], int8 [k, n]) -> int32 [m, n], exact for |w| <= 64; may be called from several threads."""

MAX_WEIGHT: Final = 64
LUT_SIZE: Final = 1024
WIDE_LIMIT: Final = 1 << 20
SLOPE_BITS: Final = 16
_BAND_POSITIONS = 4096  # im2col of a 5x5 layer with 192 channels: 20 MB
_MATMUL_GRAPH = "matmul_u8s8.onnx"


def matmul_of_onnxruntime(threads: int | None = None, optimisation: str = "ORT_DISABLE_ALL") -> MatMul:
    """Return a matrix product that runs on ONNX Runtime (``MatMulInteger``).

    Args:
        threads: of each call; None for one per core.
        optimisation: ONNX Runtime's name of a graph optimisation level; results do not depend on it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, optimisation)
    graph = resources.files(__package__).joinpath(_MATMUL_GRAPH).read_bytes()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def matmul(a: NDArray[np.uint8], b: NDArray[np.int8]) -> NDArray[np.int32]:
        product: NDArray[np.int32] = session.run(None, {"a": a, "b": b})[0]
        return product

    return matmul


@dataclass(frozen=True)
class Input:
    """One input of a layer: its weights, and what brings the sum to the layer's grid.

    Attributes:
        weight: int8 [k * k * channels, outputs]; rows by kernel row, kernel column, channel.
        mult: int64 [outputs].
        kernel: k, odd.
        zero: uint8 [channels], what padding takes; None where k = 1.
    """

    weight: NDArray[np.int8]
    mult: NDArray[np.int64]
    kernel: int
    zero: Bytes | None


@dataclass(frozen=True)
class Layer:
    """A convolution, or a sum of convolutions of several inputs, with its requantisation and its end.

    Attributes:
        inputs: what is convolved.
        offset: int64 [outputs].
        shift: of the sum.
        lut: uint8 [1024], the non-linearity, or None.
    """

    inputs: tuple[Input, ...]
    offset: NDArray[np.int64]
    shift: int
    lut: Bytes | None

    @staticmethod
    def read(
        reader: ArrayReader,
        name: str,
        widths: Sequence[int],
        outputs: int | None,
        parts: Sequence[str] = ("",),
        *,
        lut: bool,
    ) -> Layer:
        """Read a layer from the arrays ``<name>.*``.

        Args:
            reader: the model.
            name: of the layer.
            widths: channels of each input.
            outputs: channels of the output; None to take what is there.
            parts: what follows the layer's name in the names of each input's arrays.
            lut: whether the layer ends in a table.
        """
        inputs = []
        for part, channels in zip(parts, widths, strict=True):
            weight = reader.take(f"{name}{part}.weight", np.int8, (None, None, channels, outputs))
            kernel, outputs = weight.shape[0], weight.shape[3]
            reader.check(
                weight.shape[1] == kernel and kernel in (1, 3, 5), f"'{name}{part}.weight' is no 1x1, 3x3 or 5x5 kernel"
            )
            low, high = int(weight.min()), int(weight.max())
            reader.check(
                -MAX_WEIGHT <= low <= high <= MAX_WEIGHT, f"'{name}{part}.weight' has a value beyond +-{MAX_WEIGHT}"
            )
            mult = reader.take(f"{name}{part}.mult", np.int32, (outputs,)).astype(np.int64)
            zero = reader.take(f"{name}{part}.zero", np.uint8, (channels,)) if kernel > 1 else None
            inputs.append(Input(weight.reshape(-1, outputs), mult, kernel, zero))
        bound = sum(255 * MAX_WEIGHT * i.weight.shape[0] * np.abs(i.mult.astype(np.float64)) for i in inputs)
        reader.check(max(i.weight.shape[0] for i in inputs) < 1 << 17, f"{name!r} has sums of over 2**17 products")
        offset, shift = _read_offset(reader, name, outputs, bound)
        return Layer(tuple(inputs), offset, shift, reader.take(f"{name}.lut", np.uint8, (LUT_SIZE,)) if lut else None)

    def bytes(self, matmul: MatMul, *grids: Bytes, anchors: bool | None = None) -> Bytes:
        """Return the layer's uint8 output [H, W, outputs] of its inputs [H, W, channels].

        Args:
            matmul: the matrix product.
            grids: the inputs.
            anchors: True or False to compute the (non-)anchors only, which gives [H, W/2, outputs].
        """
        return self._run(matmul, grids, anchors, np.uint8, self._to_bytes)

    def wide(self, matmul: MatMul, *grids: Bytes) -> Wide:
        """Return the layer's wide output, int32 [H, W, outputs]."""
        return self._run(matmul, grids, None, np.int32, clip_wide)

    def _to_bytes(self, t: NDArray[np.int64]) -> Bytes:
        if self.lut is None:
            return clip_bytes(t)
        t += LUT_SIZE // 2
        return self.lut.take(t, mode="clip")

    def _run(
        self,
        matmul: MatMul,
        grids: Sequence[Bytes],
        anchors: bool | None,
        dtype: Any,
        finish: Callable[..., NDArray[Any]],
    ) -> NDArray[Any]:
        height, width = grids[0].shape[:2]
        width = width if anchors is None else width // 2
        views = [_windows(grid, part) for grid, part in zip(grids, self.inputs, strict=True)]
        out = np.empty((height, width, self.offset.size), dtype)
        for rows in _bands(height, width):
            t: NDArray[np.int64] | None = None
            for view, part in zip(views, self.inputs, strict=True):
                band = view[rows] if anchors is None else squeeze(view[rows], anchors=anchors)
                product = matmul(np.ascontiguousarray(band).reshape(-1, part.weight.shape[0]), part.weight)
                scaled = np.multiply(product, part.mult, dtype=np.int64)
                t = scaled if t is None else np.add(t, scaled, out=t)
            assert t is not None
            t += self.offset
            t >>= self.shift
            out[rows] = finish(t).reshape(-1, width, self.offset.size)
        return out


@dataclass(frozen=True)
class Rescale:
    """Wide to uint8, per channel: clip((v * mult + offset) >> shift, 0, 255)."""

    mult: NDArray[np.int64]
    offset: NDArray[np.int64]
    shift: int

    @staticmethod
    def read(reader: ArrayReader, name: str, channels: int, value_limit: int) -> Rescale:
        """Read the arrays ``<name>.*`` for values of magnitude <= value_limit."""
        mult = reader.take(f"{name}.mult", np.int32, (channels,)).astype(np.int64)
        offset, shift = _read_offset(reader, name, channels, value_limit * np.abs(mult.astype(np.float64)))
        return Rescale(mult, offset, shift)

    def __call__(self, values: Wide) -> Bytes:
        """Return uint8 of the shape of ``values``, int32 [..., channels]."""
        t = np.multiply(values, self.mult, dtype=np.int64)
        t += self.offset
        t >>= self.shift
        return clip_bytes(t)


@dataclass(frozen=True)
class HyperBlock:
    """first ─ (shuffle) ─ second ─ leaky ─┐; the input ─ skip ─ (shuffle) ─ + ─ out. Shuffles if it doubles the grid."""

    doubles: bool
    first: Layer
    second: Layer
    slope: int
    skip: Layer
    out: Rescale

    @staticmethod
    def read(reader: ArrayReader, name: str, channels: int, doubles: bool) -> HyperBlock:
        """Read the arrays ``<name>.*`` of a block with so many input channels."""
        first = Layer.read(reader, f"{name}.first", [channels], None, lut=True)
        hidden = first.offset.size // 4 if doubles else first.offset.size
        second = Layer.read(reader, f"{name}.second", [hidden], None, lut=False)
        outputs = second.offset.size
        reader.check(
            first.offset.size == (4 * outputs if doubles else hidden), f"'{name}.first.weight' has a wrong width"
        )
        skip = Layer.read(reader, f"{name}.skip", [channels], 4 * outputs if doubles else outputs, lut=False)
        slope = reader.number(f"{name}.slope", 0, 1 << SLOPE_BITS)
        return HyperBlock(
            doubles, first, second, slope, skip, Rescale.read(reader, f"{name}.out", outputs, 2 * WIDE_LIMIT)
        )

    def __call__(self, matmul: MatMul, x: Bytes) -> Bytes:
        """Return the block's output, uint8 [H, W, outputs] or [2H, 2W, outputs], of x, uint8 [H, W, channels]."""
        shuffle = pixel_shuffle if self.doubles else _unchanged
        hidden = shuffle(self.first.bytes(matmul, x))
        return self.out(leaky(self.second.wide(matmul, hidden), self.slope) + shuffle(self.skip.wide(matmul, x)))


@dataclass(frozen=True)
class HyperNet:
    """VQ indices -> hyper parameters of y (h_s of RDEIC, section 3.1).

    Attributes:
        codebook: uint8 [K, N], the code vectors.
        blocks: in order; two of them double the grid.
    """

    codebook: Bytes
    blocks: tuple[HyperBlock, ...]

    @staticmethod
    def read(reader: ArrayReader, codes: int) -> HyperNet:
        """Read ``codebook`` and ``hyper.*``."""
        codebook = reader.take("codebook", np.uint8, (codes, None))
        doubles = reader.take("hyper.doubles", np.uint8, (None,)).tolist()
        reader.check(
            sorted(doubles)[-2:] == [1, 1] and sum(doubles) == 2, "'hyper.doubles' must have two ones, else zeros"
        )
        blocks: list[HyperBlock] = []
        channels = codebook.shape[1]
        for index, double in enumerate(doubles):
            blocks.append(HyperBlock.read(reader, f"hyper.{index}", channels, bool(double)))
            channels = blocks[-1].second.offset.size
        return HyperNet(codebook, tuple(blocks))

    @property
    def width(self) -> int:
        """Channels of the output."""
        return self.blocks[-1].second.offset.size

    def __call__(self, matmul: MatMul, vq_indices: NDArray[np.int32]) -> Bytes:
        """Return the hyper parameters, uint8 [4 hz, 4 wz, width], of indices [hz, wz], each in 0 ... K - 1."""
        x = self.codebook[vq_indices]
        for block in self.blocks:
            x = block(matmul, x)
        return x


@dataclass(frozen=True)
class SliceNets:
    """The networks that predict one slice (channel and local context, entropy parameters).

    Attributes:
        quantise: y_hat of the slice -> uint8, for the contexts of this and later slices.
        zero: uint8 [width], what 0 becomes there.
        channel: from the slices before; empty for the first.
        local: from this slice's anchors.
        anchor, nonanchor: entropy parameters of the two passes, (hyper[, channel]) and (hyper[, channel], local).
    """

    slice: Slice
    quantise: Rescale
    zero: Bytes
    channel: tuple[Layer, ...]
    local: Layer
    anchor: tuple[Layer, ...]
    nonanchor: tuple[Layer, ...]

    @staticmethod
    def read(reader: ArrayReader, part: Slice, hyper_width: int, y_limit: int) -> SliceNets:
        """Read ``y.<i>``, ``channel.<i>``, ``local.<i>``, ``anchor.<i>`` and ``nonanchor.<i>``."""
        i = part.index
        channel = tuple(_chain(reader, f"channel.{i}", part.start, lut_at_end=False)) if i else ()
        local = Layer.read(reader, f"local.{i}", [part.width], None, lut=False)
        widths, parts = [hyper_width], [".hyper"]
        if channel:
            widths, parts = [*widths, channel[-1].offset.size], [*parts, ".channel"]
        anchor = _parameters(reader, f"anchor.{i}", part.width, widths, parts)
        widths, parts = [*widths, local.offset.size], [*parts, ".local"]
        nonanchor = _parameters(reader, f"nonanchor.{i}", part.width, widths, parts)
        return SliceNets(
            slice=part,
            quantise=Rescale.read(reader, f"y.{i}", part.width, y_limit),
            zero=reader.take(f"y.{i}.zero", np.uint8, (part.width,)),
            channel=channel,
            local=local,
            anchor=anchor,
            nonanchor=nonanchor,
        )

    def channel_context(self, matmul: MatMul, y_bytes: Bytes) -> Bytes | None:
        """Return the context from earlier slices, uint8 [H, W, n], or None for the first; y_bytes is uint8 [H, W, M]."""
        if not self.channel:
            return None
        x = y_bytes[..., : self.slice.start]
        for layer in self.channel:
            x = layer.bytes(matmul, x)
        return x

    def local_context(self, matmul: MatMul, y_bytes: Bytes) -> Bytes:
        """Return the context from this slice's anchors at the non-anchors, uint8 [H, W/2, n]."""
        return self.local.bytes(matmul, y_bytes[..., self.slice.channels], anchors=False)

    def parameters(self, matmul: MatMul, contexts: Sequence[Bytes], *, anchors: bool) -> tuple[Wide, Wide]:
        """Return (scales, means) of a pass, int32 [H, W/2, width] each, of its contexts, uint8 [H, W/2, n] each."""
        first, middle, last = self.anchor if anchors else self.nonanchor
        both = last.wide(matmul, middle.bytes(matmul, first.bytes(matmul, *contexts)))
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


def clip_bytes(t: NDArray[np.int64]) -> Bytes:
    """Return t as uint8, values outside 0 ... 255 at the nearer end."""
    return np.clip(t, 0, 255, out=t).astype(np.uint8)


def clip_wide(t: NDArray[np.int64]) -> Wide:
    """Return t as int32, values outside -2**20 ... 2**20 - 1 at the nearer end."""
    return np.clip(t, -WIDE_LIMIT, WIDE_LIMIT - 1, out=t).astype(np.int32)


def _unchanged(x: NDArray[Any]) -> NDArray[Any]:
    return x


def _chain(reader: ArrayReader, name: str, channels: int, *, lut_at_end: bool) -> Iterator[Layer]:
    for index in range(3):
        layer = Layer.read(reader, f"{name}.{index}", [channels], None, lut=index < 2 or lut_at_end)
        channels = layer.offset.size
        yield layer


def _parameters(
    reader: ArrayReader, name: str, width: int, widths: Sequence[int], parts: Sequence[str]
) -> tuple[Layer, ...]:
    first = Layer.read(reader, f"{name}.0", widths, None, parts, lut=True)
    middle = Layer.read(reader, f"{name}.1", [first.offset.size], None, lut=True)
    last = Layer.read(reader, f"{name}.2", [middle.offset.size], 2 * width, lut=False)
    return first, middle, last


def _read_offset(
    reader: ArrayReader, name: str, outputs: int | None, bound: NDArray[np.float64] | float
) -> tuple[NDArray[np.int64], int]:
    """Read offset and shift, given the largest magnitude of what the offset is added to."""
    offset = reader.take(f"{name}.offset", np.int64, (outputs,))
    shift = reader.number(f"{name}.shift", 0, 62)
    largest = float(np.max(bound + np.abs(offset.astype(np.float64))))
    reader.check(largest < 2.0**62, f"'{name}' could exceed 64 bits")
    return offset, shift


def _windows(grid: Bytes, part: Input) -> NDArray[np.uint8]:
    """Return a read-only view [H, W, k * channels * k]... of the k x k neighbourhood of every position."""
    if part.zero is None:
        return grid
    height, width, channels = grid.shape
    kernel, margin = part.kernel, part.kernel // 2
    padded = np.empty((height + 2 * margin, width + 2 * margin, channels), np.uint8)
    padded[:] = part.zero
    padded[margin : margin + height, margin : margin + width] = grid
    row, column, _ = padded.strides
    # A kernel row of a position, k * channels bytes, lies in one piece.
    return as_strided(padded, (height, width, kernel, kernel * channels), (row, column, row, 1), writeable=False)


def _bands(height: int, width: int) -> Iterator[slice]:
    """Yield slices of an even number of rows (but for the last) with about `_BAND_POSITIONS` positions each."""
    rows = max(2, _BAND_POSITIONS // width // 2 * 2)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))
