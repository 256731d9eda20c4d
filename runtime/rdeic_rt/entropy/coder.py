"""Range coding of integer symbols, on the library constriction or, where there is none, on `range_coder`.

A section is the shortest string of bytes inside the coder's final interval (docs/format.md, "Range coder"): both
coders return a value in the interval, `_shortest` chooses the one with the most trailing zeros, and trailing zero bytes
are omitted. There is exactly one section for given symbols. `SymbolDecoder.finish` re-encodes the decoded symbols and
compares, so surplus or non-canonical bytes are detected, not only bytes that no symbol fits. Missing bytes read as
zeros and give other symbols, which the file's checksum detects.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import stopping
from ..errors import BitstreamError
from .range_coder import NoSymbolError

PRECISION_BITS: Final = 24
TOTAL_MASS: Final = 1 << PRECISION_BITS
MAX_SYMBOL: Final = 32_767
"""Largest magnitude of a symbol; an encoder clips to it. With it y_hat is exact in float32."""

# An escape is coded as 2 * n + sign, n = floor(log2(excess)), in this alphabet, then the n low bits of the excess.
_ESCAPE_SIZES: Final = 32
_POWERS: Final = np.left_shift(1, np.arange(1, 16), dtype=np.int64)  # 2, 4, 8 ...: how many are <= x is floor(log2(x))
_STATE_BYTES: Final = 8
_PIECE: Final = 1 << 15
"""Symbols that are coded between checks for cancellation: a few hundredths of a second in Python."""


@cache
def implementation() -> ModuleType:
    """Return `constriction_coder`, or `range_coder` where constriction cannot be imported; both give the same bytes."""
    try:
        from . import constriction_coder
    except ImportError:
        from . import range_coder

        return range_coder
    return constriction_coder


class Distribution:
    """A fixed distribution over ``n`` symbols, given by 24-bit masses.

    Args:
        masses: int [n], n >= 2, each >= 1, of sum 2**24 (`ValueError` otherwise).
    """

    def __init__(self, masses: NDArray[np.integer[Any]]) -> None:
        if masses.ndim != 1 or masses.size < 2 or masses.min() < 1 or int(masses.sum(dtype=np.int64)) != TOTAL_MASS:
            raise ValueError(f"masses must be two or more positive integers of sum {TOTAL_MASS}")
        self.size = masses.size
        self.model = implementation().Model(masses)


class GaussianTable:
    """The distribution of symbols of one scale: -radius ... radius, then an escape for all others.

    Args:
        masses: int [2 * radius + 2], see `Distribution`; the last is the escape's.
    """

    def __init__(self, masses: NDArray[np.integer[Any]]) -> None:
        if masses.ndim != 1 or masses.size < 4 or masses.size % 2 or masses.size > 2 * MAX_SYMBOL:
            raise ValueError(f"a table has an even number of masses, 4 to {2 * MAX_SYMBOL}, not shape {masses.shape}")
        self.radius = masses.size // 2 - 1
        self.bins = Distribution(masses)
        self._bits = np.float32(PRECISION_BITS) - np.log2(masses.astype(np.float32))

    def bits(self, symbols: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the approximate number of bits per symbol, float32 [n]; for an escape, that of its bin."""
        magnitudes = np.minimum(np.abs(symbols), self.radius + 1)
        bins = np.where(magnitudes > self.radius, 2 * self.radius + 1, symbols + self.radius)
        taken: NDArray[np.float32] = self._bits[bins]
        return taken


