"""All networks of one model together, and the PyTorch reference of the whole decode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rdeic_rt.schedule import Schedule

from .compression import CompressionModel
from .config import LinearVaeConfig, ModelConfig
from .control import ControlNet
from .gained import GainedCompressionModel
from .linear_vae import LinearVae
from .samplers import rows
from .unet import UNet
from .vae import Vae


class RdeicModel(nn.Module):
    """VAE, frozen UNet, compression module and control net of one rate, and the constant text context."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = LinearVae(config.vae) if isinstance(config.vae, LinearVaeConfig) else Vae(config.vae)
        self.unet = UNet(config.unet, config.vae.latent_channels)
        channels = config.vae.feature_channels, config.vae.latent_channels
        self.codec: CompressionModel | GainedCompressionModel
        if config.compression.rates is None:
            self.codec = CompressionModel(config.compression, *channels, config.vae.scale_factor)
        else:
            self.codec = GainedCompressionModel(config.compression, *channels)
        self.control = ControlNet(
            config.control, self.unet, config.vae.latent_channels, config.compression.latent_channels
        )
        self.register_buffer("context", torch.zeros(1, config.unet.context_tokens, config.unet.context_dim))
        self.context: Tensor

    def analyse(self, image: Tensor, level: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (y, vq_indices), float [B, M, H/16, W/16] and int64 [B, H/64, W/64], of an image in [-1, 1].

        ``level`` is a row of `GainedCompressionModel.rows`, float [1 or B, D]; None where each rate has its own module.
        """
        y = self.codec.analyse(self.vae.features(image), level)
        return y, self.codec.quantize.indices(self.codec.hyper_enc(y))

    def eps(self, z_n: Tensor, hint: Tensor | None, timestep: int) -> Tensor:
        """Return eps_theta(z_n, c, n) [B, C, h, w], or eps_sd(z_n, n) when there is no hint."""
        timesteps = torch.full((z_n.shape[0],), timestep, device=z_n.device)
        context = self.context.expand(z_n.shape[0], -1, -1)
        residuals = None
        if hint is not None:
            residuals = self.control(z_n, hint, self.control.time_embed(timesteps), context)
        out: Tensor = self.unet(z_n, self.unet.time_embed(timesteps), context, residuals)
        return out

    def denoise(
        self,
        z_start: Tensor,
        hint: Tensor,
        table: Schedule,
        noises: list[Tensor] | None = None,
        sharpness: float = 1.0,
    ) -> Tensor:
        """Return z_0, float [B, C, h, w], after the table's fixed steps (RDEIC sections 3.2 and 3.4).

        Args:
            z_start: z_N, float [B, C, h, w].
            hint: float [B, M, h, w].
            table: timesteps and update coefficients.
            noises: one tensor like z_start per step; None draws them, and steps with c = 0 use none.
            sharpness: lambda_s of Eq. 11.
        """
        z = z_start
        for k, (timestep, a, b, c) in enumerate(rows(table)):
            eps = self.eps(z, hint, timestep)
            if sharpness != 1.0:
                plain = self.eps(z, None, timestep)
                eps = plain + sharpness * (eps - plain)
            z = a * z + b * eps
            if c:
                z = z + c * (noises[k] if noises is not None else torch.randn_like(z))
        return z
