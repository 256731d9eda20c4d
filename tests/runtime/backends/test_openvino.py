"""OpenVINO against ONNX Runtime, on the same graphs."""

from __future__ import annotations

import builtins
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import rdeic_rt
from rdeic_export.forms.quantize_cpu import WEIGHT_MAX
from rdeic_rt import Codec, DecodeOptions, bundle
from rdeic_rt.backends import select
from rdeic_rt.backends.base import Options
from rdeic_rt.backends.cpu.openvino import OpenVinoBackend, open_backend
from rdeic_rt.backends.cpu.ort import OrtBackend
from rdeic_rt.bundle_file import OwnFile
from rdeic_rt.errors import BackendError, BackendUnavailableError, BundleCorruptError
from rdeic_rt.manifest import AUTO, PRECISIONS, GraphSpec
from rdeic_rt.tensor_spec import TensorSpec
from tests.images import psnr_db

from .outside_weights import check_outside_weights, with_weights
from .test_ort import save

Image3 = NDArray[np.uint8]
# Measured on the test photos at three rates: 56 to 58.6 dB with bfloat16, 93 to 104 dB with float32. Neither need be
# exact, as y_hat is; the margins leave room for other CPUs and versions, not for another image.
MIN_BF16_PSNR_DB = 50.0
MIN_F32_PSNR_DB = 75.0
CPU_HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture
def backend() -> OpenVinoBackend:
    return open_backend(Options(threads=2, precision="fp32"))


@pytest.fixture(scope="module")
def part(photo: Image3) -> Image3:
    return np.ascontiguousarray(photo[60:190, 100:290])


@pytest.fixture(scope="module")
def codecs(codec: Codec) -> dict[str, Codec]:
    return {
        precision: rdeic_rt.load(codec.bundle.folder, backend="openvino", precision=precision, threads=2)
        for precision in ("auto", "fp32")
    }


