"""Latents of a fixed linear transform of 8x8 blocks, and a decoder that starts from its inverse.

    image ─ unshuffle 8 ─ (- mean) ─ basis ─▶ z_0
    z_0 ─┬─ 3x3 convolution ─ shuffle 8 ────────────────────────────────────────────── + ─▶ image
         └─ residual blocks at 1/8 ─ shuffle 2 ─ residual blocks at 1/4 ─ shuffle 4 ─ 3x3 ┘

The basis is that of a principal component analysis of photos, so z_0 keeps most of what any linear transform with as
many coefficients can. The last convolution sees every pixel's neighbours, across the grid of the shuffles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import LinearVaeConfig


class ReluBlock(nn.Module):
    """x + conv(relu(conv(x))): without norms, so that integer kernels run it whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        zero(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """Return float [B, channels, H, W]."""
        out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


class LinearVae(nn.Module):
    """E and D of the small model; images are float [B, 3, H, W] in [-1, 1].

    Attributes:
        basis: float [C, 3 * 8 * 8], rows of the transform, scaled. Not trained.
        mean: float [3 * 8 * 8], of blocks.
    """

    def __init__(self, config: LinearVaeConfig) -> None:
        super().__init__()
        self.config = config
        c, n = config.latent_channels, config.feature_channels
        self.basis: Tensor
        self.mean: Tensor
        self.register_buffer("basis", torch.zeros(c, n))
        self.register_buffer("mean", torch.zeros(n))
        self.linear = nn.Conv2d(c, n, 3, padding=1)
        self.coarse = nn.Sequential(
            nn.Conv2d(c, config.width, 3, padding=1), *[ReluBlock(config.width) for _ in range(config.blocks)]
        )
        self.up = nn.Conv2d(config.width, 4 * config.fine_width, 3, padding=1)
        self.fine = nn.Sequential(*[ReluBlock(config.fine_width) for _ in range(config.fine_blocks)])
        self.to_pixels = nn.Conv2d(config.fine_width, 16 * config.pixel_width, 3, padding=1)
        self.last = nn.Conv2d(config.pixel_width, 3, 3, padding=1)

    @torch.no_grad()
    def set_transform(self, vectors: Tensor, scales: Tensor, mean: Tensor) -> None:
        """Set the transform, and the decoder to its inverse.

        Args:
            vectors: float [C, 3 * 8 * 8], orthonormal rows.
            scales: float [C]; coefficients are multiplied by them.
            mean: float [3 * 8 * 8].
        """
        self.basis.copy_(scales[:, None] * vectors)
        self.mean.copy_(mean)
        self.linear.weight.zero_()
        self.linear.weight[:, :, 1, 1] = (vectors / scales[:, None]).t()
        biases(self.linear).copy_(mean)
        repeat_phases(self.up, 2)
        repeat_phases(self.to_pixels, 4)
        self.last.weight.mul_(0.1)
        biases(self.last).zero_()

    @torch.no_grad()
    def rescale(self, factors: Tensor) -> None:
        """Multiply each channel of the latent by a factor, float [C], and have the decoder take that back exactly."""
        self.basis.mul_(factors[:, None])
        for conv in (self.linear, self.coarse[0]):
            assert isinstance(conv, nn.Conv2d)
            conv.weight.div_(factors[None, :, None, None])

    def features(self, image: Tensor) -> Tensor:
        """Return float [B, 3 * 8 * 8, H/8, W/8]: the pixels of each block, which g_a reads."""
        return F.pixel_unshuffle(image, self.config.factor_px)

    def latents(self, image: Tensor) -> Tensor:
        """Return z_0, float [B, C, H/8, W/8]."""
        centred = self.features(image) - self.mean[:, None, None]
        return F.conv2d(centred, self.basis[:, :, None, None])

    def decode(self, z_0: Tensor) -> Tensor:
        """Return the image, float [B, 3, H, W] about [-1, 1] and not clamped, of latents [B, C, H/8, W/8]."""
        fine = self.fine(F.pixel_shuffle(self.up(F.relu(self.coarse(z_0))), 2))
        pixels = F.pixel_shuffle(self.to_pixels(F.relu(fine)), 4)
        linear = F.pixel_shuffle(self.linear(z_0), self.config.factor_px)
        out: Tensor = linear + self.last(F.relu(pixels))
        return out


@torch.no_grad()
def zero(conv: nn.Conv2d) -> None:
    """Start a convolution beside a skip with nothing."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(biases(conv))


@torch.no_grad()
def repeat_phases(conv: nn.Conv2d, factor: int) -> None:
    """Start a convolution under a pixel shuffle with equal filters for all phases of a channel (ICNR, 1707.02937)."""
    conv.weight.copy_(conv.weight[:: factor**2].repeat_interleave(factor**2, 0))
    biases(conv).copy_(biases(conv)[:: factor**2].repeat_interleave(factor**2, 0))


def biases(conv: nn.Conv2d) -> Tensor:
    """Return the biases of a convolution; every one here has them."""
    assert conv.bias is not None
    return conv.bias
