"""The compression module: transforms, vector quantiser and space-channel context model (RDEIC section 3.1).

y = g_a(h) is coded slice by slice; within a slice the anchors of a checkerboard are coded first and the non-anchors
then see them. The layer order, activations and widths are those of the released model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CompressionConfig

SCALE_BOUND = 0.11  # smallest scale of the Gaussian; also the first entry of the scale table
LIKELIHOOD_FLOOR = 1e-9  # of a symbol, where its code length is estimated


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a skip; the last activation comes before the addition."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.adaptor = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, float [B, out_channels, H, W]."""
        h = F.leaky_relu(self.conv1(x), 0.01)
        h = F.leaky_relu(self.conv2(h), 0.01)
        out: Tensor = h + self.adaptor(x)
        return out


class DownBlock(nn.Module):
    """Halves the resolution with a strided convolution and a strided 1x1 skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.downsample = nn.Conv2d(channels, channels, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, float [B, channels, H/2, W/2]."""
        h = F.leaky_relu(self.conv1(x), 0.01)
        h = F.leaky_relu(self.conv2(h), 0.1)
        out: Tensor = h + self.downsample(x)
        return out


class UpBlock(nn.Module):
    """Doubles the resolution with sub-pixel convolutions in both branches."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.subpel_conv = nn.Sequential(nn.Conv2d(in_channels, 4 * out_channels, 1), nn.PixelShuffle(2))
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.upsample = nn.Sequential(nn.Conv2d(in_channels, 4 * out_channels, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, float [B, out_channels, 2H, 2W]."""
        h = F.leaky_relu(self.subpel_conv(x), 0.01)
        h = F.leaky_relu(self.conv(h), 0.1)
        out: Tensor = h + self.upsample(x)
        return out


