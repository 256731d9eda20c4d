from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rdeic_rt import bundle
from rdeic_rt.backends.base import Buffer
from rdeic_rt.backends.ort import OrtBackend
from rdeic_rt.bundle_file import OwnFile
from rdeic_rt.errors import BackendError, BundleCorruptError
from rdeic_rt.manifest import GraphSpec
from rdeic_rt.tensor_spec import TensorSpec

from .outside_weights import check_outside_weights, with_weights

ROW = ("n",)


@pytest.fixture
def backend() -> OrtBackend:
    return OrtBackend(threads=2)


def save(path: Path, op: str, *, shape: tuple[int | str, ...] = ROW) -> GraphSpec:
    """Write the graph y = op(x, x) and return its spec."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    body = helper.make_graph([helper.make_node(op, ["x", "x"], ["y"])], op, inputs, outputs)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return GraphSpec(
        op, "fp32", OwnFile(path), (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),)
    )


def test_run_two_sizes_in_a_row_returns_each_and_keeps_the_first(tmp_path: Path, backend: OrtBackend) -> None:
    graph = backend.load(save(tmp_path / "add.onnx", "Add"))
    first = backend.get(graph.run({"x": backend.put(np.arange(3, dtype=np.float32))})["y"])
    second = backend.get(graph.run({"x": backend.put(np.arange(5, dtype=np.float32))})["y"])
    assert first.tolist() == [0, 2, 4]
    assert second.tolist() == [0, 2, 4, 6, 8]


def test_run_strided_array_is_put_as_it_looks(tmp_path: Path, backend: OrtBackend) -> None:
    graph = backend.load(save(tmp_path / "add.onnx", "Add"))
    assert backend.get(graph.run({"x": backend.put(np.arange(6, dtype=np.float32)[::-2])})["y"]).tolist() == [10, 6, 2]


def test_run_from_eight_threads_returns_each_its_own(tmp_path: Path, backend: OrtBackend) -> None:
    graph = backend.load(save(tmp_path / "mul.onnx", "Mul"))

    def square(value: int) -> bool:
        x = np.full(1000 + value, value, np.float32)
        return bool((backend.get(graph.run({"x": backend.put(x)})["y"]) == value**2).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(square, range(200)))


def test_load_file_that_is_no_graph_raises_corrupt(tmp_path: Path, backend: OrtBackend) -> None:
    spec = save(tmp_path / "add.onnx", "Add")
    spec.path.write_bytes(b"this is not a graph")
    with pytest.raises(BundleCorruptError, match=r"add\.onnx"):
        backend.load(spec)


def test_load_unknown_operator_raises_typed_error(tmp_path: Path, backend: OrtBackend) -> None:
    spec = save(tmp_path / "op.onnx", "NoSuchOperator")
    with pytest.raises((BackendError, BundleCorruptError), match="NoSuchOperator"):
        backend.load(spec)


@pytest.mark.parametrize(
    "promise",
    [
        (TensorSpec("z", "float32", ROW),),
        (TensorSpec("x", "uint8", ROW),),
        (TensorSpec("x", "float32", (1, "n")),),
        (TensorSpec("x", "float32", ROW), TensorSpec("z", "float32", ROW)),
    ],
)
def test_load_graph_with_other_inputs_than_promised_raises_corrupt(
    tmp_path: Path, backend: OrtBackend, promise: tuple[TensorSpec, ...]
) -> None:
    with pytest.raises(BundleCorruptError, match="inputs"):
        backend.load(replace(save(tmp_path / "add.onnx", "Add"), inputs=promise))


def test_load_graph_with_weights_in_a_listed_file_reads_them_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: OrtBackend
) -> None:
    check_outside_weights(tmp_path, monkeypatch, backend)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret.bin", "*/_ORT_MEM_ADDR_/*", "./matmul.onnx.data"])
def test_load_graph_with_weights_elsewhere_is_refused(tmp_path: Path, backend: OrtBackend, location: str) -> None:
    spec = with_weights(tmp_path, np.zeros((256, 256), np.float32), location=location)
    with pytest.raises(BundleCorruptError, match="not among the bundle's files"):
        backend.load(spec)


def test_load_file_in_onnx_runtimes_own_format_is_not_loaded_as_such(tmp_path: Path, backend: OrtBackend) -> None:
    spec = save(tmp_path / "add.onnx", "Add", shape=(4,))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "add.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(spec.path, options, providers=["CPUExecutionProvider"])
    assert (tmp_path / "add.ort").read_bytes()[4:8] == b"ORTM"
    with pytest.raises(BundleCorruptError, match="not a graph"):
        backend.load(replace(spec, file=OwnFile(tmp_path / "add.ort")))


def test_load_failing_prints_nothing(tmp_path: Path, backend: OrtBackend, capfd: pytest.CaptureFixture[str]) -> None:
    spec = save(tmp_path / "none.onnx", "NoSuchOperator", shape=(4,))
    with pytest.raises((BackendError, BundleCorruptError)):
        backend.load(spec)
    graph = backend.load(save(tmp_path / "matmul.onnx", "MatMul", shape=("n", "m")))
    with pytest.raises(BackendError):
        graph.run({"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(BackendError):  # which ONNX Runtime calls an invalid argument
        graph.run({"x": np.zeros((2, 3, 4), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_run_failing_inside_raises_backend_error(tmp_path: Path, backend: OrtBackend) -> None:
    graph = backend.load(save(tmp_path / "matmul.onnx", "MatMul", shape=("n", "m")))
    with pytest.raises(BackendError, match="MatMul"):
        graph.run({"x": backend.put(np.zeros((2, 3), np.float32))})


def test_stack_split_and_combine_are_inverse_and_linear(backend: OrtBackend) -> None:
    one, two = np.full((1, 3), 1, np.float32), np.full((1, 3), 3, np.float32)
    parts = backend.split(backend.stack([one, two]))
    assert [part.tolist() for part in parts] == [one.tolist(), two.tolist()]
    assert backend.zeros_like(one).tolist() == [[0, 0, 0]]
    combined = [backend.combine(one, two, np.array(w, np.float32)) for w in ((1, 0), (0.5, 0.5), (-0.5, 1.5))]
    assert [array.tolist()[0][2] for array in combined] == [1, 2, 4]


def test_execute_puts_the_inputs_by_name(backend: OrtBackend) -> None:
    arrays: dict[str, NDArray[Any]] = {"x": np.arange(4, dtype=np.float32)[::-1], "y": np.ones(1, np.uint8)}
    seen = {}

    def function(buffers: Mapping[str, Buffer]) -> Buffer:
        seen.update({name: backend.get(buffer).tolist() for name, buffer in buffers.items()})
        return buffers["y"]

    assert backend.get(backend.execute("key", function, arrays)).tolist() == [1]
    assert seen == {"x": [3, 2, 1, 0], "y": [1]}


def test_load_every_graph_of_the_embedded_bundle(embedded_bundle: Path, backend: OrtBackend) -> None:
    for spec in (spec for forms in bundle.read(embedded_bundle).graphs.values() for spec in forms.values()):
        assert backend.load(spec).spec is spec
