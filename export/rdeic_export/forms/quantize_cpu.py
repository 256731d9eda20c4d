"""The form unsigned-cpu: what integer kernels for CPUs need (ONNX Runtime, OpenVINO), and a short way between them.

    x ─ Q ─[moves on u8]─ DQ ─┐
    w7 ────────────────── DQ ─┼ Conv ─ Q ─[moves on u8]─ DQ ─ y
    b32 ───────────────── DQ ─┘

- What only moves values is done on bytes (`layers`), and a layer that reads another's output reads its bytes.
- DepthToSpace moves single values, which takes ONNX Runtime as long as the convolution before it. Here the convolution
  makes its channels in another order, so that rows of channels move.
- A convolution's output has one scale, but the ranges of its channels differ by up to a hundredfold: each is divided by
  its own scale in the weights and multiplied by it again in the DQ, at no cost.
- The last convolution of an image decoder writes pixels: its scale and zero point are those of 0 .. 255.
- Weights have 7 bits, because many CPUs add two products in 16 bits (`WEIGHT_MAX`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from rdeic_rt.errors import ExportError

from ..onnx_view import GraphView, Layer, attributes
from .qdq import ORT_DOMAIN, UINT8_MAX, Rewriter
from .ranges import GraphRanges

# Greatest magnitude of a weight. x86 CPUs without VNNI (AVX2, and the first with AVX-512) add products of an activation
# u8 and a weight s8 in pairs, in 16 bits that saturate (vpmaddubsw). 2 * 255 * 64 = 32640 fits; with weights up to 127
# images are at 27 dB from float32 there, and no kernel says so. The eighth bit is worth 0.2 dB elsewhere.
WEIGHT_MAX = 64

_FLOAT32 = np.dtype(np.float32)
# The scale of a channel that hardly varies, as a share of the widest one's.
_LEAST_UNIT = 1e-4
# Constants that all layers share; no exported tensor has a slash in its name.
_SAME_SHAPE, _ONE, _NONE = "int8/same_shape", "int8/one", "int8/none"


class UnsignedForm(Rewriter):
    """The form for ONNX Runtime.

    Scale and zero point of a tensor are the constants ``<parameters>.scale`` and ``<parameters>.zero``.

    Attributes:
        u8: float tensor -> its u8 version, and the parameters of that.
        exact: float tensors that are made from their u8 version, and not the other way round.
    """

    weight_max = WEIGHT_MAX

    def __init__(self, view: GraphView, ranges: GraphRanges, method: str, chosen: Mapping[str, Layer]) -> None:
        super().__init__(view, ranges, method, chosen)
        if any(view.float_type(layer.weight) != TensorProto.FLOAT for layer in chosen.values()):
            raise ExportError("the form unsigned-cpu is made from a float32 graph, and this one is not")
        self.u8: dict[str, tuple[str, str]] = {}
        self.exact: set[str] = set()
        outputs = {node.output[0] for node in view.model.graph.node if node.name in chosen and node.op_type == "Conv"}
        self._shuffles = {end.output[0]: found for end, found in _shuffles(view, outputs)}
        self._shuffled = {part: found for found in self._shuffles.values() for part in found.parts}
        self._read_as_u8 = _ways_up(view, chosen)

    def layer(self, node: onnx.NodeProto, layer: Layer) -> None:
        """Write a layer; the output of all but convolutions stays floating point."""
        x = node.input[0]
        source = self.ranges.layers[layer.name][0]
        self.quantize(x, self.parameters(source, *self.ranges.source(layer.name).unsigned[self.method]))
        if layer.kind == "MatMul":
            self._product(node, layer)
            return
        inputs = [self.dequantize(x, f"{layer.name}.input")]
        if layer.kind == "Conv":
            self._convolution(node, layer, inputs, float(self.constants[f"{self.u8[x][1]}.scale"]))
        else:
            self.take(node, [*inputs, self.weight(layer, _FLOAT32)[0], *node.input[2:]], node.output[0])

    def copy(self, node: onnx.NodeProto) -> None:
        """Take over a node; if it only moves what is there as integers, it moves those."""
        data = list(node.input) if node.op_type == "Concat" else list(node.input[:1])
        output = node.output[0]
        shuffle = self._shuffles.get(output)
        if shuffle is not None and self.exact.issuperset(shuffle.parts):
            self.produced(output, self.shuffle(output, shuffle), self.u8[shuffle.parts[0]][1])
        elif not data or not self.exact.issuperset(data):
            self.append(node)
        elif node.op_type == "Shape":
            self.take(node, [self.u8[data[0]][0]], output)
        elif (node.op_type == "Concat" or self.view.is_move(node)) and len({self.u8[x][1] for x in data}) == 1:
            self.u8[output] = (self.moved(node), self.u8[data[0]][1])
            self.exact.add(output)
            self.dequantize(output, output)
        else:
            self.append(node)

    def quantize(self, tensor: str, parameters: str) -> None:
        """Make the u8 version of a float tensor, from that of the tensor it was moved from."""
        if tensor in self.u8:
            return
        node = self.view.producers.get(tensor)
        if node is not None and self.view.is_move(node):
            self.quantize(node.input[0], parameters)
            self.u8[tensor] = (self.moved(node), self.u8[node.input[0]][1])
        else:
            inputs = [tensor, f"{parameters}.scale", f"{parameters}.zero"]
            self.u8[tensor] = (self.add("QuantizeLinear", inputs, f"{tensor}.q"), parameters)

    def dequantize(self, tensor: str, output: str) -> str:
        """Make a float tensor of the u8 version of one, and return it."""
        integers, parameters = self.u8[tensor]
        return self.add("DequantizeLinear", [integers, f"{parameters}.scale", f"{parameters}.zero"], output)

    def produced(self, tensor: str, integers: str, parameters: str) -> None:
        """Say that a float image is what these integers mean, and make it for those who want floats."""
        self.u8[tensor] = (integers, parameters)
        self.exact.add(tensor)
        self.floats(tensor, integers, parameters)

    def floats(self, tensor: str, integers: str, parameters: str) -> None:
        """Make a float image [B, C, H, W] of u8 values, whose scales may be those of its channels.

        The Reshape changes nothing: it keeps ONNX Runtime from moving its transposes on, from bytes to floats.
        """
        inputs = [integers, f"{parameters}.scale", f"{parameters}.zero"]
        if tensor in self.view.outputs:  # nothing to move on to, and a Reshape into an output copies
            self.add("DequantizeLinear", inputs, tensor, axis=1)
            return
        values = self.add("DequantizeLinear", inputs, f"{tensor}.dq", axis=1)
        self.add("Reshape", [values, self.constant(_SAME_SHAPE, np.array([0, 0, 0, -1]))], tensor)

    def moved(self, node: onnx.NodeProto) -> str:
        """Do on u8 what a node does with its tensors; return the output."""
        n_data = len(node.input) if node.op_type == "Concat" else 1
        inputs = [self.u8[x][0] for x in node.input[:n_data]] + list(node.input[n_data:])
        if node.op_type == "Pad":
            inputs[2:3] = [f"{self.u8[node.input[0]][1]}.zero"]
        output = f"{node.output[0]}.q"
        return output if output in self.made else self.take(node, inputs, output)

    def parameters(self, name: str, low: float, high: float) -> str:
        """Add scale and zero point for a range; return the name they share."""
        scale = max((high - low) / UINT8_MAX, float(np.finfo(np.float32).tiny))
        self.constant(f"{name}.scale", np.array(scale, np.float32))
        self.constant(f"{name}.zero", np.array(np.clip(np.rint(-low / scale), 0, UINT8_MAX), np.uint8))
        return name

    def shuffle(self, name: str, shuffle: _Shuffle) -> str:
        """Do a DepthToSpace on u8 channels in the order (row in block, column in block, channel); return the output.

        [B, H, W, b b C] ─ [B, H, W, b, b C] ─ [B, H, b, W, b C] ─ [B, b H, b W, C]
        """
        block, parts = shuffle.block, [self.u8[part][0] for part in shuffle.parts]
        if f"{name}.q" in self.made:
            return f"{name}.q"

        def numbers(suffix: str, *values: int) -> str:
            return self.constant(f"{name}.{suffix}", np.array(values, np.int64))

        last = [self.add("Transpose", [part], f"{part}.last", perm=(0, 2, 3, 1)) for part in parts]
        rows = last[0] if len(last) == 1 else self.add("Concat", last, f"{name}.rows", axis=3)
        split = numbers("split", 0, 0, 0, block, block * shuffle.channels)
        blocks = self.add("Reshape", [rows, split], f"{name}.blocks")
        turned = self.add("Transpose", [blocks], f"{name}.turned", perm=(0, 1, 3, 2, 4))
        shape = self.add("Shape", parts[:1], f"{name}.shape")
        sizes = self.add("Gather", [shape, numbers("axes", 0, 2, 3)], f"{name}.sizes")
        larger = self.add("Mul", [sizes, numbers("factors", 1, block, block)], f"{name}.larger")
        whole = self.add("Concat", [larger, numbers("channels", shuffle.channels)], f"{name}.whole", axis=0)
        merged = self.add("Reshape", [turned, whole], f"{name}.merged")
        return self.add("Transpose", [merged], f"{name}.q", perm=(0, 3, 1, 2))

    def _product(self, node: onnx.NodeProto, layer: Layer) -> None:
        """Write a MatMul as ONNX Runtime's own operator, which it makes of Q, DQ and MatMul only if no bias follows."""
        integers, parameters = self.u8[node.input[0]]
        self.weight(layer, _FLOAT32)
        weight = f"{layer.name}.weight"
        inputs = [
            integers,
            f"{weight}.q",
            f"{parameters}.scale",
            f"{weight}.scale",
            f"{parameters}.zero",
            f"{weight}.zero",
        ]
        add, output = self.view.bias_add(node), node.output[0]
        if add is not None:
            stored = self.view.stored(next(name for name in add.input if name != output))
            assert stored is not None  # bias_add saw the initialiser
            inputs.append(self.constant(f"{layer.name}.bias", self.view.array(stored).astype(np.float32)))
            output = add.output[0]
        self.add("MatMulIntegerToFloat", inputs, output, domain=ORT_DOMAIN)

    def _convolution(self, node: onnx.NodeProto, layer: Layer, inputs: list[str], scale_in: float) -> None:
        """Write a convolution that makes (y + offset) / units, in bytes, and make y of them."""
        y, n_outputs = node.output[0], layer.channels[1]
        result, channels = self.ranges.layers[layer.name][1], self.ranges.result(layer.name).channels
        units, offset, order = np.ones(n_outputs), np.zeros(n_outputs), None
        tail, shuffle = _pixel_tail(self.view, y), self._shuffled.get(y)
        by_channel = tail is None and shuffle is None and channels is not None and self._stays_float(y)
        if by_channel and channels is not None:
            result = f"{y}.channels"
            units, offset = self._channel_parameters(result, *map(np.asarray, channels))
            scale, zero = self.constant(_ONE, np.array(1, np.float32)), self.constant(_NONE, np.array(0, np.uint8))
        else:
            if tail is not None:
                result, base = f"{y}.pixels", np.floor(tail.shift * tail.factor)
                self.constant(f"{result}.scale", np.array(1 / tail.factor, np.float32))
                self.constant(f"{result}.zero", np.array(base, np.uint8))
                offset += tail.shift - base / tail.factor
            else:
                self.parameters(result, *self.ranges.result(layer.name).unsigned[self.method])
            scale, zero = f"{result}.scale", f"{result}.zero"
        if shuffle is not None and len(shuffle.parts) == 1 and shuffle.channels_first:
            order = np.arange(n_outputs).reshape(shuffle.channels, -1).T.reshape(-1)
        weight, scales = self.weight(layer, _FLOAT32, units, order)
        bias = self._bias(node, layer, scale_in * scales, units, offset, order)
        self.take(node, [*inputs, weight, bias], f"{y}.float")
        integers = self.add("QuantizeLinear", [f"{y}.float", scale, zero], f"{y}.q")
        if by_channel:
            self.floats(y, integers, result)
            return
        self.produced(y, integers, result)
        if tail is not None:
            for move in tail.moves:
                shuffle = self._shuffles.get(move.output[0])
                if shuffle is not None:
                    integers = self.shuffle(move.output[0], shuffle)
                else:
                    integers = self.take(move, [integers, *move.input[1:]], f"{move.output[0]}.q")
            self.add("Identity", [integers], tail.output)

    def _stays_float(self, tensor: str) -> bool:
        """Return whether neither a tensor nor what is made of it is quantised next: ONNX Runtime merges those."""
        made = {name for node in self.view.consumers.get(tensor, ()) for name in node.output}
        return self._read_as_u8.isdisjoint({tensor, *made})

    def _channel_parameters(
        self, name: str, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Add scale and zero point of each channel; return the scales, and what makes the least value zero."""
        units = (high - low) / UINT8_MAX
        units = np.maximum(units, max(units.max() * _LEAST_UNIT, float(np.finfo(np.float32).tiny))).astype(np.float32)
        zeros = np.clip(np.rint(-low / units), 0, UINT8_MAX)
        self.constant(f"{name}.scale", units)
        self.constant(f"{name}.zero", zeros.astype(np.uint8))
        return units.astype(np.float64), zeros * units.astype(np.float64)

    def _bias(
        self,
        node: onnx.NodeProto,
        layer: Layer,
        scales: NDArray[np.float64],
        units: NDArray[np.float64],
        offset: NDArray[np.float64],
        order: NDArray[np.int64] | None,
    ) -> str:
        """Add a bias as int32 in units of the products; return the dequantised tensor."""
        stored = self.view.stored(node.input[2]) if len(node.input) > 2 else None
        bias = np.zeros(len(scales)) if stored is None else self.view.array(stored).astype(np.float64)
        if order is not None:
            bias = bias[order]
        info = np.iinfo(np.int32)
        rounded = np.clip(np.rint((bias + offset) / scales), info.min, info.max)
        inputs = [
            self.constant(f"{layer.name}.bias.q", rounded.astype(np.int32)),
            self.constant(f"{layer.name}.bias.scale", (scales / units).astype(np.float32)),
            self.constant(f"{layer.name}.bias.zero", np.zeros(len(scales), np.int32)),
        ]
        return self.add("DequantizeLinear", inputs, f"{layer.name}.bias.dq", axis=0)


@dataclass(frozen=True)
class _Shuffle:
    """A DepthToSpace of convolutions' outputs.

    Attributes:
        parts: the outputs; one, or one for each place in a block, stacked behind the channels.
        block: side of a block.
        channels: of the result.
        channels_first: a single part has its channels in the order (channel, row, column), not (row, column, channel).
    """

    parts: tuple[str, ...]
    block: int
    channels: int
    channels_first: bool


@dataclass(frozen=True)
class _PixelTail:
    """The end of an image decoder: ``+ shift ─ * factor ─ Clip 0..255 ─ Round ─ Cast u8 ─ output``, moves anywhere."""

    moves: tuple[onnx.NodeProto, ...]
    shift: float
    factor: float
    output: str


def _shuffles(view: GraphView, convolved: set[str]) -> Sequence[tuple[onnx.NodeProto, _Shuffle]]:
    """Return every DepthToSpace of nothing but convolutions' outputs."""
    found = []
    n_channels = {
        node.output[0]: _out_channels(view, node) for name, node in view.producers.items() if name in convolved
    }
    for node in view.model.graph.node:
        if node.op_type != "DepthToSpace":
            continue
        options = attributes(node)
        block, channels_first = options["blocksize"], options.get("mode", b"DCR") == b"CRD"
        parts = [node.input[0]]
        if parts[0] not in convolved and channels_first:
            parts = _stacked(view, node.input[0])
        if convolved.issuperset(parts) and all(view.only_consumer(part) is not None for part in parts):
            channels = n_channels[parts[0]] * len(parts) // block**2
            if len(parts) in (1, block**2):
                found.append((node, _Shuffle(tuple(parts), block, channels, channels_first)))
    return found


def _stacked(view: GraphView, tensor: str) -> list[str]:
    """Return what was stacked behind the channels to make a tensor ``Unsqueeze(2) ─ Concat(2) ─ Reshape``, or []."""
    reshape = view.producers.get(tensor)
    concat = view.producers.get(reshape.input[0]) if reshape is not None and reshape.op_type == "Reshape" else None
    if concat is None or concat.op_type != "Concat" or attributes(concat)["axis"] != 2:
        return [tensor]
    parts = [view.producers.get(name) for name in concat.input]
    unsqueezed = [p for p in parts if p is not None and p.op_type == "Unsqueeze" and view.scalar(p.input[1]) == 2.0]
    return [p.input[0] for p in unsqueezed] if len(unsqueezed) == len(parts) else [tensor]


def _out_channels(view: GraphView, node: onnx.NodeProto) -> int:
    return next(layer.channels[1] for layer in view.layers if layer.node == node.name)


def _ways_up(view: GraphView, chosen: Mapping[str, Layer]) -> set[str]:
    """Return the inputs of the layers and all tensors that these were moved from."""
    ways = set()
    for node in view.model.graph.node:
        if node.name in chosen:
            tensor = node.input[0]
            ways.add(tensor)
            while (before := view.producers.get(tensor)) is not None and view.is_move(before):
                tensor = before.input[0]
                ways.add(tensor)
    return ways


def _pixel_tail(view: GraphView, tensor: str) -> _PixelTail | None:
    moves, numbers = [], []
    steps = [("Add", 1), ("Mul", 1), ("Clip", 2), ("Round", 0), ("Cast", 0)]
    while steps:
        node = view.only_consumer(tensor)
        if node is None:
            return None
        operator, n_constants = steps[0]
        if node.op_type == operator and len(node.input) == n_constants + 1:
            numbers += [value for name in node.input if name != tensor and (value := view.scalar(name)) is not None]
            steps.pop(0)
        elif node.op_type != "Pad" and node.input[0] == tensor and view.is_move(node):
            moves.append(node)
        else:
            return None
        tensor = node.output[0]
    if (
        len(numbers) != 4
        or numbers[2:] != [0.0, 255.0]
        or attributes(view.producers[tensor])["to"] != TensorProto.UINT8
    ):
        return None
    shift, factor = numbers[:2]
    return _PixelTail(tuple(moves), shift, factor, tensor) if factor > 0 and 0 <= shift * factor < 256 else None
