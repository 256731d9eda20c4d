"""Explicit 8-bit quantisation of an ONNX graph, in the two forms that integer kernels exist for.

    signed         x ─ Q ─ DQ ─┐               TensorRT. Activations s8, symmetric, one rank-0 scale in the graph's
                   w8 ─── DQ ──┴ Conv ─ y      own float type; output and bias stay floating point.
    unsigned-cpu   x ─ Q ─ DQ ─┐               ONNX Runtime and OpenVINO on CPUs. Activations u8 with a zero point;
                   w7 ─── DQ ──┴ Conv ─ Q ─ DQ output quantised too: only then do convolutions run in integers.

Weights are s8 with one scale for each output channel in both, from -64 to 64 in the second, so that no CPU's sums of
products saturate (`quantize_cpu.WEIGHT_MAX`). In the signed form a scale of shape [1] instead of []
makes TensorRT for RTX run the convolution in floating point without a word, a quantised bias makes it refuse the graph,
and quantised attention products keep it from fusing the attention. With one scale for each output its convolutions
write float32, of twice the bytes; so for that library (`one_scale`) the scales follow the convolution:

    x ─ Q ─ DQ ─┐
    w8 ─ DQ[] ──┴ Conv ─ Mul [1, out, 1, 1] ─ Add bias ─ y

The weight's integers are the same. The other form is in `quantize_cpu`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from rdeic_rt.errors import ExportError

from ..onnx_view import GraphView, Layer, fingerprint
from . import qdq
from .quantize_cpu import UnsignedForm
from .ranges import FORMS, METHODS, GraphRanges

# Integer kernels work on blocks of 32 channels (signed) or 16 (unsigned); below that they cost more than they save.
LEAST_CHANNELS = {"signed": 32, "unsigned-cpu": 16}
# A convolution with one scale is multiplied by no more than this, so that half precision holds the factors.
MOST_FACTOR = 1024.0
# What calibration/README.md finds best on the embedded model.
DEFAULT_METHOD = "balanced"


@dataclass(frozen=True)
class QuantizationReport:
    """What was done to one graph.

    Attributes:
        form, method: as given.
        quantised: names of the layers in 8 bits.
        kept: layer -> why it is not.
    """

    form: str
    method: str
    quantised: tuple[str, ...]
    kept: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        return asdict(self)


def run(
    source: Path,
    target: Path,
    ranges: GraphRanges,
    *,
    form: str,
    method: str = DEFAULT_METHOD,
    keep: Mapping[str, str] | None = None,
    one_scale: bool = False,
) -> QuantizationReport:
    """Write a graph with its layers in 8 bits; same inputs, same bytes.

    Args:
        source: an ONNX file in float32 (weights may be stored as float16) or, for the signed form, float16.
        target: the file to write; many weights go to ``<target>.data`` beside it (`onnx_file`).
        ranges: of the graph's activations.
        form: ``signed`` or ``unsigned-cpu``.
        method: how scales are taken from the ranges, one of `ranges.METHODS`.
        keep: layer -> reason, for layers to leave in floating point; None for what ``ranges`` say. Layers with very few
            channels are left alone in any case.
        one_scale: in the signed form, one scale for the weight of a convolution, and a product after it; see above.

    Raises:
        ExportError: the ranges are of other weights or lack a layer.
        ValueError: no such form or method.
    """
    if form not in FORMS or method not in METHODS:
        raise ValueError(f"form {form!r} and method {method!r} must be among {FORMS} and {METHODS}")
    view = GraphView(source)
    _check(view, ranges, source)
    kept = {**(ranges.keep.get(form, {}) if keep is None else keep), **_narrow(view, form)}
    chosen = {layer.node: layer for layer in view.layers if layer.name not in kept}
    kind = UnsignedForm if form != "signed" else OneScaleForm if one_scale else SignedForm
    rewriter = kind(view, ranges, method, chosen)
    rewriter.rewrite()
    qdq.write(rewriter, target)
    names = tuple(layer.name for layer in chosen.values())
    return QuantizationReport(form, method, names, {name: kept[name] for name in sorted(kept)})


class SignedForm(qdq.Rewriter):
    """The form for TensorRT and OpenVINO."""

    def layer(self, node: onnx.NodeProto, layer: Layer) -> None:
        """Write a layer; layers that read one tensor share its Q and DQ."""
        float_type = np.dtype(helper.tensor_dtype_to_np_dtype(self.view.float_type(layer.weight)))
        self.product(node, layer, self.activation(node.input[0], layer, float_type), float_type)

    def activation(self, x: str, layer: Layer, float_type: np.dtype[Any]) -> str:
        """Return what a layer reads, in 8 bits and back."""
        if f"{x}.dq" not in self.made:
            limit = np.array(self.ranges.source(layer.name).signed[self.method] / qdq.INT8_MAX)
            root = self.ranges.layers[layer.name][0]
            scale = self.constant(f"{root}.scale", qdq.positive(limit, float_type))
            zero = self.constant(f"{root}.zero", np.zeros((), np.int8))
            self.add("QuantizeLinear", [x, scale, zero], f"{x}.q")
            self.add("DequantizeLinear", [f"{x}.q", scale, zero], f"{x}.dq")
        return f"{x}.dq"

    def product(self, node: onnx.NodeProto, layer: Layer, x: str, float_type: np.dtype[Any]) -> None:
        """Write a layer's own node."""
        weight, _ = self.weight(layer, float_type)
        self.take(node, [x, weight, *node.input[2:]], node.output[0])


