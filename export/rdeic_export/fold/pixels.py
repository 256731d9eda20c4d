"""Scaling, clamp, rounding and layout move inside the first and the last graph: both speak uint8 NHWC."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..modules.diffo.model import DiffoModel
from ..modules.diffo.vqgan import Vqgan
from ..modules.linear_vae import LinearVae
from ..modules.model import RdeicModel
from ..modules.vae import Vae


class AnalysisFromPixels(nn.Module):
    """E, g_a, h_a and the vector quantiser: image -> (y, vq_indices)."""

    def __init__(self, model: RdeicModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, level: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (y, vq_indices), float [B, M, H/16, W/16] and int64 [B, H/64, W/64], of uint8 [B, H, W, 3].

        ``level`` is a row of numbers, float [1, D], where rates share the compression module.
        """
        return self.model.analyse(_signed(image), level)


class IndicesFromPixels(nn.Module):
    """E, VQ-E and the quantiser of DiffO: image -> vq_indices."""

    def __init__(self, model: DiffoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Return vq_indices, int64 [B, Hq, Wq], of uint8 [B, H, W, 3]."""
        return self.model.analyse(_signed(image))


class PixelsFromVae(nn.Module):
    """D: z_0 -> image. Rounds to nearest, where the released code truncates."""

    def __init__(self, vae: Vae | LinearVae | Vqgan) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z_0: Tensor) -> Tensor:
        """Return uint8 [B, H, W, 3] of float [B, C, h, w]."""
        pixels = (self.vae.decode(z_0) + 1.0) * 127.5
        rounded = torch.round(pixels.clamp(0.0, 255.0)).permute(0, 2, 3, 1)
        return rounded.to(torch.uint8)  # last: TensorRT has uint8 at the ends of a graph only


def _signed(image: Tensor) -> Tensor:
    """Return float [B, 3, H, W] in [-1, 1] of uint8 [B, H, W, 3]."""
    return image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
