"""float32 graph -> float16 graph, with float32 only where half precision would lose or overflow.

    float32 input ─ Cast ─▶ layers in float16 ─ Cast ─▶ the tail in float32 ─▶ output

Two things stay in float32. The *tail*, all that follows the last layer: the update z_(n-1) = a z_n + b eps + c noise
and the pixel arithmetic, where rounding would show. And the Softmax of every attention that one kernel computes: its
operand is a float16 product that the kernel then accumulates in float32 (`fold.attention`). Wider heads have no such
kernel; a float32 Softmax would only double the memory that their logits take. Inputs and outputs keep their types, so
that either graph can stand for the other.

Networks are strongly typed in TensorRT for RTX: a layer runs in the precision of its tensors here.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    external_data_helper,
    helper,
    numpy_helper,
)

from rdeic_rt.errors import ExportError

from . import disk, onnx_file

LAYERS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
# Widest attention head that TensorRT has a fused kernel for; the VAE's is 512 wide.
FUSED_HEAD = 128
# Inputs that the operator wants in float32 whatever the type of the others.
_SINGLE_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def run(source: Path, target: Path) -> None:
    """Write the float16 form of a graph.

    Args:
        source: an ONNX file in float32; large weights may be float16 behind a Cast, and in an external file.
        target: the file to write.

    Raises:
        ExportError: a weight does not fit into float16, or the types of a tensor cannot be told.
    """
    model = onnx.load(source, load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph  # head widths follow from Reshapes
    types = _types(inferred, source)
    single = _tail(model) | _fused_softmaxes(inferred)
    halver = _Halver(model, types, single)
    halver.run()
    halver.write(source, target)


class _Halver:
    """Rewrites one graph in place."""

    def __init__(self, model: ModelProto, types: dict[str, int], single: set[str]) -> None:
        self.model = model
        self.graph = model.graph
        self.types = types
        self.single = single
        self.initializers = {x.name: x for x in self.graph.initializer}
        self.halved: dict[str, str] = {}  # X.half -> X, for weights to convert
        self.stored_half: dict[str, str] = {  # X -> X.half, for weights that are kept in float16 behind a Cast
            node.output[0]: node.input[0]
            for node in self.graph.node
            if node.op_type == "Cast" and node.input[0] in self.initializers and types[node.input[0]] == _HALF
        }
        self.casts: dict[tuple[str, int], str] = {}  # what was cast -> its name in that type
        self.nodes: list[NodeProto] = []
        self.made: dict[str, int] = {}  # tensor -> type it has from now on

    def run(self) -> None:
        """Put every node's inputs in the type it wants, and the graph's outputs in the type they had."""
        for tensor in self.graph.input:
            self.made[tensor.name] = self.types[tensor.name]
        for node in list(self.graph.node):
            if node.output[0] in self.stored_half:
                continue
            wanted = _FLOAT if node.output[0] in self.single else _HALF
            for index, name in enumerate(node.input):
                if self.types.get(name) == _FLOAT:
                    fixed = index in _SINGLE_INPUTS.get(node.op_type, ())
                    node.input[index] = self._as(name, _FLOAT if fixed else wanted)
            if wanted == _HALF:
                _retype_attributes(node)
            for name in node.output:
                if self.types.get(name) == _FLOAT:
                    self.made[name] = wanted
            self.nodes.append(node)
        self._restore_outputs()
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)

    def write(self, source: Path, target: Path) -> None:
        """Write the graph; weights in a file of their own that stay as they are are linked beside it, not copied.

        Args:
            source: the file it was read from.
            target: the file to write.
        """
        used = {name for node in self.nodes for name in node.input}
        kept = [x for x in self.graph.initializer if x.name in used]
        outside = {x.name for x in self.graph.initializer if external_data_helper.uses_external_data(x)}
        is_linked = not outside.isdisjoint(used) and outside.isdisjoint(self.halved.values())
        del self.graph.initializer[:]
        if is_linked:
            self.graph.initializer.extend(kept)
        whole = [] if is_linked else kept
        size_bytes = sum(map(onnx_file.size_bytes, whole))
        size_bytes += sum(onnx_file.size_bytes(self.initializers[name]) // 2 for name in self.halved.values())
        values = ((x.name, onnx_file.array(x, source.parent)) for x in whole)
        halves = ((half, self._half_of(name, source)) for half, name in self.halved.items())
        onnx_file.write(self.model, chain(values, halves), size_bytes, target)
        for location in onnx_file.locations(self.model) if is_linked else ():
            disk.link(source.parent / location, target.parent / location)

    def _as(self, name: str, wanted: int) -> str:
        """Return the name of a float tensor in the wanted type, casting it once for all who ask."""
        if name in self.stored_half:
            if wanted == _HALF:
                return self.stored_half[name]
            return self._cast(self.stored_half[name], wanted)
        if name in self.initializers:
            return name if wanted == _FLOAT else self._half_initializer(name)
        return name if self.made[name] == wanted else self._cast(name, wanted)

    def _cast(self, name: str, wanted: int) -> str:
        if (name, wanted) not in self.casts:
            output = f"{name}.{'fp16' if wanted == _HALF else 'fp32'}"
            self.nodes.append(helper.make_node("Cast", [name], [output], name=f"{output}.cast", to=wanted))
            self.casts[name, wanted] = output
        return self.casts[name, wanted]

    def _half_initializer(self, name: str) -> str:
        half = f"{name}.half"
        if half not in self.initializers:
            self.halved[half] = name
        return half

    def _half_of(self, name: str, source: Path) -> NDArray[np.generic]:
        values = onnx_file.array(self.initializers[name], source.parent)
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16)
        if not np.isfinite(rounded).all():
            raise ExportError(
                f"{source.name}: weight {name} has values up to {np.abs(values).max():.3g}, over the 65504 of float16. "
                "Build this graph in fp32."
            )
        return rounded

    def _restore_outputs(self) -> None:
        """Give outputs that a float16 node makes a Cast, under the name they are known by."""
        for output in self.graph.output:
            if self.made.get(output.name) != _HALF:
                continue
            inner = f"{output.name}.fp16"
            for node in self.nodes:
                node.input[:] = [inner if name == output.name else name for name in node.input]
                node.output[:] = [inner if name == output.name else name for name in node.output]
            self.nodes.append(helper.make_node("Cast", [inner], [output.name], name=f"{output.name}.cast", to=_FLOAT))


def _types(graph: GraphProto, source: Path) -> dict[str, int]:
    """Return the element type of every tensor."""
    types = {x.name: x.data_type for x in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    unknown = [name for node in graph.node for name in node.output if name and not types.get(name)]
    if unknown:
        raise ExportError(f"{source.name}: the types of {len(unknown)} tensors cannot be told, {unknown[0]!r} for one")
    return types


def _fused_softmaxes(graph: GraphProto) -> set[str]:
    """Return the Softmax nodes (by their output) over the logits of heads that are narrow enough for a fused kernel."""
    shapes = {v.name: v.type.tensor_type.shape.dim for v in (*graph.input, *graph.value_info)}
    products = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    found = set()
    for node in graph.node:
        if node.op_type == "Softmax" and node.input[0] in products:
            dims = shapes.get(products[node.input[0]].input[0], ())
            if not dims or dims[-1].dim_value <= FUSED_HEAD:
                found.add(node.output[0])
    return found


def _tail(model: ModelProto) -> set[str]:
    """Return the nodes (by their first output) that no layer follows, except layers themselves."""
    before_layer: set[str] = set()
    tail: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type in LAYERS or before_layer.intersection(node.output):
            before_layer.update(node.input)
        else:
            tail.add(node.output[0])
    return tail


def _retype_attributes(node: NodeProto) -> None:
    """Make a node that creates floats create float16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
            attribute.i = _HALF
        elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == _FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
