"""Float priors -> fixed-point tables: 64 Gaussians and the distribution of VQ indices. Runs once, never at decode."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rdeic_rt.entropy.coder import TOTAL_MASS
from rdeic_rt.entropy.index_context import MANTISSA_BITS
from rdeic_rt.entropy.tables import N_SCALES

SCALE_MIN, SCALE_MAX = 0.11, 256.0  # as in the released model
SCALE_BITS: Final = 12
"""Scales on the grid of the integer networks are multiples of 2**-12: 0.5 % of the distance of the two smallest."""

# Symbols beyond so many standard deviations, 1e-9 of a Gaussian's mass, are escapes (as in the released model).
_TAIL = 6.1094102048693975


def scales() -> NDArray[np.float64]:
    """Return the standard deviation of each table, float64 [64], 0.11 ... 256 in equal ratios of 1.131."""
    return np.geomspace(SCALE_MIN, SCALE_MAX, N_SCALES)


def scale_arrays(skip_below: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of the Gaussian tables (docs/format.md, "Arrays of the entropy model").

    A scale takes the table that is nearest in ratio: of the two around it, either costs the same rate at their
    geometric mean, where a threshold lies.

    Args:
        skip_below: symbols of a smaller scale index are not coded.
    """
    sigmas = scales()
    masses = [gaussian_masses(float(sigma)) for sigma in sigmas]
    thresholds = np.floor(np.sqrt(sigmas[:-1] * sigmas[1:]) * 2**SCALE_BITS)
    return {
        "scale_thresholds": thresholds.astype(np.int32),
        "scale_lengths": np.array([table.size for table in masses], np.int32),
        "scale_masses": np.concatenate(masses),
        "skip_below": np.array([skip_below], np.int32),
    }


def gaussian_masses(sigma: float) -> NDArray[np.int32]:
    """Return masses, int32 [2 radius + 2], of a Gaussian rounded to integers -radius ... radius, and of the rest."""
    radius = math.ceil(sigma * _TAIL)
    edges = (np.arange(radius + 1) + 0.5) / (sigma * math.sqrt(2))
    above = np.array([math.erfc(edge) / 2 for edge in edges])  # share over 0.5, 1.5 ... radius + 0.5
    side = above[:-1] - above[1:]
    return fixed_point(np.concatenate([side[::-1], [1 - 2 * above[0]], side, [2 * above[-1]]]))


def prior_arrays(
    indices: Iterable[NDArray[np.integer[Any]]], codebook_size: int, smoothing: float
) -> dict[str, NDArray[Any]]:
    """Return the distribution of VQ indices seen in samples, each code vector counted ``smoothing`` times more."""
    counts = np.full(codebook_size, smoothing)
    for sample in indices:
        counts += np.bincount(sample.ravel(), minlength=codebook_size)
    return {"prior_masses": fixed_point(counts)}


def byte_weights(shares: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return weights in proportion to shares > 0, float [C, K], as `index_context.masses_of` reads them.

    A row's largest share takes the largest weight. What is under 2**-31 of it becomes the smallest.
    """
    top = 1 << MANTISSA_BITS
    scaled = shares.astype(np.float64) / shares.max(-1, keepdims=True) * (2 * top - 1) * 2.0**31
    exponents = np.clip(np.floor(np.log2(scaled)) - MANTISSA_BITS, 0, 31)
    # A mantissa that is rounded up to 16 is 8 of the next exponent, which the sum carries to.
    mantissas = np.rint(scaled / 2**exponents) - top
    weights: NDArray[np.uint8] = np.clip(exponents * top + mantissas, 0, 255).astype(np.uint8)
    return weights


def fixed_point(weights: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return masses, int32 [n], of sum 2**24: one unit each, the rest in proportion to weights >= 0, float64 [n]."""
    shares = weights * ((TOTAL_MASS - weights.size) / weights.sum())
    masses: NDArray[np.int32] = 1 + np.floor(shares).astype(np.int32)
    left_over = TOTAL_MASS - int(masses.sum(dtype=np.int64))
    masses[np.argsort(np.floor(shares) - shares, kind="stable")[:left_over]] += 1
    return masses
