"""Run an fp16 ONNX graph with every tensor rounded to float16, as a GPU that stores each one would.

ONNX Runtime's CPU provider cannot show overflow: it computes fp16 graphs in float32 and drops the Casts between nodes.
Here sums inside one operator are float32 (tensor cores, and the reductions in TensorRT's kernels) and its result is
rounded. With ``fused_attention``, a product that is cast to float32 is not rounded in between, as in TensorRT's fused
attention kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import nn

from rdeic_export import half, onnx_export
from rdeic_export.modules.signature import Signature
from rdeic_rt.tensor_spec import TensorSpec


class MatMul(OpRun):
    def _run(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (_rounded(torch.matmul(_wide(a), _wide(b)), a),)


class WideMatMul(OpRun):
    op_domain = "test"

    def _run(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (torch.matmul(_wide(a), _wide(b)).numpy(),)


class Conv(OpRun):
    def _run(self, x: NDArray[Any], w: NDArray[Any], b: NDArray[Any] | None = None, **kw: Any) -> tuple[NDArray[Any]]:
        top, left, bottom, right = kw.get("pads") or (0, 0, 0, 0)
        assert (kw.get("group") or 1) == 1 and (top, left) == (bottom, right)
        bias = None if b is None else _wide(b)
        y = torch.nn.functional.conv2d(
            _wide(x), _wide(w), bias, stride=tuple(kw.get("strides") or (1, 1)), padding=(top, left)
        )
        return (_rounded(y, x),)


class InstanceNormalization(OpRun):
    def _run(
        self, x: NDArray[Any], scale: NDArray[Any], bias: NDArray[Any], epsilon: float | None = None
    ) -> tuple[NDArray[Any]]:
        y = torch.nn.functional.instance_norm(_wide(x), weight=_wide(scale), bias=_wide(bias), eps=epsilon or 1e-5)
        return (_rounded(y, x),)


class LayerNormalization(OpRun):
    def _run(
        self, x: NDArray[Any], scale: NDArray[Any], bias: NDArray[Any], epsilon: float | None = None, **_: Any
    ) -> tuple[NDArray[Any]]:
        y = torch.nn.functional.layer_norm(_wide(x), x.shape[-1:], _wide(scale), _wide(bias), epsilon or 1e-5)
        return (_rounded(y, x),)


class Softmax(OpRun):
    def _run(self, x: NDArray[Any], axis: int | None = None) -> tuple[NDArray[Any]]:
        return (_rounded(torch.softmax(_wide(x), dim=-1 if axis is None else axis), x),)


class Gelu(OpRun):
    def _run(self, x: NDArray[Any], approximate: str | None = None) -> tuple[NDArray[Any]]:
        assert approximate in (None, "none")
        return (_rounded(torch.nn.functional.gelu(_wide(x)), x),)


OPERATORS = [MatMul, WideMatMul, Conv, InstanceNormalization, LayerNormalization, Softmax, Gelu]


def export(module: nn.Module, path: Path, shape: tuple[int | str, ...]) -> None:
    """Export a float32 module of one input ``x`` and one output ``y`` of the same shape, and convert it to float16."""
    signature = Signature("block", (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),))
    single = path.with_suffix(".fp32.onnx")
    onnx_export.run(module, signature, single, half_weights=False)
    half.run(single, path)


def run(path: Path, x: torch.Tensor, *, fused_attention: bool = False) -> torch.Tensor:
    """Return y of an exported file."""
    model = onnx.load(path)
    if fused_attention:
        _widen_products(model)
    with np.errstate(all="ignore"):
        (y,) = ReferenceEvaluator(model, new_ops=OPERATORS).run(None, {"x": x.numpy()})
    return torch.from_numpy(y)


def _widen_products(model: onnx.ModelProto) -> None:
    """Give every MatMul that only a Cast to float32 reads a float32 result."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in model.graph.node:
        casts = readers.get(node.output[0], []) if node.op_type == "MatMul" else []
        if len(casts) == 1 and casts[0].op_type == "Cast" and casts[0].attribute[0].i == TensorProto.FLOAT:
            node.op_type, node.domain = "WideMatMul", "test"
    model.opset_import.append(helper.make_opsetid("test", 1))


def _wide(x: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(x, dtype=np.float32))


def _rounded(y: torch.Tensor, like: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = y.numpy().astype(like.dtype)
    return result
