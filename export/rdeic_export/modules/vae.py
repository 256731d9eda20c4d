"""The autoencoder: diffusers' ``AutoencoderKL``, with an optional pixel-unshuffle around it."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from .config import VaeConfig


class Vae(nn.Module):
    """E and D of the paper; images are float [B, 3, H, W] in [-1, 1]."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.channels)
        image_channels = 3 * config.pixel_unshuffle**2
        self.kl = AutoencoderKL(
            in_channels=image_channels,
            out_channels=image_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=config.mid_attention,
        )

    def features(self, image: Tensor) -> Tensor:
        """Return h, float [B, c, H/8, W/8]: the encoder after its final norm and activation, before ``conv_out``."""
        encoder = self.kl.encoder
        h = encoder.conv_in(F.pixel_unshuffle(image, self.config.pixel_unshuffle))
        for block in encoder.down_blocks:
            h = block(h)
        out: Tensor = encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(h)))
        return out

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, log variance) of the latent before scaling, each float [B, C, H/8, W/8]."""
        mean, log_variance = self.kl.quant_conv(self.kl.encoder.conv_out(features)).chunk(2, dim=1)
        return mean, log_variance

    def latents(self, image: Tensor) -> Tensor:
        """Return z_0, float [B, C, H/8, W/8]: the mean of the latent, scaled."""
        mean, _ = self.moments(self.features(image))
        return mean * self.config.scale_factor

    def decode(self, z_0: Tensor) -> Tensor:
        """Return the image, float [B, 3, H, W] about [-1, 1] and not clamped, of scaled latents [B, C, H/8, W/8]."""
        h = self.kl.decoder(self.kl.post_quant_conv(z_0 / self.config.scale_factor))
        return F.pixel_shuffle(h, self.config.pixel_unshuffle)
