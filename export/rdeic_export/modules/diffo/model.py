"""All networks of one DiffO model together, and the PyTorch reference of the whole decode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rdeic_rt.schedule import Schedule

from ..config import LinearVaeConfig
from ..linear_vae import LinearVae
from ..samplers import rows
from .autoencoder import LatentAutoencoder
from .config import DiffoConfig
from .unet import SwinUNet
from .vqgan import Vqgan


class DiffoModel(nn.Module):
    """VQGAN, latent autoencoder with its codebook, and Swin UNet of one rate."""

    def __init__(self, config: DiffoConfig) -> None:
        super().__init__()
        self.config = config
        self.vqgan = LinearVae(config.vqgan) if isinstance(config.vqgan, LinearVaeConfig) else Vqgan(config.vqgan)
        self.codec = LatentAutoencoder(config.latent, config.codebook_size)
        self.unet = SwinUNet(config.unet, config.latent_channels)

    def analyse(self, image: Tensor) -> Tensor:
        """Return vq_indices, int64 [B, Hq, Wq], of an image, float [B, 3, H, W] in [-1, 1]: all that is sent."""
        return self.codec.analyse(self.vqgan.latents(image))

    def predict(self, x: Tensor, z_y: Tensor, timesteps: Tensor, base: Tensor | None = None) -> Tensor:
        """Return z_0, float [B, C, h, w].

        Args:
            x: z_t over its deviation, float [B, C, h, w].
            z_y: code vectors, float [B, C, Hq, Wq].
            timesteps: int64 [B].
            base: z_y_start, like x, where the UNet `adds_base`.
        """
        height, width = x.shape[-2:]
        out: Tensor = self.unet(x, self.unet.time_embed(timesteps), self.unet.hint(z_y, height, width))
        if not self.config.unet.adds_base:
            return out
        assert base is not None  # nobody who has such a UNet leaves it out
        return base + out

    def denoise(self, base: Tensor, z_y: Tensor, table: Schedule, noises: list[Tensor]) -> Tensor:
        """Return z_0, float [B, C, h, w], after the table's fixed steps: one, as released.

        Args:
            base: z_y_start, float [B, C, h, w].
            z_y: code vectors, float [B, C, Hq, Wq].
            table: of `resshift.ddpm`.
            noises: standard normal tensors like base: that of the start, then one for every step whose c is not 0.
        """
        draws = iter(noises)
        x: Tensor = table.abar_start**0.5 * base + (1.0 - table.abar_start) ** 0.5 * next(draws)
        for timestep, a, b, c in rows(table):
            x = a * x + b * self.predict(x, z_y, torch.full((x.shape[0],), timestep, device=x.device), base)
            if c:
                x = x + c * next(draws)
        return x
