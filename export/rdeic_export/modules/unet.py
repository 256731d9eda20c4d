"""Stable Diffusion's UNet, assembled from diffusers' blocks so that a control net can add to every stage of it.

A stage is one of Stable Diffusion's ``input_blocks``/``output_blocks`` entries: a short list of modules run in turn.
The control net's residuals are added after each encoder stage and before each decoder stage, which the stock
``UNet2DConditionModel`` has no place for; its blocks are the same operators and are used as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from .config import UNetConfig


class Stage(nn.ModuleList):
    """Modules run in turn; residual blocks are given the time embedding and transformers the text context."""

    def forward(
        self, h: Tensor, emb: Tensor | None, context: Tensor | None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Return float [B, C', H', W'] of h, float [B, C, H, W].

        Args:
            h, emb, context: what is read.
            size: H' and W' of a stage that upsamples; None for twice what it reads.
        """
        for module in self:
            if isinstance(module, ResnetBlock2D):
                h = module(h, emb)
            elif isinstance(module, Upsample2D):
                h = module(h, size)
            elif isinstance(module, Transformer2DModel):
                h = module(h, encoder_hidden_states=context, return_dict=False)[0]
            else:
                h = module(h)
        return h


class TimeEmbedding(nn.Module):
    """Sinusoid (cosines first) and a two-layer MLP."""

    def __init__(self, sinusoid_dim: int, time_dim: int) -> None:
        super().__init__()
        self.sinusoid = Timesteps(sinusoid_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.mlp = TimestepEmbedding(sinusoid_dim, time_dim)

    def forward(self, timesteps: Tensor) -> Tensor:
        """Return float [B, time_dim] of integer timesteps [B]."""
        emb: Tensor = self.mlp(self.sinusoid(timesteps).to(self.mlp.linear_1.weight.dtype))
        return emb


class UNetEncoder(nn.Module):
    """Time embedding, input stages and middle: what the base UNet and the control net have in common."""

    def __init__(self, config: UNetConfig, in_channels: int, sinusoid_dim: int, time_dim: int) -> None:
        super().__init__()
        self.config = config
        self.time_embed = TimeEmbedding(sinusoid_dim, time_dim)
        width = config.channels[0]
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(in_channels, width, 3, padding=1)])])
        self.stage_channels = [width]
        for level, channels in enumerate(config.channels):
            for _ in range(config.layers_per_block):
                modules = [_resnet(config, width, channels, time_dim)]
                if config.attention_levels[level]:
                    modules.append(_transformer(config, channels))
                self.input_blocks.append(Stage(modules))
                self.stage_channels.append(channels)
                width = channels
            if level + 1 < len(config.channels):
                self.input_blocks.append(Stage([Downsample2D(width, use_conv=True, padding=1, name="op")]))
                self.stage_channels.append(width)
        middle = [_resnet(config, width, width, time_dim)]
        if any(config.attention_levels):
            middle += [_transformer(config, width), _resnet(config, width, width, time_dim)]
        self.middle_block = Stage(middle)


class UNet(UNetEncoder):
    """The noise estimator eps_sd of Stable Diffusion 2.1, or a smaller one of the same make."""

    def __init__(self, config: UNetConfig, latent_channels: int) -> None:
        super().__init__(config, latent_channels, config.channels[0], config.time_dim)
        self.output_blocks = nn.ModuleList()
        self.output_channels: list[int] = []  # channels of the running tensor as each output stage receives it
        skips, width = list(self.stage_channels), self.stage_channels[-1]
        for level, channels in reversed(list(enumerate(config.channels))):
            for layer in range(config.layers_per_block + 1):
                self.output_channels.append(width)
                modules: list[nn.Module] = [_resnet(config, width + skips.pop(), channels, config.time_dim)]
                width = channels
                if config.attention_levels[level]:
                    modules.append(_transformer(config, channels))
                if level and layer == config.layers_per_block:
                    modules.append(Upsample2D(channels, use_conv=True))
                self.output_blocks.append(Stage(modules))
        self.out = nn.Sequential(
            nn.GroupNorm(config.norm_groups, width, eps=1e-5),
            nn.SiLU(),
            nn.Conv2d(width, latent_channels, 3, padding=1),
        )

    @property
    def residual_channels(self) -> list[int]:
        """Channels of each residual the control net adds: input stages, middle, output stages."""
        return [*self.stage_channels, self.stage_channels[-1], *self.output_channels]

    def forward(
        self, z_n: Tensor, emb: Tensor, context: Tensor | None, residuals: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Return eps, float [B, C, h, w].

        Args:
            z_n: float [B, C, h, w].
            emb: float [B, time_dim], or the step table's row once the time embedding is folded.
            context: text context, float [B, tokens, context_dim]; None once it is folded.
            residuals: the control net's tensors in the order of ``residual_channels``; None for the plain estimator.
        """
        added = iter(residuals or ())
        h, skips = z_n, []
        for stage in self.input_blocks:
            h = stage(h, emb, context)
            if residuals is not None:
                h = h + next(added)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        if residuals is not None:
            h = h + next(added)
        for stage in self.output_blocks:
            if residuals is not None:
                h = h + next(added)
            h = stage(torch.cat([h, skips.pop()], dim=1), emb, context)
        eps: Tensor = self.out(h)
        return eps


def _resnet(config: UNetConfig, in_channels: int, out_channels: int, time_dim: int) -> nn.Module:
    groups = config.norm_groups
    block: nn.Module = ResnetBlock2D(
        in_channels=in_channels, out_channels=out_channels, temb_channels=time_dim, groups=groups, eps=1e-5
    )
    return block


def _transformer(config: UNetConfig, channels: int) -> nn.Module:
    head_dim = largest_divisor(channels, config.head_dim)
    block: nn.Module = Transformer2DModel(
        num_attention_heads=channels // head_dim,
        attention_head_dim=head_dim,
        in_channels=channels,
        cross_attention_dim=config.context_dim,
        norm_num_groups=config.norm_groups,
        use_linear_projection=True,
    )
    return block


def largest_divisor(value: int, bound: int) -> int:
    """Return the largest divisor of value that is at most bound."""
    return next(d for d in range(min(value, bound), 0, -1) if value % d == 0)
