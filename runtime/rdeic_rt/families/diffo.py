"""DiffO: VQ indices are coded; the UNet computes z_0 from their base and noise in one step (DiffO, arXiv 2506.16572).

    encode    image ─ analysis ─▶ vq_indices
    decode    vq_indices ─ synthesis ─▶ z_c, hint     z_c, noise ─ start ─▶ z_N
              z_N, hint ─ unet_step ─▶ z_0 ─ vae_decoder ─▶ image
    preview   vq_indices ─ synthesis ─▶ z_c ─ vae_decoder ─▶ image

The amount of noise is given by the rate's ``abar_start``, for which the UNet was trained. The timestep is folded into
the UNet's graph, and so is the update: the schedule has one step, which returns the network's output unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from .. import noise, timing
from ..errors import BundleCorruptError
from ..placement import Placement, Stage, Value
from ..schedule import Schedule
from .base import Encoder, Loader, Role, graph_stage, start_stage


@dataclass(frozen=True)
class _Preview:
    synthesis: Stage
    vae_decoder: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.synthesis, self.vae_decoder


@dataclass(frozen=True)
class _Decoder:
    ends: _Preview
    start: Stage
    unet_step: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.ends.synthesis, self.unet_step, self.ends.vae_decoder


class Diffo:
    """The family ``diffo``; see `base.Family` for what its members are."""

    name = "diffo"
    roles: Mapping[str, Role] = MappingProxyType(
        {
            "analysis": Role(frozenset({"image"}), frozenset({"vq_indices"})),
            "synthesis": Role(frozenset({"vq_indices"}), frozenset({"z_c", "hint"})),
            "unet_step": Role(frozenset({"z_n", "hint"}), frozenset({"z_0"})),
            "vae_decoder": Role(frozenset({"z_0"}), frozenset({"image"})),
        }
    )
    encoding = frozenset({"analysis"})
    alike = frozenset({"z_c", "z_n", "z_0"})
    has_steps = True
    coded = ("vq_indices",)
    latents: Mapping[str, str] = MappingProxyType({"vq_indices": "synthesis"})

    def n_parts(self, schedule: Schedule | None, *, preview: bool) -> int:
        """Return synthesis, the step and VAE."""
        return 2 if preview else 3

    def load_encoder(self, load: Loader) -> Encoder:
        """Return the analysis."""
        return Encoder(graph_stage("analysis", load, "analysis", self.coded))

    def load_decoder(self, load: Loader, schedule: Schedule | None) -> _Decoder:
        """Return all stages of `decode`; BundleCorruptError unless the schedule's a, b, c are 0, 1, 0."""
        assert schedule is not None  # `has_steps`: every rate has one
        if (schedule.a, schedule.b, schedule.c) != ((0.0,), (1.0,), (0.0,)):
            raise BundleCorruptError(
                f"schedule {schedule.name!r}: a, b, c are {schedule.a}, {schedule.b}, {schedule.c}; family "
                f"{self.name!r} decodes in one step, with 0, 1, 0"
            )
        unet_step = graph_stage("denoise", load, "unet_step", ("z_0",))
        start = start_stage(load.backend, schedule, unet_step.inputs["z_n"])
        return _Decoder(self.load_preview(load), start, unet_step)

    def load_preview(self, load: Loader) -> _Preview:
        """Return synthesis and VAE decoder."""
        synthesis = graph_stage("synthesis", load, "synthesis", ("z_c", "hint"))
        return _Preview(synthesis, graph_stage("vae", load, "vae_decoder", ("image",), finite="z_0"))

    def noise(self, decoder: _Decoder, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[Any]]:
        """Return the noise of the start, draw 0."""
        return {"noise.start": noise.gaussian(decoder.unet_step.inputs["z_n"].resolve(sizes), seed, 0)}

    def guidance(self, sharpness: float) -> dict[str, NDArray[Any]]:
        """Return nothing: no rate is guided, so sharpness is 1."""
        return {}

    def encode(self, at: Placement, encoder: Encoder, given: Mapping[str, Value]) -> tuple[Value, ...]:
        """Return the nearest code vectors, int64 [1, Hq, Wq]."""
        return at.each(encoder.analysis, image=given["image"])

    def decode(self, at: Placement, decoder: _Decoder, given: Mapping[str, Value]) -> Value:
        """Return the image after one step from z_c."""
        with timing.stage("synthesis"):
            z_c, hint = at.each(decoder.ends.synthesis, vq_indices=given["vq_indices"])
        with timing.stage("start"):
            (z_n,) = at.each(decoder.start, z_c=z_c, noise=given["noise.start"])
        with timing.stage("denoise"):
            (z_0,) = at.each(decoder.unet_step, z_n=z_n, hint=hint)
        with timing.stage("vae"):
            (image,) = at.each(decoder.ends.vae_decoder, z_0=z_0)
        return image

    def preview(self, at: Placement, preview: _Preview, given: Mapping[str, Value]) -> Value:
        """Return the image of z_c, the decoded base."""
        with timing.stage("synthesis"):
            z_c, _ = at.each(preview.synthesis, vq_indices=given["vq_indices"])
        with timing.stage("vae"):
            (image,) = at.each(preview.vae_decoder, z_0=z_c)
        return image
