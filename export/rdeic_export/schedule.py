"""Noise schedule and step tables: every sampler as z_(n-1) = a z_n + b eps + c noise.

The tables are computed once, in float64, and frozen into ``bundle.json``; the runtime only reads them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rdeic_rt.schedule import Schedule

from .modules.config import DiffusionConfig


def rows(schedule: Schedule) -> Iterator[tuple[int, float, float, float]]:
    """Yield (timestep, a, b, c) of each step in running order."""
    return zip(schedule.timesteps, schedule.a, schedule.b, schedule.c, strict=True)


def abar(config: DiffusionConfig) -> NDArray[np.float64]:
    """Return the cumulative products of 1 - beta, float64 [timesteps] (Stable Diffusion's scaled-linear schedule)."""
    beta = np.linspace(config.linear_start**0.5, config.linear_end**0.5, config.timesteps, dtype=np.float64) ** 2
    return np.cumprod(1.0 - beta, dtype=np.float64)


def spaced_timesteps(config: DiffusionConfig, n_steps: int) -> tuple[int, ...]:
    """Return n_steps timesteps from N - 1 down to 0, evenly spaced as in the released sampler, or N - 1 alone."""
    if n_steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, not {n_steps}")
    if n_steps == 1:
        return (config.used_timesteps - 1,)
    ascending = [round(i * (config.used_timesteps - 1) / (n_steps - 1)) for i in range(n_steps)]
    return tuple(reversed(ascending))


def ddpm(config: DiffusionConfig, n_steps: int) -> Schedule:
    """Return the spaced DDPM sampler of the paper's section 3.3, the default."""
    alphas = abar(config)
    timesteps = spaced_timesteps(config, n_steps)
    a, b, c = [], [], []
    for now, after in _pairs(alphas, timesteps, abar_end=1.0):
        beta = 1.0 - now / after
        coef_x0 = np.sqrt(after) * beta / (1.0 - now)
        coef_x = (1.0 - after) * np.sqrt(now / after) / (1.0 - now)
        a.append(coef_x0 / np.sqrt(now) + coef_x)
        b.append(-coef_x0 * np.sqrt(1.0 / now - 1.0))
        c.append(np.sqrt(beta * (1.0 - after) / (1.0 - now)))
    return _table("ddpm", config, timesteps, a, b, c)


def relay_ddim(config: DiffusionConfig, n_steps: int) -> Schedule:
    """Return Eq. 3 with sigma = 0 (k_n and m_n of Eq. 18) at the DDPM sampler's timesteps."""
    return ddim(config, spaced_timesteps(config, n_steps), abar_end=1.0)


def ddim(config: DiffusionConfig, timesteps: tuple[int, ...], abar_end: float) -> Schedule:
    """Return DDIM at timesteps in running order; ``abar_end`` is that of what comes after the last step."""
    a, b = [], []
    for now, after in _pairs(abar(config), timesteps, abar_end):
        a.append(np.sqrt(after / now))
        b.append(np.sqrt(1.0 - after) - np.sqrt(after * (1.0 - now) / now))
    return _table("ddim", config, timesteps, a, b, [0.0] * len(timesteps))


def _pairs(alphas: NDArray[np.float64], timesteps: tuple[int, ...], abar_end: float) -> list[tuple[float, float]]:
    values = [float(alphas[t]) for t in timesteps]
    return list(zip(values, [*values[1:], abar_end], strict=True))


def _table(
    sampler: str, config: DiffusionConfig, timesteps: tuple[int, ...], a: list[float], b: list[float], c: list[float]
) -> Schedule:
    return Schedule(
        name=f"{sampler}-{len(timesteps)}",
        sampler=sampler,
        timesteps=timesteps,
        abar_start=float(abar(config)[config.used_timesteps - 1]),
        a=tuple(map(float, a)),
        b=tuple(map(float, b)),
        c=tuple(map(float, c)),
    )
