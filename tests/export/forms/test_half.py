"""Half precision survives the activations Stable Diffusion 2.1 has, and TensorRT keeps attention in one kernel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from rdeic_export.fold import attention, text
from rdeic_export.modules.config import UNetConfig, VaeConfig
from rdeic_export.modules.unet import Stage, UNet
from rdeic_export.modules.vae import Vae
from rdeic_export.plans.builder import Request

from . import strict_half

HALF_MAX = 65504.0
TOKENS = ("batch", "64*hz", 128)
PIXELS = ("batch", 128, "8*hz", "8*wz")
SD21_TRANSFORMER = UNetConfig(
    channels=(128,), layers_per_block=1, attention_levels=(True,), head_dim=64, context_dim=32, context_tokens=77
)


class Unscaled(nn.Module):
    """Attention as Stable Diffusion's own code forms it: q k first, then the scale."""

    def __init__(self, inner: Attention) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner
        q, k, v = (p(x).unflatten(2, (2, 64)).transpose(1, 2) for p in (inner.to_q, inner.to_k, inner.to_v))
        mixed = torch.matmul(torch.softmax(torch.matmul(q, k.transpose(2, 3)) * inner.scale, dim=-1), v)
        out: Tensor = inner.to_out[0](mixed.transpose(1, 2).flatten(2))
        return out


