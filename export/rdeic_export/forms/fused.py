"""float16 graph -> one with attention as a single operator, for ONNX Runtime's CUDA provider.

    q ─ Reshape ─ Transpose ─┐
    k ─ Reshape ─ Transpose ─ MatMul ─ Softmax ─ MatMul ─ Transpose ─ Reshape ─▶
    v ─ Reshape ─ Transpose ──────────────────────┘

    q, k, v ─ com.microsoft.MultiHeadAttention ─▶

The operator's flash attention never writes the logits to memory, and reads and writes tokens as the layers before and
after it have them. ONNX Runtime has the standard's Attention with the same kernels, but for graphs of opset 23 and in
newer versions only; its own optimizer (onnxruntime.transformers) does not find the attention of these graphs, whose
scale is part of the query's weights (`fold.attention`). GroupNorm and convolutions in NHWC, which it does find, have no
kernel on the CPU, where a form is compared with float32.

Wider heads than flash attention takes, such as the 512 of Stable Diffusion's VAE, stay as they are: the operator would
run a kernel for them that wants more shared memory than many GPUs have, and fails there
(https://github.com/microsoft/onnxruntime/issues/28388).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from .. import disk, onnx_file
from ..onnx_view import GraphView, attributes

# What flash attention takes: heads of up to so many channels, a multiple of so many.
WIDEST_HEAD = 256
HEAD_MULTIPLE = 8
_DOMAIN = "com.microsoft"

_Dim = int | str | None


@dataclass(frozen=True)
class _Operand:
    """A query, key or value.

    Attributes:
        tokens: the tensor [batch, tokens, heads * width]; of constants, what they are stored as.
        batch, heads, width: its dimensions.
        factor: what it is multiplied by.
        constant: [1, tokens, heads * width], if it is one.
    """

    tokens: str
    batch: _Dim
    heads: int
    width: int
    factor: float
    constant: NDArray[np.generic] | None = None


@dataclass(frozen=True)
class _Attention:
    q: _Operand
    k: _Operand
    v: _Operand
    result: NodeProto


def run(source: Path, target: Path, *, widest_head: int = WIDEST_HEAD) -> int:
    """Write a graph with fused attention and return how many are fused; write nothing where none is.

    Args:
        source: an ONNX file in float16, or float32; weights may lie in a file beside it.
        target: the file to write. Weights in files of their own are linked beside it.
        widest_head: channels of the widest heads to fuse.
    """
    fuser = _Fuser(GraphView(source), widest_head)
    if fuser.run():
        fuser.write(target)
    return fuser.count


class _Fuser:
    """Rewrites one graph in place."""

    def __init__(self, view: GraphView, widest_head: int) -> None:
        self.count = 0
        self._view = view
        self._widest_head = widest_head
        inferred = onnx.shape_inference.infer_shapes(view.model, data_prop=True).graph
        self._shapes: dict[str, tuple[_Dim, ...]] = {x.name: tuple(x.dims) for x in inferred.initializer}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            dims = value.type.tensor_type.shape.dim
            self._shapes[value.name] = tuple(dim.dim_value or dim.dim_param or None for dim in dims)
        self._constants: dict[str, NDArray[np.generic]] = {}
        self._batches: dict[_Dim, str] = {}  # symbol -> tensor with the shape [batch, 1, 1]

    def run(self) -> int:
        """Fuse every attention that can be; return how many."""
        graph = self._view.model.graph
        found = {}
        for node in graph.node:
            attention = self._attention(node) if node.op_type == "Softmax" else None
            if attention is not None:
                found[attention.result.output[0]] = attention
        nodes: list[NodeProto] = []
        for node in graph.node:
            attention = found.get(node.output[0])
            nodes += [node] if attention is None else self._fused(attention)
        self.count = len(found)
        needed = {output.name for output in graph.output}
        kept = []
        for node in reversed(nodes):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
                kept.append(node)
        del graph.node[:]
        graph.node.extend(reversed(kept))
        weights = [x for x in graph.initializer if x.name in needed]
        del graph.initializer[:]
        graph.initializer.extend(weights)
        del graph.value_info[:]
        return self.count

    def write(self, target: Path) -> None:
        """Write the graph."""
        model = self._view.model
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        size_bytes = sum(array.nbytes for array in self._constants.values())
        folder = self._view.path.parent
        for location in onnx_file.locations(model) if folder.resolve() != target.parent.resolve() else ():
            disk.link(folder / location, target.parent / location)
        onnx_file.write(model, self._constants.items(), size_bytes, target)

    def _fused(self, attention: _Attention) -> list[NodeProto]:
        """Return the operator, after what makes constants as many as the batch is large."""
        q, k, v, result = attention.q, attention.k, attention.v, attention.result
        output = result.output[0]
        nodes: list[NodeProto] = []
        names = [q.tokens]
        for letter, operand in (("k", k), ("v", v)):
            if operand.constant is None:
                names.append(operand.tokens)
                continue
            constant, expanded = f"{output}.{letter}.constant", f"{output}.{letter}"
            self._constants[constant] = operand.constant
            if q.batch not in self._batches:
                nodes += self._batch(q, f"{output}.batch")
            nodes.append(helper.make_node("Expand", [constant, self._batches[q.batch]], [expanded], expanded))
            names.append(expanded)
        node = helper.make_node("MultiHeadAttention", names, [output], f"{output}.attention", domain=_DOMAIN)
        node.attribute.append(helper.make_attribute("num_heads", q.heads))
        node.attribute.append(helper.make_attribute("scale", q.factor * k.factor))
        return [*nodes, node]

    def _batch(self, q: _Operand, name: str) -> list[NodeProto]:
        """Return nodes that make the shape [batch, 1, 1] of a query."""
        size, ones = f"{name}.size", f"{name}.ones"
        self._constants[ones] = np.ones(2, np.int64)
        self._batches[q.batch] = name
        return [
            helper.make_node("Shape", [q.tokens], [size], size, start=0, end=1),
            helper.make_node("Concat", [size, ones], [name], name, axis=0),
        ]

    def _attention(self, softmax: NodeProto) -> _Attention | None:
        """Return the attention that a Softmax is part of, if it can be fused."""
        scores = self._made_by("MatMul", self._uncast(softmax.input[0]))
        if scores is None or attributes(softmax).get("axis", -1) not in (-1, 3):
            return None
        mixed = self._read_by("MatMul", self._cast(softmax.output[0]))
        swapped = self._read_by("Transpose", mixed.output[0]) if mixed is not None else None
        result = self._read_by("Reshape", swapped.output[0]) if swapped is not None else None
        if mixed is None or swapped is None or result is None:
            return None
        if mixed.input[0] != self._cast(softmax.output[0]) or attributes(swapped)["perm"] != [0, 2, 1, 3]:
            return None
        q, k, v = self._split(scores.input[0]), self._transposed(scores.input[1]), self._split(mixed.input[1])
        if q is None or k is None or v is None or q.constant is not None or v.factor != 1.0:
            return None
        shape = self._shapes.get(result.output[0], ())
        alike = len({(x.batch, x.heads, x.width) for x in (q, k, v)}) == 1
        if not alike or len(shape) != 3 or (shape[0], shape[2]) != (q.batch, q.heads * q.width):
            return None
        if q.width > self._widest_head or q.width % HEAD_MULTIPLE:
            return None
        return _Attention(q, k, v, result)

    def _split(self, name: str) -> _Operand | None:
        """Return what a tensor [batch, heads, tokens, width] is made of."""
        name, factor = self._unscaled(name)
        node = self._view.producers.get(name)
        if node is None:
            return None
        if node.op_type == "Expand":
            return self._constant(node, (0, 2, 1, 3), factor)
        if node.op_type != "Transpose" or attributes(node)["perm"] != [0, 2, 1, 3]:
            return None
        return self._tokens(node.input[0], factor)

    def _transposed(self, name: str) -> _Operand | None:
        """Return what a tensor [batch, heads, width, tokens] is made of."""
        name, factor = self._unscaled(name)
        node = self._view.producers.get(name)
        if node is None:
            return None
        if node.op_type == "Expand":
            return self._constant(node, (0, 3, 1, 2), factor)
        inner = None
        if node.op_type == "Transpose" and attributes(node)["perm"] == [0, 2, 3, 1]:
            return self._tokens(node.input[0], factor)
        if node.op_type == "Transpose" and attributes(node)["perm"] == [0, 1, 3, 2]:
            inner = self._split(node.input[0])
        elif node.op_type == "Reshape":
            inner = self._transposed_flat(node)
        return None if inner is None else replace(inner, factor=factor * inner.factor)

    def _transposed_flat(self, node: NodeProto) -> _Operand | None:
        """Return the same where batch and heads are one axis while the other two are swapped, as PyTorch exports it."""
        swapped = self._made_by("Transpose", node.input[0])
        flat = self._made_by("Reshape", swapped.input[0]) if swapped is not None else None
        if swapped is None or flat is None or attributes(swapped)["perm"] != [0, 2, 1]:
            return None
        inner = self._split(flat.input[0])
        before, between, after = (self._shapes.get(x, ()) for x in (flat.input[0], flat.output[0], node.output[0]))
        if inner is None or (len(before), len(between), len(after)) != (4, 3, 4) or None in before[2:]:
            return None
        if between[1:] != before[2:] or after[1:3] != (inner.heads, inner.width):
            return None
        return inner

    def _tokens(self, name: str, factor: float) -> _Operand | None:
        """Return the operand of which a tensor [batch, tokens, heads, width] is a view."""
        node = self._made_by("Reshape", name)
        if node is None:
            return None
        whole, parts = self._shapes.get(node.input[0], ()), self._shapes.get(name, ())
        if len(whole) != 3 or len(parts) != 4 or not isinstance(parts[2], int) or not isinstance(parts[3], int):
            return None
        # One of two dimensions with the same product is the same in both, so that the other is too.
        alike = any(a is not None and a == b for a, b in zip(whole[:2], parts[:2], strict=True))
        if not alike or whole[0] is None or whole[2] != parts[2] * parts[3]:
            return None
        return _Operand(node.input[0], whole[0], parts[2], parts[3], factor)

    def _constant(self, node: NodeProto, order: tuple[int, ...], factor: float) -> _Operand | None:
        """Return the operand that an Expand makes of constants; `order` brings them to batch, tokens, heads, width."""
        stored, shape = self._view.stored(node.input[0]), self._shapes.get(node.output[0], ())
        if stored is None or len(shape) != 4 or shape[0] is None:
            return None
        values = self._view.array(stored)
        if values.ndim != 4 or values.shape[0] != 1 or values.shape[1:] != shape[1:]:
            return None
        dtype = helper.tensor_dtype_to_np_dtype(self._view.float_type(node.input[0]))
        tokens = values.transpose(order).astype(dtype)
        _, n_tokens, heads, width = tokens.shape
        constant = tokens.reshape(1, n_tokens, heads * width)
        return _Operand(stored, shape[0], heads, width, factor, constant)

    def _unscaled(self, name: str) -> tuple[str, float]:
        """Return what a tensor is a multiple of, and of which factor."""
        factor = 1.0
        while (node := self._made_by("Mul", name)) is not None:
            known = [self._view.scalar(x) for x in node.input]
            if (known[0] is None) == (known[1] is None):
                break
            name = node.input[1] if known[1] is None else node.input[0]
            factor *= math.prod(x for x in known if x is not None)
        return name, factor

    def _made_by(self, op_type: str, name: str) -> NodeProto | None:
        node = self._view.producers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def _read_by(self, op_type: str, name: str) -> NodeProto | None:
        node = self._view.only_consumer(name)
        return node if node is not None and node.op_type == op_type else None

    def _uncast(self, name: str) -> str:
        node = self._made_by("Cast", name)
        return name if node is None else node.input[0]

    def _cast(self, name: str) -> str:
        node = self._read_by("Cast", name)
        return name if node is None else node.output[0]
