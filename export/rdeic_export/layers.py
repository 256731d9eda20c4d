"""The layers of an ONNX graph that can run in 8 bits, under names that do not depend on its precision.

A layer is a Conv, Gemm or MatMul whose weight is an initialiser (behind a Cast where it is stored as float16). The
products inside attention are none: both factors are activations, or constants of rank 3 and more.

What a layer reads or writes may only be moved before or after it: sliced, padded with zeros, reshaped, shuffled. The
values stay the same, so its range is that of the tensor at the other end, and a form with integer activations can
move bytes instead of floats:

    root ── Pad ── Slice ──▶ layer ── Unsqueeze ── Concat ── DepthToSpace ──▶
    └ source                          all parts are layers' └ result
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from rdeic_rt.errors import ExportError

from . import onnx_file

KINDS = ("Conv", "Gemm", "MatMul")
# Operators whose first input's values are their output's; Pad is one when it pads with zeros, as convolutions do.
MOVES = frozenset({"DepthToSpace", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: `conv2d_5`, `linear_12`: the name of its result in the exported program, bias included, which is the same
            for every precision the module is exported in.
        kind: one of `KINDS`.
        node: the ONNX node's name.
        weight: the tensor that the node reads its weight from.
        stored: the initialiser that holds it, ``weight`` itself or what is cast to it.
        shape: of the weight.
        out_axis: axis of the weight along which outputs lie.
        source: the tensor whose range is that of the layer's input.
        result: the tensor whose range is that of the layer's output.
    """

    name: str
    kind: str
    node: str
    weight: str
    stored: str
    shape: tuple[int, ...]
    out_axis: int
    source: str
    result: str

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels."""
        return self.shape[1 - self.out_axis], self.shape[self.out_axis]


class GraphView:
    """An ONNX graph with what is asked of it again and again: producers, consumers, initialisers on demand.

    Attributes:
        model: without external data; `array` reads single tensors from there.
        path: of the file; external data lies beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = onnx.load(path, load_external_data=False)
        graph = self.model.graph
        self.initialisers = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in graph.output}

    def array(self, name: str) -> NDArray[Any]:
        """Return an initialiser's values."""
        return onnx_file.array(self.initialisers[name], self.path.parent)

    def size_bytes(self, name: str) -> int:
        """Return the size of an initialiser's values."""
        return onnx_file.size_bytes(self.initialisers[name])

    def stored(self, name: str) -> str | None:
        """Return the initialiser behind a tensor, directly or through a Cast; None for an activation."""
        if name in self.initialisers:
            return name
        node = self.producers.get(name)
        if node is not None and node.op_type == "Cast" and node.input[0] in self.initialisers:
            return str(node.input[0])
        return None

    def scalar(self, name: str) -> float | None:
        """Return the value of a one-element initialiser, or None."""
        stored = self.stored(name)
        if stored is None or np.prod(self.initialisers[stored].dims, dtype=np.int64) != 1:
            return None
        return float(self.array(stored).reshape(-1)[0])

    def float_type(self, tensor: str) -> int:
        """Return the ONNX element type that a weight has where it is used."""
        node = self.producers.get(tensor)
        if node is None:
            return int(self.initialisers[tensor].data_type)
        return int(next(a.i for a in node.attribute if a.name == "to"))

    def is_move(self, node: onnx.NodeProto) -> bool:
        """Return whether a node only moves its first input's values, or adds zeros to them."""
        if node.op_type != "Pad":
            return node.op_type in MOVES
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
        value = node.input[2] if len(node.input) > 2 else ""
        return mode != b"constant" or not value or self.scalar(value) == 0.0

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """Return the one node that reads a tensor's values, if it is one (looking at the shape is not reading)."""
        nodes = [node for node in self.consumers.get(tensor, ()) if node.op_type != "Shape"]
        return nodes[0] if len(nodes) == 1 and tensor not in self.outputs else None

    def root(self, tensor: str) -> str:
        """Return the tensor that a tensor's values were moved from."""
        while (node := self.producers.get(tensor)) is not None and self.is_move(node):
            tensor = node.input[0]
        return tensor

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, in the graph's order.

        Raises:
            ExportError: two layers have one name, so that ranges could not be told apart.
        """
        found = [layer for node in self.model.graph.node if (layer := self._layer(node)) is not None]
        results = self._results([self._end(layer) for layer in found])
        found = [Layer(**{**layer.__dict__, "result": result}) for layer, result in zip(found, results, strict=True)]
        repeated = [name for name, count in Counter(layer.name for layer in found).items() if count > 1]
        if repeated:
            raise ExportError(f"two layers of one graph are called {', '.join(repeated)}; export the graph again")
        return tuple(found)

    def bias_add(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the Add of a constant vector that follows a MatMul, or None."""
        after = self.only_consumer(node.output[0])
        if node.op_type != "MatMul" or after is None or after.op_type != "Add":
            return None
        other = next(name for name in after.input if name != node.output[0])
        stored = self.stored(other)
        return after if stored is not None and len(self.initialisers[stored].dims) == 1 else None

    def _layer(self, node: onnx.NodeProto) -> Layer | None:
        if node.op_type not in KINDS:
            return None
        weight = node.input[1]
        stored = self.stored(weight)
        if stored is None:
            return None
        shape = tuple(self.initialisers[stored].dims)
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "Conv":
            out_axis = 0
            if attributes.get("group", 1) != 1:
                return None
        elif len(shape) == 2 and not attributes.get("transA"):
            out_axis = 0 if attributes.get("transB") else 1
        else:
            return None
        add = self.bias_add(node)
        name = node.name.removeprefix("node_") if add is None else add.output[0]
        end = node.output[0] if add is None else add.output[0]
        return Layer(name, node.op_type, node.name, weight, stored, shape, out_axis, self.root(node.input[0]), end)

    def _end(self, layer: Layer) -> tuple[str, onnx.NodeProto | None]:
        """Return where a layer's result is moved to, and the Concat there, if there is one."""
        tensor = layer.result
        while (node := self.only_consumer(tensor)) is not None and node.input[0] == tensor and self.is_move(node):
            tensor = node.output[0]
        return tensor, node if node is not None and node.op_type == "Concat" else None

    def _results(self, ends: Sequence[tuple[str, onnx.NodeProto | None]]) -> list[str]:
        """Return what stands for the layers' outputs: the end, or a Concat where all its parts are layers' outputs."""
        tensors = {tensor for tensor, _ in ends}
        whole = [None if node is None or not tensors.issuperset(node.input) else node for _, node in ends]
        return [
            self.root(tensor) if node is None else node.output[0] for (tensor, _), node in zip(ends, whole, strict=True)
        ]


def fingerprint(view: GraphView) -> str:
    """Return a SHA-256 over the layers' names and weights, the same for every precision of one graph.

    Weights count as float16: what a half-precision export stores, and what the float32 graph reads where weights are
    stored in half.
    """
    digest = hashlib.sha256()
    for layer in view.layers:
        digest.update(f"{layer.name} {layer.kind} {layer.shape}\n".encode())
        digest.update(np.ascontiguousarray(view.array(layer.stored).astype("<f2")).tobytes())
    return digest.hexdigest()


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """Return a node's attributes as Python values, by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