def offset_attention(size: float) -> tuple[Attention, Tensor]:
    """Self-attention in which all queries and keys share one large direction, and its input."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inner = Attention(128, heads=2, dim_head=64).eval().requires_grad_(False)
    shared = nn.functional.normalize(randn(128), dim=0)
    others = torch.eye(128) - torch.outer(shared, shared)
    large = size * torch.outer(randn(128), shared) / 128**0.5
    for projection in (inner.to_q, inner.to_k):
        projection.weight.copy_(1.2 * randn(128, 128) / 128**0.5 @ others + large)
    inner.to_v.weight.copy_(randn(128, 128) / 128**0.5)
    return inner, randn(1, 384, 128) @ others + 128**0.5 * shared


def largest_product(inner: Attention, x: Tensor) -> float:
    q, k = (p(x).unflatten(2, (2, 64)).transpose(1, 2) for p in (inner.to_q, inner.to_k))
    return float(torch.matmul(q, k.transpose(2, 3)).abs().max())


@dataclass(frozen=True)
class Block:
    """A transformer block with large activations: its float16 graph, an input and the float32 output."""

    path: Path
    x: Tensor
    expected: Tensor
    largest: dict[str, float]


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Block:
    torch.manual_seed(0)
    network = UNet(SD21_TRANSFORMER, 4).eval().requires_grad_(False)
    text.fold(network, torch.randn(1, 77, 32))
    stage = network.input_blocks[1]
    assert isinstance(stage, Stage)
    transformer = stage[1]
    assert isinstance(transformer, Transformer2DModel)
    inner = transformer.transformer_blocks[0]
    assert isinstance(inner, BasicTransformerBlock) and isinstance(inner.norm3, nn.LayerNorm)
    inner.norm3.weight.mul_(120.0)
    transformer.proj_in.weight.mul_(1e4)
    largest: dict[str, float] = {}
    for name, part in (("gate", inner.ff.net[0]), ("residual", inner)):
        part.register_forward_hook(lambda _m, _i, y, name=name: largest.__setitem__(name, float(y.abs().max())))
    x = torch.randn(1, 128, 8, 16)
    expected = FirstOutput(transformer)(x)
    attention.fold(network)
    path = tmp_path_factory.mktemp("block") / "block.onnx"
    strict_half.export(FirstOutput(transformer), path, PIXELS)
    return Block(path, x, expected, largest)


class FirstOutput(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x, return_dict=False)[0]
        return y


def error(got: Tensor, want: Tensor) -> float:
    """Root mean square of the difference over that of the reference; infinite if anything is."""
    assert got.shape == want.shape
    if not torch.isfinite(got).all():
        return float("inf")
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt())


def test_error_only_last_element_differs_is_not_zero() -> None:
    want = torch.ones(4, 5)
    got = want.clone()
    got[-1, -1] += 1
    assert error(got, want) > 0.1
    got[-1, -1] = torch.nan
    assert error(got, want) == float("inf")


def test_attention_products_over_float16_stay_finite_and_near(tmp_path: Path) -> None:
    inner, x = offset_attention(0.0)
    for projection in (inner.to_q, inner.to_k):
        projection.weight.mul_(40.0)
    assert largest_product(inner, x) > HALF_MAX
    expected, path = inner(x), tmp_path / "attention.onnx"
    strict_half.export(Unscaled(inner), path, TOKENS)
    assert error(strict_half.run(path, x), expected) == float("inf")
    strict_half.export(attention.SelfAttention(inner), path, TOKENS)
    assert error(strict_half.run(path, x), expected) < 0.05  # a few near ties go the other way
    assert error(strict_half.run(path, x, fused_attention=True), expected) < 0.05  # a few near ties go the other way


def test_attention_large_common_offset_is_nearer_with_products_in_float32(tmp_path: Path) -> None:
    inner, x = offset_attention(10.0)
    assert largest_product(inner, x) > 5e3
    expected, path = inner(x), tmp_path / "attention.onnx"
    strict_half.export(attention.SelfAttention(inner), path, TOKENS)
    rounded, wide = (error(strict_half.run(path, x, fused_attention=fused), expected) for fused in (False, True))
    assert wide < 0.02
    assert wide < 0.5 * rounded


def test_transformer_residual_and_gate_of_tens_of_thousands_stay_near(block: Block) -> None:
    assert 1e4 < block.largest["gate"] < HALF_MAX
    assert 1e4 < block.largest["residual"] < HALF_MAX
    assert error(strict_half.run(block.path, block.x, fused_attention=True), block.expected) < 3e-3
    session = onnxruntime.InferenceSession(block.path, providers=["CPUExecutionProvider"])
    assert error(torch.from_numpy(session.run(None, {"x": block.x.numpy()})[0]), block.expected) < 3e-3


def test_transformer_softmax_is_float32_and_no_scale_is_left(block: Block) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(block.path)).graph
    makers = {name: node for node in graph.node for name in node.output}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 2
    for node in softmaxes:
        cast = makers[node.input[0]]
        assert cast.op_type == "Cast" and cast.attribute[0].i == onnx.TensorProto.FLOAT
        assert makers[cast.input[0]].op_type == "MatMul"
    types = {x.name: x.type.tensor_type.elem_type for x in graph.value_info}
    products = [
        node for node in graph.node if node.op_type == "Mul" and types[node.output[0]] != onnx.TensorProto.INT64
    ]
    assert len(products) == 2  # the group norm's gain and the gate


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_norm_of_tens_of_thousands_stays_near(tmp_path: Path, norm: str) -> None:
    torch.manual_seed(0)
    shape, sizes = (PIXELS, (1, 128, 16, 24)) if norm == "group" else (TOKENS, (1, 384, 128))
    layers = (
        (nn.GroupNorm(32, 128), nn.Conv2d(128, 128, 1)) if norm == "group" else (nn.LayerNorm(128), nn.Linear(128, 128))
    )
    module = nn.Sequential(*layers).requires_grad_(False)
    x = 1e4 * (1 + torch.randn(sizes).clamp(-5, 5))
    strict_half.export(module, tmp_path / "norm.onnx", shape)
    assert error(strict_half.run(tmp_path / "norm.onnx", x), module(x)) < 2e-3


def test_vae_middle_one_head_of_512_stays_near(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = Vae(VaeConfig(channels=(32, 512), layers_per_block=1)).requires_grad_(False)
    middle = vae.kl.decoder.mid_block.attentions[0].eval()
    for projection in (middle.to_q, middle.to_k):
        projection.weight.mul_(15.0)
    middle.to_k.weight.copy_(middle.to_q.weight)
    x = torch.randn(1, 512, 8, 16)
    expected = middle(x)
    tokens = middle.group_norm(x.flatten(2)).transpose(1, 2)
    assert (middle.to_q(tokens) @ middle.to_k(tokens).transpose(1, 2)).abs().max() > HALF_MAX / 2
    strict_half.export(middle, tmp_path / "middle.onnx", ("batch", 512, "8*hz", "8*wz"))
    assert error(strict_half.run(tmp_path / "middle.onnx", x), expected) < 2e-3


def test_tensorrt_plan_folded_attention_is_fused_with_float32_products(block: Block, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    request = Request(
        library="tensorrt-rtx",
        onnx=str(block.path),
        output=str(tmp_path / "block.plan"),
        shapes={"x": [[1, 128, 8, 8], [1, 128, 64, 96], [2, 128, 128, 128]]},
        capabilities=[80, 86, 89, 120],
        workspace_bytes=None,
        tf32=True,
        timing_cache=None,
    )
    (tmp_path / "request.json").write_text(json.dumps(asdict(request)))
    command = [sys.executable, "-m", "rdeic_export.plans.builder", str(tmp_path / "request.json")]
    subprocess.run(command, check=True, capture_output=True)
    plan = (tmp_path / "block.plan").read_bytes()
    assert len(re.findall(rb"function=\{ name=_gemm_mha_v2 ", plan)) == 2  # to the tokens, and to the text
    # The kernels' source is in the plan: types of operands, result and the first product's sum.
    sums = re.findall(rb"initialize\(DATA_TYPE_FP16, DATA_TYPE_FP16, (DATA_TYPE_\w+),", plan)
    assert sums == [b"DATA_TYPE_FP32"] * 2
    scratch_bytes = json.loads((tmp_path / "block.plan.report.json").read_text())["scratch_bytes"]
    logits_bytes = 2 * 2 * (128 * 128) ** 2 * 2  # batch, heads, tokens squared, bytes of a float16
    assert scratch_bytes < logits_bytes / 4
