"""Fused attention computes what its parts computed, and takes no attention that it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from rdeic_export import onnx_export
from rdeic_export.fold import attention, text
from rdeic_export.forms import fused, half
from rdeic_export.modules.signature import Signature
from rdeic_rt import bundle as bundles
from rdeic_rt import onnx_walk
from rdeic_rt.tensor_spec import TensorSpec
from tests.micro import make_micro

# Attention with two heads of 16, on a batch and tokens of any number; what stands in braces is a test's to choose.
ATTENTION = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[batch, tokens, 32] x) => (float[batch, tokens, 32] y)
<float[32, 32] w, int64[4] split = {{{split}}}, int64[3] merged = {{0, -1, 32}}, float factor = {{0.5}}>
{{
  projected = MatMul (x, w)
  q4 = Reshape (x, split)
  q = Transpose <perm = [0, 2, 1, 3]> (q4)
  k4 = Reshape (projected, split)
  k = Transpose <perm = [0, 2, 3, 1]> (k4)
  v4 = Reshape (projected, split)
  v = Transpose <perm = [0, 2, 1, 3]> (v4)
  q_scaled = Mul (q, factor)
  k_scaled = Mul (factor, k)
  v_scaled = Mul (v, factor)
  logits = MatMul (q_scaled, k_scaled)
  masked = Add (logits, factor)
  weights = Softmax <axis = -1> ({logits})
  mixed = MatMul (weights, {v})
  swapped = Transpose <perm = [0, 2, 1, 3]> (mixed)
  y = Reshape (swapped, merged)
}}
"""


def write(folder: Path, *, split: str = "0, -1, 2, 16", logits: str = "logits", v: str = "v") -> Path:
    model = parser.parse_model(ATTENTION.format(split=split, logits=logits, v=v))
    weight = np.random.default_rng(0).standard_normal((32, 32), dtype=np.float32) / 6
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def run(path: Path, feed: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def assert_alike(source: Path, target: Path, inputs: tuple[TensorSpec, ...], tolerance: float) -> None:
    """Compare two graphs at two sizes and batches; the tolerance is of the largest difference, over the rms.

    Pixels may also be rounded to the other side.
    """
    rng = np.random.default_rng(0)
    for sizes in ({"batch": 1, "hz": 1, "wz": 2}, {"batch": 2, "hz": 2, "wz": 1}):
        feed = {x.name: rng.standard_normal(x.resolve(sizes), dtype=np.float32) for x in inputs}
        for wanted, got in zip(run(source, feed), run(target, feed), strict=True):
            difference, rms = np.abs(wanted - got.astype(float)).max(), np.sqrt(np.square(wanted.astype(float)).mean())
            assert difference <= max(tolerance * rms, 1.0 if wanted.dtype == np.uint8 else 0.0)


@pytest.mark.parametrize(("graph_id", "count"), [("unet_step", 8), ("vae_decoder", 1)])
@pytest.mark.parametrize(("form", "tolerance"), [("fp32", 1e-5), ("fp16", 0.01)])
def test_fused_graph_computes_the_same(
    golden_bundle: Path, tmp_path: Path, graph_id: str, count: int, form: str, tolerance: float
) -> None:
    spec = bundles.read(golden_bundle).reference(graph_id)
    source, target = tmp_path / "parts.onnx", tmp_path / "fused.onnx"
    source.write_bytes(spec.path.read_bytes()) if form == "fp32" else half.run(spec.path, source)
    assert operators(source).count("Softmax") == count
    assert fused.run(source, target) == count
    found = operators(target)
    assert found.count("MultiHeadAttention") == count
    assert "Softmax" not in found
    assert len(found) < len(operators(source)) - 10 * count
    assert_alike(source, target, spec.inputs, tolerance)
    assert onnx_walk.external_weights(target.read_bytes(), target) == ()


class Transformer(torch.nn.Module):
    """The first transformer of a UNet, as today's graphs have it, from float32 [B, C, 8*hz, 8*wz] to the same."""

    def __init__(self) -> None:
        super().__init__()
        model = make_micro.model()
        text.fold(model.unet, model.context)
        attention.fold(model.unet)
        _, self.block = model.unet.input_blocks[1].children()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x, return_dict=False)[0]
        return y


@pytest.mark.parametrize("half_weights", [False, True])
def test_fused_folded_attention_computes_the_same(tmp_path: Path, half_weights: bool) -> None:
    """Its constants are laid out per head, and stored in half precision behind a Cast or not."""
    x, y = (TensorSpec(name, "float32", ("batch", 16, "8*hz", "8*wz")) for name in ("x", "y"))
    source, target = tmp_path / "parts.onnx", tmp_path / "fused.onnx"
    onnx_export.run(Transformer().requires_grad_(False), Signature("t", (x,), (y,)), source, half_weights=half_weights)
    assert fused.run(source, target) == 2
    assert "Softmax" not in operators(target)
    assert_alike(source, target, (x,), 1e-5)


def test_fused_scale_is_that_of_query_and_key(tmp_path: Path) -> None:
    source, target = write(tmp_path), tmp_path / "fused.onnx"
    assert fused.run(source, target) == 1
    (node,) = (node for node in onnx.load(target).graph.node if node.op_type == "MultiHeadAttention")
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {"num_heads": 2, "scale": 0.25}
    assert operators(target) == ["MatMul", "MultiHeadAttention"]
    assert_alike(source, target, (TensorSpec("x", "float32", ("batch", "7*hz", 32)),), 1e-5)


@pytest.mark.parametrize(
    "other",
    [{"logits": "masked"}, {"v": "v_scaled"}, {"split": "-1, 4, 2, 16"}],
    ids=["mask", "scaled value", "windows of four tokens"],
)
def test_fused_leaves_other_attention_alone(tmp_path: Path, other: dict[str, str]) -> None:
    target = tmp_path / "fused.onnx"
    assert fused.run(write(tmp_path, **other), target) == 0
    assert not target.exists()


@pytest.mark.parametrize(("split", "widest"), [("0, -1, 2, 16", 8), ("0, -1, 8, 4", 256)])
def test_fused_leaves_heads_alone_that_flash_attention_does_not_take(tmp_path: Path, split: str, widest: int) -> None:
    target = tmp_path / "fused.onnx"
    assert fused.run(write(tmp_path, split=split), target, widest_head=widest) == 0
    assert not target.exists()