class SymbolEncoder:
    """Writes symbols to one section; `finish` returns it."""

    def __init__(self) -> None:
        self._coder = implementation().Encoder()

    def put(self, distribution: Distribution, symbols: NDArray[np.int32]) -> None:
        """Encode symbols, int32 [n], each in 0 ... size - 1."""
        for piece in _pieces(symbols.size):
            self._coder.put(distribution.model, symbols[piece])

    def put_group(self, table: GaussianTable, symbols: NDArray[np.int32]) -> None:
        """Encode a group, int32 [n], of magnitudes <= `MAX_SYMBOL`: all bins, then the values of the escapes."""
        magnitudes = np.abs(symbols)
        escaped = magnitudes > table.radius
        bins = np.where(escaped, 2 * table.radius + 1, symbols + table.radius).astype(np.int32)
        self.put(table.bins, bins)
        if escaped.any():
            excess = magnitudes[escaped] - table.radius
            exponents = np.searchsorted(_POWERS, excess, side="right")
            self._put_uniform(2 * exponents + (symbols[escaped] < 0), np.full(excess.shape, _ESCAPE_SIZES))
            sizes = 1 << exponents
            self._put_uniform((excess - sizes)[exponents > 0], sizes[exponents > 0])

    def finish(self) -> bytes:
        """Return the section; nothing can be encoded after."""
        return _shortest(*self._coder.finish())

    def _put_uniform(self, symbols: NDArray[Any], sizes: NDArray[Any]) -> None:
        for piece in _pieces(symbols.size):
            self._coder.put_uniform(symbols[piece].astype(np.int32), sizes[piece].astype(np.int32))


