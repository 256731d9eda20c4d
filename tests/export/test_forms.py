"""Derived forms of a bundle's graphs: float16 with float32 where it matters, and bundles that hold variants."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import rdeic_rt
from rdeic_export import forms, half
from rdeic_rt import bundle as bundles
from rdeic_rt.errors import ExportError

F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16


def node_types(path: Path) -> dict[str, int]:
    """Return the element type of every tensor of a graph."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, check_type=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.generic]], shape: list[int]) -> Path:
    values = [helper.make_tensor_value_info(name, F32, shape) for name in ("x", "y")]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def micro(golden_bundle: Path) -> bundles.Bundle:
    return bundles.read(golden_bundle)


@pytest.mark.parametrize("graph_id", ["unet_step", "vae_decoder", "control_r0", "synthesis_r0"])
def test_half_of_a_graph_is_near_it_and_keeps_its_inputs_and_outputs(
    micro: bundles.Bundle, tmp_path: Path, graph_id: str
) -> None:
    spec = micro.graphs[graph_id]
    path, _ = forms.Derive().onnx(spec, "fp16", tmp_path)
    onnx.checker.check_model(str(path), full_check=True)
    sessions = [onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in (spec.path, path)]
    assert [t.name for t in sessions[1].get_inputs()] == [t.name for t in spec.inputs]
    rng = np.random.default_rng(0)
    sizes = {"batch": 1, "hz": 1, "wz": 2}
    feed = {}
    for tensor in spec.inputs:
        dims = [dim.rpartition("*") if isinstance(dim, str) else dim for dim in tensor.shape]
        shape = [dim if isinstance(dim, int) else int(dim[0] or 1) * sizes[dim[2]] for dim in dims]
        feed[tensor.name] = rng.standard_normal(shape, dtype=np.float32)
    wanted, got = (session.run(None, feed) for session in sessions)
    for tensor, want, actual in zip(spec.outputs, wanted, got, strict=True):
        assert actual.dtype == np.dtype(tensor.dtype)
        error = np.abs(want.astype(float) - actual.astype(float)).max() / np.sqrt(np.square(want.astype(float)).mean())
        assert error < 0.02, tensor.name


def test_half_layers_are_in_float16_and_the_tail_and_softmax_in_float32(micro: bundles.Bundle, tmp_path: Path) -> None:
    path, _ = forms.Derive().onnx(micro.graphs["unet_step"], "fp16", tmp_path)
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
    weights = {"gain": np.float32([7e4]), "w": np.eye(4, dtype=np.float32)}
    source = save(tmp_path / "big.onnx", nodes, weights, [4, 4])
    with pytest.raises(ExportError, match=r"big\.onnx: weight gain has values up to 7e\+04"):
        half.run(source, tmp_path / "out.onnx")


def test_half_external_float16_weights_are_linked_and_float32_ones_converted(tmp_path: Path) -> None:
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


def test_write_variants_fp16_bundle_decodes_close_to_the_original(
    golden_bundle: Path, tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    output = tmp_path / "micro-fp16"
    forms.write_variants(golden_bundle, output, ("fp16",), (2, 5), forms.Derive())
    single, double = (rdeic_rt.load(output, backend="cpu", precision=p) for p in ("fp32", "fp16"))
    data = single.encode(photo[:128, :192])
    assert double.encode(photo[:128, :192]) == data
    np.testing.assert_array_equal(single.read_latents(data).y_hat, double.read_latents(data).y_hat)
    first, second = single.decode(data).astype(int), double.decode(data).astype(int)
    assert 0 < np.abs(first - second).max() <= 8


def test_write_variants_leaves_the_source_alone(golden_bundle: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in golden_bundle.iterdir() if path.is_file()}
    forms.write_variants(golden_bundle, tmp_path / "out", ("fp16",), (2,), forms.Derive())
    assert {path.name: path.read_bytes() for path in golden_bundle.iterdir() if path.is_file()} == before


def test_decoding_graphs_of_steps_that_no_rate_has_says_which_there_are(micro: bundles.Bundle) -> None:
    per_rate = {f"{role}_r{rate}" for role in ("control", "synthesis") for rate in (0, 1)}
    assert set(forms.decoding_graphs(micro, (2,))) == per_rate | {"unet_step", "vae_decoder"}
    only_two = [dataclasses.replace(rate, step_tables={rate.schedule: Path()}) for rate in micro.rates]
    limited = dataclasses.replace(micro, rates=tuple(only_two))
    assert "control_r1" not in forms.decoding_graphs(limited, (2,))
    with pytest.raises(ExportError, match=r"no rate for 3 steps; its rates take 2, 5\..*--steps"):
        forms.decoding_graphs(micro, (3,))


def test_derive_int8_without_ranges_says_how_to_measure_them(micro: bundles.Bundle, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"collect_ranges\.py"):
        forms.Derive().onnx(micro.graphs["unet_step"], "int8", tmp_path)
