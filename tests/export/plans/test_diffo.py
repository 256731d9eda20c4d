"""The folded UNet of DiffO, narrow and of two levels, exported and built by TensorRT for RTX with free sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rdeic_export import onnx_export
from rdeic_export.fold import one_step
from rdeic_export.forms import half, quantize
from rdeic_export.modules.diffo import signature
from rdeic_export.modules.diffo.config import DIFFO
from rdeic_export.modules.diffo.swin import SwinLayer
from rdeic_export.modules.diffo.unet import SwinUNet
from rdeic_export.plans import report as plan_report
from rdeic_export.plans.builder import Request
from rdeic_export.verify import exported
from tests.export.forms import attention_net

ATTENTIONS = 2 * 2  # two in each Swin layer: of the finest level on the way up, and of the middle


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph in float32, which is the module's equal at a size that the exporter never saw."""
    unet = replace(DIFFO.unet, channels=(32, 64), layers_per_block=(1, 1), windows=(4, 2), swin_dim=64)
    config = replace(DIFFO, unet=unet)
    torch.manual_seed(0)
    network = SwinUNet(unet, config.latent_channels).eval().requires_grad_(False)
    for stage in (*network.input_blocks, network.output_blocks[0]):  # what is left takes the exporter half the time
        for index, module in enumerate(stage):
            if isinstance(module, SwinLayer):
                stage[index] = nn.Identity()
    one_step.fold(network, 1)
    step, interface = one_step.OneStep(network), signature.unet_step(config)
    path = tmp_path_factory.mktemp("unet") / "unet_step.onnx"
    onnx_export.run(step, interface, path, half_weights=False)
    exported.graph(step, interface, path)  # raises if it is not
    return path


def test_upsampling_is_told_its_sizes_by_the_input(graph: Path) -> None:
    """What it reads must not say them: TensorRT for RTX then fails on the full-size UNet."""
    model = onnx.load(graph)
    made_by = {name: node for node in model.graph.node for name in node.output}
    (resize,) = (node for node in model.graph.node if node.op_type == "Resize")
    _, roi, scales, sizes = resize.input
    assert not roi and not scales
    _, rows_and_columns = made_by[sizes].input
    waiting, seen = [rows_and_columns], set()
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None:
            seen.add(node.op_type)
            waiting.extend(node.input)
    assert "Shape" in seen and "Conv" not in seen


def test_plan_with_free_sizes_is_fp16_and_window_attention_is_fused(graph: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    half.run(graph, tmp_path / "fp16.onnx")
    found = built(tmp_path / "fp16.onnx", tmp_path)
    assert set(found["conv"]) == {"fp16"} and found["linear"] == {"fp16": 2 * ATTENTIONS}
    assert found["attention"] == ATTENTIONS


def test_plan_in_8_bits_keeps_window_attention_fused(graph: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    half.run(graph, tmp_path / "fp16.onnx")
    generator = np.random.default_rng(0)
    inputs = {
        name: generator.standard_normal((1, channels, 8, 12), np.float32) for name, channels in inputs_of(graph).items()
    }
    measured = attention_net.measured(graph, inputs)
    quantize.run(tmp_path / "fp16.onnx", tmp_path / "int8.onnx", measured, form="signed")
    found = built(tmp_path / "int8.onnx", tmp_path)
    assert set(found["conv"]) == {"int8"} and found["linear"] == {"int8": 2 * ATTENTIONS}
    assert found["attention"] == ATTENTIONS


def inputs_of(graph: Path) -> dict[str, int]:
    """Return the channels of each input."""
    return {tensor.name: tensor.type.tensor_type.shape.dim[1].dim_value for tensor in onnx.load(graph).graph.input}


def built(graph: Path, folder: Path) -> dict[str, Any]:
    """Return the layers in the plan of a graph, built by the exporter's own builder for images of 64 to 768 pixels."""
    request = Request(
        library="tensorrt-rtx",
        onnx=str(graph),
        output=str(folder / "unet_step.plan"),
        shapes={name: [[1, c, side, side] for side in (4, 32, 48)] for name, c in inputs_of(graph).items()},
        capabilities=(89,),
        workspace_bytes=None,
        tf32=True,
        timing_cache=None,
    )
    (folder / "request.json").write_text(json.dumps(asdict(request)))
    command = [sys.executable, "-m", "rdeic_export.plans.builder", str(folder / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return plan_report.summary(plan_report.layers(Path(request.output).read_bytes()))
