"""Checks of distributions in the arrays of an entropy model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import ArrayReader
from .coder import TOTAL_MASS


def check_masses(reader: ArrayReader, masses: NDArray[np.int32], what: str) -> None:
    """Raise BundleCorruptError unless masses, int32 [n], are a distribution; ``what`` names them."""
    reader.check(masses.min() >= 1, f"{what} has a mass under 1")
    total = int(masses.sum(dtype=np.int64))
    reader.check(total == TOTAL_MASS, f"{what} adds up to {total}, should be {TOTAL_MASS}")
