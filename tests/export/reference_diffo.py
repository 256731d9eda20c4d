"""The released DiffO as golden data: a small random-weight model and what the released code computed with it.

The data are not part of this repository; ``RDEIC_RT_REFERENCE_DIFFO`` names their folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from rdeic_export.modules.diffo.config import AutoencoderConfig, DiffoConfig, ResShiftConfig, SwinUNetConfig
from rdeic_export.modules.diffo.model import DiffoModel
from rdeic_export.weights import diffo

FOLDER = Path(os.environ.get("RDEIC_RT_REFERENCE_DIFFO", Path(__file__).parents[3] / "shared" / "reference-diffo"))
SMALL = FOLDER / "diffo-small-1"


def small_config() -> DiffoConfig:
    """Return the small golden model's configuration, read from the reference's own ``config.json``."""
    raw = json.loads((SMALL / "config.json").read_text())
    unet, diffusion = raw["unet"], raw["diffusion"]
    channels = tuple(unet["model_channels"] * m for m in unet["channel_mult"])
    latent_channels = raw["gt_encoder"]["embed_dim"]
    return DiffoConfig(
        name=raw["name"],
        vqgan=_autoencoder(raw["gt_encoder"]),
        latent=_autoencoder(raw["autoencoder"]),
        codebook_size=raw["autoencoder"]["n_embed"],
        unet=SwinUNetConfig(
            channels=channels,
            layers_per_block=tuple(unet["num_res_blocks"]),
            windows=(*[unet["window_size"]] * (len(channels) - 1), unet["final_window_size"]),
            hint_channels=unet["in_channels"] - latent_channels,
            swin_dim=unet["swin_embed_dim"],
            head_dim=unet["num_head_channels"],
            mlp_ratio=unet["mlp_ratio"],
        ),
        diffusion=ResShiftConfig(
            kappa=diffusion["kappa"],
            sqrt_eta_end=diffusion["etas_end"],
            min_noise_level=diffusion["min_noise_level"],
            timesteps=diffusion["steps"],
            power=diffusion["schedule_kwargs"]["power"],
        ),
    )


def small_model() -> DiffoModel:
    """Return the small golden model with its released-layout weights loaded."""
    files = (SMALL / f"weights_{part}.safetensors" for part in ("unet", "vq", "gt"))
    return diffo.load(small_config(), *files)


def golden(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one golden file, by name."""
    with np.load(SMALL / f"{name}.npz") as file:
        return dict(file)


def _autoencoder(raw: dict[str, Any]) -> AutoencoderConfig:
    layers = raw["ddconfig"]
    levels = range(len(layers["ch_mult"]))
    return AutoencoderConfig(
        in_channels=layers["in_channels"],
        stem_channels=layers["ch"],
        channels=tuple(layers["ch"] * m for m in layers["ch_mult"]),
        attention_levels=tuple(layers["resolution"] >> level in layers["attn_resolutions"] for level in levels),
        z_channels=layers["z_channels"],
        embed_dim=raw["embed_dim"],
        layers_per_block=layers["num_res_blocks"],
    )
