"""ST-LPIPS: a perceptual distance of an AlexNet that learned from people's judgements, to judge with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of the five convolutions: the name in the file of weights, and the padding in pixels.
_CONVOLUTIONS = (("slice1.0", 2), ("slice2.5", 2), ("slice3.9", 1), ("slice4.11", 1), ("slice5.13", 1))
# Convolutions that a maximum over 3x3 and a blur precede. The first is followed by a blur instead.
_POOLED = (1, 2)
# A blur reflects this many pixels at each edge.
_BLUR_PAD_PX = 2


class StLpips(nn.Module):
    """Features whose `perceptual.feature_distance` is ST-LPIPS, the variant with AlexNet (Ghildyal and Liu, ECCV 2022).

    The distance is that of LPIPS (Zhang et al., CVPR 2018, section 3, "Network activations to distance", equation 1):
    features are normalised to length 1 at each position, squared differences are weighted by channel, summed over
    channels, averaged over positions, and summed over five depths. Network and weights by channel were trained on which
    of two distorted patches people find closer to a third (BAPPS), by the authors' commands from random weights.
    Features are blurred before they are halved, so that a shift by a pixel counts for little.

    The weights by channel are folded into the features, so that nothing but their plain distance is to be computed.
    """

    def __init__(self) -> None:
        """Load the weights from the package stlpips_pytorch, none of whose code is run.

        Raises:
            ImportError: it is not installed.
        """
        super().__init__()
        state = torch.load(_path(), map_location="cpu", weights_only=True)
        self.register_buffer("shift", state["scaling_layer.shift"])
        self.register_buffer("scale", state["scaling_layer.scale"])
        self.convolutions = nn.ModuleList()
        for depth, (name, padding) in enumerate(_CONVOLUTIONS):
            weight = state[f"net.{name}.weight"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=padding)
            # With channels last, here and in `features`, it takes a third less time.
            layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            layer.load_state_dict({"weight": weight, "bias": state[f"net.{name}.bias"]})
            self.convolutions.append(layer)
            # `feature_distance` takes the mean over depths, and LPIPS the sum.
            gain = (len(_CONVOLUTIONS) * state[f"lin{depth}.model.1.weight"]).sqrt()
            self.register_buffer(f"gain{depth}", gain)
        self.requires_grad_(False)
        self._first = _HalvedConvolution(*self.convolutions[0].parameters(), pad_px=_CONVOLUTIONS[0][1])

    def features(self, image: Tensor) -> list[Tensor]:
        """Return weighted features at strides 2 to 8 of images [B, 3, H, W] in [-1, 1], sides >= 32."""
        h = (image - self.get_buffer("shift")) / self.get_buffer("scale")
        h = h.contiguous(memory_format=torch.channels_last)
        outputs = []
        for depth, layer in enumerate(self.convolutions):
            if depth in _POOLED:
                h = _halved(F.max_pool2d(h, 3, stride=1))
            h = (layer(h) if depth else self._first(h)).relu_()
            outputs.append(F.normalize(h, dim=1).mul_(self.get_buffer(f"gain{depth}")))
        return outputs


class _HalvedConvolution:
    """A convolution and `_halved` of it as a single convolution of stride 2, with the product of both kernels.

    This gives the values that no reflection goes into. Of the others, those at the first row and column equal those
    next to them, since the blur is symmetric. So do those at the last row, or column, if the convolution has an odd
    number of them. If that is even, they are computed from the pixels near the edge.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, pad_px: int) -> None:
        """Take those of a convolution [C, 3, k, k] of stride 1, which pads its input with zeros."""
        self._weight, self._bias, self._pad_px = weight, bias, pad_px
        outputs, inputs, side_px, _ = weight.shape
        planes = weight.reshape(outputs * inputs, 1, side_px, side_px)
        product = F.conv2d(planes, _blur_kernel(planes), padding=2)
        product = product.reshape(outputs, inputs, side_px + 2, side_px + 2)
        self._product = product.contiguous(memory_format=torch.channels_last)
        # Of a strip that gives four rows or columns, as many as `_halved` needs for the last of its own.
        self._strip_px = side_px + 3

    def __call__(self, image: Tensor) -> Tensor:
        """Return features [B, C, h, w] of an image [B, 3, H, W]."""
        image = F.pad(image, (self._pad_px,) * 4)
        inner = F.conv2d(image, self._product, self._bias, stride=2)
        h = F.pad(inner, (1,) * 4, mode="replicate")
        for axis in (2, 3):
            side_px = image.shape[axis]
            if (side_px - self._weight.shape[axis] + 1) % 2 == 0:
                strip = image.narrow(axis, side_px - self._strip_px, self._strip_px)
                edge = _halved(F.conv2d(strip, self._weight, self._bias))
                h.select(axis, -1).copy_(edge.select(axis, -1))
        return h


def _halved(h: Tensor) -> Tensor:
    """Return features, blurred by [1, 2, 1] / 4 both ways, at every second position."""
    kernel = _blur_kernel(h).expand(h.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(h, (_BLUR_PAD_PX,) * 4, mode="reflect"), kernel, stride=2, groups=h.shape[1])


def _blur_kernel(like: Tensor) -> Tensor:
    row = like.new_tensor([0.25, 0.5, 0.25])
    return torch.outer(row, row)[None, None]


def _path() -> Path:
    package = find_spec("stlpips_pytorch")
    if package is None or package.origin is None:
        raise ImportError("stlpips_pytorch is not installed; install it with `pip install 'rdeic-rt[eval]'`")
    return Path(package.origin).parent / "weights" / "vST0.0" / "alex_shift_tolerant.pth"
