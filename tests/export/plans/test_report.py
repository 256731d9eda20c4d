"""Precisions read from plans that TensorRT for RTX builds here, without a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest

from rdeic_export.forms import half, quantize
from rdeic_export.forms.ranges import GraphRanges
from rdeic_export.plans import report as plan_report
from rdeic_export.plans.report import PlanLayer
from rdeic_rt.errors import ExportError
from tests.export.forms import attention_net

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

# In a process of its own: a failed build can spoil every later one. No GPU is asked for when targets are named.
BUILD = """
import sys, tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file(sys.argv[1]), parser.get_error(0).desc()
config = builder.create_builder_config()
targets = [getattr(trt.ComputeCapability, name) for name in ("SM80", "SM86", "SM89", "SM120")]
config.num_compute_capabilities = len(targets)
for index, target in enumerate(targets):
    config.set_compute_capability(target, index)
if (dynamic := [network.get_input(i) for i in range(network.num_inputs) if -1 in network.get_input(i).shape]):
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        sizes = [[1 if i == 0 else size if s == -1 else s for i, s in enumerate(tensor.shape)] for size in (8, 16, 32)]
        profile.set_shape(tensor.name, *sizes)
    config.add_optimization_profile(profile)
open(sys.argv[2], "wb").write(builder.build_serialized_network(network, config))
"""


def build(graph: Path) -> bytes:
    plan = graph.with_suffix(".plan")
    done = subprocess.run([sys.executable, "-c", BUILD, graph, plan], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return plan.read_bytes()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphRanges]:
    """The network in float16, as `half` makes it, and its ranges."""
    folder = tmp_path_factory.mktemp("net")
    path, ranges, _ = attention_net.export(folder)
    half.run(path, folder / "net.fp16.onnx")
    return folder / "net.fp16.onnx", ranges


@pytest.fixture(scope="module")
def signed(net: tuple[Path, GraphRanges], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("signed") / "net.int8.onnx"
    report = quantize.run(*(net[0], path), net[1], form="signed")
    assert report.quantised == ("conv2d_1", "linear", "linear_1", "linear_2", "linear_3")
    return path


def test_layers_of_a_half_precision_plan_are_fp16_and_attention_is_one_kernel(net: tuple[Path, GraphRanges]) -> None:
    summary = plan_report.summary(plan_report.layers(build(net[0])))
    assert summary["conv"] == {"fp16": 3} and summary["linear"] == {"fp16": 4} and summary["attention"] == 1


def test_layers_with_rank_0_scales_run_in_int8_and_attention_stays_one_kernel(signed: Path) -> None:
    found = plan_report.layers(build(signed))
    summary = plan_report.summary(found)
    assert summary["conv"] == {"fp16": 2, "int8": 1} and summary["linear"] == {"int8": 4} and summary["attention"] == 1
    assert summary["kernels"] == len(found)
    conv = next(layer for layer in found if layer.kind == "conv" and layer.precision == "int8")
    assert conv.name == "node_conv2d_1" and conv.inputs[:2] == ("int8", "int8")
    attention = next(layer for layer in found if layer.kind == "attention")
    assert set(attention.inputs) == {"fp16"}


def test_convolutions_with_one_scale_write_half_precision_and_others_float32(
    net: tuple[Path, GraphRanges], signed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.one-scale.onnx"
    quantize.run(net[0], path, net[1], form="signed", one_scale=True)
    summary, per_channel = (plan_report.summary(plan_report.layers(build(graph))) for graph in (path, signed))
    assert summary["conv"] == per_channel["conv"] == {"fp16": 2, "int8": 1}
    assert summary["linear"] == {"int8": 4} and summary["attention"] == 1
    assert summary["conv_output"] == {"fp16": 3} and per_channel["conv_output"] == {"fp16": 2, "fp32": 1}


def test_convolution_whose_scale_has_shape_1_loses_int8_without_a_word(signed: Path, tmp_path: Path) -> None:
    model = onnx.load(signed)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".scale") and not tensor.dims:
            tensor.dims.append(1)
    onnx.save(model, tmp_path / "rank1.onnx")
    summary = plan_report.summary(plan_report.layers(build(tmp_path / "rank1.onnx")))
    assert summary["conv"] == {"fp16": 3}


def test_layers_of_a_plan_with_free_sizes_and_fused_kernels_are_all_found(
    embedded_bundle: Path, tmp_path: Path
) -> None:
    from rdeic_export.forms import ranges

    graph = tmp_path / "synthesis.onnx"
    measured = ranges.load(Path(__file__).parents[3] / "calibration" / "ranges" / "tiny-2.json").graph("synthesis")
    report = quantize.run(
        embedded_bundle / "synthesis.onnx", graph, measured, form="signed", keep={"conv2d_5": "a test"}
    )
    found = plan_report.layers(build(graph))
    counted = Counter(layer.precision for layer in found if layer.kind == "conv")
    assert counted == {"int8": len(report.quantised), "fp32": len(report.kept)}
    kept = {layer.name for layer in found if layer.kind == "conv" and layer.precision == "fp32"}
    assert any("node_conv2d_5" in name.split("+") for name in kept)


def test_summary_counts_linear_layers_that_run_as_one() -> None:
    found = [PlanLayer("a+b+c", "linear", ("int8", "int8"), 3), PlanLayer("d", "linear", ("fp16", "int8"))]
    assert plan_report.summary(found) == {
        "conv": {},
        "linear": {"int8": 3, "mixed": 1},
        "conv_output": {},
        "attention": 0,
        "kernels": 2,
    }


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (b"", "no program in these 0 bytes"),
        (b"vtrt" + bytes(1000), "no program in these 1004 bytes"),
        (b"\0header {\n  version = 9\n}\0", "of version 9; this version of rdeic-rt reads version 4 or 5"),
        (b"\0header {\n  version = 5\n}\nmain {\n}\n\0", "no kernels that this version can read"),
    ],
)
def test_layers_of_bytes_in_another_format_are_refused_in_one_line(plan: bytes, message: str) -> None:
    with pytest.raises(ExportError, match=message) as error:
        plan_report.layers(plan)
    assert "\n" not in str(error.value)
