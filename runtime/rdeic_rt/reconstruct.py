"""MAIN PATH of the inexact half: y_hat and noise -> pixels, one call per stage, without leaving the device.

    y_hat ─ synthesis ─ (z_c, hint) ─ start ─ z_N ─ L x (control, unet_step) ─ z_0 ─ vae ─▶ uint8 image
                          └─────────────────────────────────────────────────── vae ─▶ preview

`run` and `preview` are functions of the buffers they are given and of nothing else, so a backend may record them once
per shape and replay them (`base.Backend.execute`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import denoise, noise, synthesis, timing, vae
from .backends.base import Backend, Buffer, Graph
from .bundle import LEVEL
from .denoise import Denoiser

Y_HAT, START, GUIDANCE = "y_hat", "noise_start", "guidance"


@dataclass(frozen=True)
class Decoder:
    """Everything that turns the latents of one rate into an image, for one schedule.

    Attributes:
        synthesis: y_hat -> z_c, hint.
        denoiser: z_N, hint -> z_0.
        vae_decoder: z_0 -> image.
        start_weights: float32 [2], `schedule.Schedule.start_weights` where the graphs compute.
    """

    synthesis: Graph
    denoiser: Denoiser
    vae_decoder: Graph
    start_weights: Buffer

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All graphs that `run` runs."""
        return self.synthesis, self.denoiser.control, self.denoiser.unet_step, self.vae_decoder

    @property
    def latent_channels(self) -> int:
        """C, channels of z_0."""
        return int(self.vae_decoder.spec.input("z_0").shape[1])


@dataclass(frozen=True)
class Previewer:
    """What makes a preview of the latents of one rate: z_c is an estimate of z_0, and is decoded as if it were z_0.

    Attributes:
        synthesis: y_hat -> z_c, hint.
        vae_decoder: z_0 -> image.
    """

    synthesis: Graph
    vae_decoder: Graph

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All graphs that `preview` runs."""
        return self.synthesis, self.vae_decoder


def inputs(
    decoder: Decoder, y_hat: NDArray[np.float32], level: NDArray[np.float32] | None, seed: int, sharpness: float
) -> dict[str, NDArray[np.float32]]:
    """Return what `run` needs, by name: y_hat, its level, the noise of the start and of the steps, guidance.

    Args:
        decoder: its schedule says which steps add noise.
        y_hat: float32 [1, M, h/16, w/16].
        level: float32 [1, D], the rate's row where rates share the synthesis graph.
        seed: 0 <= seed < 2**64; draw 0 is the start's noise, draw k + 1 that of step k.
        sharpness: lambda_s of Eq. 11; 1 needs no guidance.
    """
    height, width = (2 * side for side in y_hat.shape[2:])
    shape = (1, decoder.latent_channels, height, width)
    named = preview_inputs(y_hat, level) | {START: noise.gaussian(shape, seed, 0)}
    for step, c in enumerate(decoder.denoiser.schedule.c):
        if c:
            named[step_noise(step)] = noise.gaussian(shape, seed, step + 1)
    if sharpness != 1.0:
        named[GUIDANCE] = denoise.guidance_weights(sharpness)
    return named


def preview_inputs(y_hat: NDArray[np.float32], level: NDArray[np.float32] | None) -> dict[str, NDArray[np.float32]]:
    """Return what `preview` needs, by name; arguments as for `inputs`."""
    return {Y_HAT: y_hat} if level is None else {Y_HAT: y_hat, LEVEL: level}


def run(backend: Backend, decoder: Decoder, buffers: Mapping[str, Buffer]) -> Buffer:
    """Return the padded image, uint8 [1, h, w, 3], RGB, for buffers named as `inputs` names them.

    Raises:
        BackendError: a graph could not be run.
    """
    with timing.stage("synthesis"):
        z_c, hint = synthesis.run(decoder.synthesis, buffers[Y_HAT], buffers.get(LEVEL))
    with timing.stage("start"):
        z_start = backend.combine(z_c, buffers[START], decoder.start_weights)
    with timing.stage("denoise"):
        noises = [buffers.get(step_noise(step)) for step in range(decoder.denoiser.schedule.n_steps)]
        z_0 = denoise.run(backend, decoder.denoiser, z_start, hint, noises, buffers.get(GUIDANCE))
    with timing.stage("vae"):
        return vae.decode(decoder.vae_decoder, z_0)


def preview(previewer: Previewer, buffers: Mapping[str, Buffer]) -> Buffer:
    """Return the padded preview, uint8 [1, h, w, 3], RGB, for buffers named as `preview_inputs` names them.

    Raises:
        BackendError: a graph could not be run.
    """
    with timing.stage("synthesis"):
        z_c, _ = synthesis.run(previewer.synthesis, buffers[Y_HAT], buffers.get(LEVEL))
    with timing.stage("vae"):
        return vae.decode(previewer.vae_decoder, z_c)


def step_noise(step: int) -> str:
    """Return the name of the noise that a step adds, among `inputs`."""
    return f"noise_{step}"
