"""Losses of the paper: rate and codebook (Eq. 9), and what the perceptual term of Eq. 10 is measured with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_msssim import MS_SSIM
from torch import Tensor

from rdeic_eval.perceptual import FeatureDistance
from rdeic_export.modules.compression import LIKELIHOOD_FLOOR, SCALE_BOUND, SlicePrediction

from .common import on_device

STRUCTURE_WINDOW_PX = 7  # five scales of it fit into crops of 112 pixels
COMMITMENT = 0.25  # beta of Eq. 9
PERCEPTUAL_NETWORK = "lite0"  # of the perceptual term; evaluation judges with others


class LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient also lets x grow back from below the bound."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bound: float) -> Tensor:  # noqa: D102
        ctx.save_for_backward(x)
        ctx.bound = bound  # type: ignore[attr-defined]
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        passes = (x >= ctx.bound) | (grad < 0)  # type: ignore[attr-defined]
        return grad * passes, None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """Return max(x, bound), with the gradients of `LowerBound`."""
    bounded: Tensor = LowerBound.apply(x, bound)  # type: ignore[no-untyped-call]
    return bounded


def gaussian_bits(slices: list[SlicePrediction], y: Tensor) -> Tensor:
    """Return R(y_hat), float [B], the bits of each image under the predicted Gaussians.

    The value is that of the rounded symbols, and so are the gradients of scales. Those of y and of means are taken at
    what was rounded: a symbol that is zero costs nothing more until y comes near the next one, and then it does. (With
    gradients at the rounded symbols, all that is zero may grow for free, and rates end up far above what lambda asks
    for. The customary uniform noise in place of rounding charges for symbols that are all but certainly zero: at 0.07
    bpp it reports more than twice the bits that files take.)

    Args:
        slices: the context model's predictions, in coding order, made with gradients through the rounding.
        y: float [B, M, H, W], what was coded.
    """
    means = torch.cat([s.means for s in slices], dim=1).float()
    scales = torch.cat([s.scales for s in slices], dim=1).float()
    scales = lower_bound(scales, SCALE_BOUND)
    symbols = torch.cat([s.y_hat for s in slices], dim=1).float() - means
    rounded = _bits(symbols.detach(), scales)
    smooth = _bits(y.float() - means, scales.detach())
    return (rounded + smooth - smooth.detach()).sum((1, 2, 3))


def _bits(residual: Tensor, scales: Tensor) -> Tensor:
    """Return the bits of the interval of length 1 around each residual, under a Gaussian about 0."""
    distance = residual.abs()
    upper = torch.special.ndtr((0.5 - distance) / scales)
    lower = torch.special.ndtr((-0.5 - distance) / scales)
    return -torch.log2(lower_bound(upper - lower, LIKELIHOOD_FLOOR))


def block_means(image: Tensor, side: int = 16) -> Tensor:
    """Return the mean luma and chroma of blocks, float [B, 3, H/side, W/side], of images [B, 3, H, W] in [-1, 1]."""
    # Full-range BT.601, as JPEG has it.
    matrix = image.new_tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return F.avg_pool2d(F.conv2d(image, matrix[:, :, None, None]), side)


def codebook_loss(l_p: Tensor, code: Tensor) -> Tensor:
    """Return the codebook and commitment terms of Eq. 9 for hyper latents and their code vectors [B, N, H, W]."""
    return F.mse_loss(code, l_p.detach()) + COMMITMENT * F.mse_loss(l_p, code.detach())


class PixelLoss:
    """The terms of Eq. 10 on pixels, weighted as a stage's settings say.

    Squared error (``pixel_weight``), perceptual distance (``perceptual_weight``), structural dissimilarity at five
    scales (``structure_weight``), and squared error of 16-px means in luma and chroma (``means_weight``), which
    normalised features hardly see.
    """

    def __init__(self, options: dict[str, Any], device: str) -> None:
        self._perceptual = on_device(FeatureDistance(PERCEPTUAL_NETWORK), device)
        self._structure = MS_SSIM(data_range=2.0, win_size=STRUCTURE_WINDOW_PX)
        self._weights = {name: options[f"{name}_weight"] for name in ("pixel", "perceptual", "structure", "means")}

    def __call__(self, decoded: Tensor, image: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, a scalar, and its parts, of two batches [B, 3, H, W] in [-1, 1]."""
        parts = {"perceptual": self._perceptual(decoded, image)}
        with torch.autocast(image.device.type, enabled=False):
            decoded = decoded.float()
            parts |= {
                "pixel": F.mse_loss(decoded, image),
                "structure": 1 - self._structure(decoded + 1, image + 1),
                "means": F.mse_loss(block_means(decoded), block_means(image)),
            }
        loss = sum((self._weights[name] * part for name, part in parts.items()), image.new_zeros(()))
        return loss, {name: float(part.detach()) for name, part in parts.items()}
