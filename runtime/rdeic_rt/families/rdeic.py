"""RDEIC: y and VQ indices are coded; denoising starts from z_c plus slight noise (RDEIC, section 3).

    encode    image ─ analysis ─▶ y, vq_indices
    decode    y_hat ─ synthesis ─▶ z_c, hint          z_c, noise ─ start ─▶ z_N
              L x (z_n, hint ─ control ─▶ residuals;  z_n, residuals ─ unet_step ─▶ z_(n-1) = a z_n + b eps + c noise)
              z_0 ─ vae_decoder ─▶ image
    preview   y_hat ─ synthesis ─▶ z_c ─ vae_decoder ─▶ image

Guidance (Eq. 11) scales how far eps moves away from what the frozen denoiser predicts on its own, which is unet_step
with zero residuals: eps = eps_plain + lambda_s (eps_controlled - eps_plain). The update is linear in eps, so both run
as a batch of two and the results are combined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import noise, timing
from ..backends.base import Backend, Buffer, Graph, run_checked
from ..placement import Placement, Stage, Value
from ..schedule import Schedule
from ..tensor_spec import TensorSpec
from .base import Encoder, Loader, Role, graph_stage, level_input, start_stage

_RESIDUALS = "residual_*"
_GUIDANCE = TensorSpec("guidance", "float32", (2,))


@dataclass(frozen=True)
class _Decoder:
    """Stages of one rate for one schedule; a preview has no start and no steps."""

    synthesis: Stage
    vae_decoder: Stage
    schedule: Schedule | None = None
    start: Stage | None = None
    steps: tuple[Stage, ...] = ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.synthesis, *self.steps, self.vae_decoder


class Rdeic:
    """The family ``rdeic``; see `base.Family` for what its members are."""

    name = "rdeic"
    roles: Mapping[str, Role] = MappingProxyType(
        {
            "analysis": Role(frozenset({"image"}), frozenset({"y", "vq_indices"}), at_a_level=True),
            "synthesis": Role(frozenset({"y_hat"}), frozenset({"z_c", "hint"}), at_a_level=True),
            "control": Role(frozenset({"z_n", "hint", "step"}), frozenset({_RESIDUALS})),
            "unet_step": Role(frozenset({"z_n", "step", "coefficients", "noise", _RESIDUALS}), frozenset({"z_prev"})),
            "vae_decoder": Role(frozenset({"z_0"}), frozenset({"image"})),
        }
    )
    encoding = frozenset({"analysis"})
    alike = frozenset({"z_c", "z_n", "noise", "z_prev", "z_0"})
    has_steps = True
    coded = ("y", "vq_indices")
    latents: Mapping[str, str] = MappingProxyType({"y_hat": "synthesis"})

    def n_parts(self, schedule: Schedule | None, *, preview: bool) -> int:
        """Return synthesis, steps and VAE."""
        return 2 if preview or schedule is None else 2 + schedule.n_steps

    def load_encoder(self, load: Loader) -> Encoder:
        """Return the analysis."""
        return Encoder(graph_stage("analysis", load, "analysis", self.coded))

    def load_decoder(self, load: Loader, schedule: Schedule | None) -> _Decoder:
        """Return all stages of `decode`, with the constants of each step on the backend's device."""
        assert schedule is not None  # `has_steps`: every rate has one
        control, unet_step = load.graph("control"), load.graph("unet_step")
        rows = load.step_rows(schedule)
        steps = tuple(
            _step(load.backend, control, unet_step, schedule, rows, number) for number in range(schedule.n_steps)
        )
        start = start_stage(load.backend, schedule, unet_step.spec.input("z_n"))
        return _Decoder(*_ends(load), schedule, start, steps)

    def load_preview(self, load: Loader) -> _Decoder:
        """Return synthesis and VAE decoder."""
        return _Decoder(*_ends(load))

    def noise(self, decoder: _Decoder, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[Any]]:
        """Return draw 0 for the start and k + 1 for step k, where that adds any."""
        assert decoder.schedule is not None
        shape = decoder.vae_decoder.inputs["z_0"].resolve(sizes)
        drawn = {"noise.start": noise.gaussian(shape, seed, 0)}
        for step, c in enumerate(decoder.schedule.c):
            if c:
                drawn[f"noise.{step}"] = noise.gaussian(shape, seed, step + 1)
        return drawn

    def guidance(self, sharpness: float) -> dict[str, NDArray[Any]]:
        """Return the weights of the two predictions (Eq. 11)."""
        return {} if sharpness == 1.0 else {"guidance": np.array([sharpness, 1.0 - sharpness], np.float32)}

    def encode(self, at: Placement, encoder: Encoder, given: Mapping[str, Value]) -> tuple[Value, ...]:
        """Return y, float32 [1, M, h/16, w/16], not rounded, and the nearest code vectors, int64 [1, h/64, w/64]."""
        level = given.get(level_input("analysis"))
        return at.each(encoder.analysis, image=given["image"], level=level)

    def decode(self, at: Placement, decoder: _Decoder, given: Mapping[str, Value]) -> Value:
        """Return the image after L steps from z_c."""
        assert decoder.start is not None
        with timing.stage("synthesis"):
            level = given.get(level_input("synthesis"))
            z_c, hint = at.each(decoder.synthesis, y_hat=given["y_hat"], level=level)
        with timing.stage("start"):
            (z_n,) = at.each(decoder.start, z_c=z_c, noise=given["noise.start"])
        with timing.stage("denoise"):
            for number, step in enumerate(decoder.steps):
                drawn, guidance = given.get(f"noise.{number}"), given.get("guidance")
                (z_n,) = at.each(step, z_n=z_n, hint=hint, noise=drawn, guidance=guidance)
        with timing.stage("vae"):
            (image,) = at.each(decoder.vae_decoder, z_0=z_n)
        return image

    def preview(self, at: Placement, preview: _Decoder, given: Mapping[str, Value]) -> Value:
        """Return the image of z_c, which is an estimate of z_0."""
        with timing.stage("synthesis"):
            level = given.get(level_input("synthesis"))
            z_c, _ = at.each(preview.synthesis, y_hat=given["y_hat"], level=level)
        with timing.stage("vae"):
            (image,) = at.each(preview.vae_decoder, z_0=z_c)
        return image


