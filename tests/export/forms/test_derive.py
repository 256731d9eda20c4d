"""Derived forms of a bundle's graphs: each made once, float16 with float32 where it matters, and bundles of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import rdeic_rt
from rdeic_export import onnx_file
from rdeic_export.bundle import more_forms, preference
from rdeic_export.forms import derive, half, quantize, selection
from rdeic_export.forms.derive import Derivation, Derived
from rdeic_export.forms.quantize import QuantizationReport
from rdeic_export.forms.ranges import GraphRanges, Ranges
from rdeic_export.verify import fidelity
from rdeic_rt import bundle as bundles
from rdeic_rt.backends import select
from rdeic_rt.backends.cpu.openvino import OpenVinoBackend
from rdeic_rt.backends.cpu.ort import OrtBackend
from rdeic_rt.backends.gpu.ort_cuda import OrtCudaBackend
from rdeic_rt.codec import Codec
from rdeic_rt.errors import ExportError
from rdeic_rt.limits import DEFAULT_LIMITS
from rdeic_rt.manifest import Bundle, Rate

F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16


def node_types(path: Path) -> dict[str, int]:
    """Return the element type of every tensor of a graph."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, check_type=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def save(path: Path, nodes: list[onnx.NodeProto], weights: Mapping[str, NDArray[np.generic]], shape: list[int]) -> Path:
    values = [helper.make_tensor_value_info(name, F32, shape) for name in ("x", "y")]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def micro(golden_bundle: Path) -> Bundle:
    return bundles.read(golden_bundle)


def in_half(bundle: Bundle, graph_id: str, folder: Path) -> Path:
    return Derivation(bundle, [graph_id], None, folder).derive("fp16").graphs[graph_id].spec.path


def all_in_half(bundle: Bundle, folder: Path, steps: tuple[int, ...] = (2, 5)) -> Derived:
    return Derivation(bundle, selection.decoding_graphs(bundle, steps), None, folder).derive("fp16")


def fused_ones(bundle: Bundle, folder: Path) -> Derived:
    return Derivation(bundle, selection.decoding_graphs(bundle, (2, 5)), None, folder).derive("fp16-cuda")


@pytest.mark.parametrize("graph_id", ["unet_step", "vae_decoder", "control_r0", "synthesis_r0"])
def test_half_of_a_graph_is_near_it_and_keeps_its_inputs_and_outputs(
    micro: Bundle, tmp_path: Path, graph_id: str
) -> None:
    spec = micro.reference(graph_id)
    path = in_half(micro, graph_id, tmp_path)
    onnx.checker.check_model(str(path), full_check=True)
    sessions = [onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in (spec.path, path)]
    assert [t.name for t in sessions[1].get_inputs()] == [t.name for t in spec.inputs]
    rng = np.random.default_rng(0)
    sizes = {"batch": 1, "hz": 1, "wz": 2}
    feed = {}
    for tensor in spec.inputs:
        feed[tensor.name] = rng.standard_normal(tensor.resolve(sizes), dtype=np.float32)
    wanted, got = (session.run(None, feed) for session in sessions)
    for tensor, want, actual in zip(spec.outputs, wanted, got, strict=True):
        assert actual.dtype == np.dtype(tensor.dtype)
        error = np.abs(want.astype(float) - actual.astype(float)).max() / np.sqrt(np.square(want.astype(float)).mean())
        assert error < 0.02, tensor.name


def test_half_layers_are_in_float16_and_the_tail_and_softmax_in_float32(micro: Bundle, tmp_path: Path) -> None:
    path = in_half(micro, "unet_step", tmp_path)
    types = node_types(path)
    nodes = onnx.load(path).graph.node
    layers = [node for node in nodes if node.op_type in half.LAYERS]
    assert len(layers) > 20
    assert {types[node.output[0]] for node in layers} == {F16}
    assert {types[node.output[0]] for node in nodes if node.op_type == "Softmax"} <= {F32}
    update = nodes[-1]
    assert update.output[0] == "z_prev"
    assert types[update.output[0]] == F32
    assert all(types[name] == F32 for name in update.input), "the update is not computed in float32"


def test_half_weight_beyond_float16_is_refused_by_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "gain"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["y"])]
    weights = {"gain": np.array([7e4], np.float32), "w": np.eye(4, dtype=np.float32)}
    source = save(tmp_path / "big.onnx", nodes, weights, [4, 4])
    with pytest.raises(ExportError, match=r"big\.onnx: weight gain has values up to 7e\+04"):
        half.run(source, tmp_path / "out.onnx")


