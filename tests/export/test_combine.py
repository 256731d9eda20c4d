from __future__ import annotations

import numpy as np
import onnx

from rdeic_export import combine
from rdeic_rt.backends.base import COMBINE
from rdeic_rt.backends.ort import OrtBackend


def test_shipped_combine_graph_is_what_the_exporter_makes() -> None:
    assert COMBINE.path.read_bytes() == combine.combine_graph(), f"write combine.combine_graph() to {COMBINE.path}"
    onnx.checker.check_model(onnx.load(COMBINE.path), full_check=True)


def test_combine_graph_computes_what_the_cpu_backend_does() -> None:
    backend = OrtBackend(threads=1)
    x, y = (np.random.default_rng(n).standard_normal((2, 3, 5, 7), np.float32) for n in range(2))
    weights = np.array([0.75, -1.5], np.float32)
    result = backend.load(COMBINE).run({"x": x, "y": y, "weights": weights})["out"]
    np.testing.assert_allclose(result, backend.combine(x, y, weights), rtol=0, atol=1e-6)
