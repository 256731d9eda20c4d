"""The peak signal-to-noise ratio."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def psnr_db(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the PSNR of two uint8 images of one shape over all samples, infinite for equal ones."""
    difference = image.astype(np.float32) - reference
    return psnr_of_mse(float(np.mean(np.square(difference), dtype=np.float64)), 255)


def psnr_of_mse(mse: float, peak: float) -> float:
    """Return the PSNR in dB of a mean squared error of samples that span ``peak``, infinite for no error."""
    return 10 * math.log10(peak**2 / mse) if mse else math.inf
