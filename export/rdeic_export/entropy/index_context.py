"""A float context model of VQ indices -> integer networks and one table a class.

The networks are fitted on some photos. Indices of all photos are then counted by the class that the integer networks
predict, so the tables account for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from rdeic_rt.entropy.arrays import ArrayReader
from rdeic_rt.entropy.index_context import PASSES
from rdeic_rt.entropy.index_context import IndexContext as IntegerContext
from rdeic_rt.entropy.layers import matmul_of_onnxruntime
from rdeic_rt.entropy.static_prior import CONTEXT_VERSION

from ..modules.diffo.index_context import IndexContext
from . import integer_nets
from .integer_layers import Arrays
from .priors import byte_weights

_FITTED: Final = 200
"""Photos that networks are fitted on; 100 thousand indices are enough for ranges and means."""
_TABLE_WORTH: Final = 3000
"""Weight of a trained table, in occurrences of an index in a class."""


@torch.no_grad()
def convert(context: IndexContext, maps: Sequence[NDArray[np.int64]], prior: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the arrays of an entropy model with a context model (docs/format.md, "Entropy model 3").

    Args:
        context: trained float networks, on the CPU.
        maps: indices of calibration photos, int64 [Hq, Wq] each.
        prior: arrays of the entropy model without it.
    """
    tables = context.tables.softmax(1).numpy()
    arrays: Arrays = {**prior, "version": np.array([CONTEXT_VERSION], np.int32), "class_weights": byte_weights(tables)}
    chosen = maps[:: -(-len(maps) // _FITTED)]
    integer_nets.fit_index_context(
        context.scores, [torch.from_numpy(one) for one in chosen], matmul_of_onnxruntime(), arrays
    )
    integer = IntegerContext.read(ArrayReader(arrays), tables.shape[1])
    arrays["class_weights"] = byte_weights(_counts(integer, maps, tables.shape) + _TABLE_WORTH * tables)
    return {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}


def _counts(context: IntegerContext, maps: Sequence[NDArray[np.int64]], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the number of occurrences of each index in each class, int64 of ``shape``, [C, K]."""
    counts = np.zeros(shape[0] * shape[1], np.int64)
    for one in maps:
        for number, (top, left) in enumerate(PASSES[1:], 1):
            wanted = one[top::2, left::2]
            if wanted.size:
                classes = context.classes(number, one.astype(np.int32)).astype(np.int64)
                counts += np.bincount((classes * shape[1] + wanted).ravel(), minlength=counts.size)
    return counts.reshape(shape)
