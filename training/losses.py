"""Losses of the paper: rate and codebook (Eq. 9), and what the perceptual term of Eq. 10 is measured with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rdeic_export.modules.compression import LIKELIHOOD_FLOOR, SCALE_BOUND, SlicePrediction

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


def gaussian_bits(slices: list[SlicePrediction]) -> Tensor:
    """Return R(y_hat), the bits of the whole batch under the predicted Gaussians, a scalar.

    Each symbol is rounded as the coder rounds it, and gradients pass straight through. The customary uniform noise in
    place of rounding charges for symbols that are all but certainly zero: at 0.07 bpp it reports more than twice the
    bits that files take, and training then starves what is worth coding.

    Args:
        slices: the context model's predictions, in coding order, made with gradients through the rounding.
    """
    means = torch.cat([s.means for s in slices], dim=1).float()
    scales = torch.cat([s.scales for s in slices], dim=1).float()
    scales = LowerBound.apply(scales, SCALE_BOUND)
    distance = (torch.cat([s.y_hat for s in slices], dim=1).float() - means).abs()
    upper = torch.special.ndtr((0.5 - distance) / scales)
    lower = torch.special.ndtr((-0.5 - distance) / scales)
    likelihood = LowerBound.apply(upper - lower, LIKELIHOOD_FLOOR)
    return -torch.log2(likelihood).sum()


def codebook_loss(l_p: Tensor, code: Tensor) -> Tensor:
    """Return the codebook and commitment terms of Eq. 9 for hyper latents and their code vectors [B, N, H, W]."""
    return F.mse_loss(code, l_p.detach()) + COMMITMENT * F.mse_loss(l_p, code.detach())
