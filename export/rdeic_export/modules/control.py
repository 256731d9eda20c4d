"""The control net: it reads (z_n, hint) and returns what is added inside the frozen UNet (RDEIC section 3.1).

It receives nothing from the UNet, so it is a separate graph: one per rate, with one shared UNet.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from .config import ControlConfig, UNetConfig
from .unet import UNet, UNetEncoder, largest_divisor


class ControlNet(UNetEncoder):
    """A narrow UNet encoder whose every stage feeds 1x1 convolutions to the base UNet's widths."""

    def __init__(self, config: ControlConfig, base: UNet, latent_channels: int, hint_channels: int) -> None:
        super().__init__(
            narrowed(base.config, config),
            latent_channels + hint_channels,
            base.config.channels[0],
            base.config.time_dim,
        )
        own = self.stage_channels
        sources = [*own, own[-1], *reversed(own)]
        self.connections = nn.ModuleList(
            nn.Conv2d(source, target, 1) for source, target in zip(sources, base.residual_channels, strict=True)
        )

    def forward(self, z_n: Tensor, hint: Tensor, emb: Tensor, context: Tensor | None) -> list[Tensor]:
        """Return the residuals in the order of ``UNet.residual_channels``, each float [B, c_i, h_i, w_i].

        Args:
            z_n: float [B, C, h, w].
            hint: float [B, M, h, w], the output of g_s.
            emb: float [B, time_dim], or the step table's row once the time embedding is folded.
            context: text context, float [B, tokens, context_dim]; None once it is folded.
        """
        h, features = torch.cat([z_n, hint], dim=1), []
        for stage in self.input_blocks:
            h = stage(h, emb, context)
            features.append(h)
        middle = self.middle_block(h, emb, context)
        tensors = [*features, middle, *reversed(features)]
        return [connection(tensor) for connection, tensor in zip(self.connections, tensors, strict=True)]


def narrowed(base: UNetConfig, config: ControlConfig) -> UNetConfig:
    """Return the control encoder's configuration: the base's at ``width_ratio``, with norm groups that divide."""
    channels = tuple(int(c * config.width_ratio) for c in base.channels)
    groups = min(largest_divisor(c, base.norm_groups) for c in channels)
    return replace(base, channels=channels, norm_groups=groups, head_dim=config.head_dim)