class SymbolDecoder:
    """Reads symbols from one section; `finish` must be called after the last.

    Args:
        data: the section.
        what: its name, for messages.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._coder = implementation().Decoder(data)
        self._again = SymbolEncoder()
        self._data, self._what = data, what

    def get(self, distribution: Distribution, n: int) -> NDArray[np.int32]:
        """Return the next n symbols, int32 [n]; BitstreamError if the bytes cannot be such symbols."""
        symbols = self._get(distribution, n)
        self._again.put(distribution, symbols)
        return symbols

    def get_group(self, table: GaussianTable, n: int) -> NDArray[np.int32]:
        """Return a group of n symbols, int32 [n]; BitstreamError if the bytes cannot be such symbols."""
        symbols = self._get(table.bins, n) - np.int32(table.radius)
        escaped = np.flatnonzero(symbols > table.radius)
        if escaped.size:
            prefixes = self._get_uniform(np.full(escaped.shape, _ESCAPE_SIZES, np.int32))
            excess = np.left_shift(np.int32(1), prefixes >> 1)
            more = np.flatnonzero(prefixes >= 2)
            if more.size:
                excess[more] += self._get_uniform(excess[more].copy())
            magnitudes = excess + np.int32(table.radius)
            if magnitudes.max() > MAX_SYMBOL:
                raise BitstreamError(
                    f"{self._what}: symbol of magnitude {magnitudes.max()}, over {MAX_SYMBOL}. {_HINT}"
                )
            symbols[escaped] = np.where(prefixes & 1, -magnitudes, magnitudes)
        self._again.put_group(table, symbols)
        return symbols

    def finish(self) -> None:
        """Check that the section holds what was decoded and nothing else.

        Raises:
            BitstreamError: an encoder would have written other bytes for these symbols.
        """
        expected = self._again.finish()
        if expected != self._data:
            same = len(expected) == len(self._data)
            found = "other bytes" if same else f"{len(self._data)} bytes, not {len(expected)},"
            raise BitstreamError(f"{self._what}: {found} for the symbols decoded from it. {_HINT}")

    def _get(self, distribution: Distribution, n: int) -> NDArray[np.int32]:
        symbols = np.empty(n, np.int32)
        try:
            for piece in _pieces(n):
                symbols[piece] = self._coder.get(distribution.model, piece.stop - piece.start)
        except NoSymbolError as error:
            raise self._unfit() from error
        return symbols

    def _get_uniform(self, sizes: NDArray[np.int32]) -> NDArray[np.int32]:
        symbols = np.empty(sizes.size, np.int32)
        try:
            for piece in _pieces(sizes.size):
                symbols[piece] = self._coder.get_uniform(sizes[piece])
        except NoSymbolError as error:
            raise self._unfit() from error
        return symbols

    def _unfit(self) -> BitstreamError:
        return BitstreamError(f"{self._what}: no symbols give these {len(self._data)} bytes. {_HINT}")


class CutSymbolDecoder:
    """Reads groups of symbols from a truncated section, as far as they are certain.

    A group is certain if it is the same whatever the missing bytes are. Values that decode to given symbols form one
    interval, so it is enough to decode with all missing bytes 0 and with all 255, and to compare.

    Args:
        data: the part of the section that is present.
        missing_bytes: number of missing bytes, 1 or more.
        what: its name, for messages.
    """

    def __init__(self, data: bytes, missing_bytes: int, what: str) -> None:
        # The decoder reads 8 bytes at a time: if all of these are unknown the two differ, whatever follows.
        unknown = min(missing_bytes, 2 * _STATE_BYTES)
        self._lowest, self._highest = (SymbolDecoder(data + fill * unknown, what) for fill in (b"\0", b"\xff"))
        self._at_end = False

    @property
    def at_end(self) -> bool:
        """Whether a requested group was not certain."""
        return self._at_end

    def get_group(self, table: GaussianTable, n: int) -> NDArray[np.int32] | None:
        """Return the next group of n symbols, int32 [n]; None if it, or an earlier one, is not certain."""
        if not self._at_end:
            try:
                lowest, highest = (decoder.get_group(table, n) for decoder in (self._lowest, self._highest))
            except BitstreamError:  # a value that no encoder writes: at least one of the two is not the file's
                self._at_end = True
            else:
                self._at_end = not np.array_equal(lowest, highest)
        return None if self._at_end else lowest


_HINT: Final = "The file is damaged, or was written with another model; fetch it again"


def _pieces(n: int) -> Iterator[slice]:
    """Yield slices of n symbols in order, and check before each whether to stop."""
    for start in range(0, n, _PIECE):
        stopping.go_on()
        yield slice(start, min(start + _PIECE, n))


def pack_fixed(values: NDArray[np.integer[Any]], bits: int) -> bytes:
    """Return values [n], each in 0 ... 2**bits - 1, as ``bits``-bit fields, first bit first, zero bits up to a byte."""
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((values.reshape(-1, 1) >> shifts & 1).astype(np.uint8)).tobytes()


def unpack_fixed(data: bytes, n: int, bits: int, what: str) -> NDArray[np.int32]:
    """Return the n values that `pack_fixed` wrote, int32 [n].

    Raises:
        BitstreamError: another length, or padding bits that are not zero.
    """
    n_bytes = (n * bits + 7) // 8
    if len(data) != n_bytes:
        raise BitstreamError(f"{what}: {len(data)} bytes, {n} values of {bits} bits take {n_bytes}. {_HINT}")
    flat = np.unpackbits(np.frombuffer(data, np.uint8))
    if flat[n * bits :].any():
        raise BitstreamError(f"{what}: the bits after the last of {n} values are not zero. {_HINT}")
    weights = np.left_shift(1, np.arange(bits - 1, -1, -1), dtype=np.int64)
    return (flat[: n * bits].reshape(n, bits) @ weights).astype(np.int32)


def _shortest(words: bytes, n_bytes: int, lower: int, extent: int) -> bytes:
    """Return the value of the coder's final interval with the most zero bits at its end, without its zero bytes.

    Args:
        words: a value of the interval: a binary fraction, first byte first.
        n_bytes: digits of the interval's bounds.
        lower: the lower bound's last 64 bits.
        extent: width of the interval in units of the last digit, 1 to 2**64 - 1.
    """
    value = int.from_bytes(words[:n_bytes].ljust(n_bytes, b"\0"), "big")
    start = value - (value - lower) % (1 << 8 * _STATE_BYTES)
    last = start + extent - 1
    # The bits below the highest one in which start - 1 and last differ can all be zero.
    free_bits = ((start - 1) ^ last).bit_length() - 1 if start else 8 * n_bytes
    return (last >> free_bits << free_bits).to_bytes(n_bytes, "big").rstrip(b"\0")
