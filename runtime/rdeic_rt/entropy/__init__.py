"""Exact entropy coding of y and the VQ indices: the loop over slices and passes. Integers only inside.

    indices ─ hyper ─▶ h ──────────────┬──────────────────────────────┐
    slices before ─ channel context ─ c┤                              │
                                       ├─ anchors ─▶ (σ, μ) ─ coder ─▶ y_hat of the anchors ─ local context ─ l
                                       └─ non-anchors (h, c, l) ─▶ (σ, μ) ─ coder ─▶ y_hat of the slice

Encoder and decoder run the same networks on the same integers, so both see the same σ and μ, on every machine; what is
in the file is only y's rounded distance from μ. docs/format.md, "Entropy coding", is the specification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import BitstreamError
from .coder import (
    MAX_SYMBOL,
    CutSymbolDecoder,
    GaussianTable,
    SymbolDecoder,
    SymbolEncoder,
    pack_fixed,
    unpack_fixed,
)
from .model import GRID_BITS, EntropyModel
from .order import Slice, groups, scatter, squeeze

__all__ = ["CutLatents", "EncodedLatents", "EntropyModel", "decode_cut_latents", "decode_latents", "encode_latents"]

_Pass = Callable[[Slice, bool, NDArray[np.uint8], NDArray[np.int32]], NDArray[np.int32]]
"""(slice, anchors, scale index [n], means [n]) -> symbols [n], by number in the pass."""


@dataclass(frozen=True)
class EncodedLatents:
    """The two sections of a file, and what the decoder will make of them.

    Attributes:
        z: VQ indices.
        z_is_plain: whether they are of fixed width, not coded with the prior.
        y: symbols of y.
        y_hat: float32 [1, M, hy, wy].
    """

    z: bytes
    z_is_plain: bool
    y: bytes
    y_hat: NDArray[np.float32]


@dataclass(frozen=True)
class CutLatents:
    """What a y section that has lost its end decodes to.

    Attributes:
        y_hat: float32 [1, M, hy, wy]; values whose symbol is lost are at their mean.
        complete_slices: how many slices are as in the whole file, from the first on.
    """

    y_hat: NDArray[np.float32]
    complete_slices: int


def encode_latents(
    model: EntropyModel, y: NDArray[np.float32], vq_indices: NDArray[np.integer], *, bit_worth: float = 0.0
) -> EncodedLatents:
    """Return the sections that hold y and the VQ indices.

    Args:
        model: of the rate.
        y: float32 [M, hy, wy], finite; hy = 4 hz and wy = 4 wz.
        vq_indices: int [hz, wz], each in 0 ... K - 1.
        bit_worth: how much squared error of y a bit is worth: a symbol is the nearest one, or the next towards zero
            where that saves more than it costs (rate-distortion optimised quantisation). 0 takes the nearest.

    Raises:
        ValueError: a shape does not fit, y is not finite or an index is out of range (a caller's mistake).
    """
    expected = (model.y_channels, *(4 * n for n in vq_indices.shape))
    if vq_indices.ndim != 2 or y.shape != expected:
        raise ValueError(
            f"y has shape {list(y.shape)}, should be {list(expected)} for indices {list(vq_indices.shape)}"
        )
    n_codes = model.tables.prior.size
    if vq_indices.min() < 0 or vq_indices.max() >= n_codes:
        raise ValueError(
            f"VQ indices reach from {vq_indices.min()} to {vq_indices.max()}, should be 0 to {n_codes - 1}"
        )
    if not np.isfinite(y).all():
        raise ValueError("y has values that are not finite")
    on_grid = np.rint(np.clip(y.transpose(1, 2, 0), -MAX_SYMBOL, MAX_SYMBOL) * np.float32(1 << GRID_BITS)).astype(
        np.int32
    )
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
    z, z_is_plain = _encode_indices(model, indices)
    return EncodedLatents(z, z_is_plain, encoder.finish(), y_hat)


def _cheaper(
    table: GaussianTable, symbols: NDArray[np.int32], wanted: NDArray[np.int32], bit_worth: float
) -> NDArray[np.int32]:
    """Return symbols [n], each as it is or one nearer to zero, whichever costs less in error and bits together.

    ``wanted`` is what the symbols stand for, int32 [n], on the grid of y.
    """
    smaller = symbols - np.sign(symbols)

    def cost(candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        error = (wanted - (candidates << GRID_BITS)).astype(np.float32) * np.float32(1 / (1 << GRID_BITS))
        both: NDArray[np.float32] = error * error + np.float32(bit_worth) * table.bits(candidates)
        return both

    return np.where(cost(smaller) < cost(symbols), smaller, symbols).astype(np.int32)


def decode_latents(
    model: EntropyModel, z: bytes, z_is_plain: bool, y: bytes, z_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return y_hat, float32 [1, M, 4 hz, 4 wz], exactly as the encoder had it.

    Args:
        model: of the rate; the caller has compared its id with the file's.
        z, z_is_plain, y: the file's sections and flag.
        z_size: (hz, wz), rows and columns of VQ indices.

    Raises:
        BitstreamError: the sections are not what an encoder writes for any y and indices of this size.
    """
    indices = _decode_indices(model, bytes(z), z_is_plain, z_size)
    decoder = SymbolDecoder(bytes(y), "y section")

    def decode_pass(
        part: Slice, anchors: bool, scale_index: NDArray[np.uint8], means: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        symbols = np.zeros_like(means)
        for index, numbers in groups(scale_index, model.tables.skip_below):
            symbols[numbers] = decoder.get_group(model.tables.gaussians[index], numbers.size)
        return symbols

    y_hat = _code_slices(model, indices, decode_pass)
    decoder.finish()
    return y_hat


def decode_cut_latents(
    model: EntropyModel, z: bytes, z_is_plain: bool, y: bytes, missing_bytes: int, z_size: tuple[int, int]
) -> CutLatents:
    """Return y_hat of a y section that has lost its last bytes: groups that are certain, and means for all others.

    Args:
        model, z, z_is_plain, z_size: as for `decode_latents`.
        y: what is left of the section.
        missing_bytes: how many bytes it has lost, 1 or more.

    Raises:
        BitstreamError: z is not what an encoder writes. (Of a y section that has no end, nothing is wrong for certain.)
    """
    indices = _decode_indices(model, bytes(z), z_is_plain, z_size)
    decoder = CutSymbolDecoder(bytes(y), missing_bytes, "y section")
    complete: set[int] = set()

    def decode_pass(
        part: Slice, anchors: bool, scale_index: NDArray[np.uint8], means: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        symbols = np.zeros_like(means)
        for index, numbers in groups(scale_index, model.tables.skip_below):
            group = decoder.get_group(model.tables.gaussians[index], numbers.size)
            if group is None:
                break
            symbols[numbers] = group
        if not anchors and not decoder.at_end:
            complete.add(part.index)
        return symbols

    y_hat = _code_slices(model, indices, decode_pass)
    return CutLatents(y_hat, len(complete))


def _code_slices(model: EntropyModel, vq_indices: NDArray[np.int32], code_pass: _Pass) -> NDArray[np.float32]:
    """Run the networks and ``code_pass`` in coding order; return y_hat, float32 [1, M, hy, wy]."""
    matmul = model.matmul
    hyper = model.hyper(matmul, vq_indices)
    hyper_of = {anchors: squeeze(hyper, anchors=anchors) for anchors in (True, False)}
    height, width = hyper.shape[:2]
    y_grid = np.empty((height, width, model.y_channels), np.int32)
    y_levels = np.empty(y_grid.shape, np.uint16)
    for nets in model.slices:
        part = nets.slice
        y_levels[..., part.channels] = nets.zero
        channel = nets.channel_context(matmul, y_levels)
        for anchors in (True, False):
            contexts = [hyper_of[anchors]]
            if channel is not None:
                contexts.append(squeeze(channel, anchors=anchors))
            if not anchors:
                contexts.append(nets.local_context(matmul, y_levels))
            scales, means = nets.parameters(matmul, contexts, anchors=anchors)
            symbols = code_pass(part, anchors, model.tables.scale_index(scales.ravel()), means.ravel())
            values = means + (symbols.reshape(means.shape) << GRID_BITS)
            scatter(y_grid[..., part.channels], values, anchors=anchors)
            scatter(y_levels[..., part.channels], nets.quantise(values), anchors=anchors)
    y_hat = y_grid.transpose(2, 0, 1)[None].astype(np.float32)
    y_hat *= np.float32(1 / (1 << GRID_BITS))
    return y_hat


def _encode_indices(model: EntropyModel, vq_indices: NDArray[np.int32]) -> tuple[bytes, bool]:
    """Return (section, is plain), the shorter of the two codings; plain where they are equal."""
    flat = vq_indices.ravel()
    plain = pack_fixed(flat, model.tables.plain_bits)
    encoder = SymbolEncoder()
    encoder.put(model.tables.prior, flat)
    coded = encoder.finish()
    return (plain, True) if len(plain) <= len(coded) else (coded, False)


def _decode_indices(model: EntropyModel, z: bytes, is_plain: bool, z_size: tuple[int, int]) -> NDArray[np.int32]:
    """Return the VQ indices, int32 of shape ``z_size``; BitstreamError if z is not their section."""
    n_codes, count = model.tables.prior.size, z_size[0] * z_size[1]
    if is_plain:
        flat = unpack_fixed(z, count, model.tables.plain_bits, "z section")
        if flat.max() >= n_codes:
            raise BitstreamError(f"z section: index {flat.max()}, but the model has {n_codes} code vectors")
    else:
        decoder = SymbolDecoder(z, "z section")
        flat = decoder.get(model.tables.prior, count)
        decoder.finish()
    return flat.reshape(z_size)
