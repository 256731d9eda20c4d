"""Step tables against the coefficients published for the released code (arXiv 2410.02640, huai-chang/RDEIC)."""

from __future__ import annotations

import numpy as np
import pytest

from rdeic_export import schedule
from rdeic_export.modules.config import DiffusionConfig

from . import reference

CONFIG = DiffusionConfig()
# (L, timestep, 1/sqrt(abar), sqrt(1/abar - 1), coefficient of x0, of x, of the noise) of the released spaced sampler.
RELEASED = [
    (2, 299, 1.2994871436, 0.8298595282, 0.9983401159, 0.0016045986, 0.0291367462),
    (2, 0, 1.0004252711, 0.0291671582, 1.0, 0.0, 0.0),
    (5, 299, 1.2994871436, 0.8298595282, 0.3586024557, 0.6335262732, 0.3469824714),
    (5, 224, 1.1818617029, 0.6299183159, 0.4328951433, 0.5636846833, 0.2862268560),
    (5, 150, 1.0990924831, 0.4560748692, 0.5816724620, 0.4172428117, 0.2143150683),
    (5, 75, 1.0402609000, 0.2866055478, 0.9892226682, 0.0107690320, 0.0290033938),
    (5, 0, 1.0004252711, 0.0291671582, 1.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("n_steps", "timestep", "rsqrt", "ratio", "coef_x0", "coef_x", "noise"), RELEASED)
def test_ddpm_rows_match_the_released_sampler(
    n_steps: int, timestep: int, rsqrt: float, ratio: float, coef_x0: float, coef_x: float, noise: float
) -> None:
    table = schedule.ddpm(CONFIG, n_steps)
    k = table.timesteps.index(timestep)
    assert table.a[k] == pytest.approx(coef_x0 * rsqrt + coef_x, rel=1e-8)
    assert table.b[k] == pytest.approx(-coef_x0 * ratio, rel=1e-8)
    assert table.c[k] == pytest.approx(noise, rel=1e-8, abs=1e-12)


def test_abar_matches_the_published_values() -> None:
    alphas = schedule.abar(CONFIG)
    published = {0: 0.99915, 1: 0.9982960278, 75: 0.9240925093, 150: 0.8278116322, 224: 0.7159236019, 299: 0.5921831224}
    for timestep, value in published.items():
        assert alphas[timestep] == pytest.approx(value, rel=1e-9)


def test_start_coefficients_match_the_published_values() -> None:
    start = schedule.ddpm(CONFIG, 2).abar_start
    assert np.sqrt(start) == pytest.approx(0.7695343543, rel=1e-9)
    assert np.sqrt(1 - start) == pytest.approx(0.6386054162, rel=1e-9)


def test_relay_ddim_perfect_estimator_ends_at_z_0() -> None:
    rng = np.random.default_rng(0)
    z_0, residual, eps = rng.normal(size=(3, 100))
    table = schedule.relay_ddim(CONFIG, 5)
    alphas = schedule.abar(CONFIG)
    start = alphas[table.timesteps[0]]
    target = np.sqrt(start / (1 - start)) * residual + eps  # Eq. 6
    z = np.sqrt(start) * z_0 + np.sqrt(1 - start) * target
    for _, a, b, _ in schedule.rows(table):
        z = a * z + b * target
    np.testing.assert_allclose(z, z_0, atol=1e-12)


def test_released_ddim_timesteps_are_those_of_the_released_code() -> None:
    assert reference.released_ddim(CONFIG, 2).timesteps == (151, 1)
    assert reference.released_ddim(CONFIG, 5).timesteps == (241, 181, 121, 61, 1)


def test_one_step_goes_from_the_start_to_z_0_without_adding_noise() -> None:
    table = schedule.ddpm(CONFIG, 1)
    assert table.timesteps == (CONFIG.used_timesteps - 1,)
    z_0, noise = np.random.default_rng(0).standard_normal((2, 100))
    z = np.sqrt(table.abar_start) * z_0 + np.sqrt(1 - table.abar_start) * noise
    np.testing.assert_allclose(table.a[0] * z + table.b[0] * noise, z_0, atol=1e-12)
    assert table.c == (0.0,)


def test_spaced_timesteps_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        schedule.ddpm(CONFIG, 0)
