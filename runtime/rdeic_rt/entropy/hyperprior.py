"""Entropy model 1: a VQ hyperprior and a space-channel context model, in integer arithmetic.

    indices ─ hyper ─▶ h ──────────────┬──────────────────────────────┐
    earlier slices ─ channel context ─c┤                              │
                                       ├─ anchors ─▶ (σ, μ) ─ coder ─▶ y_hat of the anchors ─ local context ─ l
                                       └─ non-anchors (h, c, l) ─▶ (σ, μ) ─ coder ─▶ y_hat of the slice

Encoder and decoder run the same networks on the same integers, so both get the same σ and μ on every machine; the file
holds only y's rounded distance from μ. docs/format.md, "Entropy coding", is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import stopping
from ..errors import BundleCorruptError
from . import arrays as arrays_module
from .arrays import ArrayReader, Arrays
from .base import Decoded, Encoded
from .coder import (
    MAX_SYMBOL,
    CutSymbolDecoder,
    GaussianTable,
    SymbolDecoder,
    SymbolEncoder,
)
from .evaluator import Evaluator, HostEvaluator
from .layers import WIDE_LIMIT, MatMul, matmul_of_onnxruntime
from .nets import HyperNet, SliceNets
from .order import Slice, groups, scatter, slices_of, squeeze
from .tables import Tables

VERSION: Final = 1
GRID_BITS: Final = 8
"""y_hat and means are multiples of 2**-8."""
Y_LIMIT: Final = (MAX_SYMBOL << GRID_BITS) + WIDE_LIMIT  # under 2**24, so float32 holds y_hat exactly

_Pass = Callable[[Slice, bool, NDArray[np.uint8], NDArray[np.int32]], NDArray[np.int32]]
"""(slice, anchors, scale index [n], means [n]) -> symbols [n], by number in the pass."""


@dataclass(frozen=True)
class Hyperprior:
    """Integer networks and tables; see `base.EntropyModel`. May be used by several threads at once.

    Attributes:
        model_id: 4 bytes that identify it in .rdc files.
        hyper: VQ indices -> hyper parameters.
        slices: the networks of each slice of y, in coding order.
        tables: distributions of symbols and VQ indices.
        matmul: the matrix product of the networks on the CPU.
        elsewhere: evaluates the networks on another device; None for the CPU.
    """

    model_id: bytes
    hyper: HyperNet
    slices: tuple[SliceNets, ...]
    tables: Tables
    matmul: MatMul
    elsewhere: Evaluator | None = None

    @staticmethod
    def load(arrays: Arrays, threads: int | None = None) -> Hyperprior:
        """Return the model in these arrays; arguments and errors as for `entropy.load`."""
        reader = ArrayReader(arrays)
        reader.number("version", VERSION, VERSION)
        widths = reader.take("slices", np.int32, (None,))
        reader.check(widths.min() >= 1, "'slices' has a width under 1")
        tables = Tables.from_arrays(reader)
        hyper = HyperNet.read(reader, tables.indices.n_codes)
        slices = tuple(SliceNets.read(reader, s, hyper.width, Y_LIMIT) for s in slices_of(tuple(widths.tolist())))
        reader.close()
        return Hyperprior(arrays_module.model_id(arrays), hyper, slices, tables, matmul_of_onnxruntime(threads))

    def evaluated_by(self, choose: Callable[[HostEvaluator], Evaluator]) -> Hyperprior:
        """Return the model with its networks evaluated by the chosen evaluator; see `base.EntropyModel`."""
        return replace(self, elsewhere=choose(self._on_host()))

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator of the networks."""
        return self._on_host() if self.elsewhere is None else self.elsewhere

    def _on_host(self) -> HostEvaluator:
        return HostEvaluator(self.hyper, self.slices, self.tables, self.matmul)

    @property
    def y_channels(self) -> int:
        """M, channels of y."""
        return self.slices[-1].slice.stop

    @property
    def position_px(self) -> Mapping[str, int]:
        """Empty: the model codes grids of any resolution."""
        return MappingProxyType({})

    def fixed_bytes(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Return None: the length of section y depends on its contents."""
        return None

    def encode(
        self, tensors: Mapping[str, NDArray[Any]], *, bit_worth: float = 0.0, fixed_size: bool = False
    ) -> Encoded:
        """Return the sections that hold ``y``, float32 [1, M, hy, wy], and ``vq_indices``, int [1, hz, wz].

        Args:
            tensors: both, finite; each index in 0 ... K - 1.
            bit_worth: squared error of y that is traded for a bit: a symbol is the nearest one, or the next towards
                zero where that saves more than it costs (rate-distortion optimised quantisation). 0 uses the nearest.
            fixed_size: not supported, see `fixed_bytes`.

        Raises:
            ValueError: a shape does not fit, y is not finite, an index is out of range, or a fixed size is requested
                (a caller's mistake).
        """
        if fixed_size:
            raise ValueError("this entropy model has no files of a size known beforehand")
        return _encode(self, tensors["y"][0], tensors["vq_indices"][0], bit_worth)

    def decode(
        self, z: bytes, z_is_plain: bool, y: bytes, shapes: Mapping[str, tuple[int, ...]], *, missing_bytes: int = 0
    ) -> Decoded:
        """Return ``y_hat``, identical to the encoder's; see `base.EntropyModel.decode`."""
        shape = shapes["y_hat"]
        scale = self.hyper.scale
        if len(shape) != 4 or shape[1] != self.y_channels or shape[2] % scale or shape[3] % scale:
            raise BundleCorruptError(
                f"the entropy model has {self.y_channels} channels, on a grid that is {scale} times that of its "
                f"indices; the graph that reads y_hat takes {list(shape)}"
            )
        indices = self.tables.indices.decode(bytes(z), z_is_plain, (shape[2] // scale, shape[3] // scale))
        y_hat, complete = _decode_symbols(self, indices, bytes(y), missing_bytes)
        return Decoded({"y_hat": y_hat}, complete, len(self.slices))


def _encode(
    model: Hyperprior, y: NDArray[np.float32], vq_indices: NDArray[np.integer[Any]], bit_worth: float
) -> Encoded:
    """Return the sections of y, float32 [M, hy, wy], and indices [hz, wz]; as `Hyperprior.encode`."""
    expected = (model.y_channels, *(model.hyper.scale * n for n in vq_indices.shape))
    if vq_indices.ndim != 2 or y.shape != expected:
        raise ValueError(
            f"y has shape {list(y.shape)}, should be {list(expected)} for indices {list(vq_indices.shape)}"
        )
    model.tables.indices.check(vq_indices)
    on_grid = _on_grid(y)
    encoder = SymbolEncoder()

    def encode_pass(
        part: Slice, anchors: bool, scale_index: NDArray[np.uint8], means: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        wanted = squeeze(on_grid[..., part.channels], anchors=anchors).ravel()
        nearest = (wanted - means + (1 << GRID_BITS - 1)) >> GRID_BITS
        symbols = np.zeros_like(nearest)
        for index, numbers in groups(scale_index, model.tables.skip_below):
            table, chosen = model.tables.gaussians[index], np.clip(nearest[numbers], -MAX_SYMBOL, MAX_SYMBOL)
            if bit_worth:
                chosen = _cheaper(table, chosen, (wanted - means)[numbers], bit_worth)
            symbols[numbers] = chosen
            encoder.put_group(table, chosen)
        return symbols

    indices = vq_indices.astype(np.int32)
    y_hat = _code_slices(model, indices, encode_pass)
    z, z_is_plain = model.tables.indices.encode(indices)
    return Encoded(z, z_is_plain, encoder.finish(), {"y_hat": y_hat})


def _on_grid(y: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return y, [M, hy, wy], in units of 1/2**GRID_BITS, [hy, wy, M]; row by row, so that large images can stop."""
    on_grid = np.empty((*y.shape[1:], y.shape[0]), np.int32)
    for row, positions in enumerate(y.transpose(1, 2, 0)):
        stopping.go_on()
        if not np.isfinite(positions).all():
            raise ValueError("y has values that are not finite")
        on_grid[row] = np.rint(np.clip(positions, -MAX_SYMBOL, MAX_SYMBOL) * np.float32(1 << GRID_BITS))
    return on_grid


def _cheaper(
    table: GaussianTable, symbols: NDArray[np.int32], wanted: NDArray[np.int32], bit_worth: float
) -> NDArray[np.int32]:
    """Return symbols [n], each unchanged or one closer to zero, whichever has the lower cost of error and bits.

    ``wanted`` is the unrounded value of each symbol, int32 [n], on the grid of y.
    """
    smaller = symbols - np.sign(symbols)

    def cost(candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        error = (wanted - (candidates << GRID_BITS)).astype(np.float32) * np.float32(1 / (1 << GRID_BITS))
        both: NDArray[np.float32] = error * error + np.float32(bit_worth) * table.bits(candidates)
        return both

    return np.where(cost(smaller) < cost(symbols), smaller, symbols).astype(np.int32)


def _decode_symbols(
    model: Hyperprior, vq_indices: NDArray[np.int32], y: bytes, missing_bytes: int
) -> tuple[NDArray[np.float32], int]:
    """Return y_hat of a y section, and how many slices are certain; a truncated section gives means for the others.

    Raises:
        BitstreamError: no encoder writes this section. (Never for a truncated section.)
    """
    section = "y section"
    decoder = CutSymbolDecoder(y, missing_bytes, section) if missing_bytes else SymbolDecoder(y, section)
    complete: set[int] = set()

    def decode_pass(
        part: Slice, anchors: bool, scale_index: NDArray[np.uint8], means: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        symbols = np.zeros_like(means)
        for index, numbers in groups(scale_index, model.tables.skip_below):
            group = decoder.get_group(model.tables.gaussians[index], numbers.size)
            if group is None:
                return symbols
            symbols[numbers] = group
        if isinstance(decoder, CutSymbolDecoder) and not anchors and not decoder.at_end:
            complete.add(part.index)
        return symbols

    y_hat = _code_slices(model, vq_indices, decode_pass)
    if isinstance(decoder, CutSymbolDecoder):
        return y_hat, len(complete)
    decoder.finish()
    return y_hat, len(model.slices)


def _code_slices(model: Hyperprior, vq_indices: NDArray[np.int32], code_pass: _Pass) -> NDArray[np.float32]:
    """Run the networks and ``code_pass`` in coding order; return y_hat, float32 [1, M, hy, wy]."""
    evaluation = model.evaluator.start(vq_indices)
    height, width = (model.hyper.scale * n for n in vq_indices.shape)
    y_grid = np.empty((height, width, model.y_channels), np.int32)
    for nets in model.slices:
        part = nets.slice
        for anchors in (True, False):
            scale_index, means = evaluation.predict(part, anchors=anchors)
            symbols = code_pass(part, anchors, scale_index.ravel(), means.ravel())
            stopping.go_on()
            values = means + (symbols.reshape(means.shape) << GRID_BITS)
            scatter(y_grid[..., part.channels], values, anchors=anchors)
            stopping.go_on()
            evaluation.put(part, values, anchors=anchors)
    y_hat = np.empty((1, model.y_channels, height, width), np.float32)
    for nets in model.slices:
        stopping.go_on()
        channels = nets.slice.channels
        y_hat[0, channels] = y_grid[..., channels].transpose(2, 0, 1)
        y_hat[0, channels] *= np.float32(1 / (1 << GRID_BITS))
    return y_hat
