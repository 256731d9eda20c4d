from __future__ import annotations

import math

import numpy as np
import pytest

from rdeic_export.entropy import priors
from rdeic_rt.entropy.arrays import ArrayReader
from rdeic_rt.entropy.tables import Tables


def ideal(sigma: float, k: int) -> float:
    return (math.erfc((k - 0.5) / sigma / 2**0.5) - math.erfc((k + 0.5) / sigma / 2**0.5)) / 2


def test_scales_are_those_of_the_released_model() -> None:
    sigmas = priors.scales()
    assert (len(sigmas), sigmas[0], sigmas[-1]) == (64, 0.11, pytest.approx(256, rel=1e-12))
    assert np.ptp(np.diff(np.log(sigmas))) < 1e-12


@pytest.mark.parametrize("sigma", [0.11, 0.5, 1.0, 7.3, 256.0])
def test_gaussian_masses_are_symmetric_and_near_the_gaussian(sigma: float) -> None:
    masses = priors.gaussian_masses(sigma)
    radius = masses.size // 2 - 1
    assert masses.sum(dtype=np.int64) == 1 << 24
    assert masses.min() >= 1
    assert np.abs(masses[:-1] - masses[-2::-1]).max() <= 1
    exact = np.array([ideal(sigma, k) for k in range(-radius, radius + 1)]) * 2**24
    # Every symbol has one unit for sure, and shares what is left.
    assert np.abs(masses[:-1] - exact).max() <= 2 + masses.size * exact.max() / 2**24
    assert 6 * sigma <= radius <= 6.2 * sigma + 1


def test_gaussian_tables_cost_nearly_the_entropy() -> None:
    for sigma in priors.scales()[8:]:
        masses = priors.gaussian_masses(float(sigma))[:-1]
        radius = masses.size // 2
        p = np.array([ideal(float(sigma), k) for k in range(-radius, radius + 1)])
        positive = p > 0
        excess = (p[positive] * np.log2(p[positive] / (masses[positive] / 2**24))).sum()
        assert 0 <= excess < 1e-3


def test_scale_arrays_make_tables_whose_index_is_nearest_in_ratio() -> None:
    arrays = priors.scale_arrays(skip_below=0) | priors.prior_arrays([], 2, 1.0)
    read = Tables.from_arrays(ArrayReader(arrays))
    assert [g.radius for g in read.gaussians] == [a // 2 - 1 for a in arrays["scale_lengths"]]
    scales = np.exp(np.random.default_rng(0).uniform(np.log(0.05), np.log(400), 2000))
    index = read.scale_index(np.rint(scales * 2**priors.SCALE_BITS).astype(np.int32))
    nearest = np.abs(np.log(scales)[:, None] - np.log(priors.scales())).argmin(1)
    ratio = np.abs(np.log(scales / priors.scales()[index]) / np.log(scales / priors.scales()[nearest]))
    assert (index == nearest).mean() > 0.98
    assert ratio.max() < 1.05


def test_negative_scale_takes_the_narrowest_table() -> None:
    read = Tables.from_arrays(ArrayReader(priors.scale_arrays(0) | priors.prior_arrays([], 2, 1.0)))
    assert read.scale_index(np.array([-(1 << 20), -1, 0, (1 << 20) - 1], np.int32)).tolist() == [0, 0, 0, 63]


def test_prior_counts_indices_and_smooths() -> None:
    samples = [np.array([[0, 0, 2]]), np.array([[2, 2, 2]])]
    masses = priors.prior_arrays(samples, 4, smoothing=0.5)["prior_masses"]
    assert masses.sum(dtype=np.int64) == 1 << 24
    assert masses / 2**24 == pytest.approx(np.array([2.5, 0.5, 4.5, 0.5]) / 8, rel=1e-5)


def test_fixed_point_weight_of_zero_keeps_one_unit() -> None:
    assert priors.fixed_point(np.array([0.0, 1.0, 0.0])).tolist() == [1, (1 << 24) - 2, 1]
