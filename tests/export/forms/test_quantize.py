"""8-bit graphs: near the float ones on real inputs, and in the pattern that each runtime has kernels for."""

from __future__ import annotations

import dataclasses
import math
import platform
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import rdeic_rt
from rdeic_export import onnx_export, onnx_file, onnx_view
from rdeic_export.bundle import more_forms
from rdeic_export.calibration import probe
from rdeic_export.fold import graphs
from rdeic_export.forms import derive, half, quantize, quantize_cpu, selection
from rdeic_export.forms import ranges as range_files
from rdeic_export.forms.ranges import GraphRanges, Ranges
from rdeic_export.modules.config import VaeConfig
from rdeic_export.verify import fidelity
from rdeic_rt import Codec
from rdeic_rt import bundle as bundles
from rdeic_rt.errors import ExportError
from tests.images import psnr_db
from tests.micro import make_micro
from tests.micro.make_micro import PHOTOS

from . import attention_net

RANGES = Path(__file__).parents[3] / "calibration" / "ranges" / "tiny-2.json"
# Of the embedded bundle, and one with what those have none of: `conv_decoder`.
GRAPHS = ("synthesis", "control", "unet_step", "vae_decoder", "conv_decoder")
# Of the worst output, as a rule a residual of a control net: 10 % off. The gate below measures what images lose.
LEAST_SNR_DB = 20.0
# It translates instructions for a CPU of this kind, so that others can be tried.
QEMU = (shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")) if platform.machine() == "x86_64" else None


@pytest.fixture(scope="module")
def ranges() -> Ranges:
    return range_files.load(RANGES)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee"):
        Image.open(PHOTOS / f"{name}.jpg").crop((60, 60, 252, 188)).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def runs(embedded_bundle: Path, crops: list[Path]) -> dict[str, list[probe.Values]]:
    """What each graph of the embedded bundle is run with when a photo is decoded."""
    return probe.record_inputs(embedded_bundle, crops[:1], threads=1)


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph, the ranges of its activations, and inputs for it."""

    path: Path
    ranges: GraphRanges
    runs: list[probe.Values]


@pytest.fixture(scope="module")
def conv_decoder(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A decoder that is not linear: it upsamples in four parts, and its last convolution writes pixels."""
    vae = VaeConfig(channels=(32, 64), layers_per_block=1, pixel_unshuffle=4, norm_groups=4, mid_attention=False)
    network = make_micro.model(config=dataclasses.replace(make_micro.MICRO, vae=vae))
    folded = graphs.shared_graphs(network)["vae_decoder"]
    path = tmp_path_factory.mktemp("decoder") / "vae_decoder.onnx"
    onnx_export.run(folded.module, folded.signature, path, half_weights=True)
    z_0 = np.random.default_rng(0).standard_normal((1, vae.latent_channels, 16, 24)).astype(np.float32)
    return Case(path, attention_net.measured(path, {"z_0": z_0}), [{"z_0": z_0}])


@pytest.fixture
def case(
    name: str,
    embedded_bundle: Path,
    ranges: Ranges,
    runs: dict[str, list[probe.Values]],
    conv_decoder: Case,
) -> Case:
    """The graph with the name that the test is about."""
    if name == "conv_decoder":
        return conv_decoder
    return Case(embedded_bundle / f"{name}.onnx", ranges.graph(name), runs[name])


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphRanges, np.ndarray]:
    return attention_net.export(tmp_path_factory.mktemp("net"))


