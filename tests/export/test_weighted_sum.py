"""The graph that belongs to the runtime and to no bundle: what a GPU backend computes between the others."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from rdeic_rt.backends.base import WEIGHTED_SUM
from rdeic_rt.backends.cpu.ort import OrtBackend


def weighted_sum_graph() -> bytes:
    """Return what ``rdeic_rt/backends/weighted_sum.onnx`` is a copy of: out = weights[0] x + weights[1] y, float32."""
    values = [
        [helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.shape) for tensor in side]
        for side in (WEIGHTED_SUM.inputs, WEIGHTED_SUM.outputs)
    ]
    nodes = [
        helper.make_node("Split", ["weights"], ["of_x", "of_y"], axis=0),
        helper.make_node("Mul", ["x", "of_x"], ["weighted_x"]),
        helper.make_node("Mul", ["y", "of_y"], ["weighted_y"]),
        helper.make_node("Add", ["weighted_x", "weighted_y"], ["out"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, WEIGHTED_SUM.id, values[0], values[1]),
        producer_name="rdeic-rt",
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def test_shipped_graph_is_this_one() -> None:
    assert WEIGHTED_SUM.path.read_bytes() == weighted_sum_graph(), f"write weighted_sum_graph() to {WEIGHTED_SUM.path}"
    onnx.checker.check_model(onnx.load(WEIGHTED_SUM.path), full_check=True)


def test_weighted_sum_graph_computes_what_the_cpu_backend_does() -> None:
    backend = OrtBackend(threads=1)
    x, y = (np.random.default_rng(n).standard_normal((2, 3, 5, 7), np.float32) for n in range(2))
    weights = np.array([0.75, -1.5], np.float32)
    result = backend.get(backend.load(WEIGHTED_SUM).run({"x": x, "y": y, "weights": weights})["out"])
    np.testing.assert_allclose(result, backend.weighted_sum(x, y, weights), rtol=0, atol=1e-6)
