"""One compression module for all rates: linear transforms with networks beside them, and a gain vector for each rate.

    features ─┬─ linear, 32x32 pixels ──┐
              └─ net ────────────────── + ─ y * gain ─▶ coded in steps of one
    y_hat / gain ─┬─ linear, 3x3 ─────────────┐
                  └─ g_s ─ hint ─ 3x3 ─────── + ─▶ z_c

Gains as in Cui et al., "Asymmetric gained deep image compression with continuous rate adaptation" (CVPR 2021): a finer
step for a larger rate, learnt for each channel, and geometric means of two neighbours for the rates between. The
entropy model sees scaled latents only, so it is one for all rates. Rates are counted from the largest: 0 to K - 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .compression import EntropyNetworks
from .config import CompressionConfig
from .linear_vae import ReluBlock, biases, repeat_phases, zero


class Analysis(nn.Module):
    """g_a: pixels of 8x8 blocks -> y, before its gains."""

    def __init__(self, features: int, width: int, latents: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(features, latents, 4, stride=2, padding=1)
        self.head = nn.Sequential(nn.Conv2d(features, width, 1), *[ReluBlock(width) for _ in range(3)])
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.tail = nn.Sequential(*[ReluBlock(width) for _ in range(3)])
        self.out = nn.Conv2d(width, latents, 3, padding=1)
        zero(self.out)

    def forward(self, features: Tensor, bias: Tensor) -> Tensor:
        """Return y, float32 [B, M, H/16, W/16], of features [B, 192, H/8, W/8] and the rate's bias [B, width]."""
        h = self.down(F.relu(self.head(features))) + bias[:, :, None, None]
        net = self.out(F.relu(self.tail(h)))
        with torch.autocast(features.device.type, enabled=False):
            # Large coefficients in steps of one need more digits than bfloat16 has.
            out: Tensor = self.linear(features.float()) + net.float()
        return out


