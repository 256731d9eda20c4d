"""Losses of the paper: rate and codebook (Eq. 9), and what the perceptual term of Eq. 10 is measured with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rdeic_eval.perceptual import FeatureDistance, feature_distance
from rdeic_eval.resnet import ResNetFeatures
from rdeic_export.modules.compression import LIKELIHOOD_FLOOR, SCALE_BOUND, SlicePrediction

from .common import on_device

STRUCTURE_SIGMA_PX = 1.5
# Of samples in [-1, 1]: what evaluation calls flat is 3 grey levels from pixel to pixel, and what it adds is 0.01.
FLAT_STEP, LEAST_STEP = 3 / 127.5, 0.01 / 127.5
STRUCTURE_WINDOW_PX = 7  # five scales of it fit into crops of 112 pixels
COMMITMENT = 0.25  # beta of Eq. 9
PERCEPTUAL_NETWORK = "lite0"  # of the perceptual term, beside a ResNet; evaluation judges with another family too
# Weights of the scales of MS-SSIM (Wang et al., 2003).
STRUCTURE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


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
    red, green, blue = F.avg_pool2d(image, side).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # full-range BT.601, as JPEG has it
    return torch.stack([luma, (blue - luma) / 1.772, (red - luma) / 1.402], dim=1)


def structural_dissimilarity(a: Tensor, b: Tensor, window: Tensor) -> Tensor:
    """Return 1 - MS-SSIM (Wang et al., 2003), a scalar, of images [B, 3, H, W] in [-1, 1].

    A scale whose similarity is below 1e-4 counts as one of 1e-4, or gradients there would be infinite.

    Args:
        a, b: sides of at least 16 times the window's less one, and one more.
        window: float [side], adds up to one; means and variances are taken with its outer product.
    """
    channels = a.shape[1]
    kernel = window.expand(5 * channels, 1, 1, -1)
    logarithm = a.new_zeros(())
    for scale, weight in enumerate(STRUCTURE_WEIGHTS):
        moments = torch.cat([a, b, a * a, b * b, a * b], dim=1)
        rows = F.conv2d(moments, kernel, groups=5 * channels)
        mean_a, mean_b, aa, bb, ab = F.conv2d(rows, kernel.mT, groups=5 * channels).chunk(5, dim=1)
        cross, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
        # Images are 2 across, from which both constants follow.
        similarity = (2 * (ab - cross) + 0.06**2) / (aa + bb - squares + 0.06**2)
        if scale + 1 == len(STRUCTURE_WEIGHTS):
            # Luminance takes samples from 0: those of [-1, 1] plus one.
            light = 2 * (cross + mean_a + mean_b + 1), squares + 2 * (mean_a + mean_b + 1)
            similarity = similarity * (light[0] + 0.02**2) / (light[1] + 0.02**2)
        logarithm = logarithm + weight * similarity.mean((2, 3)).clamp(min=1e-4).log()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return 1 - logarithm.exp().mean()


def lattice(decoded: Tensor, image: Tensor, period: int = 8) -> Tensor:
    """Return how much of a lattice lies over flat areas, a scalar; 0 is none.

    One half is what evaluation measures (`rdeic_eval.metrics.lattice`): how far the mean steps into columns, and into
    rows, of each phase are from each other. The other is what repeats from block to block within 4 x 4 of them.

    Args:
        decoded, image: float [B, 3, H, W] in [-1, 1], H and W multiples of 4 periods.
        period: in pixels.
    """
    grey = (decoded.mean(1) - image.mean(1)), image.mean(1)
    steps = [F.pad(grey[1].diff(dim=axis).abs(), (0, axis == 2, 0, axis == 1)) for axis in (1, 2)]
    near = F.avg_pool2d((steps[0] + steps[1])[:, None] / 2, 9, 1, 4, count_include_pad=False)[:, 0]
    flat = (near <= FLAT_STEP).float().detach()

    unevenness = []
    for axis in (1, 2):
        # The first period has no step into its first column.
        step, weight = (x.transpose(1, axis)[:, period:] for x in (_steps(decoded.mean(1), axis), flat))
        by_phase = [x.reshape(len(x), -1, period, x.shape[2]).sum((0, 1, 3)) for x in (step * weight, weight)]
        means = by_phase[0] / (by_phase[1] + 1) + LEAST_STEP
        unevenness.append((means / means.mean() - 1).square().mean())

    error = grey[0] - F.interpolate(F.avg_pool2d(grey[0][:, None], period), scale_factor=period)[:, 0]
    rows, columns = (side // (4 * period) for side in error.shape[1:])
    blocks = (error * flat).reshape(-1, rows, 4, period, columns, 4, period)
    repeated: Tensor = blocks.mean((2, 5)).square().mean() * 127.5**2
    return torch.stack(unevenness).mean() + 0.02 * repeated


def _steps(grey: Tensor, axis: int) -> Tensor:
    """Return the absolute steps into each row or column, of the shape of ``grey``; those into the first are 0."""
    steps = grey.diff(dim=axis).abs()
    return F.pad(steps, (1, 0, 0, 0) if axis == 2 else (0, 0, 1, 0))


def codebook_loss(l_p: Tensor, code: Tensor) -> Tensor:
    """Return the codebook and commitment terms of Eq. 9 for hyper latents and their code vectors [B, N, H, W]."""
    return F.mse_loss(code, l_p.detach()) + COMMITMENT * F.mse_loss(l_p, code.detach())


class PixelLoss:
    """The terms of Eq. 10 on pixels, weighted as a stage's settings say.

    Squared error (``pixel_weight``), perceptual distances of an EfficientNet (``perceptual_weight``) and of a ResNet
    (``resnet_weight``), structural dissimilarity at five scales (``structure_weight``), squared error of 16-px means in
    luma and chroma (``means_weight``), which normalised features hardly see, and lattices (``lattice_weight``).
    """

    def __init__(self, options: dict[str, Any], device: str) -> None:
        self._networks: dict[str, FeatureDistance | ResNetFeatures] = {
            "perceptual": on_device(FeatureDistance(PERCEPTUAL_NETWORK), device),
            "resnet": on_device(ResNetFeatures(), device),
        }
        offsets = torch.arange(STRUCTURE_WINDOW_PX, device=device) - STRUCTURE_WINDOW_PX // 2
        self._window = torch.softmax(-offsets.square() / (2 * STRUCTURE_SIGMA_PX**2), dim=0)
        self._weights = {
            name: options[f"{name}_weight"]
            for name in ("pixel", "perceptual", "resnet", "structure", "means", "lattice")
        }

    def __call__(self, decoded: Tensor, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and its parts, of two batches [B, 3, H, W] in [-1, 1]."""
        return self.against(image)(decoded)

    def against(self, image: Tensor) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
        """Return the same as a function of ``decoded``, with the features of ``image`` computed once."""
        with torch.no_grad():
            targets = {name: network.features(image) for name, network in self._networks.items()}

        def loss_of(decoded: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            parts = {
                name: feature_distance(network.features(decoded), targets[name])
                for name, network in self._networks.items()
            }
            with torch.autocast(image.device.type, enabled=False):
                decoded = decoded.float()
                parts |= {
                    "pixel": F.mse_loss(decoded, image),
                    "structure": structural_dissimilarity(decoded, image, self._window),
                    "means": F.mse_loss(block_means(decoded), block_means(image)),
                    "lattice": lattice(decoded, image),
                }
            loss = sum((self._weights[name] * part for name, part in parts.items()), image.new_zeros(()))
            return loss, {name: part.detach() for name, part in parts.items()}

        return loss_of
