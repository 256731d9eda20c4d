"""What is counted of attention is what the derived graphs hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
from tests.bench import attention_traffic
from tests.micro import make_micro

from rdeic_export.fold import graphs
from rdeic_export.forms import fused, half
from rdeic_rt import bundle as bundles
from rdeic_rt.tensor_spec import TensorSpec

SIZES = {"batch": 2, "hz": 1, "wz": 2}


def moved_bytes(path: Path, inputs: Sequence[TensorSpec]) -> int:
    """Return what is written and read of all tensors from the first product of attention to the second."""
    model = onnx.load(path)
    nodes = list(model.graph.node)
    producers = {node.output[0]: node for node in nodes}
    between: set[str] = set()
    for node in nodes:
        if node.op_type == "Softmax":
            name = node.output[0]
            between.update(x.output[0] for x in nodes if x.op_type == "Cast" and x.input[0] == name)
            while producers[name].op_type != "MatMul":  # back to the product that makes the logits
                between.add(name)
                name = producers[name].input[0]
            between.add(name)
    names = sorted(between)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    feed = {x.name: np.zeros(x.resolve(SIZES), x.dtype) for x in inputs}
    values = onnx.reference.ReferenceEvaluator(model).run(names, feed) if names else []
    reads = Counter(name for node in nodes for name in node.input)
    return sum((1 + reads[name]) * value.nbytes for name, value in zip(names, values, strict=True))


@pytest.mark.parametrize("role", ["unet_step", "control", "vae_decoder"])
def test_count_is_what_the_derived_graphs_move(golden_bundle: Path, tmp_path: Path, role: str) -> None:
    spec = bundles.read(golden_bundle).reference("control_r0" if role == "control" else role)
    model = make_micro.model()
    folded = {**graphs.rate_graphs(model), **graphs.shared_graphs(model)}
    apart, together = tmp_path / "apart.onnx", tmp_path / "together.onnx"
    half.run(spec.path, apart)
    logits = attention_traffic.count(folded[role], SIZES)
    assert moved_bytes(apart, spec.inputs) == logits.bytes_apart() > 0
    is_fused = fused.run(apart, together) > 0
    assert logits.bytes_fused() == (moved_bytes(together, spec.inputs) if is_fused else logits.bytes_apart())


def test_wide_heads_move_as_much_as_before() -> None:
    logits = attention_traffic.Logits()
    logits.add(64, 1000)
    logits.add(512, 10)
    assert logits.bytes_apart() == 1000 * 24 + 10 * 8
    assert logits.bytes_fused() == 10 * 8
