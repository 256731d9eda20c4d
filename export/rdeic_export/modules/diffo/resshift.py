"""ResShift's noise schedule (arXiv 2307.12348): the residual between base and truth is shifted in while noise is added.

    z_t = z_start + eta_t (z_y_start - z_start) + kappa sqrt(eta_t) noise

The network is given z_t over its deviation, sqrt(1 + kappa^2 eta_t), and predicts z_start. In that scale decoding
starts from ``sqrt(abar) z_y_start + sqrt(1 - abar) noise`` with abar = 1 / (1 + kappa^2 eta), and every step is the
runtime's update: its ``b`` multiplies the network's output, which is z_0 instead of the noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rdeic_rt.schedule import Schedule

from .config import ResShiftConfig


def sqrt_etas(config: ResShiftConfig) -> NDArray[np.float64]:
    """Return sqrt(eta_t), float64 [timesteps], rising to ``sqrt_eta_end`` (ResShift, section 3.2)."""
    first = min(config.min_noise_level / config.kappa, config.min_noise_level, np.sqrt(0.001))
    u = np.linspace(0.0, 1.0, config.timesteps) if config.timesteps > 1 else np.ones(1)
    return np.asarray(first * (config.sqrt_eta_end / first) ** (u**config.power), np.float64)


def deviations(config: ResShiftConfig) -> NDArray[np.float64]:
    """Return what z_t is divided by before the network sees it, float64 [timesteps]."""
    return np.asarray(np.sqrt(1.0 + config.kappa**2 * sqrt_etas(config) ** 2), np.float64)


def noised(config: ResShiftConfig, z_start: Tensor, base: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return z_t, float [B, C, h, w], not scaled: what the network learns from (ResShift, Eq. 2).

    Args:
        config: the schedule.
        z_start: float [B, C, h, w].
        base: z_y_start, like z_start.
        noise: standard normal, like z_start.
        timesteps: int64 [B].
    """
    sqrt_eta = z_start.new_tensor(sqrt_etas(config))[timesteps][:, None, None, None]
    return z_start + sqrt_eta**2 * (base - z_start) + config.kappa * sqrt_eta * noise


def ddpm(config: ResShiftConfig, n_steps: int = 1) -> Schedule:
    """Return ResShift's sampler (Eq. 7) from the last timestep on, of scaled latents.

    With one step its result is the network's prediction itself: (a, b, c) = (0, 1, 0).

    Raises:
        ValueError: the model has fewer timesteps.
    """
    if not 1 <= n_steps <= config.timesteps:
        raise ValueError(f"{n_steps} steps asked for, the model has {config.timesteps} timesteps")
    timesteps = tuple(range(config.timesteps - 1, config.timesteps - 1 - n_steps, -1))
    etas, scales = sqrt_etas(config) ** 2, deviations(config)
    a, b, c = [], [], []
    for step, t in enumerate(timesteps):
        now, is_last = float(etas[t]), step == n_steps - 1
        after, scale = (0.0, 1.0) if is_last else (float(etas[t - 1]), float(scales[t - 1]))
        a.append(after / now * float(scales[t]) / scale)
        b.append((1.0 - after / now) / scale)
        c.append(config.kappa * float(np.sqrt(after * (now - after) / now)) / scale)
    return Schedule(
        name=f"resshift-{n_steps}",
        sampler="resshift",
        timesteps=timesteps,
        abar_start=float(1.0 / scales[-1] ** 2),
        a=tuple(a),
        b=tuple(b),
        c=tuple(c),
    )
