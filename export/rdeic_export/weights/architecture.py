"""Recognises a checkpoint of the wrong architecture by the shapes of a few keys.

Every version of Stable Diffusion reads its text through cross-attention keys of another width, and its variants differ
in the channels of the first convolution::

    768   1.x          4 channels   the base model
    1024  2.x          5            depth to image
    1280  XL refiner   7            x4 upscaler
    2048  XL           9            inpainting
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from ..modules.config import ModelConfig

_BY_CONTEXT = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "the Stable Diffusion XL refiner",
    2048: "Stable Diffusion XL",
}
_BY_CHANNELS = {5: "a depth-to-image model", 7: "an upscaler", 9: "an inpainting model"}
_TRANSFORMERS = (("joint_blocks.", "Stable Diffusion 3"), ("double_blocks.", "FLUX"))

_TEXT_KEY = re.compile(r"(?:input_blocks|down_blocks)\..*\.attn2\.to_k\.weight$")
_FIRST_CONV = re.compile(r"(?:^|\.)(?:input_blocks\.0\.0|conv_in)\.weight$")
_RDEIC, _STABLE_DIFFUSION = "control_model.", "model.diffusion_model."


class Shaped(Protocol):
    """A tensor, or whatever else has a shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions."""


def of_rdeic(state: Mapping[str, Shaped]) -> str | None:
    """Return what a file given as an RDEIC checkpoint is instead, as a clause, or None if it is not recognised."""
    if any(key.startswith(_RDEIC) for key in state):
        return None
    if any(key.startswith(_STABLE_DIFFUSION) for key in state):
        return "this is a Stable Diffusion checkpoint; pass it as --sd and the RDEIC checkpoint as --checkpoint"
    return "no key starts with control_model., so it is no released RDEIC checkpoint (rdeic_<weight>_step<L>.ckpt)"


def of_stable_diffusion(state: Mapping[str, Shaped], config: ModelConfig) -> str | None:
    """Return what a file given as Stable Diffusion is instead, as a clause, or None if it is not recognised.

    Args:
        state: the original checkpoint's keys, or those of a diffusers UNet.
        config: what the checkpoint should fit.
    """
    for part, name in _TRANSFORMERS:
        if any(part in key for key in state):
            return f"this looks like {name}, which has no UNet"
    width = _last_size(state, _TEXT_KEY)
    if width is not None and width != config.unet.context_dim:
        known = f"looks like {_BY_CONTEXT[width]}" if width in _BY_CONTEXT else "is another model"
        return f"this {known} (context width {width}, expected {config.unet.context_dim})"
    channels = next((tuple(state[key].shape)[1] for key in state if _is_unet(key) and _FIRST_CONV.search(key)), None)
    if channels is not None and channels != config.vae.latent_channels:
        known = f"looks like {_BY_CHANNELS[channels]}" if channels in _BY_CHANNELS else "is another model"
        return f"this {known} ({channels} input channels, expected {config.vae.latent_channels})"
    if any(key.startswith(_RDEIC) for key in state) and not any(key.startswith(_STABLE_DIFFUSION) for key in state):
        return "this is an RDEIC checkpoint; pass it as --checkpoint and Stable Diffusion 2.1 as --sd"
    return None


def _last_size(state: Mapping[str, Shaped], pattern: re.Pattern[str]) -> int | None:
    return next((int(tuple(state[key].shape)[-1]) for key in state if _is_unet(key) and pattern.search(key)), None)


def _is_unet(key: str) -> bool:
    """Whether a key belongs to the denoiser: a released one's prefix, or a diffusers UNet's keys, which have none."""
    return key.startswith((_STABLE_DIFFUSION, "down_blocks.", "conv_in."))
