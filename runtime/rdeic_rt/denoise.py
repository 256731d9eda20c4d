"""L x (control -> unet_step): z_N -> z_0, plain and guided.

    z_n, hint ── control ──▶ residuals ─┐
    z_n ────────────────────────────────┴▶ unet_step ──▶ z_(n-1) = a z_n + b eps + c noise

Guidance (RDEIC, Eq. 11) scales how far eps moves away from what the frozen denoiser predicts on its own, which is
unet_step with zero residuals: eps = eps_plain + lambda_s (eps_controlled - eps_plain). The update is linear in eps, so
both run as a batch of two and the results are blended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import noise, timing
from .backends.base import Backend, Buffer, Graph
from .schedule import Schedule, StepRows


@dataclass(frozen=True)
class Denoiser:
    """The two graphs of a rate, and the loop they are run in.

    Attributes:
        control: z_n, hint, step -> residuals.
        unet_step: z_n, step, coefficients, noise, residuals -> z_prev.
        schedule: coefficients of each step.
        rows: the input ``step`` of both graphs at each step.
    """

    control: Graph
    unet_step: Graph
    schedule: Schedule
    rows: StepRows


def run(
    backend: Backend, denoiser: Denoiser, z_start: NDArray[np.float32], hint: Buffer, *, seed: int, sharpness: float
) -> Buffer:
    """Return z_0, float32 [1, C, h/8, w/8].

    Args:
        backend: where the graphs run.
        denoiser: graphs and schedule.
        z_start: float32 [1, C, h/8, w/8], z_N from `noise.start`.
        hint: float32 [1, K, h/8, w/8], from `synthesis.run`.
        seed: step k adds draw k + 1 of this seed, wherever its c is not zero.
        sharpness: lambda_s; 1 runs the controlled denoiser alone, 0 is the frozen one alone.

    Raises:
        BackendError: a graph could not be run.
    """
    z_n = backend.put(z_start)
    for step in range(denoiser.schedule.n_steps):
        with timing.stage("denoise.control"):
            control_row = backend.put(denoiser.rows.control[step : step + 1])
            residuals = denoiser.control.run({"z_n": z_n, "hint": hint, "step": control_row})
        with timing.stage("denoise.unet_step"):
            inputs = {
                "z_n": z_n,
                "noise": backend.put(_step_noise(denoiser.schedule, step, z_start.shape, seed)),
                "step": backend.put(denoiser.rows.unet_step[step : step + 1]),
                "coefficients": backend.put(denoiser.schedule.coefficients(step)),
            }
            if sharpness == 1.0:
                z_n = denoiser.unet_step.run({**inputs, **residuals})["z_prev"]
            else:
                z_n = _guided_step(backend, denoiser.unet_step, inputs, residuals, sharpness)
    return z_n


def _guided_step(
    backend: Backend, unet_step: Graph, inputs: Mapping[str, Buffer], residuals: Mapping[str, Buffer], sharpness: float
) -> Buffer:
    pair = {name: backend.stack([residual, backend.zeros_like(residual)]) for name, residual in residuals.items()}
    for name in ("z_n", "noise"):
        pair[name] = backend.stack([inputs[name], inputs[name]])
    controlled, plain = backend.split(unet_step.run({**inputs, **pair})["z_prev"])
    return backend.blend(plain, controlled, sharpness)


def _step_noise(schedule: Schedule, step: int, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return noise.gaussian(shape, seed, step + 1) if schedule.c[step] else np.zeros(shape, np.float32)
