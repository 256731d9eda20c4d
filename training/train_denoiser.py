"""Base denoiser: train eps_sd on the autoencoder's latents; afterwards it stays frozen, as Stable Diffusion does.

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

from . import common, data, loop


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with keys ``unet.*``."""
    p = common.parser(__doc__ or "")
    p.add_argument("--vae", type=Path, required=True, help="weights of the trained autoencoder")
    args = p.parse_args()
    setup = common.prepare(args, "denoiser")
    model = setup.model
    loop.load_weights(model, args.vae)
    model.vae.requires_grad_(False)
    diffusion = model.config.diffusion
    abar = torch.from_numpy(schedule.abar(diffusion)).float().to(setup.device)

    def noisy(image: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        z_0, _ = common.latents(model, image)
        eps = torch.randn_like(z_0)
        level = abar[timesteps][:, None, None, None]
        return level.sqrt() * z_0 + (1 - level).sqrt() * eps, eps

    def predict(z_n: Tensor, timesteps: Tensor) -> Tensor:
        eps: Tensor = model.unet(z_n, model.unet.time_embed(timesteps), model.context.expand(len(z_n), -1, -1))
        return eps.float()

    def step_loss(step: int) -> tuple[Tensor, loop.Metrics]:
        image = setup.batch(step)
        # Decoding starts at N, so only the first N timesteps are ever asked for.
        timesteps = torch.randint(diffusion.used_timesteps, (image.shape[0],), device=setup.device)
        z_n, eps = noisy(image, timesteps)
        return F.mse_loss(predict(z_n, timesteps), eps), {}

    def samples() -> NDArray[np.uint8]:
        last = torch.full((len(setup.validation),), diffusion.used_timesteps - 1, device=setup.device)
        z_n, _ = noisy(setup.validation, last)
        level = abar[last[0]]
        denoised = (z_n - (1 - level).sqrt() * predict(z_n, last)) / level.sqrt()
        columns = (setup.validation, model.vae.decode(z_n / level.sqrt()), model.vae.decode(denoised))
        return loop.sheet(*map(data.to_images, columns))

    trained = nn.ModuleDict({"unet": model.unet})
    loop.run(trained, step_loss, samples, setup.schedule, setup.out, seed=setup.seed, device=setup.device)


if __name__ == "__main__":
    main()
