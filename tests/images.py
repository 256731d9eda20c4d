"""How tests measure images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter


def psnr_db(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images of one shape, infinite for equal ones."""
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def high_frequency_energy(image: NDArray[np.uint8]) -> float:
    """Return how sharp a uint8 image [H, W, 3] is: the mean square of luma minus its Gaussian blur of 1 px."""
    luma = Image.fromarray(image).convert("L")
    blurred = luma.filter(ImageFilter.GaussianBlur(1.0))
    return float(np.square(np.asarray(luma, np.float64) - np.asarray(blurred, np.float64)).mean())