def conv(path: Path, dtype: Any, *, quantised: bool) -> GraphSpec:
    """Write a 3x3 convolution of 8 channels: float32 outside, `dtype` inside, in the form int8-cpu where quantised."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 8, 3, 3)) / 8
    inner = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Cast", ["x"], ["x_in"], to=inner)]
    source, output = "x_in", "y_in"
    if quantised:
        scale = np.abs(weight).max((1, 2, 3)) / WEIGHT_MAX
        arrays = {
            "w8": np.rint(weight / scale[:, None, None, None]).astype(np.int8),
            "w_scale": scale.astype(dtype),
            "w_zero": np.zeros(8, np.int8),
            "x_scale": np.array(8 / 255, dtype),
            "x_zero": np.array(128, np.uint8),
            "y_scale": np.array(16 / 255, dtype),
            "y_zero": np.array(128, np.uint8),
        }
        nodes += [
            helper.make_node("DequantizeLinear", ["w8", "w_scale", "w_zero"], ["w"], axis=0),
            helper.make_node("QuantizeLinear", ["x_in", "x_scale", "x_zero"], ["x8"]),
            helper.make_node("DequantizeLinear", ["x8", "x_scale", "x_zero"], ["x_dq"]),
        ]
        source, output = "x_dq", "y_float"
    else:
        arrays = {"w": weight.astype(dtype)}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    nodes.append(helper.make_node("Conv", [source, "w"], [output], pads=[1, 1, 1, 1]))
    if quantised:
        nodes += [
            helper.make_node("QuantizeLinear", ["y_float", "y_scale", "y_zero"], ["y8"]),
            helper.make_node("DequantizeLinear", ["y8", "y_scale", "y_zero"], ["y_in"]),
        ]
    nodes.append(helper.make_node("Cast", ["y_in"], ["y"], to=TensorProto.FLOAT))
    shape = ("b", 8, "h", "w_px")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "conv", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return GraphSpec(
        "conv", "fp32", OwnFile(path), (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),)
    )


def test_run_two_sizes_in_a_row_returns_each_and_keeps_the_first(tmp_path: Path, backend: OpenVinoBackend) -> None:
    graph = backend.load(save(tmp_path / "add.onnx", "Add"))
    first = backend.get(graph.run({"x": backend.put(np.arange(3, dtype=np.float32))})["y"])
    second = backend.get(graph.run({"x": backend.put(np.arange(5, dtype=np.float32))})["y"])
    third = backend.get(graph.run({"x": backend.put(np.ones(3, dtype=np.float32))})["y"])
    assert first.tolist() == [0, 2, 4]
    assert second.tolist() == [0, 2, 4, 6, 8]
    assert third.tolist() == [2, 2, 2]


def test_run_result_outlives_graph_and_inputs(tmp_path: Path, backend: OpenVinoBackend) -> None:
    x = np.arange(1000, dtype=np.float32)
    y = backend.load(save(tmp_path / "add.onnx", "Add")).run({"x": x})["y"]
    x[:] = 0
    del x
    assert backend.get(y).tolist() == (2 * np.arange(1000)).tolist()


def test_run_from_eight_threads_returns_each_its_own(tmp_path: Path, backend: OpenVinoBackend) -> None:
    graph = backend.load(save(tmp_path / "mul.onnx", "Mul"))

    def square(value: int) -> bool:
        x = np.full(1000 + value, value, np.float32)
        return bool((backend.get(graph.run({"x": backend.put(x)})["y"]) == value**2).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(square, range(200)))


@pytest.mark.parametrize("content", [b"this is not a graph", b""])
def test_load_file_that_is_no_graph_raises_corrupt(tmp_path: Path, backend: OpenVinoBackend, content: bytes) -> None:
    spec = save(tmp_path / "add.onnx", "Add")
    spec.path.write_bytes(content)
    with pytest.raises(BundleCorruptError, match=r"add\.onnx"):
        backend.load(spec)


def test_load_unknown_operator_raises_backend_error(tmp_path: Path, backend: OpenVinoBackend) -> None:
    with pytest.raises(BackendError, match=r"OpenVINO.*NoSuchOperator") as raised:
        backend.load(save(tmp_path / "op.onnx", "NoSuchOperator"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "promise",
    [
        (TensorSpec("z", "float32", ("n",)),),
        (TensorSpec("x", "uint8", ("n",)),),
        (TensorSpec("x", "float32", (1, "n")),),
        (TensorSpec("x", "float32", ("n",)), TensorSpec("z", "float32", ("n",))),
    ],
)
def test_load_graph_with_other_inputs_than_promised_raises_corrupt(
    tmp_path: Path, backend: OpenVinoBackend, promise: tuple[TensorSpec, ...]
) -> None:
    with pytest.raises(BundleCorruptError, match="inputs"):
        backend.load(replace(save(tmp_path / "add.onnx", "Add"), inputs=promise))


def test_load_graph_with_weights_in_a_listed_file_reads_them_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: OpenVinoBackend
) -> None:
    check_outside_weights(tmp_path, monkeypatch, backend)


def test_load_graph_with_weights_at_an_address_is_refused(tmp_path: Path, backend: OpenVinoBackend) -> None:
    spec = with_weights(tmp_path, np.zeros((256, 256), np.float32), location="*/_ORT_MEM_ADDR_/*")
    with pytest.raises(BundleCorruptError, match="not among the bundle's files"):
        backend.load(spec)


def test_run_failing_inside_raises_backend_error_of_one_line(tmp_path: Path, backend: OpenVinoBackend) -> None:
    graph = backend.load(save(tmp_path / "matmul.onnx", "MatMul", shape=("n", "m")))
    with pytest.raises(BackendError, match=r"MatMul.*x \[2, 3\]") as raised:
        graph.run({"x": backend.put(np.zeros((2, 3), np.float32))})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("dtype", "quantised"), [(np.float32, False), (np.float16, False), (np.float32, True)])
def test_run_every_form_of_a_graph_agrees_with_onnx_runtime(tmp_path: Path, dtype: Any, quantised: bool) -> None:
    spec = conv(tmp_path / "conv.onnx", dtype, quantised=quantised)
    rng = np.random.default_rng(1)
    for precision in ("fp32", "auto"):
        graph = open_backend(Options(threads=2, precision=precision)).load(spec)
        for size in ((1, 8, 16, 24), (2, 8, 8, 8)):
            x = np.clip(rng.standard_normal(size), -3.9, 3.9).astype(np.float32)
            expected = OrtBackend(threads=2).load(spec).run({"x": x})["y"]
            error = np.abs(np.asarray(graph.run({"x": x})["y"]) - np.asarray(expected))
            # Two of the output's 255 steps at the very most; bfloat16 has 8 bits.
            assert error.mean() < (0.005 if precision == "fp32" else 0.02)
            assert error.max() < 0.15


def test_open_takes_bf16_only_where_asked_and_there() -> None:
    arithmetic = {precision: open_backend(Options(precision=precision)).arithmetic for precision in (AUTO, *PRECISIONS)}
    best = "bf16" if CPU_HAS_BF16 else "f32"
    assert arithmetic == {"auto": best, "fp32": "f32", "fp16": "f32", "int8": best}


def test_compiled_graph_computes_in_what_facts_say(tmp_path: Path) -> None:
    for precision in ("auto", "fp32"):
        backend = open_backend(Options(precision=precision, threads=1))
        compiled = backend.load(conv(tmp_path / "conv.onnx", np.float32, quantised=False))._compiled
        names = {"bf16": "bfloat16", "f32": "float32"}
        assert names[backend.description()["arithmetic"]] in str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert backend.description()["threads"] == "1"


def test_decode_fp32_agrees_with_cpu_to_the_last_level(
    fp32_codec: Codec, codecs: dict[str, Codec], part: Image3
) -> None:
    for rate in fp32_codec.bundle.rates:
        data = fp32_codec.encode(part, rate.index)
        image, reference = codecs["fp32"].decode(data), fp32_codec.decode(data)
        difference = np.abs(image.astype(int) - reference)
        assert difference.max() <= 1
        assert psnr_db(image, reference) > MIN_F32_PSNR_DB


def test_decode_auto_is_near_cpu_on_photos(
    fp32_codec: Codec, codecs: dict[str, Codec], photo_paths: list[Path]
) -> None:
    for path in photo_paths:
        data = fp32_codec.encode(rdeic_rt.read_image(path)[0][100:300, 50:300])
        assert psnr_db(codecs["auto"].decode(data), fp32_codec.decode(data)) > MIN_BF16_PSNR_DB


def test_decode_guided_agrees_with_cpu(fp32_codec: Codec, codecs: dict[str, Codec], part: Image3) -> None:
    data = fp32_codec.encode(part)
    image = codecs["fp32"].decode(data, DecodeOptions(sharpness=0.5, seed=3))
    assert psnr_db(image, fp32_codec.decode(data, DecodeOptions(sharpness=0.5, seed=3))) > MIN_F32_PSNR_DB


def test_decode_from_eight_threads_agrees_with_one(codecs: dict[str, Codec], part: Image3) -> None:
    codec = codecs["auto"]
    files = [codec.encode(part[: 65 + 9 * n, : 70 + 14 * n]) for n in range(4)]
    images = [codec.decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for n, image in enumerate(pool.map(codec.decode, 4 * files)):
            np.testing.assert_array_equal(image, images[n % 4])


def test_encode_gives_the_file_that_cpu_gives(codec: Codec, codecs: dict[str, Codec], part: Image3) -> None:
    assert codecs["auto"].encode(part) == codec.encode(part)


def test_every_graph_of_the_embedded_bundle_loads_and_analysis_agrees(
    codec: Codec, backend: OpenVinoBackend, part: Image3
) -> None:
    found = bundle.read(codec.bundle.folder)
    for spec in (spec for forms in found.graphs.values() for spec in forms.values()):
        assert backend.load(spec).spec is spec
    rate = found.rates[0]
    spec = found.reference(rate.graphs["analysis"])
    given = {
        "image": np.ascontiguousarray(part[None, :128, :128]),
        "level": codec._loaded.level_rows["analysis"][rate.number][None],
    }
    outputs, expected = (b.load(spec).run(given) for b in (backend, OrtBackend(threads=2)))
    np.testing.assert_allclose(np.asarray(outputs["y"]), np.asarray(expected["y"]), atol=1e-3)
    np.testing.assert_array_equal(np.asarray(outputs["vq_indices"]), np.asarray(expected["vq_indices"]))


def test_decode_with_the_micro_bundle_equals_cpu(micro_folder: Path) -> None:
    y_hat = np.random.default_rng(0).standard_normal((1, 4, 4, 8)).astype(np.float32)
    found = bundle.read(micro_folder)
    spec = found.reference("synthesis")
    outputs, expected = (
        b.load(spec).run({"y_hat": y_hat}) for b in (open_backend(Options(precision="fp32")), OrtBackend(threads=1))
    )
    for name in ("z_c", "hint"):
        np.testing.assert_array_equal(np.asarray(outputs[name]), np.asarray(expected[name]))


def test_open_without_openvino_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name == "openvino" and args and (args[0] or {}).get("__name__", "").startswith("rdeic_rt"):
            raise ModuleNotFoundError("No module named 'openvino'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(__import__("sys").modules, "rdeic_rt.backends.cpu.openvino")
    monkeypatch.delattr("rdeic_rt.backends.cpu.openvino")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendUnavailableError, match=r"^openvino: .*pip install 'rdeic-rt\[openvino\]'"):
        select.open_backend("openvino")


def test_auto_takes_openvino_where_it_is_faster_and_says_why_not_elsewhere() -> None:
    chosen = select.open_backend("auto", precision="fp32")
    assert chosen.backend.name != "openvino"
    if chosen.backend.name == "cpu":
        assert "slower than cpu in float32" in chosen.skipped["openvino"]
    if CPU_HAS_BF16:
        assert "openvino" not in select.open_backend("auto").skipped