class VectorQuantizer(nn.Module):
    """Nearest code vector in fp32, without normalisation or projection."""

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / codebook_size, 1.0 / codebook_size)

    def indices(self, z: Tensor) -> Tensor:
        """Return int64 [B, H, W], the index of the code vector nearest to each position of z, float [B, N, H, W]."""
        codes = self.embedding.weight
        similarity = torch.matmul(z.permute(0, 2, 3, 1), codes.t())
        distance = codes.square().sum(1) - 2 * similarity  # |z|^2 is the same for every entry
        return distance.argmin(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the code vectors, float [B, N, H, W], of int64 indices [B, H, W]."""
        out: Tensor = self.embedding(indices).permute(0, 3, 1, 2)
        return out


@dataclass(frozen=True)
class SlicePrediction:
    """The context model's prediction for one slice; every tensor is float [B, s, H, W] on the full grid."""

    scales_anchor: Tensor
    means_anchor: Tensor
    scales_nonanchor: Tensor
    means_nonanchor: Tensor
    scales: Tensor
    means: Tensor
    y_hat: Tensor
    channel_ctx: Tensor | None
    local_ctx: Tensor


def anchor_mask(y: Tensor) -> Tensor:
    """Return bool [1, 1, H, W], true where row + column is odd."""
    rows = torch.arange(y.shape[2], device=y.device)[:, None]
    columns = torch.arange(y.shape[3], device=y.device)[None, :]
    return ((rows + columns) % 2 == 1)[None, None]


class EntropyNetworks(nn.Module):
    """What coding y needs: hyperprior, vector quantiser and context model; names follow the released key layout."""

    def __init__(self, config: CompressionConfig) -> None:
        super().__init__()
        self.config = config
        m, n = config.latent_channels, config.hyper_channels
        self.hyper_enc = nn.Sequential(ResBlock(m, n), ResBlock(n, n), DownBlock(n), DownBlock(n))
        widths = config.hyper_widths or (m, m * 3 // 2, m * 2)
        inner, out = widths[0], widths[-1]
        self.hyper_dec = nn.Sequential(
            UpBlock(n, inner), UpBlock(inner, inner), *[ResBlock(a, b) for a, b in pairwise(widths)]
        )
        self.quantize = VectorQuantizer(config.codebook_size, n)

        slices = config.slices
        self.channel_context = nn.ModuleList(
            _channel_context(sum(slices[:i]), 2 * s, config.context_widths) if i else nn.Identity()
            for i, s in enumerate(slices)
        )
        self.local_context = nn.ModuleList(nn.Conv2d(s, 2 * s, 5, padding=2) for s in slices)
        self.entropy_parameters_anchor = nn.ModuleList(
            _entropy_parameters(out + (2 * s if i else 0), 2 * s) for i, s in enumerate(slices)
        )
        self.entropy_parameters_nonanchor = nn.ModuleList(
            _entropy_parameters(out + (4 * s if i else 2 * s), 2 * s) for i, s in enumerate(slices)
        )

    def predict(self, y: Tensor, hyper: Tensor, *, noise_free_gradient: bool = False) -> Iterator[SlicePrediction]:
        """Yield the prediction of each slice in coding order, quantising y on the way.

        Args:
            y: float [B, M, H, W].
            hyper: ``hyper_dec`` of the code vectors, float [B, 2M or last of ``hyper_widths``, H, W].
            noise_free_gradient: pass gradients straight through the rounding (training).
        """
        mask = anchor_mask(y)
        decoded: list[Tensor] = []
        for i, y_slice in enumerate(torch.split(y, list(self.config.slices), dim=1)):
            context = [self.channel_context[i](torch.cat(decoded, dim=1))] if i else []
            scales_a, means_a = self.entropy_parameters_anchor[i](torch.cat([*context, hyper], dim=1)).chunk(2, dim=1)
            y_anchor = torch.where(mask, _quantise(y_slice, means_a, noise_free_gradient), 0.0)
            local = self.local_context[i](y_anchor)
            joint = torch.cat([local, *context, hyper], dim=1)
            scales_n, means_n = self.entropy_parameters_nonanchor[i](joint).chunk(2, dim=1)
            y_hat = torch.where(mask, y_anchor, _quantise(y_slice, means_n, noise_free_gradient))
            decoded.append(y_hat)
            yield SlicePrediction(
                scales_anchor=scales_a,
                means_anchor=means_a,
                scales_nonanchor=scales_n,
                means_nonanchor=means_n,
                scales=torch.where(mask, scales_a, scales_n),
                means=torch.where(mask, means_a, means_n),
                y_hat=y_hat,
                channel_ctx=context[0] if context else None,
                local_ctx=local,
            )


class CompressionModel(EntropyNetworks):
    """All networks between the VAE's features and (z_c, hint), for one rate; names follow the released key layout."""

    def __init__(
        self, config: CompressionConfig, feature_channels: int, z_channels: int, feature_scale: float = 1.0
    ) -> None:
        super().__init__(config)
        m = config.latent_channels
        self.feature_scale = feature_scale
        self.g_a = nn.Sequential(
            ResBlock(feature_channels, m),
            *[ResBlock(m, m) for _ in range(3)],
            DownBlock(m),
            *[ResBlock(m, m) for _ in range(3)],
            nn.Conv2d(m, m, 3, padding=1),
        )
        self.g_s = nn.Sequential(
            nn.Conv2d(m, m, 3, padding=1),
            *[ResBlock(m, m) for _ in range(3)],
            UpBlock(m, m),
            *[ResBlock(m, m) for _ in range(4)],
        )
        self.out = nn.Conv2d(m, z_channels, 3, padding=1)

    def analyse(self, features: Tensor, level: Tensor | None = None) -> Tensor:
        """Return y, float [B, M, H, W], of the VAE's features [B, c, 2H, 2W]; there are no levels."""
        y: Tensor = self.g_a(features * self.feature_scale)
        return y

    def synthesise(self, y_hat: Tensor, level: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (z_c, hint), float [B, C, 2H, 2W] and [B, M, 2H, 2W], of y_hat, float [B, M, H, W]."""
        hint = self.g_s(y_hat)
        return self.out(hint), hint


def _quantise(y: Tensor, means: Tensor, straight_through: bool) -> Tensor:
    residual = y - means
    rounded = torch.round(residual)  # half to even, as the released code
    if straight_through:
        rounded = residual + (rounded - residual).detach()
    return rounded + means


def _channel_context(in_channels: int, out_channels: int, widths: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, widths[0], 5, padding=2),
        nn.GELU(),
        nn.Conv2d(widths[0], widths[1], 5, padding=2),
        nn.GELU(),
        nn.Conv2d(widths[1], out_channels, 5, padding=2),
    )


def _entropy_parameters(in_channels: int, out_channels: int) -> nn.Sequential:
    wide, narrow = out_channels * 5 // 3, out_channels * 4 // 3
    return nn.Sequential(
        nn.Conv2d(in_channels, wide, 1),
        nn.GELU(),
        nn.Conv2d(wide, narrow, 1),
        nn.GELU(),
        nn.Conv2d(narrow, out_channels, 1),
    )