class Synthesis(nn.Module):
    """g_s: y_hat after its gains -> (z_c, hint)."""

    def __init__(self, latents: int, width: int, hint: int, z_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(latents, 4 * z_channels, 3, padding=1)
        self.head = nn.Conv2d(latents, width, 3, padding=1)
        self.body = nn.Sequential(*[ReluBlock(width) for _ in range(3)])
        self.up = nn.Conv2d(width, 4 * (width * 3 // 4), 1)
        self.tail = ReluBlock(width * 3 // 4)
        self.hint = nn.Conv2d(width * 3 // 4, hint, 3, padding=1)
        self.out = nn.Conv2d(hint, z_channels, 3, padding=1)
        zero(self.out)
        repeat_phases(self.up, 2)

    def forward(self, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z_c, hint), float [B, C, h, w] and [B, M, h, w], of y [B, M, h/2, w/2] and the rate's bias."""
        h = self.body(self.head(y) + bias[:, :, None, None])
        hint = self.hint(F.relu(self.tail(F.pixel_shuffle(self.up(F.relu(h)), 2))))
        net = self.out(F.relu(hint))
        with torch.autocast(y.device.type, enabled=False):
            out = F.pixel_shuffle(self.linear(y.float()), 2) + net.float()
        return out, hint


class GainedCompressionModel(EntropyNetworks):
    """The compression module with transforms and gains of its own; the entropy model is the released one's."""

    def __init__(self, config: CompressionConfig, feature_channels: int, z_channels: int) -> None:
        super().__init__(config)
        assert config.rates is not None  # RdeicModel takes the other class then
        m, width = config.latent_channels, config.synthesis_width
        self.g_a = Analysis(feature_channels, config.analysis_width, m)
        self.g_s = Synthesis(m, width, m, z_channels)
        self.log_gain = nn.Parameter(torch.zeros(config.rates, m))
        self.log_inverse_gain = nn.Parameter(torch.zeros(config.rates, m))
        self.analysis_bias = nn.Parameter(torch.zeros(config.rates, config.analysis_width))
        self.synthesis_bias = nn.Parameter(torch.zeros(config.rates, width))

    @torch.no_grad()
    def set_transform(self, vectors: Tensor, mean: Tensor, steps: Tensor, basis: Tensor, block_mean: Tensor) -> None:
        """Start from linear transforms.

        Args:
            vectors: float [M, 3 * 16 * 16], orthonormal rows: of blocks of 2x2 positions, as 4 x 192 pixels.
            mean: float [4 * 192], of these blocks.
            steps: float [K], the quantisation step of each rate.
            basis: float [C, 192], of z_0.
            block_mean: float [192], of z_0's blocks.
        """
        m = vectors.shape[0]
        blocks = vectors.reshape(m, 2, 2, -1)
        self.g_a.linear.weight.zero_()
        self.g_a.linear.weight[:, :, 1:3, 1:3] = blocks.permute(0, 3, 1, 2)
        biases(self.g_a.linear).copy_(-vectors @ mean)
        # z_c of a position is basis @ (its 192 pixels of y_hat's 16x16 ones - block_mean).
        to_latents = torch.einsum("cp,mrsp->crsm", basis, blocks)
        self.g_s.linear.weight.zero_()
        self.g_s.linear.weight[:, :, 1, 1] = to_latents.reshape(-1, m)
        offset = torch.einsum("cp,rsp->crs", basis, mean.reshape(2, 2, -1) - block_mean)
        biases(self.g_s.linear).copy_(offset.reshape(-1))
        self.log_gain.copy_(-steps.log()[:, None].expand(-1, m))
        self.log_inverse_gain.copy_(-self.log_gain)

    def rows(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Return what analysis and synthesis read of rates, float [B], 0 to K - 1, which may lie between two.

        Returns:
            Gains and bias of g_a, float [B, M + width]; inverse gains and bias of g_s, float [B, M + width].
        """
        lower = rate.floor().clamp(0, self.rates - 2).long()
        share = (rate - lower)[:, None]

        def between(table: Tensor) -> Tensor:
            return torch.lerp(table[lower], table[lower + 1], share)

        return (
            torch.cat([between(self.log_gain).exp(), between(self.analysis_bias)], dim=1),
            torch.cat([between(self.log_inverse_gain).exp(), between(self.synthesis_bias)], dim=1),
        )

    @property
    def rates(self) -> int:
        """K, the number of rates that have gains of their own."""
        return self.log_gain.shape[0]

    @property
    def level_widths(self) -> tuple[int, int]:
        """Numbers in a row of `rows`: for analysis, and for synthesis."""
        m = self.config.latent_channels
        return m + self.config.analysis_width, m + self.config.synthesis_width

    def analyse(self, features: Tensor, level: Tensor | None = None) -> Tensor:
        """Return y in steps of one, float32 [B, M, H/16, W/16]; ``level`` is a row of `rows`, float [1 or B, D]."""
        assert level is not None  # what the module cannot do without
        gain, bias = torch.split(level, [self.config.latent_channels, self.config.analysis_width], dim=1)
        out: Tensor = self.g_a(features, bias) * gain[:, :, None, None]
        return out

    def synthesise(self, y_hat: Tensor, level: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (z_c, hint), float [B, C, 2h, 2w] and [B, M, 2h, 2w], of y_hat [B, M, h, w] for a row of `rows`."""
        assert level is not None
        gain, bias = torch.split(level, [self.config.latent_channels, self.config.synthesis_width], dim=1)
        z_c, hint = self.g_s(y_hat * gain[:, :, None, None], bias)
        return z_c, hint


def rate_between(values: Tensor, rate: Tensor) -> Tensor:
    """Return values for fractional rates, float [B], interpolated geometrically from those of the rates, float [K]."""
    logs = values.log()
    lower = rate.floor().clamp(0, len(values) - 2).long()
    return torch.lerp(logs[lower], logs[lower + 1], rate - lower).exp()
