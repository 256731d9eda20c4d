"""Integer layers, and the rule that makes them exact.

**The rule.** A tensor holds x, 0 <= x <= 65535, and its high byte h = x >> 8. An input of a layer is coarse, with
weights u, or fine, with weights u and v; |u|, |v| <= 64. A layer computes, per output channel and in 64-bit integers,

    acc = sum of h * u                           (coarse)
    acc = sum of 128 * x * u + 256 * h * v       (fine: nearly x times the 14-bit weight 128 * u + v)
    t   = (sum over its inputs of acc * mult  +  offset) >> shift          (>> rounds towards minus infinity)

and ends in one of three ways: ``lut[clip(t, -2048, 2047) + 2048]``, ``clip(t, 0, 65535)``, both tensors, or
``clip(t, -2**20, 2**20 - 1)`` (int32, "wide"). Nothing is a float, so the order of sums, the number of threads and the
instruction set cannot change a result.

Sums are made of products of a byte and a weight, which a `MatMul` adds up in 32 bits. |u|, |v| <= 64 because CPUs
without VNNI add two such products in 16 bits, which 2 * 255 * 64 cannot overflow. Weights and multipliers that could
leave these ranges are refused. Padding takes the value that stands for 0 in each channel (``zero``). Arrays are laid
out [row, column, channel]. A band of rows is computed at a time, so that memory does not grow with kernel size times
image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .. import address_space, stopping
from ..errors import BackendError, DeviceMemoryError
from .arrays import ArrayReader
from .order import squeeze

Levels = NDArray[np.uint16]
Wide = NDArray[np.int32]
MatMul = Callable[[NDArray[np.uint8], NDArray[np.int8]], NDArray[np.int32]]
"""(uint8 [m, k], int8 [k, n]) -> int32 [m, n], exact for |w| <= 64; may be called from several threads."""

MAX_WEIGHT: Final = 64
MAX_LEVEL: Final = 65_535
FINE_HIGH: Final = 128
"""What a weight u counts for beside v in a fine input."""
LUT_SIZE: Final = 4096
WIDE_LIMIT: Final = 1 << 20
_BAND_ELEMENTS = 1 << 18  # of t and of the matrix product's input: 2 MB, which stays in the cache
_MATMUL_GRAPH = "matmul_u8s8.onnx"


def matmul_of_onnxruntime(threads: int | None = None, optimisation: str = "ORT_DISABLE_ALL") -> MatMul:
    """Return a matrix product that runs on ONNX Runtime (``MatMulInteger``).

    Args:
        threads: of each call; None for one per core.
        optimisation: ONNX Runtime's name of a graph optimisation level; results do not depend on it.

    Raises:
        BackendError: it cannot be loaded; from a call, that it failed. DeviceMemoryError: for lack of memory.
    """
    from ..onnx_runtime import FAILED, Session, ort, useful_threads

    options = ort.SessionOptions()
    options.intra_op_num_threads = useful_threads(threads)
    # Products are short and many: threads that wait by spinning double the time where another program wants the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, optimisation)
    graph = resources.files(__package__).joinpath(_MATMUL_GRAPH).read_bytes()

    def failed(error: Exception) -> BackendError:
        kind = DeviceMemoryError if address_space.is_shortage(error) else BackendError
        return kind(f"ONNX Runtime {ort.__version__}, integer matrix products: {error}")

    try:
        session = Session(graph, options, providers=["CPUExecutionProvider"])
    except FAILED as error:
        raise failed(error) from None

    def matmul(a: NDArray[np.uint8], b: NDArray[np.int8]) -> NDArray[np.int32]:
        try:
            product: NDArray[np.int32] = session.run(None, {"a": a, "b": b})[0]
        except FAILED as error:
            raise failed(error) from None
        return product

    return matmul


@dataclass(frozen=True)
class Input:
    """One input of a layer: its weights, and what brings the sum to the layer's grid.

    Attributes:
        high: int8 [k * k * channels, outputs], u; rows by kernel row, kernel column, channel.
        both: int8 [k * k * channels, 2 * outputs], u beside v, of a fine input; None if it is coarse.
        mult: int64 [outputs].
        kernel: k, odd.
        zero: uint16 [channels], what padding takes; None where k = 1.
    """

    high: NDArray[np.int8]
    both: NDArray[np.int8] | None
    mult: NDArray[np.int64]
    kernel: int
    zero: Levels | None

    @staticmethod
    def read(reader: ArrayReader, name: str, channels: int, outputs: int | None) -> Input:
        """Read the arrays ``<name>.weight``, ``.weight_low``, ``.mult`` and ``.zero``; outputs None takes any."""
        weight = reader.take(f"{name}.weight", np.int8, (None, None, channels, outputs))
        kernel, width, _, outputs = weight.shape
        reader.check(kernel == width and kernel in (1, 3, 5), f"'{name}.weight' is no kernel of 1x1, 3x3 or 5x5")
        parts = [weight]
        if f"{name}.weight_low" in reader:
            parts.append(reader.take(f"{name}.weight_low", np.int8, weight.shape))
        for part in parts:
            fits = -MAX_WEIGHT <= int(part.min()) and int(part.max()) <= MAX_WEIGHT
            reader.check(fits, f"'{name}.weight' or its low part has a value beyond +-{MAX_WEIGHT}")
        reader.check(weight.size // outputs < 1 << 17, f"{name!r} sums over 2**17 products")
        rows = [part.reshape(-1, outputs) for part in parts]
        mult = reader.take(f"{name}.mult", np.int32, (outputs,)).astype(np.int64)
        zero = reader.take(f"{name}.zero", np.uint16, (channels,)) if kernel > 1 else None
        return Input(rows[0], np.concatenate(rows, axis=1) if len(rows) == 2 else None, mult, kernel, zero)

    def bound(self) -> NDArray[np.float64]:
        """Return the largest magnitude of acc * mult, by output."""
        largest = MAX_LEVEL * (FINE_HIGH + 1) if self.both is not None else MAX_LEVEL >> 8
        return float(largest * MAX_WEIGHT * self.high.shape[0]) * np.abs(self.mult.astype(np.float64))

    def windows(self, grid: Levels) -> list[NDArray[np.uint8]]:
        """Return views [H, W, ...] of every position's neighbourhood in the high byte and, if fine, the low byte."""
        planes = [(grid >> 8).astype(np.uint8)]
        zeros = [None if self.zero is None else (self.zero >> 8).astype(np.uint8)]
        if self.both is not None:
            planes.append(grid.astype(np.uint8))
            zeros.append(None if self.zero is None else self.zero.astype(np.uint8))
        return [_windows(plane, zero, self.kernel) for plane, zero in zip(planes, zeros, strict=True)]

    def scaled_sum(self, matmul: MatMul, bands: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Return acc * mult, int64 [n, outputs], of a band of `windows`."""
        rows = [np.ascontiguousarray(band).reshape(-1, self.high.shape[0]) for band in bands]
        if self.both is None:
            return np.multiply(matmul(rows[0], self.high), self.mult, dtype=np.int64)
        outputs = self.mult.size
        of_high = matmul(rows[0], self.both)
        total = np.multiply(of_high[:, :outputs], self.mult * (256 * FINE_HIGH), dtype=np.int64)
        total += np.multiply(of_high[:, outputs:], self.mult * 256, dtype=np.int64)
        total += np.multiply(matmul(rows[1], self.high), self.mult * FINE_HIGH, dtype=np.int64)
        return total


@dataclass(frozen=True)
class Layer:
    """A convolution, or a sum of convolutions of several inputs, with its requantisation and its end.

    Attributes:
        inputs: what is convolved.
        offset: int64 [outputs].
        shift: of the sum.
        lut: uint16 [4096], the non-linearity, or None.
    """

    inputs: tuple[Input, ...]
    offset: NDArray[np.int64]
    shift: int
    lut: Levels | None

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
        inputs: list[Input] = []
        for part, channels in zip(parts, widths, strict=True):
            inputs.append(Input.read(reader, name + part, channels, outputs))
            outputs = inputs[-1].mult.size
        offset, shift = _read_offset(reader, name, outputs, sum(i.bound() for i in inputs))
        table = reader.take(f"{name}.lut", np.uint16, (LUT_SIZE,)) if lut else None
        return Layer(tuple(inputs), offset, shift, table)

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self.offset.size

    def levels(self, matmul: MatMul, *grids: Levels, anchors: bool | None = None) -> Levels:
        """Return the layer's output as a tensor, uint16 [H, W, outputs], of its inputs [H, W, channels].

        Args:
            matmul: the matrix product.
            grids: the inputs.
            anchors: True or False to compute the (non-)anchors only, which gives [H, W/2, outputs].
        """
        finish = clip_levels if self.lut is None else self._look_up
        return self._run(matmul, grids, anchors, np.uint16, finish)

    def wide(self, matmul: MatMul, *grids: Levels) -> Wide:
        """Return the layer's wide output, int32 [H, W, outputs]."""
        return self._run(matmul, grids, None, np.int32, clip_wide)

    def _look_up(self, t: NDArray[np.int64]) -> Levels:
        assert self.lut is not None
        t += LUT_SIZE // 2
        return self.lut.take(t, mode="clip")

    def _run(
        self,
        matmul: MatMul,
        grids: Sequence[Levels],
        anchors: bool | None,
        dtype: Any,
        finish: Callable[[NDArray[np.int64]], NDArray[Any]],
    ) -> NDArray[Any]:
        height, width = grids[0].shape[:2]
        width = width if anchors is None else width // 2
        views = [part.windows(grid) for grid, part in zip(grids, self.inputs, strict=True)]
        out = np.empty((height, width, self.outputs), dtype)
        widest = max(self.outputs, *(part.high.shape[0] // 8 for part in self.inputs))
        for rows in bands(height, width * widest):
            t = np.empty(0, np.int64)
            for planes, part in zip(views, self.inputs, strict=True):
                band = [v[rows] if anchors is None else squeeze(v[rows], anchors=anchors) for v in planes]
                scaled = part.scaled_sum(matmul, band)
                t = scaled if part is self.inputs[0] else np.add(t, scaled, out=t)
            t += self.offset
            t >>= self.shift
            out[rows] = finish(t).reshape(-1, width, self.outputs)
        return out


@dataclass(frozen=True)
class Requantize:
    """Wide to tensor, per channel: clip((v * mult + offset) >> shift, 0, 65535)."""

    mult: NDArray[np.int64]
    offset: NDArray[np.int64]
    shift: int

    @staticmethod
    def read(reader: ArrayReader, name: str, channels: int, value_limit: int) -> Requantize:
        """Read the arrays ``<name>.*`` for values of magnitude <= value_limit."""
        mult = reader.take(f"{name}.mult", np.int32, (channels,)).astype(np.int64)
        offset, shift = _read_offset(reader, name, channels, value_limit * np.abs(mult.astype(np.float64)))
        return Requantize(mult, offset, shift)

    def __call__(self, values: Wide) -> Levels:
        """Return uint16 of the shape of ``values``, int32 [..., channels]."""
        t = np.multiply(values, self.mult, dtype=np.int64)
        t += self.offset
        t >>= self.shift
        return clip_levels(t)


def clip_levels(t: NDArray[np.int64]) -> Levels:
    """Return t as uint16, values outside 0 ... 65535 at the nearer end."""
    return np.clip(t, 0, MAX_LEVEL, out=t).astype(np.uint16)


def clip_wide(t: NDArray[np.int64]) -> Wide:
    """Return t as int32, values outside -2**20 ... 2**20 - 1 at the nearer end."""
    return np.clip(t, -WIDE_LIMIT, WIDE_LIMIT - 1, out=t).astype(np.int32)


def _read_offset(
    reader: ArrayReader, name: str, outputs: int | None, bound: NDArray[np.float64] | float
) -> tuple[NDArray[np.int64], int]:
    """Read offset and shift, given the largest magnitude of what the offset is added to."""
    offset = reader.take(f"{name}.offset", np.int64, (outputs,))
    shift = reader.number(f"{name}.shift", 0, 62)
    largest = float(np.max(bound + np.abs(offset.astype(np.float64))))
    reader.check(largest < 2.0**62, f"'{name}' could exceed 64 bits")
    return offset, shift


def _windows(plane: NDArray[np.uint8], zero: NDArray[np.uint8] | None, kernel: int) -> NDArray[np.uint8]:
    """Return a view [H, W, k, k * channels] of the neighbourhoods of a plane [H, W, channels]; itself where k = 1."""
    if zero is None:
        return plane
    height, width, channels = plane.shape
    margin = kernel // 2
    padded = np.empty((height + 2 * margin, width + 2 * margin, channels), np.uint8)
    padded[:] = zero
    padded[margin : margin + height, margin : margin + width] = plane
    row, column, _ = padded.strides
    # The channels of one kernel row lie side by side.
    return as_strided(padded, (height, width, kernel, kernel * channels), (row, column, row, 1), writeable=False)


def bands(height: int, row_elements: int) -> Iterator[slice]:
    """Yield slices of an even number of rows each (but for the last), of about `_BAND_ELEMENTS` elements.

    Before each it is asked whether to go on.
    """
    rows = max(2, _BAND_ELEMENTS // row_elements // 2 * 2)
    for start in range(0, height, rows):
        stopping.go_on()
        yield slice(start, min(start + rows, height))
