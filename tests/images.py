"""How tests compare pictures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def psnr_db(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images of one shape, infinite for equal ones."""
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf
