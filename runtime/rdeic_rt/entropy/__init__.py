"""Exact entropy coding. An entropy model is chosen by the ``version`` among the arrays of its file.

This package does not depend on graphs or backends: it converts tensors to bytes and back, identically on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from . import hyperprior, static_prior
from .arrays import ArrayReader, Arrays
from .base import Decoded, Encoded, EntropyModel
from .hyperprior import Hyperprior
from .static_prior import StaticPrior

__all__ = ["MODELS", "Decoded", "Encoded", "EntropyModel", "load"]

MODELS: Mapping[int, Callable[[Arrays, int | None], EntropyModel]] = MappingProxyType(
    {
        hyperprior.VERSION: Hyperprior.load,
        static_prior.VERSION: StaticPrior.load,
        static_prior.CONTEXT_VERSION: StaticPrior.load,
    }
)


def load(arrays: Arrays, threads: int | None = None) -> EntropyModel:
    """Return the entropy model in these arrays (docs/format.md, "Arrays of the entropy model").

    Args:
        arrays: name -> array, all of the .npz file.
        threads: for the matrix products; None for one per core.

    Raises:
        BundleCorruptError: an array is missing, unknown, or has invalid values.
    """
    reader = ArrayReader(arrays)
    version = int(reader.take("version", np.int32, (1,))[0])
    reader.check(version in MODELS, f"'version' is {version}, should be {' or '.join(map(str, MODELS))}")
    return MODELS[version](arrays, threads)
