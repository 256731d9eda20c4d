"""Graphs with weights in a file beside them, for tests of every backend that loads ONNX files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rdeic_rt.backends.base import Backend
from rdeic_rt.bundle_file import BundleFile
from rdeic_rt.manifest import GraphSpec
from rdeic_rt.tensor_spec import TensorSpec

_OFFSET = 4096


def with_weights(
    folder: Path, weights: NDArray[np.float32], location: str = "matmul.onnx.data", *, verify: bool = True
) -> GraphSpec:
    """Write the graph y = x W, with W in the file matmul.onnx.data, which is listed, and return its spec."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=weights.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", _OFFSET), ("length", weights.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weights.shape[0]])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[1]])]
    body = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "matmul", inputs, outputs, [tensor])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    listed = {
        name: listing(folder / name, content, verify=verify)
        for name, content in (
            ("matmul.onnx", model.SerializeToString()),
            ("matmul.onnx.data", bytes(_OFFSET) + weights.tobytes()),
        )
    }
    return GraphSpec(
        "matmul",
        "fp32",
        listed["matmul.onnx"],
        (TensorSpec("x", "float32", ("n", weights.shape[0])),),
        (TensorSpec("y", "float32", ("n", weights.shape[1])),),
        listed=listed,
    )


def listing(path: Path, content: bytes, *, verify: bool = True) -> BundleFile:
    """Write a file and return what a bundle would say of it."""
    path.write_bytes(content)
    return BundleFile(path, len(content), hashlib.sha256(content).hexdigest(), verify)


def check_outside_weights(folder: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    """Check that the listed file is used, though one of the same name lies in the working folder, and kept mapped."""
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((256, 256)).astype(np.float32)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with_weights(elsewhere, -weights)
    spec = with_weights(folder, weights)
    x = rng.standard_normal((3, 256)).astype(np.float32)
    graph = backend.load(spec)
    for path in folder.glob("matmul.onnx*"):
        path.unlink()
    np.testing.assert_allclose(backend.get(graph.run({"x": backend.put(x)})["y"]), x @ weights, rtol=0.05, atol=0.5)
    assert onnx.load(elsewhere / "matmul.onnx")  # the other one is a whole model
