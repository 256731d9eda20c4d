"""The noise schedule and its step tables against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdeic_export.modules.diffo import resshift
from rdeic_export.modules.diffo.config import ResShiftConfig
from tests.micro.make_micro import seeded

from . import specification

RELEASED = ResShiftConfig()
LONG = ResShiftConfig(kappa=1.5, sqrt_eta_end=0.99, min_noise_level=0.2, timesteps=5, power=0.7)


@pytest.mark.parametrize("config", [RELEASED, LONG])
def test_sqrt_etas_follow_the_specification(config: ResShiftConfig) -> None:
    expected = [
        specification.sqrt_eta(
            t, config.kappa, config.sqrt_eta_end, config.min_noise_level, config.power, config.timesteps
        )
        for t in range(config.timesteps)
    ]
    np.testing.assert_allclose(resshift.sqrt_etas(config), expected, rtol=1e-12)
    assert resshift.sqrt_etas(config)[-1] == pytest.approx(config.sqrt_eta_end, rel=1e-12)


def test_released_schedule_has_the_published_numbers() -> None:
    np.testing.assert_allclose(resshift.sqrt_etas(RELEASED), [0.02, 0.8], rtol=1e-12)
    np.testing.assert_allclose(resshift.deviations(RELEASED), [1.000799680, 1.886796226], rtol=1e-9)
    table = resshift.ddpm(RELEASED)
    assert (table.timesteps, table.a, table.b, table.c) == ((1,), (0.0,), (1.0,), (0.0,))
    assert table.abar_start == pytest.approx(1 / 3.56, rel=1e-12)
    assert table.abar_start**0.5 == pytest.approx(0.52999894, abs=1e-8)
    assert (1 - table.abar_start) ** 0.5 == pytest.approx(0.84799830, abs=1e-8)


@pytest.mark.parametrize("config", [RELEASED, LONG])
def test_ddpm_step_with_the_true_z_0_keeps_the_marginal(config: ResShiftConfig) -> None:
    n_steps = config.timesteps
    table, etas = resshift.ddpm(config, n_steps), resshift.sqrt_etas(config) ** 2
    scales = resshift.deviations(config)
    truth, base = 0.7, -1.3
    for k, t in enumerate(table.timesteps[:-1]):
        mean = table.a[k] * (truth + etas[t] * (base - truth)) / scales[t] + table.b[k] * truth
        variance = table.a[k] ** 2 * config.kappa**2 * etas[t] / scales[t] ** 2 + table.c[k] ** 2
        assert mean * scales[t - 1] == pytest.approx(truth + etas[t - 1] * (base - truth), rel=1e-12)
        assert variance * scales[t - 1] ** 2 == pytest.approx(config.kappa**2 * etas[t - 1], rel=1e-12)
    assert (table.a[-1], table.b[-1], table.c[-1]) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("n_steps", [0, 3])
def test_ddpm_more_steps_than_timesteps_raises(n_steps: int) -> None:
    with pytest.raises(ValueError, match="the model has 2 timesteps"):
        resshift.ddpm(RELEASED, n_steps)


def test_sqrt_etas_of_one_timestep_is_the_end() -> None:
    assert resshift.sqrt_etas(ResShiftConfig(timesteps=1)).tolist() == [0.8]


def test_noised_each_sample_has_its_own_timestep() -> None:
    z_start, base, noise = (seeded((2, 3, 4, 4), key) for key in ("z", "base", "noise"))
    z_t = resshift.noised(RELEASED, z_start, base, noise, torch.tensor([1, 0]))
    expected = [
        z_start[0] + 0.64 * (base[0] - z_start[0]) + 1.6 * noise[0],
        z_start[1] + 0.0004 * (base[1] - z_start[1]) + 0.04 * noise[1],
    ]
    torch.testing.assert_close(z_t, torch.stack(expected))
