"""Gaussian noise that is the same on every machine (docs/format.md, "Noise").

    Philox 4x64 ── raw 64-bit numbers, two by two ── Box-Muller in float64 ── float32

Each draw has a key of its own, so any of them can be made without the others: draw 0 is the noise that denoising starts
from, draw k + 1 the noise that step k adds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import stopping

_BLOCK_PAIRS = 1 << 18  # some milliseconds, and 20 MB of intermediate results


def gaussian(shape: tuple[int, ...], seed: int, draw: int) -> NDArray[np.float32]:
    """Return standard normal noise, filled in C order.

    Args:
        shape: of the result; [1, C, h/8, w/8] for a latent of one image.
        seed: 0 <= seed < 2**64; the file's CRC unless the caller chose one.
        draw: 0 <= draw < 2**64; 0 for the start, k + 1 for step k.
    Returns:
        float32, within 8.6 of 0. Equal arguments give equal values everywhere, to 1e-6: the integers behind them are
        exact, and logarithm and cosine may differ in the last bit.
    Raises:
        ValueError: seed or draw is out of range.
    """
    if not 0 <= seed < 2**64 or not 0 <= draw < 2**64:
        raise ValueError(f"seed {seed} and draw {draw} must be from 0 to 2**64 - 1")
    count = math.prod(shape)
    pairs = (count + 1) // 2
    generator = np.random.Philox(key=int(seed) + (int(draw) << 64))
    values = np.empty((pairs, 2), np.float32)
    for start in range(0, pairs, _BLOCK_PAIRS):
        stopping.go_on()
        block = values[start : start + _BLOCK_PAIRS]
        raw = generator.random_raw(2 * len(block)).reshape(-1, 2) >> np.uint64(11)
        radius = np.sqrt(-2.0 * np.log((raw[:, 0] + np.uint64(1)) * 2.0**-53))
        angle = (2.0 * np.pi) * (raw[:, 1] * 2.0**-53)
        block[:, 0] = radius * np.cos(angle)
        block[:, 1] = radius * np.sin(angle)
    return values.reshape(-1)[:count].reshape(shape)
