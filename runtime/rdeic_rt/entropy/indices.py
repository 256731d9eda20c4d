"""Section z: indices range-coded or of a fixed width, whichever is shorter (docs/format.md, "Indices")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BitstreamError
from .arrays import ArrayReader
from .coder import Distribution, SymbolDecoder, SymbolEncoder, pack_fixed, unpack_fixed
from .index_context import IndexContext
from .masses import check_masses

_SECTION: Final = "z section"
_MAX_CODES: Final = 1 << 16


@dataclass(frozen=True)
class IndexCoder:
    """Codes indices, each 0 ... ``n_codes`` - 1.

    Attributes:
        prior: how they are distributed.
        plain_bits: width of an index that is not range-coded.
        context: how they are distributed beside others, where the model knows.
    """

    prior: Distribution
    plain_bits: int
    context: IndexContext | None = None

    @staticmethod
    def read(reader: ArrayReader) -> IndexCoder:
        """Read ``prior_masses``; BundleCorruptError if they are unfit."""
        masses = reader.take("prior_masses", np.int32, (None,))
        reader.check(
            2 <= masses.size <= _MAX_CODES, f"'prior_masses' has {masses.size} elements, should have 2 to {_MAX_CODES}"
        )
        check_masses(reader, masses, "'prior_masses'")
        return IndexCoder(Distribution(masses), (masses.size - 1).bit_length())

    @property
    def n_codes(self) -> int:
        """K, the number of code vectors."""
        return self.prior.size

    def plain_bytes(self, count: int) -> int:
        """Return how long the section of so many indices of a fixed width is."""
        return (count * self.plain_bits + 7) // 8

    def check(self, indices: NDArray[np.integer[Any]]) -> None:
        """Raise ValueError unless there are indices, and all in range."""
        if indices.size == 0:
            raise ValueError("there are no VQ indices")
        if indices.min() < 0 or indices.max() >= self.n_codes:
            raise ValueError(
                f"VQ indices reach from {indices.min()} to {indices.max()}, should be 0 to {self.n_codes - 1}"
            )

    def encode(self, indices: NDArray[np.int32], *, fixed_size: bool = False) -> tuple[bytes, bool]:
        """Return (section, is plain) of indices, int32 [rows, columns].

        The shorter of the two codings, plain where they are equal; with ``fixed_size`` always the plain one.
        """
        flat = indices.ravel()
        plain = pack_fixed(flat, self.plain_bits)
        if fixed_size:
            return plain, True
        coded = self.range_coded(indices)
        return (plain, True) if len(plain) <= len(coded) else (coded, False)

    def range_coded(self, indices: NDArray[np.int32]) -> bytes:
        """Return the section that is not plain, of indices, int32 [rows, columns]."""
        encoder = SymbolEncoder()
        flat = indices.ravel()

        def put(distribution: Distribution, numbers: NDArray[np.intp]) -> NDArray[np.int32]:
            symbols = flat[numbers]
            encoder.put(distribution, symbols)
            return symbols

        if self.context is None:
            encoder.put(self.prior, flat)
        else:
            self.context.walk(self.prior, indices.shape, put)
        return encoder.finish()

    def decode(self, section: bytes, is_plain: bool, size: tuple[int, int]) -> NDArray[np.int32]:
        """Return the indices, int32 of shape ``size``; BitstreamError if this is not their section."""
        count = size[0] * size[1]
        if is_plain:
            flat = unpack_fixed(section, count, self.plain_bits, _SECTION)
            if flat.max() >= self.n_codes:
                raise BitstreamError(f"{_SECTION}: index {flat.max()}, but the model has {self.n_codes} code vectors")
            return flat.reshape(size)
        decoder = SymbolDecoder(section, _SECTION)
        if self.context is None:
            grid = decoder.get(self.prior, count).reshape(size)
        else:
            grid = self.context.walk(self.prior, size, lambda table, numbers: decoder.get(table, numbers.size))
        decoder.finish()
        return grid