def test_half_external_float16_weights_are_linked_and_float32_ones_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM_BYTES", 1000)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64)).astype(np.float16)
    cast = helper.make_node("Cast", ["w.half"], ["w"], to=F32)
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    x = rng.standard_normal((2, 64), dtype=np.float32)
    for name, nodes, weights in (
        ("stored_half", [cast, product], {"w.half": weight}),
        ("stored_single", [product], {"w": weight.astype(np.float32)}),
    ):
        source = save(tmp_path / f"{name}.onnx", nodes, weights, [2, 64])
        onnx.save(
            onnx.load(source), source, save_as_external_data=True, location=f"{name}.onnx.data", size_threshold=1024
        )
        target = tmp_path / "derived" / f"{name}.fp16.onnx"
        target.parent.mkdir(exist_ok=True)
        half.run(source, target)
        result = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        np.testing.assert_allclose(result, x @ weight.astype(np.float32), rtol=0.02, atol=0.02)
        data = [path for path in target.parent.glob(f"{name}*.data")]
        assert [path.stat().st_size for path in data] == [weight.nbytes]


def test_write_bundle_with_fp16_decodes_close_to_the_original_and_encodes_the_same(
    micro: Bundle, tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    output = tmp_path / "micro-fp16"
    more_forms.write(micro, output, [all_in_half(micro, tmp_path)], preferred={"cpu": ("fp16", "fp32")})
    bundles.read(output)  # the hashes that were carried are those of the files
    single, double = (rdeic_rt.load(output, backend="cpu", precision=p) for p in ("fp32", "fp16"))
    assert single.bundle.preferred == {**micro.preferred, "cpu": ("fp16", "fp32")}
    data = single.encode(photo[:128, :192])
    assert double.encode(photo[:128, :192]) == data
    first, second = single.decode(data).astype(int), double.decode(data).astype(int)
    assert 0 < np.abs(first - second).max() <= 8


def test_write_leaves_the_source_alone(golden_bundle: Path, micro: Bundle, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in golden_bundle.iterdir() if path.is_file()}
    more_forms.write(micro, tmp_path / "out", [all_in_half(micro, tmp_path, (2,))], preferred={})
    assert {path.name: path.read_bytes() for path in golden_bundle.iterdir() if path.is_file()} == before


def test_write_without_float32_drops_its_files_and_nothing_else(micro: Bundle, tmp_path: Path) -> None:
    derived = all_in_half(micro, tmp_path)
    more_forms.write(micro, tmp_path / "out", [derived], preferred={}, drop_fp32=True)
    found = bundles.read(tmp_path / "out")
    for graph_id in micro.graphs:
        assert list(found.graphs[graph_id]) == (["fp16"] if graph_id in derived.graphs else ["fp32"])
    gone = {f"{graph_id}.onnx" for graph_id in derived.graphs}
    assert set(found.files) == (set(micro.files) - gone) | {f"{graph_id}.fp16.onnx" for graph_id in derived.graphs}
    with pytest.raises(ExportError, match=r"in fp16 only, and plans and other forms are made of float32.*--drop-fp32"):
        Derivation(found, ["unet_step"], None, tmp_path)


def test_write_without_float32_keeps_weights_that_half_precision_shares(
    micro: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM_BYTES", 1000)
    source = tmp_path / "source"
    source.mkdir()
    for name, file in micro.files.items():
        (source / name).write_bytes(file.path.read_bytes())
    model = onnx.load(source / "unet_step.onnx")
    weights = [(tensor.name, numpy_helper.to_array(tensor)) for tensor in model.graph.initializer]
    model.graph.ClearField("initializer")
    onnx_file.write(model, weights, 10**6, source / "unet_step.onnx")
    document = json.loads((micro.folder / "bundle.json").read_text())
    del document["schema"], document["files"]
    bundle = bundles.write(source, document)
    assert "unet_step.onnx.data" in bundle.files
    derived = all_in_half(bundle, tmp_path)
    graph = derived.graphs["unet_step"]
    assert list(graph.files) == ["unet_step.fp16.onnx", "unet_step.onnx.data"]
    assert graph.files["unet_step.onnx.data"].path.samefile(source / "unet_step.onnx.data")
    more_forms.write(bundle, tmp_path / "out", [derived], preferred={}, drop_fp32=True)
    found = bundles.read(tmp_path / "out")
    assert "unet_step.onnx.data" in found.files and "unet_step.onnx" not in found.files
    codec = rdeic_rt.load(tmp_path / "out", backend="cpu")
    data = codec.encode(np.zeros((64, 64, 3), np.uint8))
    assert np.array_equal(codec.decode(data), rdeic_rt.load(tmp_path / "out", precision="fp16").decode(data))
    (tmp_path / "again").mkdir()
    fused = fused_ones(bundle, tmp_path / "again").graphs["unet_step"]
    assert list(fused.files) == ["unet_step.fp16-cuda.onnx", "unet_step.onnx.data"]
    assert fused.files["unet_step.onnx.data"].path.samefile(source / "unet_step.onnx.data")


def test_write_with_fused_attention_is_for_cuda_and_decodes_close_to_float32(
    micro: Bundle, tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    derived = fused_ones(micro, tmp_path)
    assert set(derived.graphs) == {"unet_step", "vae_decoder"}  # heads of the control nets are too narrow
    assert derived.graphs["unet_step"].facts == {"fused_attentions": 8}
    half_ones = all_in_half(micro, tmp_path)
    more_forms.write(micro, tmp_path / "out", [half_ones, derived], preferred={"cuda": preference.DEFAULT["cuda"]})
    found = bundles.read(tmp_path / "out")
    on_cuda = {graph_id: chosen(found, "cuda", graph_id, "auto") for graph_id in half_ones.graphs}
    assert {graph_id for graph_id, form in on_cuda.items() if form == "fp16-cuda"} == set(derived.graphs)
    assert set(on_cuda.values()) == {"fp16", "fp16-cuda"}
    assert chosen(found, "cuda", "unet_step", "fp16") == "fp16-cuda"
    for backend in ("cpu", "openvino"):
        assert chosen(found, backend, "unet_step", "fp16") == "fp16"
        assert chosen(found, backend, "unet_step", "auto") == "fp32"
    # Nothing but the CPU is there to run it.
    only = selection.in_one_form(found, [*derived.graphs], "fp16-cuda")
    codec = Codec(only, select.open_backend("cpu"), precision="auto", threads=None, limits=DEFAULT_LIMITS)
    single = rdeic_rt.load(micro.folder, backend="cpu")
    data = single.encode(photo[:128, :192])
    assert 0 < np.abs(codec.decode(data).astype(int) - single.decode(data).astype(int)).max() <= 8


def chosen(bundle: Bundle, backend: str, graph_id: str, precision: str) -> str:
    """Return the form that a backend takes, of those that it can run."""
    classes = {"cpu": OrtBackend, "cuda": OrtCudaBackend, "openvino": OpenVinoBackend}
    return select.choose_form(classes[backend], bundle, graph_id, precision).form  # type: ignore[arg-type]


def test_derive_makes_each_form_of_a_graph_once(micro: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str]] = []
    original = half.run

    def halve(source: Path, target: Path) -> None:
        made.append((source.name, target.name))
        original(source, target)

    def copy(source: Path, target: Path, ranges: GraphRanges, *, form: str, one_scale: bool) -> QuantizationReport:
        made.append((source.name, target.name))
        shutil.copyfile(source, target)
        return QuantizationReport(form, "max", (), {})

    monkeypatch.setattr(half, "run", halve)
    monkeypatch.setattr(quantize, "run", copy)
    ranges = Ranges("micro", 0, "", {"synthesis_r0": GraphRanges("", {}, {})})
    derivation = Derivation(micro, ["synthesis_r0"], ranges, tmp_path)
    for form in ("int8", "fp16", "fp16", "int8"):
        derivation.derive(form)
    assert made == [
        ("synthesis_r0.onnx", "synthesis_r0.fp16.onnx"),
        ("synthesis_r0.fp16.onnx", "synthesis_r0.int8.onnx"),
    ]


def test_preference_is_the_order_of_measured_decodes(
    micro: Bundle, tmp_path: Path, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    half_and_fused = [all_in_half(micro, tmp_path), fused_ones(micro, tmp_path)]
    whole = derive.with_forms(micro, half_and_fused)
    data = rdeic_rt.load(micro.folder, backend="cpu").encode(photo[:64, :64], 0)
    seconds = {"fp32": 0.2, "fp16": 0.1}
    measured = []

    def fake(bundle: Bundle, selection: object, data: bytes) -> float:
        (form,) = bundle.graphs["unet_step"]
        measured.append(form)
        return seconds[form]

    monkeypatch.setattr(preference, "MEASURED", ("cpu",))
    file = fidelity.EncodedPhoto("photo", 0, data)
    assert set(preference.measure(whole, file)["cpu"]) == {"fp32", "fp16"}
    monkeypatch.setattr(preference, "_seconds", fake)
    assert preference.measure(whole, file) == {"cpu": ("fp16", "fp32"), "cuda": ("fp16-cuda", "fp16", "fp32")}
    assert measured == ["fp32", "fp16"]


def with_one_schedule(rate: Rate) -> Rate:
    """Return the rate with the steps that it has by default, and no others."""
    assert rate.schedule is not None
    return dataclasses.replace(rate, step_tables={rate.schedule: rate.step_tables[rate.schedule]})


def test_decoding_graphs_of_steps_that_no_rate_has_says_which_there_are(micro: Bundle) -> None:
    per_rate = {f"{role}_r{rate}" for role in ("control", "synthesis") for rate in (0, 1)}
    assert set(selection.decoding_graphs(micro, (2,))) == per_rate | {"unet_step", "vae_decoder"}
    limited = dataclasses.replace(micro, rates=tuple(map(with_one_schedule, micro.rates)))
    assert "control_r1" not in selection.decoding_graphs(limited, (2,))
    with pytest.raises(ExportError, match=r"no rate for 3 steps; its rates take 2, 5\..*--steps"):
        selection.decoding_graphs(micro, (3,))


def test_derive_int8_without_ranges_says_how_to_measure_them(micro: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"collect_ranges\.py"):
        Derivation(micro, ["unet_step"], None, tmp_path).derive("int8")