class OneScaleForm(SignedForm):
    """The form for TensorRT for RTX: scales of a convolution's outputs, and its bias, are applied after it."""

    def product(self, node: onnx.NodeProto, layer: Layer, x: str, float_type: np.dtype[Any]) -> None:
        """Write a convolution with one scale and what follows; other layers as they are."""
        bias = self.view.stored(node.input[2]) if len(node.input) > 2 else None
        if layer.kind != "Conv" or (bias is None and len(node.input) > 2):
            super().product(node, layer, x, float_type)
            return
        integers, scales = self.integers(layer, float_type)
        # The convolution's own outputs must fit half precision too: they are as large as those of a middling channel.
        scale = np.array(max(np.median(scales), scales.max() / MOST_FACTOR)).astype(float_type)
        inputs = [
            self.constant(f"{layer.name}.weight.q", integers),
            self.constant(f"{layer.name}.weight.scale", scale),
            self.constant(f"{layer.name}.weight.zero", np.zeros((), np.int8)),
        ]
        weight = self.add("DequantizeLinear", inputs, f"{layer.name}.weight.dq")
        y = node.output[0]
        product = self.take(node, [x, weight], f"{y}.product")
        shape = (1, -1, *(1 for _ in layer.shape[2:]))
        factors = self.constant(f"{layer.name}.factors", (scales / float(scale)).astype(float_type).reshape(shape))
        if bias is None:
            self.add("Mul", [product, factors], y)
        else:
            added = self.constant(f"{layer.name}.added", self.view.array(bias).astype(float_type).reshape(shape))
            self.add("Add", [self.add("Mul", [product, factors], f"{y}.scaled"), added], y)


def _check(view: GraphView, ranges: GraphRanges, source: Path) -> None:
    missing = [layer.name for layer in view.layers if layer.name not in ranges.layers]
    if missing or fingerprint(view) != ranges.weights:
        what = f"lack the layers {', '.join(missing[:5])}" if missing else "were measured with other weights"
        raise ExportError(
            f"{source}: the activation ranges {what}. Measure them again with `python calibration/collect_ranges.py`."
        )


def _narrow(view: GraphView, form: str) -> dict[str, str]:
    """Return the layers with too few channels, and the reason in words."""
    least = LEAST_CHANNELS[form]
    return {
        layer.name: f"{layer.channels[0]} input and {layer.channels[1]} output channels: integer kernels want {least}"
        for layer in view.layers
        if min(layer.channels) < least
    }
