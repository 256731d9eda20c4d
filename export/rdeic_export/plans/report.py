"""What a TensorRT for RTX plan really runs, layer by layer, read from its bytes without a GPU.

"It builds" is not "it runs in 8 bits": a quantised layer whose pattern the builder does not know is run in floating
point without a word. A plan holds its program as text, which nobody documents; this is what is known of it:

    header {  version = 5 ... accelerators={sm80 sm86 ... } }
    descriptors {  tensor={ ... name="x.1" ... type=half } ... }
    main {
      corrltn={ name="node_conv2d_1" output={"..."} input={"activation" "weight" ...} ... }      convolution
      fully_connected={ name="node_linear_2+node_linear" output={...} input={...} ... }          linear layers
      runtime_fusion={ ... input_args={...} ... layers="[ONNX Layer: node_add]..." backbone=gemm }   conv or gemm
      function={ name=_gemm_mha_v2 ... input_args={...} ... }                                    fused attention
      function={ name=__myl_SiluMul ... }                                                       anything else
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rdeic_rt.errors import ExportError

VERSIONS = (4, 5)  # of the text: with dynamic sizes and with fixed ones, as TensorRT for RTX 1.7 writes it
_START = re.compile(rb"header \{\s+version = (\d+)\s")
_END = re.compile(rb"[^\t\n\r\x1f -~]")
_TENSOR = re.compile(r'tensor=\{[^\n]*?name="(?P<name>[^"]*)"[^\n]*? type=(?P<type>\w+)')
_LAYER = re.compile(r"^ *(?P<kind>corrltn|fully_connected|runtime_fusion|runtime_function|function)=\{ ", re.MULTILINE)
_NAME = re.compile(r'name=(?:"([^"]*)"|(\S+))')
_INPUTS = re.compile(r"\binput(?:_args)?=\{([^}]*)\}")
_OUTPUTS = re.compile(r"\boutput(?:_args)?=\{([^}]*)\}")
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_BACKBONE = re.compile(r"\bbackbone=(\w+)")
_BACKBONES = {"conv": "conv", "gemm": "linear"}
_PRECISIONS = {"half": "fp16", "float": "fp32", "bfloat": "bf16"}


@dataclass(frozen=True)
class PlanLayer:
    """One kernel of a plan.

    Attributes:
        name: of the ONNX nodes it computes, joined by ``+``; the kernel's own where the plan does not say.
        kind: ``conv``, ``linear``, ``attention``, or ``other``.
        inputs: types of what it reads, first activation, then weight: ``int8``, ``fp16``, ``fp32``, ...
        count: how many linear layers it is: those that read one tensor are run as one.
        output: type of what it writes.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    count: int = 1
    output: str = "unknown"

    @property
    def precision(self) -> str:
        """What it multiplies: the type of activation and weight, ``mixed`` if they differ."""
        factors = self.inputs[:2]
        return factors[0] if len(set(factors)) == 1 else "mixed"


def layers(plan: bytes) -> list[PlanLayer]:
    """Return the kernels of a plan in running order.

    Raises:
        ExportError: the bytes hold no such text, or one of another version.
    """
    programs = sorted(map(_program, _texts(plan)), key=len, reverse=True)
    # A fused kernel has a program of its own, which holds the unfused layer with its inputs in order.
    unfused = {layer.name: layer.inputs for program in programs[1:] for layer in program}
    found = []
    for layer in programs[0]:
        inputs = next((unfused[node] for node in layer.name.split("+") if node in unfused), layer.inputs)
        found.append(replace(layer, inputs=inputs) if layer.kind in _BACKBONES.values() else layer)
    if not found:
        raise ExportError(
            "the plan's program lists no kernels that this version can read; its precisions cannot be reported. "
            "Build it with TensorRT for RTX 1.7 to see them."
        )
    return found


def summary(found: Sequence[PlanLayer]) -> dict[str, Any]:
    """Return the number of layers of each precision, for a report.

    Returns:
        ``conv`` and ``linear``: precision -> count; ``conv_output``: type that convolutions write -> count;
        ``attention``: fused attentions; ``kernels``: all of them.
    """
    counts: dict[str, Any] = {"conv": Counter(), "linear": Counter(), "conv_output": Counter()}
    for layer in found:
        if layer.kind in counts:
            counts[layer.kind][layer.precision] += layer.count
        if layer.kind == "conv":
            counts["conv_output"][layer.output] += 1
    return {
        **{kind: dict(sorted(counter.items())) for kind, counter in counts.items()},
        "attention": sum(layer.kind == "attention" for layer in found),
        "kernels": len(found),
    }


def _texts(plan: bytes) -> list[str]:
    """Return the programs in a plan: the whole one, and one for each fused kernel."""
    texts = []
    position = 0
    while (match := _START.search(plan, position)) is not None:
        if (version := int(match[1])) not in VERSIONS:
            raise ExportError(
                f"the plan's program is of version {version}; this version of rdeic-rt reads version "
                f"{' or '.join(map(str, VERSIONS))}, of TensorRT for RTX 1.7. Its precisions cannot be reported."
            )
        end = _END.search(plan, match.start())
        position = len(plan) if end is None else end.start()
        texts.append(plan[match.start() : position].decode("ascii"))
    if not texts:
        raise ExportError(
            f"no program in these {len(plan)} bytes: only plans of TensorRT for RTX 1.7 hold one, with their precisions"
        )
    return texts


def _program(text: str) -> list[PlanLayer]:
    types = {m["name"]: _PRECISIONS.get(m["type"], m["type"]) for m in _TENSOR.finditer(text)}
    lines = ((m["kind"], text[m.start() : text.index("\n", m.end())]) for m in _LAYER.finditer(text))
    return [_layer(kind, line, types) for kind, line in lines]


def _layer(kind: str, line: str, types: dict[str, str]) -> PlanLayer:
    name = next(filter(None, _NAME.findall(line)[0]))
    inputs, outputs = (
        tuple(types.get(tensor, "unknown") for tensor in re.findall(r'"([^"]*)"', found[1] if found else ""))
        for found in (_INPUTS.search(line), _OUTPUTS.search(line))
    )
    output = outputs[0] if outputs else "unknown"
    if kind == "corrltn":
        return PlanLayer(name, "conv", inputs, output=output)
    if kind == "fully_connected":
        return PlanLayer(name, "linear", inputs, name.count("+") + 1, output)
    nodes = (
        "+".join(node for node in _ONNX_LAYER.findall(line) if "/" not in node and not node.endswith(".cast")) or name
    )
    if name.startswith("_gemm_mha"):
        return PlanLayer(nodes, "attention", inputs, output=output)
    backbone = _BACKBONE.search(line)
    return PlanLayer(nodes, _BACKBONES.get(backbone[1], "other") if backbone else "other", inputs, output=output)