def outputs(path: Path, runs: list[probe.Values]) -> list[list[np.ndarray]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [session.run(None, run) for run in runs]


def least_snr_db(wanted: list[list[np.ndarray]], found: list[list[np.ndarray]]) -> float:
    """Return the signal to noise ratio of the worst output of the worst run."""
    pairs = [
        (a.astype(float), b.astype(float)) for run in zip(wanted, found, strict=True) for a, b in zip(*run, strict=True)
    ]
    return min(10 * math.log10((a**2).sum() / max(((a - b) ** 2).sum(), 1e-30)) for a, b in pairs)


def optimised_operators(path: Path, folder: Path) -> Counter[str]:
    """Return the operators that ONNX Runtime runs for a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize("name", ["control", "vae_decoder", "conv_decoder"])
def test_run_with_one_scale_computes_the_same_with_the_same_integers(case: Case, tmp_path: Path, name: str) -> None:
    paths = {one_scale: tmp_path / f"{one_scale}.onnx" for one_scale in (False, True)}
    for one_scale, path in paths.items():
        quantize.run(case.path, path, case.ranges, form="signed", one_scale=one_scale)
    wanted, found = (outputs(path, case.runs[:1]) for path in paths.values())
    assert least_snr_db(wanted, found) > 45  # roundings to the next level of an activation
    weights = [
        {x.name: numpy_helper.to_array(x) for x in onnx.load(path).graph.initializer if x.name.endswith("weight.q")}
        for path in paths.values()
    ]
    assert weights[0].keys() == weights[1].keys() and all(
        np.array_equal(weights[0][x], weights[1][x]) for x in weights[0]
    )
    model = onnx.load(paths[True])
    scales = {x.name: x.dims for x in model.graph.initializer}
    convolved = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1].endswith(".weight.dq")]
    assert convolved and all(not scales[node.input[1].removesuffix(".dq") + ".scale"] for node in convolved)
    assert all(len(node.input) == 2 for node in convolved)


def test_one_scale_of_a_convolution_whose_channels_are_mostly_dead_stays_finite_in_float16(tmp_path: Path) -> None:
    weight = np.zeros((64, 32, 3, 3), np.float16)
    weight[0] = 2.0
    nodes = [helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["y"], name="node_conv2d", pads=[1] * 4)]
    values = [numpy_helper.from_array(weight, "conv.weight")]
    values.append(numpy_helper.from_array(np.full(64, 0.5, np.float16), "conv.bias"))
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, channels, 4, 4])
        for name, channels in (("x", 32), ("y", 64))
    )
    graph = helper.make_graph(nodes, "net", [x], [y], values)
    source, target = tmp_path / "net.onnx", tmp_path / "int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), source)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 4, 4)).astype(np.float16)
    measured = attention_net.measured(source, {"x": image})
    quantize.run(source, target, measured, form="signed", one_scale=True)
    wanted, found = (outputs(path, [{"x": image}]) for path in (source, target))
    assert least_snr_db(wanted, found) > 35 and np.array_equal(found[0][0][:, 1:], wanted[0][0][:, 1:])


@pytest.mark.parametrize("form", range_files.FORMS)
@pytest.mark.parametrize("name", GRAPHS)
def test_run_on_real_inputs_stays_near_float32(case: Case, tmp_path: Path, name: str, form: str) -> None:
    source, target = case.path, tmp_path / "int8.onnx"
    report = quantize.run(source, target, case.ranges, form=form)
    assert least_snr_db(outputs(source, case.runs[:3]), outputs(target, case.runs[:3])) > LEAST_SNR_DB
    known = {layer.name for layer in onnx_view.GraphView(source).layers}
    assert set(report.quantised) | set(report.kept) == known and not set(report.quantised) & set(report.kept)
    assert target.stat().st_size < (0.9 if form == "signed" else 1.0) * source.stat().st_size


@pytest.mark.parametrize("name", GRAPHS)
def test_run_unsigned_has_every_convolution_in_integer_kernels(case: Case, tmp_path: Path, name: str) -> None:
    target = tmp_path / "int8.onnx"
    report = quantize.run(case.path, target, case.ranges, form="unsigned-cpu", keep={})
    operators = optimised_operators(target, tmp_path)
    assert operators["QLinearConv"] == len(report.quantised) > 10
    assert operators["Conv"] == len(report.kept)
    assert operators["DepthToSpace"] == 0  # rows of channels move instead
    # The last convolution writes pixels, but not that of the embedded bundle: it has 12 channels and stays in float.
    assert operators["Clip"] == operators["Round"] == (name == "vae_decoder")


def test_run_unsigned_of_linear_layers_multiplies_integers(
    net: tuple[Path, GraphRanges, np.ndarray], tmp_path: Path
) -> None:
    source, ranges, x = net
    report = quantize.run(source, tmp_path / "int8.onnx", ranges, form="unsigned-cpu")
    assert report.quantised == ("conv2d_1", "linear", "linear_1", "linear_2", "linear_3")
    operators = optimised_operators(tmp_path / "int8.onnx", tmp_path)
    assert operators["MatMulIntegerToFloat"] == 4 and operators["QLinearConv"] == 1
    assert operators["MatMul"] + operators["FusedMatMul"] == 2  # the products inside attention
    assert least_snr_db(outputs(source, [{"x": x}]), outputs(tmp_path / "int8.onnx", [{"x": x}])) > 30


def test_run_signed_writes_the_pattern_that_tensorrt_runs_in_int8(
    net: tuple[Path, GraphRanges, np.ndarray], tmp_path: Path
) -> None:
    source, ranges, x = net
    half.run(source, tmp_path / "half.onnx")
    report = quantize.run(tmp_path / "half.onnx", tmp_path / "int8.onnx", ranges, form="signed")
    model = onnx.load(tmp_path / "int8.onnx")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    assert report.quantised == ("conv2d_1", "linear", "linear_1", "linear_2", "linear_3")
    assert set(report.kept) == {"conv2d", "conv2d_2"} and "4 input" in report.kept["conv2d"]
    quantised = [n for n in model.graph.node if n.op_type in onnx_view.KINDS and n.input[1].endswith(".weight.dq")]
    assert len(quantised) == 5
    for node in quantised:
        activation, weight = makers[node.input[0]], makers[node.input[1]]
        assert constants[activation.input[1]].shape == () and constants[activation.input[1]].dtype == np.float16
        assert constants[activation.input[2]].dtype == np.int8 and constants[activation.input[2]] == 0
        assert makers[activation.input[0]].op_type == "QuantizeLinear"
        assert constants[weight.input[0]].dtype == np.int8 and constants[weight.input[1]].shape == (128,)
        assert onnx_view.attributes(weight)["axis"] == (0 if node.op_type == "Conv" else 1)
    q_count = Counter(node.op_type for node in model.graph.node)["QuantizeLinear"]
    assert q_count == 3  # silu, the tokens that q, k and v share, and what attention returns; no output
    assert least_snr_db(outputs(source, [{"x": x}]), outputs(tmp_path / "int8.onnx", [{"x": x}])) > 30


def saturating_sums(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a 3x3 convolution's sums as CPUs without VNNI make them (vpmaddubsw, vpmaddwd), and the exact ones.

    Args:
        x: uint8 [C, H, W], C even.
        weight: int8 [O, C, 3, 3].

    Returns:
        int32 [O, H - 2, W - 2], twice.
    """
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))  # [C, H - 2, W - 2, 3, 3]
    columns = windows.transpose(1, 2, 3, 4, 0).reshape(-1, weight[0].size).astype(np.int32)
    rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1).astype(np.int32)
    exact = rows @ columns.T
    pairs = [columns[None, :, k] * rows[:, k, None] for k in range(rows.shape[1])]
    sums = [np.clip(a + b, -(2**15), 2**15 - 1) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    shape = (len(weight), *windows.shape[1:3])
    return np.sum(sums, 0).reshape(shape), exact.reshape(shape)


def integer_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the int8 weights of a graph by name."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return {name: array for name, array in arrays.items() if name.endswith(".weight.q")}


@pytest.mark.parametrize("name", GRAPHS)
def test_run_unsigned_has_weights_whose_products_never_saturate(case: Case, tmp_path: Path, name: str) -> None:
    report = quantize.run(case.path, tmp_path / "int8.onnx", case.ranges, form="unsigned-cpu")
    weights = integer_weights(tmp_path / "int8.onnx")
    assert len(weights) == len(report.quantised)
    for weight in weights.values():
        assert weight.dtype == np.int8
        # In whatever order a kernel takes them: any two, with the greatest activations.
        assert 2 * 255 * int(np.abs(weight.astype(int)).max()) <= np.iinfo(np.int16).max
        assert np.abs(weight.astype(int)).max() == quantize_cpu.WEIGHT_MAX  # and no range is wasted


def test_run_unsigned_of_linear_layers_never_saturates(
    net: tuple[Path, GraphRanges, np.ndarray], tmp_path: Path
) -> None:
    quantize.run(net[0], tmp_path / "int8.onnx", net[1], form="unsigned-cpu")
    weights = integer_weights(tmp_path / "int8.onnx")
    assert {f"{name}.weight.q" for name in ("linear", "linear_1", "linear_2", "linear_3")} < weights.keys()
    assert all(np.abs(weight.astype(int)).max() == quantize_cpu.WEIGHT_MAX for weight in weights.values())


def test_run_unsigned_gives_a_convolution_the_same_sums_on_cpus_without_vnni(
    embedded_bundle: Path,
    tmp_path: Path,
    ranges: Ranges,
    runs: dict[str, list[probe.Values]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sums(x: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a layer's input, in a real run unless given, and its sums, saturated and exact."""
        path = tmp_path / "int8.onnx"
        quantize.run(embedded_bundle / "synthesis.onnx", path, ranges.graph("synthesis"), form="unsigned-cpu")
        model = onnx.load(path)
        makers = {output: node for node in model.graph.node for output in node.output}
        convolution = next(node for node in model.graph.node if "conv2d_5.weight.dq" in node.input)
        integers = makers[convolution.input[0]].input[0]
        if x is None:
            model.graph.output.append(helper.make_tensor_value_info(integers, TensorProto.UINT8, None))
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            x = session.run([integers], runs["synthesis"][0])[0][0]
        return x, *saturating_sums(x, integer_weights(path)["conv2d_5.weight.q"])

    x, saturated, exact = sums(None)
    assert x.dtype == np.uint8 and len(np.unique(x)) > 100
    np.testing.assert_array_equal(saturated, exact)
    _, saturated, exact = sums(np.full_like(x, 255))
    np.testing.assert_array_equal(saturated, exact)
    monkeypatch.setattr(quantize_cpu.UnsignedForm, "weight_max", 127)
    _, saturated, exact = sums(x)
    assert (saturated != exact).mean() > 0.001
    _, saturated, exact = sums(np.full_like(x, 255))
    assert (saturated != exact).mean() > 0.1


def write_for_cpus(source: Path, folder: Path, ranges: Ranges, steps: tuple[int, ...] = (1,)) -> None:
    """Write a bundle ``int8`` that has the form int8-cpu too."""
    bundle = bundles.read(source)
    graph_ids = selection.decoding_graphs(bundle, steps)
    derived = derive.Derivation(bundle, graph_ids, ranges, folder).derive("int8-cpu")
    more_forms.write(bundle, folder / "int8", [derived], preferred={})


def compared(reference: Codec, candidate: Codec, photos: list[Path], limit_db: float) -> fidelity.FidelityReport:
    files = fidelity.encode(reference, photos, [rate.index for rate in reference.bundle.rates])
    wanted, got = (fidelity.decode(codec, files) for codec in (reference, candidate))
    return fidelity.compare("int8-cpu", files, wanted, got, limit_db)


def run_without_vnni(program: str, folder: Path) -> None:
    """Run a Python program with a folder as its argument, on a CPU with AVX2 and without VNNI."""
    if QEMU is None:
        pytest.skip("qemu-x86_64 is not installed (apt-get install qemu-user), or this is another kind of CPU")
    subprocess.run([QEMU, "-cpu", "Haswell", sys.executable, "-c", program, str(folder)], check=True, timeout=300)


def test_decode_on_a_cpu_without_vnni_stays_near_float32(
    embedded_bundle: Path, tmp_path: Path, ranges: Ranges, crops: list[Path]
) -> None:
    write_for_cpus(embedded_bundle, tmp_path, ranges)
    codec = rdeic_rt.load(tmp_path / "int8", backend="cpu", precision="fp32", threads=1)
    data = codec.encode(rdeic_rt.read_image(crops[0])[0][:64, :64])
    (tmp_path / "photo.rdc").write_bytes(data)
    run_without_vnni(
        """
import pathlib, sys, numpy, rdeic_rt
folder = pathlib.Path(sys.argv[1])
codec = rdeic_rt.load(folder / "int8", backend="cpu", precision="int8", threads=1, verify=False)
numpy.save(folder / "image.npy", codec.decode((folder / "photo.rdc").read_bytes()))
""",
        tmp_path,
    )
    assert psnr_db(codec.decode(data), np.load(tmp_path / "image.npy")) > 38


def test_openvino_on_a_cpu_without_vnni_stays_near_float32(
    embedded_bundle: Path, tmp_path: Path, ranges: Ranges, runs: dict[str, list[probe.Values]]
) -> None:
    # Not a whole decode, which takes minutes; this is the graph with a Concat before a layer in 8 bits.
    source, run = embedded_bundle / "control.onnx", runs["control"][:1]
    quantize.run(source, tmp_path / "int8.onnx", ranges.graph("control"), form="unsigned-cpu", keep={})
    inputs: dict[str, Any] = run[0]
    np.savez(tmp_path / "inputs.npz", **inputs)
    run_without_vnni(
        """
import pathlib, sys, numpy, openvino
folder = pathlib.Path(sys.argv[1])
options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
graph = openvino.Core().compile_model(folder / "int8.onnx", "CPU", options)
outputs = graph(dict(numpy.load(folder / "inputs.npz")))
numpy.savez(folder / "outputs.npz", *(outputs[k] for k in range(len(graph.outputs))))
""",
        tmp_path,
    )
    with np.load(tmp_path / "outputs.npz") as found:
        assert least_snr_db(outputs(source, run), [[found[name] for name in found]]) > LEAST_SNR_DB


@pytest.mark.parametrize("form", range_files.FORMS)
def test_run_twice_gives_the_same_bytes(embedded_bundle: Path, tmp_path: Path, ranges: Ranges, form: str) -> None:
    for name in ("a.onnx", "b.onnx"):
        quantize.run(embedded_bundle / "unet_step.onnx", tmp_path / name, ranges.graph("unet_step"), form=form)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("form", range_files.FORMS)
def test_run_with_external_weights_on_either_side_gives_the_same_numbers(
    embedded_bundle: Path,
    tmp_path: Path,
    ranges: Ranges,
    runs: dict[str, list[probe.Values]],
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, source, target = embedded_bundle / "control.onnx", tmp_path / "large.onnx", tmp_path / "out" / "int8.onnx"
    target.parent.mkdir()
    quantize.run(whole, tmp_path / "small.onnx", ranges.graph("control"), form=form)
    onnx.save(onnx.load(whole), source, save_as_external_data=True, location="large.onnx.data", size_threshold=0)
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM_BYTES", 1000)
    quantize.run(source, target, ranges.graph("control"), form=form)
    assert target.stat().st_size < 0.5 * (tmp_path / "small.onnx").stat().st_size
    assert sorted(path.name for path in target.parent.iterdir()) == ["int8.onnx", "int8.onnx.data"]
    run = runs["control"][:1]
    small, large = outputs(tmp_path / "small.onnx", run), outputs(target, run)
    assert all(np.array_equal(a, b) for a, b in zip(small[0], large[0], strict=True))


@pytest.mark.parametrize("form", range_files.FORMS)
def test_run_with_some_layers_kept_leaves_them_in_floating_point(conv_decoder: Case, tmp_path: Path, form: str) -> None:
    source, target = conv_decoder.path, tmp_path / "int8.onnx"
    # One of the four parts of an upsampling, the layer behind it, and the one that writes pixels.
    kept = {"conv2d_11": "a", "conv2d_16": "b", "conv2d_19": "c"}
    report = quantize.run(source, target, conv_decoder.ranges, form=form, keep=kept)
    assert kept.items() <= report.kept.items() and not kept.keys() & set(report.quantised)
    nodes = {node.name: node for node in onnx.load(target).graph.node}
    weights = {node.name: node.input[1] for node in onnx.load(source).graph.node if node.op_type == "Conv"}
    for name in kept:
        assert nodes[f"node_{name}"].input[1] == weights[f"node_{name}"]
    assert least_snr_db(outputs(source, conv_decoder.runs), outputs(target, conv_decoder.runs)) > 24


def test_run_takes_the_layers_to_keep_from_the_ranges_unless_told(
    embedded_bundle: Path, tmp_path: Path, ranges: Ranges
) -> None:
    graph = dataclasses.replace(ranges.graph("synthesis"), keep={"signed": {"conv2d_3": "too noisy"}})
    source = embedded_bundle / "synthesis.onnx"
    assert quantize.run(source, tmp_path / "a.onnx", graph, form="signed").kept["conv2d_3"] == "too noisy"
    assert "conv2d_3" not in quantize.run(source, tmp_path / "b.onnx", graph, form="signed", keep={}).kept
    assert "conv2d_3" not in quantize.run(source, tmp_path / "c.onnx", graph, form="unsigned-cpu").kept


def test_run_with_ranges_of_other_weights_is_refused_in_one_line(
    embedded_bundle: Path, tmp_path: Path, ranges: Ranges
) -> None:
    source, trained_on = embedded_bundle / "synthesis.onnx", tmp_path / "trained_on.onnx"
    model = onnx.load(source)
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims)[1:] == [96, 3, 3])
    weight.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, trained_on)
    for path, graph, message in (
        (trained_on, ranges.graph("synthesis"), "were measured with other weights"),
        (source, ranges.graph("vae_decoder"), "were measured with other weights"),
        (source, dataclasses.replace(ranges.graph("synthesis"), layers={}), "lack the layers conv2d, conv2d_1"),
    ):
        with pytest.raises(ExportError, match=message) as error:
            quantize.run(path, tmp_path / "int8.onnx", graph, form="signed")
        assert "\n" not in str(error.value) and "collect_ranges.py" in str(error.value)
    assert not (tmp_path / "int8.onnx").exists()


def test_run_unsigned_of_a_half_precision_graph_is_refused(
    net: tuple[Path, GraphRanges, np.ndarray], tmp_path: Path
) -> None:
    half.run(net[0], tmp_path / "half.onnx")
    with pytest.raises(ExportError, match="float32 graph"):
        quantize.run(tmp_path / "half.onnx", tmp_path / "int8.onnx", net[1], form="unsigned-cpu")


def test_layers_have_the_same_names_and_fingerprint_in_half_precision(golden_bundle: Path, tmp_path: Path) -> None:
    for name in ("unet_step", "control_r0"):
        half.run(golden_bundle / f"{name}.onnx", tmp_path / "half.onnx")
        one, other = onnx_view.GraphView(golden_bundle / f"{name}.onnx"), onnx_view.GraphView(tmp_path / "half.onnx")
        assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
        assert onnx_view.fingerprint(one) == onnx_view.fingerprint(other)


def test_layers_of_attention_are_its_projections_and_not_its_products(golden_bundle: Path) -> None:
    view = onnx_view.GraphView(golden_bundle / "unet_step.onnx")
    nodes = [node for node in view.model.graph.node if node.op_type == "MatMul"]
    linear = [layer for layer in view.layers if layer.kind == "MatMul"]
    attentions = sum(node.op_type == "Softmax" for node in view.model.graph.node)
    assert attentions > 0 and len(nodes) - len(linear) == 2 * attentions
    assert all(layer.name.startswith("linear") for layer in linear)


def test_gate_passes_the_embedded_bundle_in_int8_and_refuses_a_limit_it_misses(
    embedded_bundle: Path, tmp_path: Path, ranges: Ranges, crops: list[Path]
) -> None:
    write_for_cpus(embedded_bundle, tmp_path, ranges)
    reference = rdeic_rt.load(tmp_path / "int8", backend="cpu", precision="fp32", threads=1)
    candidate = rdeic_rt.load(tmp_path / "int8", backend="cpu", precision="int8", threads=1)
    report = compared(reference, candidate, crops, fidelity.LIMIT_DB["int8"])
    assert set(report.rates) == {rate.index for rate in reference.bundle.rates} and report.photos == 2
    assert all(fidelity.LIMIT_DB["int8"] < rate.least_db <= rate.mean_db < 60 for rate in report.rates.values())
    assert report.document()["rates"]["0"]["worst"] in {path.name for path in crops}
    with pytest.raises(ExportError, match="2 of 2, mean .* dB") as error:
        compared(reference, candidate, crops, 70.0)
    assert "\n" not in str(error.value)
    assert compared(reference, reference, crops[:1], 99.0).rates[0].least_db == 100.0
    with pytest.raises(ExportError, match="no photos"):
        compared(reference, candidate, [], 30.0)
