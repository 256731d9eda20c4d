"""What both quantised forms of a graph share: 8-bit weights, and the new node list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from .. import onnx_file
from ..onnx_view import GraphView, Layer
from .ranges import GraphRanges

INT8_MAX, UINT8_MAX = 127, 255
ORT_DOMAIN = "com.microsoft"  # of operators that only ONNX Runtime has


class Rewriter(ABC):
    """A graph on its way to another form: its layers are written one by one, all other nodes are copied.

    Attributes:
        view: the graph as it was.
        ranges, method: where activation scales come from.
        chosen: node name -> layer, for the layers to quantise.
        nodes, made: the new nodes in order, and everything they make.
        constants: the new initialisers.
        weight_max: greatest magnitude of a quantised weight, at most 127.
    """

    weight_max = INT8_MAX

    def __init__(self, view: GraphView, ranges: GraphRanges, method: str, chosen: Mapping[str, Layer]) -> None:
        self.view = view
        self.ranges = ranges
        self.method = method
        self.chosen = chosen
        self.nodes: list[onnx.NodeProto] = []
        self.made: set[str] = set()
        self.constants: dict[str, NDArray[Any]] = {}

    def rewrite(self) -> None:
        """Fill ``nodes`` and ``constants``."""
        for node in self.view.model.graph.node:
            layer = self.chosen.get(node.name)
            if layer is not None:
                self.layer(node, layer)
            elif self.made.isdisjoint(node.output):
                self.copy(node)

    @abstractmethod
    def layer(self, node: onnx.NodeProto, layer: Layer) -> None:
        """Write a quantised layer."""

    def copy(self, node: onnx.NodeProto) -> None:
        """Take over a node that is not quantised."""
        self.append(node)

    def append(self, node: onnx.NodeProto) -> None:
        """Add a node at the end."""
        self.nodes.append(node)
        self.made.update(node.output)

    def add(self, operator: str, inputs: Sequence[str], output: str, **options: Any) -> str:
        """Add a new node and return its output."""
        self.append(helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **options))
        return output

    def take(self, node: onnx.NodeProto, inputs: Sequence[str], output: str) -> str:
        """Add a copy of a node with other inputs and output, and return that."""
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = inputs
        copied.output[:] = [output]
        if output != node.output[0]:
            copied.name = f"{output}/{node.op_type}"
        self.append(copied)
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initialiser, once, and return its name."""
        self.constants.setdefault(name, value)
        return name

    def weight(
        self,
        layer: Layer,
        float_type: np.dtype[Any],
        units: NDArray[np.float64] | float = 1.0,
        order: NDArray[np.int64] | None = None,
    ) -> tuple[str, NDArray[np.float64]]:
        """Add a layer's weight as int8 from -``weight_max`` to ``weight_max``, one scale an output.

        Args:
            layer: whose weight.
            float_type: of the scales.
            units: float64 [out] or a number, what the layer's outputs are divided by.
            order: of the outputs; None to leave it.

        Returns:
            the dequantised weight's name, and the scales before division, float64 [out].
        """
        values, scales = self.integers(layer, float_type, order)
        inputs = [
            self.constant(f"{layer.name}.weight.q", values),
            self.constant(f"{layer.name}.weight.scale", (scales / units).astype(float_type)),
            self.constant(f"{layer.name}.weight.zero", np.zeros(len(scales), np.int8)),
        ]
        name = self.add("DequantizeLinear", inputs, f"{layer.name}.weight.dq", axis=layer.out_axis)
        return name, scales

    def integers(
        self, layer: Layer, float_type: np.dtype[Any], order: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        """Return a layer's weight as int8, and the scale of each output as the float type has it, float64 [out].

        Args:
            layer, float_type, order: see `weight`.
        """
        values = self.view.array(layer.stored).astype(np.float32)
        if order is not None:
            values = np.take(values, order, layer.out_axis)
        axes = tuple(axis for axis in range(values.ndim) if axis != layer.out_axis)
        scales = positive(np.abs(values).max(axes) / self.weight_max, float_type)
        shape = [-1 if axis == layer.out_axis else 1 for axis in range(values.ndim)]
        rounded = np.rint(values / scales.astype(np.float32).reshape(shape))
        integers: NDArray[np.int8] = np.clip(rounded, -self.weight_max, self.weight_max).astype(np.int8)
        return integers, scales.astype(np.float64)


def positive(value: NDArray[Any], float_type: np.dtype[Any]) -> NDArray[Any]:
    """Return scales in a float type, raised to its smallest number where they are less."""
    raised: NDArray[Any] = np.maximum(value, np.finfo(float_type).smallest_subnormal).astype(float_type)
    return raised


def write(rewriter: Rewriter, target: Path) -> None:
    """Write the model with the new nodes, less what nobody reads any more."""
    view, graph = rewriter.view, rewriter.view.model.graph
    nodes, wanted = [], set(view.outputs)
    for node in reversed(rewriter.nodes):
        if not wanted.isdisjoint(node.output):
            nodes.append(node)
            wanted.update(node.input)
    kept = [name for name in view.initialisers if name in wanted]
    added = [name for name in rewriter.constants if name in wanted]
    size_bytes = sum(rewriter.constants[name].nbytes for name in added) + sum(map(view.size_bytes, kept))
    weights = (
        (name, view.array(name) if name in view.initialisers else rewriter.constants[name]) for name in kept + added
    )
    for field in ("node", "value_info", "initializer"):
        graph.ClearField(field)
    graph.node.extend(reversed(nodes))
    if any(node.domain == ORT_DOMAIN for node in nodes):
        view.model.opset_import.append(helper.make_opsetid(ORT_DOMAIN, 1))
    onnx_file.write(view.model, weights, size_bytes, target)
    onnx.checker.check_model(str(target))
