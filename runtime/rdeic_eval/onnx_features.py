"""Networks of judges as ONNX graphs: on a CPU, ONNX Runtime computes these features in half of PyTorch's time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

# Read by every ONNX Runtime that `pyproject.toml` allows.
_OPSET = 17
_IR_VERSION = 8


class OnnxFeatures:
    """Unit-normalised outputs of a graph, without gradients: a `metrics.Network`."""

    def __init__(self, graph: onnx.GraphProto, prepare: Callable[[Tensor], Tensor] = lambda image: image) -> None:
        """Load a graph, to be computed by as many threads as PyTorch has at this time.

        Args:
            graph: of opset 17; one input, float32 [B, 3, H, W]; its outputs are features [B, C, h, w].
            prepare: turns images [B, 3, H, W] in [-1, 1] into the input.
        """
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # A memory pattern would be kept for every image size that occurs.
        options.enable_mem_pattern = False
        # Threads of one network must not spin while another one computes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._input = graph.input[0].name
        self._prepare = prepare

    def features(self, image: Tensor) -> list[Tensor]:
        """Return unit-normalised features of images [B, 3, H, W] in [-1, 1], sides >= 32."""
        outputs = self._session.run(None, {self._input: self._prepare(image).numpy()})
        tensors = (torch.from_numpy(output) for output in outputs)
        return [F.normalize(tensor, dim=1, out=tensor) for tensor in tensors]


def graph_of(
    nodes: Iterable[onnx.NodeProto], source: str, outputs: Sequence[str], weights: Iterable[onnx.TensorProto]
) -> onnx.GraphProto:
    """Return the graph of these nodes from an image [B, 3, H, W] to features [B, C, h, w]."""
    return helper.make_graph(
        list(nodes),
        "features",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [None, 3, None, None])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs],
        list(weights),
    )


class GraphBuilder:
    """Collects nodes and weights of a graph; a tensor is given by its name."""

    def __init__(self) -> None:
        """Begin with the input alone."""
        self.source = "image"
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def convolution(self, x: str, convolution: torch.nn.Conv2d, pads: Sequence[int], most: float | None = None) -> str:
        """Add a convolution with zeros around its input (top, left, bottom, right); clip to [0, most] if given."""
        assert convolution.bias is not None
        inputs = [x, self.constant(convolution.weight), self.constant(convolution.bias)]
        strides, groups = list(convolution.stride), convolution.groups
        y = self.node("Conv", inputs, strides=strides, pads=list(pads), group=groups)
        return y if most is None else self.node("Clip", [y, self.constant(0.0), self.constant(most)])

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; return its output."""
        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value: Tensor | float) -> str:
        """Add a float32 constant."""
        name = f"weight_{len(self._weights)}"
        array = value.detach().contiguous().numpy() if isinstance(value, Tensor) else np.float32(value)
        self._weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def graph(self, outputs: Sequence[str]) -> onnx.GraphProto:
        """Return what was collected, with these outputs."""
        return graph_of(self._nodes, self.source, outputs, self._weights)
