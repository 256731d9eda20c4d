"""Every exported graph, in ONNX Runtime, against the module it was exported from, at a size the exporter never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from rdeic_rt.errors import ExportError

from ..modules.signature import Signature, sample
from ..onnx_export import tensors_of

SIZES = {"batch": 1, "hz": 3, "wz": 4}
FLOAT_LIMIT = 1e-3  # largest difference over the output's rms: fp32 arithmetic in another order
PIXEL_LIMIT = 1  # levels of 255: a value on a rounding boundary may fall either way
INDEX_LIMIT = 0.01  # fraction of code vectors that may differ: ties, on random input


@torch.no_grad()
def graph(module: nn.Module, signature: Signature, path: Path) -> dict[str, float]:
    """Return the error of each output of an exported graph against its module.

    Args:
        module: what was exported, its weights rounded as they are stored.
        signature: the graph's inputs and outputs.
        path: the ONNX file.

    Raises:
        ExportError: an output is further off than its limit.
    """
    generator = torch.Generator().manual_seed(1)
    inputs = [sample(tensor, generator, SIZES, index_bound=signature.index_bound) for tensor in signature.inputs]
    names = [tensor.name for tensor in signature.inputs]
    expected = tensors_of(module(*signature.arguments(inputs)))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    actual = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    errors = {}
    for tensor, want, got in zip(signature.outputs, expected, actual, strict=True):
        error, limit = _compare(tensor.dtype, want.numpy(), got)
        errors[tensor.name] = error
        if not error <= limit:
            raise ExportError(
                f"graph {signature.name}, output {tensor.name}: error {error:.3g} is over the limit {limit:g}"
            )
    return errors


def _compare(dtype: str, want: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    if want.shape != got.shape:
        return float("inf"), 0.0
    if dtype == "int64":
        return float(np.mean(want != got)), INDEX_LIMIT
    difference = float(np.abs(want.astype(np.float64) - got.astype(np.float64)).max())
    if dtype == "uint8":
        return difference, PIXEL_LIMIT
    return difference / max(rms(want), 1e-12), FLOAT_LIMIT


def rms(values: np.ndarray) -> float:
    """Return the root mean square of an array."""
    return float(np.sqrt(np.square(values.astype(np.float64)).mean()))
