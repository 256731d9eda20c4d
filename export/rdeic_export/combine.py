"""The one graph that belongs to the runtime and not to a bundle: what a GPU backend computes between the others."""

from __future__ import annotations

from typing import cast

from onnx import TensorProto, helper

from rdeic_rt.backends.base import COMBINE


def combine_graph() -> bytes:
    """Return what ``rdeic_rt/backends/combine.onnx`` is a copy of: out = weights[0] x + weights[1] y, float32."""
    values = [
        [helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.shape) for tensor in side]
        for side in (COMBINE.inputs, COMBINE.outputs)
    ]
    nodes = [
        helper.make_node("Split", ["weights"], ["of_x", "of_y"], axis=0),
        helper.make_node("Mul", ["x", "of_x"], ["weighted_x"]),
        helper.make_node("Mul", ["y", "of_y"], ["weighted_y"]),
        helper.make_node("Add", ["weighted_x", "weighted_y"], ["out"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, COMBINE.id, values[0], values[1]),
        producer_name="rdeic-rt",
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    return cast(bytes, model.SerializeToString(deterministic=True))
