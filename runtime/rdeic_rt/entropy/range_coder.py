"""A range coder in Python, used by `coder` without constriction (docs/format.md, "Range coder").

    value of the section   0.xxxxxxxx xxxxxxxx xxxxxxxx ...   32-bit words, most significant first
    interval               lower ... lower + extent           both 64 bits; a word is shifted out when extent is short

It has the functions and classes of `constriction_coder`, and gives the same symbols and the same bytes. A symbol takes
about a microsecond, several times as long as with constriction.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NAME: Final = "rdeic_rt's own, in Python"

_PRECISION_BITS: Final = 24
_TOTAL_MASS: Final = 1 << _PRECISION_BITS
_WORD_BITS: Final = 32
_WORD_MASK: Final = (1 << _WORD_BITS) - 1
_STATE_BITS: Final = 64
_STATE_MASK: Final = (1 << _STATE_BITS) - 1


class NoSymbolError(Exception):
    """The bytes decode to no symbol."""


class Model:
    """A distribution, by 24-bit masses, int [n], which the caller has checked."""

    def __init__(self, masses: NDArray[np.integer[Any]]) -> None:
        self._masses = masses

    @cached_property
    def left(self) -> list[int]:
        """Sums of the masses before each symbol, and 2**24 at the end; made when the first symbol is coded."""
        return [0, *np.cumsum(self._masses, dtype=np.int64).tolist()]


class Encoder:
    """Writes symbols."""

    def __init__(self) -> None:
        self._words: list[int] = []
        self._lower, self._extent = 0, _STATE_MASK

    def put(self, model: Model, symbols: NDArray[np.int32]) -> None:
        """Encode symbols, int32 [n], each in 0 ... size - 1 (KeyError otherwise)."""
        left = model.left
        if symbols.size and not 0 <= int(symbols.min()) <= int(symbols.max()) < len(left) - 1:
            raise KeyError("a symbol that the distribution does not have")
        lower, extent = self._lower, self._extent
        for symbol in symbols.tolist():
            start = left[symbol]
            scale = extent >> _PRECISION_BITS
            lower += scale * start
            extent = scale * (left[symbol + 1] - start)
            if extent <= _WORD_MASK:
                lower, extent = self._shift_out(lower), extent << _WORD_BITS
        self._lower, self._extent = lower, extent

    def put_uniform(self, symbols: NDArray[np.int32], sizes: NDArray[np.int32]) -> None:
        """Encode symbols, each one of ``sizes[i]`` (a power of 2, up to 2**24) equally likely symbols."""
        lower, extent = self._lower, self._extent
        for symbol, size in zip(symbols.tolist(), sizes.tolist(), strict=True):
            mass = _TOTAL_MASS // size
            scale = extent >> _PRECISION_BITS
            lower += scale * mass * symbol
            extent = scale * mass
            if extent <= _WORD_MASK:
                lower, extent = self._shift_out(lower), extent << _WORD_BITS
        self._lower, self._extent = lower, extent

    def finish(self) -> tuple[bytes, int, int, int]:
        """Return a value of the final interval, how many bytes its bounds have, and its last 64 bits and width."""
        self._lower = self._without_carry(self._lower)
        value = np.array(self._words, ">u4").tobytes() + self._lower.to_bytes(_STATE_BITS // 8, "big")
        return value, len(value), self._lower, self._extent

    def _shift_out(self, lower: int) -> int:
        lower = self._without_carry(lower)
        self._words.append(lower >> _WORD_BITS)
        return (lower & _WORD_MASK) << _WORD_BITS

    def _without_carry(self, lower: int) -> int:
        """Add the carry over 64 bits to the number formed by the previous words; return the rest."""
        if lower >> _STATE_BITS:
            at = len(self._words) - 1
            while self._words[at] == _WORD_MASK:
                self._words[at] = 0
                at -= 1
            self._words[at] += 1
        return lower & _STATE_MASK


class Decoder:
    """Reads symbols from bytes, followed by infinitely many zeros."""

    def __init__(self, data: bytes) -> None:
        self._words: list[int] = np.frombuffer(data + bytes(-len(data) % 4), ">u4").tolist()
        self._at = 0
        self._offset = self._next_word() << _WORD_BITS | self._next_word()  # of the value from the interval's lower end
        self._extent = _STATE_MASK

    def get(self, model: Model, n: int) -> NDArray[np.int32]:
        """Return the next n symbols, int32 [n].

        Raises:
            NoSymbolError: the bytes decode to no symbol; nothing can be decoded afterwards.
        """
        left = model.left
        offset, extent = self._offset, self._extent
        symbols = []
        for _ in range(n):
            scale = extent >> _PRECISION_BITS
            quantile = offset // scale
            if quantile >= _TOTAL_MASS:
                raise NoSymbolError
            symbol = bisect_right(left, quantile) - 1
            start = left[symbol]
            offset -= scale * start
            extent = scale * (left[symbol + 1] - start)
            if extent <= _WORD_MASK:
                offset, extent = offset << _WORD_BITS | self._next_word(), extent << _WORD_BITS
            symbols.append(symbol)
        self._offset, self._extent = offset, extent
        return np.array(symbols, np.int32)

    def get_uniform(self, sizes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the next symbols, each one of ``sizes[i]`` (a power of 2) equally likely symbols; errors as `get`."""
        offset, extent = self._offset, self._extent
        symbols = []
        for size in sizes.tolist():
            mass = _TOTAL_MASS // size
            scale = extent >> _PRECISION_BITS
            symbol = offset // scale // mass
            if symbol >= size:
                raise NoSymbolError
            offset -= scale * mass * symbol
            extent = scale * mass
            if extent <= _WORD_MASK:
                offset, extent = offset << _WORD_BITS | self._next_word(), extent << _WORD_BITS
            symbols.append(symbol)
        self._offset, self._extent = offset, extent
        return np.array(symbols, np.int32)

    def _next_word(self) -> int:
        self._at += 1
        return self._words[self._at - 1] if self._at <= len(self._words) else 0