def _ends(load: Loader) -> tuple[Stage, Stage]:
    """Return the first and last stage of decoding, which previews share."""
    synthesis = graph_stage("synthesis", load, "synthesis", ("z_c", "hint"))
    return synthesis, graph_stage("vae", load, "vae_decoder", ("image",), finite="z_0")


def _step(
    backend: Backend,
    control: Graph,
    unet_step: Graph,
    schedule: Schedule,
    rows: Mapping[str, NDArray[np.float32]],
    number: int,
) -> Stage:
    """Return one step, z_n -> z_(n-1), with its constants on the backend's device."""
    row_of = {role: backend.put(rows[role][number : number + 1]) for role in ("control", "unet_step")}
    coefficients = backend.put(schedule.coefficients(number))

    def run(inputs: Mapping[str, Buffer]) -> tuple[Buffer, ...]:
        z_n = inputs["z_n"]
        with timing.stage("denoise.control", number):
            residuals = run_checked(control, {"z_n": z_n, "hint": inputs["hint"], "step": row_of["control"]})
        with timing.stage("denoise.unet_step", number):
            drawn = inputs["noise"] if "noise" in inputs else backend.zeros_like(z_n)
            given = {"z_n": z_n, "noise": drawn, "step": row_of["unet_step"], "coefficients": coefficients}
            if "guidance" not in inputs:
                return (run_checked(unet_step, {**given, **residuals})["z_prev"],)
            return (_guided(backend, unet_step, given, residuals, inputs["guidance"]),)

    inputs = {tensor.name: tensor for tensor in (*control.spec.inputs, *unet_step.spec.inputs, _GUIDANCE)}
    return Stage("denoise", (control, unet_step), inputs, (unet_step.spec.output("z_prev"),), run, number)


def _guided(
    backend: Backend, unet_step: Graph, given: Mapping[str, Buffer], residuals: Mapping[str, Buffer], guidance: Buffer
) -> Buffer:
    pair = {name: backend.stack([residual, backend.zeros_like(residual)]) for name, residual in residuals.items()}
    for name in ("z_n", "noise"):
        pair[name] = backend.stack([given[name], given[name]])
    controlled, plain = backend.split(run_checked(unet_step, {**given, **pair})["z_prev"])
    return backend.weighted_sum(controlled, plain, guidance)
