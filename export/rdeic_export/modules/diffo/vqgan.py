"""VQGAN's encoder and decoder, of diffusers' blocks: images to unquantised latents and back (taming-transformers).

    x ─ encoder ─ 1x1 ─▶ z_start          z_0 ─ 1x1 ─ decoder ─▶ x^

DiffO uses the same layers twice: on images, frozen (its E and D), and on latents (its VQ-E and VQ-D).
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.unets.unet_2d_blocks import AttnDownEncoderBlock2D, DownEncoderBlock2D, UNetMidBlock2D
from torch import Tensor, nn

from .config import AutoencoderConfig

NORM_EPS = 1e-6  # of every GroupNorm here; the UNet has PyTorch's 1e-5


class Encoder(nn.Module):
    """diffusers' ``Encoder``, whose first convolution may be narrower than the first level."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width, deepest = config.stem_channels, config.channels[-1]
        self.conv_in = nn.Conv2d(_image_channels(config), width, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, channels in enumerate(config.channels):
            common: dict[str, Any] = {
                "in_channels": width,
                "out_channels": channels,
                "num_layers": config.layers_per_block,
                "resnet_eps": NORM_EPS,
                "resnet_groups": config.norm_groups,
                "add_downsample": level < len(config.channels) - 1,
                "downsample_padding": 0,  # the block pads right and bottom by one itself
            }
            if config.attention_levels[level]:
                self.down_blocks.append(AttnDownEncoderBlock2D(**common, attention_head_dim=channels))
            else:
                self.down_blocks.append(DownEncoderBlock2D(**common))
            width = channels
        self.mid_block = UNetMidBlock2D(
            in_channels=deepest,
            temb_channels=None,  # type: ignore[arg-type]  # annotated int, but None is what diffusers passes itself
            resnet_eps=NORM_EPS,
            resnet_groups=config.norm_groups,
            attention_head_dim=deepest,
            add_attention=config.mid_attention,
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, deepest, eps=NORM_EPS)
        self.conv_out = nn.Conv2d(deepest, config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return float [B, z_channels, H/f, W/f] of x, float [B, C, H, W]."""
        h = self.conv_in(x)
        for block in self.down_blocks:
            h = block(h)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(h))))
        return out


class Vqgan(nn.Module):
    """Encoder and decoder with a 1x1 convolution on either side of the latent; nothing is quantised here."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        self.decoder = Decoder(
            in_channels=config.z_channels,
            out_channels=_image_channels(config),
            up_block_types=tuple(
                "AttnUpDecoderBlock2D" if attends else "UpDecoderBlock2D"
                for attends in reversed(config.attention_levels)
            ),
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=config.mid_attention,
        )

    def encode(self, x: Tensor) -> Tensor:
        """Return the latent, float [B, embed_dim, H/f, W/f], of x, float [B, C, H, W] (images: in [-1, 1])."""
        out: Tensor = self.quant_conv(self.encoder(F.pixel_unshuffle(x, self.config.pixel_unshuffle)))
        return out

    def latents(self, image: Tensor) -> Tensor:
        """Return z_start: `encode`, as other autoencoders of images call it."""
        return self.encode(image)

    def decode(self, z: Tensor) -> Tensor:
        """Return float [B, C, H, W] of a latent, float [B, embed_dim, H/f, W/f]; images are not clamped."""
        return F.pixel_shuffle(self.decoder(self.post_quant_conv(z)), self.config.pixel_unshuffle)


def _image_channels(config: AutoencoderConfig) -> int:
    return config.in_channels * config.pixel_unshuffle**2
