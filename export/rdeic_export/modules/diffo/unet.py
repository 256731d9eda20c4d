"""The Swin UNet: (z_t, z_y) to z_0, assembled from diffusers' residual blocks and our Swin layers.

A stage is an ``input_blocks``/``output_blocks`` entry of the released model: modules run in turn. The first residual
block of every level, and that of the middle, is followed by a Swin layer.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from ..unet import Stage, TimeEmbedding
from .config import SwinUNetConfig
from .swin import NORM_EPS, SwinLayer


class SwinUNet(nn.Module):
    """Predicts z_start itself; the timestep scales and shifts every residual block."""

    def __init__(self, config: SwinUNetConfig, latent_channels: int) -> None:
        super().__init__()
        self.config = config
        width = config.channels[0]
        self.time_embed = TimeEmbedding(width, config.time_dim)
        self.condition = nn.Conv2d(latent_channels, config.hint_channels, 3, padding=1)
        first = nn.Conv2d(latent_channels + config.hint_channels, width, 3, padding=1)
        self.input_blocks = nn.ModuleList([Stage([first])])
        skips = [width]
        deepest = len(config.channels) - 1
        for level, channels in enumerate(config.channels):
            for layer in range(config.layers_per_block[level]):
                modules: list[nn.Module] = [_resnet(config, width, channels)]
                if layer == 0:
                    modules.append(SwinLayer(config, channels, config.windows[level]))
                self.input_blocks.append(Stage(modules))
                skips.append(channels)
                width = channels
            if level < deepest:
                self.input_blocks.append(Stage([Downsample2D(width, use_conv=True, padding=1, name="op")]))
                skips.append(width)
        self.middle_block = Stage(
            [_resnet(config, width, width), SwinLayer(config, width, config.windows[-1]), _resnet(config, width, width)]
        )
        self.output_blocks = nn.ModuleList()
        for level, channels in reversed(list(enumerate(config.channels))):
            for layer in range(config.layers_per_block[level] + 1):
                modules = [_resnet(config, width + skips.pop(), channels)]
                width = channels
                if layer == 0:
                    modules.append(SwinLayer(config, channels, config.windows[level]))
                if level and layer == config.layers_per_block[level]:
                    modules.append(Upsample2D(channels, use_conv=True))
                self.output_blocks.append(Stage(modules))
        self.out = nn.Sequential(
            nn.GroupNorm(config.norm_groups, width, eps=NORM_EPS),
            nn.SiLU(),
            nn.Conv2d(width, latent_channels, 3, padding=1),
        )

    def hint(self, z_y: Tensor, height: int, width: int) -> Tensor:
        """Return the condition as the UNet reads it, float [B, hint_channels, height, width].

        Args:
            z_y: code vectors, float [B, C, height, width], or a half or a quarter of both.
            height, width: of the latent that is denoised.
        """
        if z_y.shape[-2:] != (height, width):
            z_y = F.interpolate(z_y, scale_factor=float(height // z_y.shape[-2]), mode="nearest")
        out: Tensor = self.condition(z_y)
        return out

    def forward(self, x: Tensor, emb: Tensor, hint: Tensor) -> Tensor:
        """Return z_0, float [B, C, h, w].

        Args:
            x: z_t over its deviation, float [B, C, h, w].
            emb: ``time_embed`` of the timestep, float [B, time_dim].
            hint: float [B, hint_channels, h, w].
        """
        return self.decode(self.input_blocks[0](torch.cat([x, hint], dim=1), emb, None), emb)

    def decode(self, h: Tensor, emb: Tensor | None) -> Tensor:
        """Return z_0 of what the first convolution makes of x and hint, float [B, channels[0], h, w]."""
        skips = [h]
        for stage in itertools.islice(self.input_blocks, 1, None):
            h = stage(h, emb, None)
            skips.append(h)
        h = self.middle_block(h, emb, None)
        for stage in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            # TensorRT for RTX fails on free sizes if it has to find out that twice the half is the whole.
            h = stage(h, emb, None, skips[-1].shape[-2:] if skips else None)
        z_0: Tensor = self.out(h)
        return z_0


def _resnet(config: SwinUNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    block: nn.Module = ResnetBlock2D(
        in_channels=in_channels,
        out_channels=out_channels,
        temb_channels=config.time_dim,
        groups=config.norm_groups,
        eps=NORM_EPS,
        time_embedding_norm="scale_shift",
    )
    return block
