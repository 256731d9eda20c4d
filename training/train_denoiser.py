"""Base denoiser: train eps_sd on the autoencoder's latents, in place of Stable Diffusion.

python -m training.train_denoiser --photos photos.tar --vae runs/vae/weights.safetensors --out runs/denoiser
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rdeic_export import schedule
from rdeic_export.modules.model import RdeicModel

from . import common, data, loop


def denoising_loss(model: RdeicModel, z_0: Tensor) -> Tensor:
    """Return the mean squared error of eps_sd on latents [B, C, h, w], at random timesteps below N."""
    diffusion = model.config.diffusion
    # Decoding starts at N, so only the first N timesteps are ever asked for.
    timesteps = torch.randint(diffusion.used_timesteps, (len(z_0),), device=z_0.device)
    z_n, eps = _noisy(model, z_0, timesteps)
    return F.mse_loss(_predict(model, z_n, timesteps), eps)


def _noisy(model: RdeicModel, z_0: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    eps = torch.randn_like(z_0)
    level = _level(model, timesteps)
    return level.sqrt() * z_0 + (1 - level).sqrt() * eps, eps


def _predict(model: RdeicModel, z_n: Tensor, timesteps: Tensor) -> Tensor:
    eps: Tensor = model.unet(z_n, model.unet.time_embed(timesteps), model.context.expand(len(z_n), -1, -1))
    return eps.float()


def _level(model: RdeicModel, timesteps: Tensor) -> Tensor:
    abar = torch.from_numpy(schedule.abar(model.config.diffusion)).float().to(timesteps.device)
    return abar[timesteps][:, None, None, None]


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with keys ``unet.*``."""
    p = common.parser(__doc__ or "")
    p.add_argument("--vae", type=Path, required=True, help="weights of the trained autoencoder")
    args = p.parse_args()
    setup = common.prepare(args, "denoiser")
    model = setup.model
    loop.load_weights(model, args.vae)
    model.vae.requires_grad_(False)

    def step_loss(step: int) -> tuple[Tensor, loop.Metrics]:
        z_0, _ = common.latents(model, setup.batch(step))
        return denoising_loss(model, z_0), {}

    def samples() -> NDArray[np.uint8]:
        z_0, _ = common.latents(model, setup.validation)
        last = torch.full((len(z_0),), model.config.diffusion.used_timesteps - 1, device=setup.device)
        z_n, _ = _noisy(model, z_0, last)
        level = _level(model, last)
        denoised = (z_n - (1 - level).sqrt() * _predict(model, z_n, last)) / level.sqrt()
        columns = (setup.validation, model.vae.decode(z_n / level.sqrt()), model.vae.decode(denoised))
        return loop.sheet(*map(data.to_images, columns))

    trained = nn.ModuleDict({"unet": model.unet})
    loop.run(trained, step_loss, samples, setup.schedule, setup.out, seed=setup.seed, device=setup.device)


if __name__ == "__main__":
    main()
