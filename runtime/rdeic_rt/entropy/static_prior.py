"""Entropy models 2 and 3: VQ indices only; section y is empty.

    vq_indices [Hq, Wq] ─ IndexCoder ─▶ section z

Indices have a fixed width or are coded with a prior, in model 3 also with a context model. Both were computed when
the bundle was built and are the same for every image, so they are not transmitted, and files decode identically on any
machine. docs/format.md, "Entropy model 2" and "Entropy model 3", are the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BitstreamError, BundleCorruptError
from . import arrays as arrays_module
from .arrays import ArrayReader, Arrays
from .base import Decoded, Encoded
from .evaluator import Evaluator, HostEvaluator
from .index_context import IndexContext
from .indices import IndexCoder

VERSION: Final = 2
CONTEXT_VERSION: Final = 3
TENSOR: Final = "vq_indices"
_MAX_INDEX_PX: Final = 4096  # as of `size_multiple_px`, of which it is a divisor


@dataclass(frozen=True)
class StaticPrior:
    """Tables of masses, and their context model; see `base.EntropyModel`. May be used by several threads at once.

    Attributes:
        model_id: 4 bytes that identify it in .rdc files.
        index_px: pixels along a side that one index represents.
        indices: codes them.
    """

    model_id: bytes
    index_px: int
    indices: IndexCoder

    @staticmethod
    def load(arrays: Arrays, threads: int | None = None) -> StaticPrior:
        """Return the model in these arrays; arguments and errors as for `entropy.load`."""
        reader = ArrayReader(arrays)
        version = reader.number("version", VERSION, CONTEXT_VERSION)
        index_px = reader.number("index_px", 1, _MAX_INDEX_PX)
        indices = IndexCoder.read(reader)
        if version == CONTEXT_VERSION:
            indices = replace(indices, context=IndexContext.read(reader, indices.n_codes, threads))
        reader.close()
        return StaticPrior(arrays_module.model_id(arrays), index_px, indices)

    @property
    def position_px(self) -> Mapping[str, int]:
        """See `base.EntropyModel.position_px`."""
        return MappingProxyType({TENSOR: self.index_px})

    def evaluated_by(self, choose: Callable[[HostEvaluator], Evaluator]) -> StaticPrior:
        """Return the model itself: its networks, if any, are small and stay on the CPU."""
        return self

    def fixed_bytes(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Return the length of the indices at a fixed width."""
        return self.indices.plain_bytes(int(np.prod(shapes[TENSOR])))

    def encode(
        self, tensors: Mapping[str, NDArray[Any]], *, bit_worth: float = 0.0, fixed_size: bool = False
    ) -> Encoded:
        """Return the section that holds ``vq_indices``, int [1, Hq, Wq]; see `base.EntropyModel.encode`."""
        given = tensors[TENSOR]
        if given.ndim != 3 or given.shape[0] != 1:
            raise ValueError(f"VQ indices have shape {list(given.shape)}, should be [1, rows, columns]")
        self.indices.check(given)
        z, z_is_plain = self.indices.encode(given[0].astype(np.int32), fixed_size=fixed_size)
        return Encoded(z, z_is_plain, b"", {TENSOR: given.astype(np.int64)})

    def decode(
        self, z: bytes, z_is_plain: bool, y: bytes, shapes: Mapping[str, tuple[int, ...]], *, missing_bytes: int = 0
    ) -> Decoded:
        """Return ``vq_indices``, int64 [1, Hq, Wq]; see `base.EntropyModel.decode`."""
        shape = shapes[TENSOR]
        if len(shape) != 3 or shape[0] != 1:
            raise BundleCorruptError(
                f"the entropy model makes a grid of indices, [1, rows, columns]; the graph that reads them takes "
                f"{list(shape)}"
            )
        if y or missing_bytes:
            raise BitstreamError(f"y section: it has {len(y) + missing_bytes} bytes; files of this model have none")
        indices = self.indices.decode(bytes(z), z_is_plain, (shape[1], shape[2]))
        return Decoded({TENSOR: indices[None].astype(np.int64)}, 1, 1)
