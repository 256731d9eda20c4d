"""The range coder of the library constriction, used by `coder` where constriction is installed.

It has the functions and classes of `range_coder`. No other module calls constriction.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from .range_coder import NoSymbolError

try:
    NAME = f"constriction {version('constriction')}"
except PackageNotFoundError:
    NAME = "constriction"
_STATE_BYTES = 8


class Model:
    """A distribution, by 24-bit masses, int [n], which the caller has checked."""

    def __init__(self, masses: NDArray[np.integer[Any]]) -> None:
        # constriction gives every symbol one unit and shares out the rest in proportion. Weights that are the masses
        # less that unit add up to the rest, so its factor is 1 and no rounding takes place.
        weights = (masses - 1).astype(np.float64)
        self.categorical = constriction.stream.model.Categorical(weights, perfect=False)


class Encoder:
    """As `range_coder.Encoder`."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()
        self._uniform = constriction.stream.model.Uniform()

    def put(self, model: Model, symbols: NDArray[np.int32]) -> None:
        """As `range_coder.Encoder.put`."""
        if symbols.size:
            self._coder.encode(np.ascontiguousarray(symbols), model.categorical)

    def put_uniform(self, symbols: NDArray[np.int32], sizes: NDArray[np.int32]) -> None:
        """As `range_coder.Encoder.put_uniform`."""
        if symbols.size:
            self._coder.encode(symbols, self._uniform, sizes)

    def finish(self) -> tuple[bytes, int, int, int]:
        """As `range_coder.Encoder.finish`."""
        words = np.asarray(self._coder.get_compressed())
        n_words, (lower, extent) = self._coder.pos()
        return words.astype(">u4").tobytes(), 4 * n_words + _STATE_BYTES, lower, extent


class Decoder:
    """As `range_coder.Decoder`."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)
        self._uniform = constriction.stream.model.Uniform()

    def get(self, model: Model, n: int) -> NDArray[np.int32]:
        """As `range_coder.Decoder.get`."""
        return self._decode(model.categorical, n)

    def get_uniform(self, sizes: NDArray[np.int32]) -> NDArray[np.int32]:
        """As `range_coder.Decoder.get_uniform`."""
        return self._decode(self._uniform, sizes)

    def _decode(self, model: Any, amount: int | NDArray[np.int32]) -> NDArray[np.int32]:
        try:
            return np.asarray(self._coder.decode(model, amount), np.int32)
        except BaseException as error:  # a Rust panic derives from BaseException only
            if isinstance(error, AssertionError) or type(error).__name__ == "PanicException":
                raise NoSymbolError from error
            raise
