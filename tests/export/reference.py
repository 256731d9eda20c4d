"""The released model as golden data: a small random-weight RDEIC and what the released code computed with it.

The data are not part of this repository; ``RDEIC_RT_REFERENCE`` names their folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch

from rdeic_export import checkpoint, schedule
from rdeic_export.modules.config import (
    CompressionConfig,
    ControlConfig,
    DiffusionConfig,
    ModelConfig,
    UNetConfig,
    VaeConfig,
)
from rdeic_export.modules.model import RdeicModel
from rdeic_rt.schedule import Schedule

FOLDER = Path(os.environ.get("RDEIC_RT_REFERENCE", Path(__file__).parents[3] / "shared" / "reference"))
SMALL = FOLDER / "rdeic-small-1"


def small_config() -> ModelConfig:
    """Return the small golden model's configuration, read from the reference's own ``config.json``."""
    raw = json.loads((SMALL / "config.json").read_text())
    unet, control, vae, compression = raw["unet"], raw["control"], raw["vae"]["ddconfig"], raw["compression"]
    channels = tuple(unet["model_channels"] * m for m in unet["channel_mult"])
    return ModelConfig(
        name=raw["name"],
        vae=VaeConfig(channels=tuple(vae["ch"] * m for m in vae["ch_mult"]), layers_per_block=vae["num_res_blocks"]),
        unet=UNetConfig(
            channels=channels,
            layers_per_block=unet["num_res_blocks"],
            attention_levels=tuple(2**level in unet["attention_resolutions"] for level in range(len(channels))),
            head_dim=unet["num_head_channels"],
            context_dim=unet["context_dim"],
            context_tokens=golden("diffusion_A")["context"].shape[1],
        ),
        control=ControlConfig(width_ratio=control["control_model_ratio"], head_dim=control["num_head_channels"]),
        compression=CompressionConfig(
            hyper_channels=compression["N"],
            latent_channels=compression["M"],
            slices=tuple(compression["slice_ch"]),
            codebook_size=compression["codebook_size"],
        ),
    )


def small_model() -> RdeicModel:
    """Return the small golden model with its released-layout weights loaded."""
    context = torch.from_numpy(golden("diffusion_A")["context"])
    return checkpoint.load(
        small_config(), SMALL / "weights_rdeic.safetensors", SMALL / "weights_sd.safetensors", context
    )


def released_ddim(config: DiffusionConfig, n_steps: int) -> Schedule:
    """Return the released code's DDIM, whose timesteps do not match z_N."""
    stride = config.used_timesteps // n_steps
    timesteps = tuple(reversed(range(1, config.used_timesteps + 1, stride)))
    return schedule.ddim(config, timesteps, abar_end=float(schedule.abar(config)[0]))


def golden(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one golden file, by name."""
    with np.load(SMALL / f"{name}.npz") as file:
        return dict(file)


def relative_error(value: torch.Tensor, expected: np.ndarray) -> float:
    """Return the largest absolute difference over the expected tensor's root mean square."""
    assert tuple(value.shape) == expected.shape, f"{tuple(value.shape)} is not {expected.shape}"
    difference = np.abs(value.detach().numpy().astype(np.float64) - expected.astype(np.float64)).max()
    return float(difference / max(np.sqrt(np.square(expected.astype(np.float64)).mean()), 1e-12))
