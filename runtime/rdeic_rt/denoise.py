"""L x (control -> unet_step): z_N -> z_0, plain and guided.

    z_n, hint ── control ──▶ residuals ─┐
    z_n ────────────────────────────────┴▶ unet_step ──▶ z_(n-1) = a z_n + b eps + c noise

Guidance (RDEIC, Eq. 11) scales how far eps moves away from what the frozen denoiser predicts on its own, which is
unet_step with zero residuals: eps = eps_plain + lambda_s (eps_controlled - eps_plain). The update is linear in eps, so
both run as a batch of two and the results are combined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import timing
from .backends.base import Backend, Buffer, Graph, output_of
from .schedule import Schedule, StepRows


@dataclass(frozen=True)
class Denoiser:
    """The two graphs of a rate, the loop they are run in and its constants where the graphs compute; see `prepare`.

    Attributes:
        control: z_n, hint, step -> residuals.
        unet_step: z_n, step, coefficients, noise, residuals -> z_prev.
        schedule: what the loop is.
        control_rows, unet_rows: the input ``step`` of each graph at each step, float32 [1, D].
        coefficients: (a, b, c) of each step, float32 [3].
    """

    control: Graph
    unet_step: Graph
    schedule: Schedule
    control_rows: tuple[Buffer, ...]
    unet_rows: tuple[Buffer, ...]
    coefficients: tuple[Buffer, ...]


def prepare(backend: Backend, control: Graph, unet_step: Graph, schedule: Schedule, rows: StepRows) -> Denoiser:
    """Return the loop with its constants put where the graphs run."""
    steps = range(schedule.n_steps)
    return Denoiser(
        control,
        unet_step,
        schedule,
        control_rows=tuple(backend.put(rows.control[step : step + 1]) for step in steps),
        unet_rows=tuple(backend.put(rows.unet_step[step : step + 1]) for step in steps),
        coefficients=tuple(backend.put(schedule.coefficients(step)) for step in steps),
    )


def guidance_weights(sharpness: float) -> NDArray[np.float32]:
    """Return float32 [2], what the controlled and the plain result of a guided step are multiplied by."""
    return np.array([sharpness, 1.0 - sharpness], np.float32)


def run(
    backend: Backend,
    denoiser: Denoiser,
    z_start: Buffer,
    hint: Buffer,
    noises: Sequence[Buffer | None],
    guidance: Buffer | None,
) -> Buffer:
    """Return z_0, float32 [1, C, h/8, w/8].

    Args:
        backend: where the graphs run.
        denoiser: graphs and schedule.
        z_start: float32 [1, C, h/8, w/8], z_N.
        hint: float32 [1, K, h/8, w/8], from `synthesis.run`.
        noises: what each step adds, float32 like z_start; None for a step whose c is zero.
        guidance: `guidance_weights` of lambda_s; None runs the controlled denoiser alone, as lambda_s = 1.

    Raises:
        BackendError: a graph could not be run.
        BundleCorruptError: it returned an array of another type or shape.
    """
    z_n = z_start
    for step, noise in enumerate(noises):
        z_n = run_step(backend, denoiser, step, z_n, hint, noise, guidance)
    return z_n


def run_step(
    backend: Backend,
    denoiser: Denoiser,
    step: int,
    z_n: Buffer,
    hint: Buffer,
    noise: Buffer | None,
    guidance: Buffer | None,
) -> Buffer:
    """Return z_(n-1), float32 like z_n; arguments and errors as for `run`."""
    with timing.stage("denoise.control", step):
        residuals = denoiser.control.run({"z_n": z_n, "hint": hint, "step": denoiser.control_rows[step]})
    with timing.stage("denoise.unet_step", step):
        inputs = {
            "z_n": z_n,
            "noise": backend.zeros_like(z_n) if noise is None else noise,
            "step": denoiser.unet_rows[step],
            "coefficients": denoiser.coefficients[step],
        }
        if guidance is None:
            return _z_prev(denoiser.unet_step, {**inputs, **residuals})
        return _guided_step(backend, denoiser.unet_step, inputs, residuals, guidance)


def _guided_step(
    backend: Backend, unet_step: Graph, inputs: Mapping[str, Buffer], residuals: Mapping[str, Buffer], guidance: Buffer
) -> Buffer:
    pair = {name: backend.stack([residual, backend.zeros_like(residual)]) for name, residual in residuals.items()}
    for name in ("z_n", "noise"):
        pair[name] = backend.stack([inputs[name], inputs[name]])
    controlled, plain = backend.split(_z_prev(unet_step, {**inputs, **pair}))
    return backend.combine(controlled, plain, guidance)


def _z_prev(unet_step: Graph, inputs: Mapping[str, Buffer]) -> Buffer:
    return output_of(unet_step, unet_step.run(inputs), "z_prev", "float32", inputs["z_n"].shape)
