"""A network with what Stable Diffusion's UNet is made of, small enough to build plans of it in a test."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rdeic_export.forms import ranges
from rdeic_export.forms.ranges import GraphRanges, TensorRange
from rdeic_export.onnx_view import GraphView, fingerprint

SIZE = 16


class AttentionNet(nn.Module):
    """conv_in, GroupNorm + SiLU + conv, self-attention with heads of 64, conv_out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(4, 128, 3, padding=1), nn.Conv2d(128, 4, 3, padding=1)
        self.norm, self.conv = nn.GroupNorm(32, 128), nn.Conv2d(128, 128, 3, padding=1)
        self.layer_norm = nn.LayerNorm(128)
        self.q, self.k, self.v = (nn.Linear(128, 128, bias=False) for _ in range(3))
        self.out = nn.Linear(128, 128)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        h = h + self.conv(functional.silu(self.norm(h)))
        tokens = self.layer_norm(h.flatten(2).transpose(1, 2))
        q, k, v = (f(tokens).unflatten(2, (2, 64)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.conv_out(h + self.out(mixed).transpose(1, 2).unflatten(2, (SIZE, SIZE)))
        return out


def export(folder: Path) -> tuple[Path, GraphRanges, np.ndarray]:
    """Return the network in float32, the ranges of its activations, and the input they are for."""
    torch.manual_seed(0)
    sample = torch.randn(1, 4, SIZE, SIZE)
    path = folder / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            AttentionNet().eval(), (sample,), input_names=["x"], output_names=["y"], opset_version=20, dynamo=True
        )
    assert program is not None
    program.save(str(path), external_data=False)
    return path, measured(path, {"x": sample.numpy()}), sample.numpy()


def measured(path: Path, inputs: Mapping[str, np.ndarray]) -> GraphRanges:
    """Return the ranges of the activations of a graph, for one value of each input."""
    from rdeic_export.calibration import probe

    view = GraphView(path)
    tensors = tuple(dict.fromkeys(end for layer in view.layers for end in (layer.source, layer.result)))
    session = probe.session(path, probe.Probe(tensors, whole=True))
    names = [output.name for output in session.get_outputs()]
    values = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    found = {}
    for name in tensors:
        value = values[f"probe/{name}"]
        low, high = min(0.0, float(value.min())), max(0.0, float(value.max()))
        found[name] = TensorRange(
            {}, dict.fromkeys(ranges.METHODS, max(-low, high)), dict.fromkeys(ranges.METHODS, (low, high))
        )
    return GraphRanges(fingerprint(view), {layer.name: (layer.source, layer.result) for layer in view.layers}, found)
