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

    def features(self, image: Tensor) -> list[Tensor]:
        """Return weighted features at strides 2 to 8 of images [B, 3, H, W] in [-1, 1], sides >= 32."""
        h = (image - self.get_buffer("shift")) / self.get_buffer("scale")
        h = h.contiguous(memory_format=torch.channels_last)
        outputs = []
        for depth, layer in enumerate(self.convolutions):
            if depth in _POOLED:
                h = _halved(F.max_pool2d(h, 3, stride=1))
            h = layer(h)
            h = (h if depth else _halved(h)).relu()
            outputs.append(F.normalize(h, dim=1) * self.get_buffer(f"gain{depth}"))
        return outputs


def _halved(h: Tensor) -> Tensor:
    """Return features, blurred by [1, 2, 1] / 4 both ways, at every second position."""
    row = h.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row).expand(h.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(h, (_BLUR_PAD_PX,) * 4, mode="reflect"), kernel, stride=2, groups=h.shape[1])


def _path() -> Path:
    package = find_spec("stlpips_pytorch")
    if package is None or package.origin is None:
        raise ImportError("stlpips_pytorch is not installed; install it with `pip install 'rdeic-rt[eval]'`")
    return Path(package.origin).parent / "weights" / "vST0.0" / "alex_shift_tolerant.pth"
