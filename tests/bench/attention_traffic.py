"""Bytes that attention's logits move through device memory in one decode by ONNX Runtime's CUDA provider.

    python tests/bench/attention_traffic.py [--size 768x512] [--steps 2]

Counted, not measured: each operator of the graph in half precision writes its result to memory and reads its operands
from there. The networks are of full size, traced without weights.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from rdeic_export.fold import attention, graphs
from rdeic_export.fold.graphs import FoldedGraph
from rdeic_export.forms import fused, half
from rdeic_export.modules.config import SD21
from rdeic_export.modules.model import RdeicModel

# Of one logit, from the first matrix product to the second, where heads are narrow (`forms.half`): a float16 result,
# its Cast to float32, Softmax, a Cast to float16, the second product. Where they are wide there are no Casts.
NARROW_BYTES = 2 + (2 + 4) + (4 + 4) + (4 + 2) + 2
WIDE_BYTES = 2 + (2 + 2) + 2
# What one step runs; the other graphs run once.
EVERY_STEP = ("control", "unet_step")


@dataclass
class Logits:
    """How many logits a graph makes in one run, by the width of the heads.

    Attributes:
        count: width -> number of logits.
        attentions: how many times attention runs.
    """

    count: dict[int, int] = field(default_factory=dict)
    attentions: int = 0

    def add(self, width: int, logits: int) -> None:
        """Count those of one attention."""
        self.count[width] = self.count.get(width, 0) + logits
        self.attentions += 1

    def bytes_apart(self) -> int:
        """What they move in the form fp16."""
        return sum(n * (NARROW_BYTES if width <= half.FUSED_HEAD else WIDE_BYTES) for width, n in self.count.items())

    def bytes_fused(self) -> int:
        """What they move in the form fp16-cuda."""
        return Logits({width: n for width, n in self.count.items() if not is_fused(width)}).bytes_apart()


def is_fused(width: int) -> bool:
    """Return whether attention with heads of this width is one operator."""
    return width <= fused.WIDEST_HEAD and width % fused.HEAD_MULTIPLE == 0


@torch.no_grad()
def count(graph: FoldedGraph, sizes: Mapping[str, int]) -> Logits:
    """Return the logits of one run of a graph.

    Args:
        graph: on any device; it is left as it is.
        sizes: the free dimensions: ``batch``, ``hz`` and ``wz``, the padded sides in units of 64 px.
    """
    module = graph.module
    inputs = [
        torch.empty(x.resolve(sizes), dtype=getattr(torch, x.dtype), device="meta") for x in graph.signature.inputs
    ]
    state = {name: x.to("meta") for name, x in chain(module.named_parameters(), module.named_buffers())}
    with _counting(module) as logits:
        torch.func.functional_call(module, state, graph.signature.arguments(inputs))
    return logits


@contextmanager
def _counting(module: nn.Module) -> Iterator[Logits]:
    logits = Logits()

    def note(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        assert isinstance(part, attention.SelfAttention | attention.ConstantAttention | Attention)
        tokens = x.shape[1] if x.dim() == 3 else math.prod(x.shape[2:])  # of a map [B, C, H, W] they are its positions
        keys = part.keys.shape[3] if isinstance(part, attention.ConstantAttention) else tokens
        logits.add(part.to_q.out_features // part.heads, x.shape[0] * part.heads * tokens * keys)

    kinds = (attention.SelfAttention, attention.ConstantAttention, Attention)
    with ExitStack() as stack:
        for part in module.modules():
            if isinstance(part, kinds):
                stack.callback(part.register_forward_pre_hook(note).remove)
        yield logits


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="768x512", help="WxH in pixels. Default: 768x512")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps. Default: 2")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    sizes = {"batch": 1, "hz": -(-height // 64), "wz": -(-width // 64)}
    with torch.device("meta"):
        model = RdeicModel(SD21)
        folded = {**graphs.rate_graphs(model), **graphs.shared_graphs(model)}
    print(f"{width}x{height}, {args.steps} steps, batch 1\n")
    print("| graph | runs | attentions, logits of one run | GB in fp16 | GB in fp16-cuda |")
    print("|---|---|---|---|---|")
    total = [0, 0]
    for name in (*EVERY_STEP, "vae_decoder"):
        logits, runs = count(folded[name], sizes), args.steps if name in EVERY_STEP else 1
        moved = [runs * logits.bytes_apart(), runs * logits.bytes_fused()]
        total = [sum(pair) for pair in zip(total, moved, strict=True)]
        widths = ", ".join(f"{n / 1e6:.0f} M with heads of {head}" for head, n in sorted(logits.count.items()))
        print(f"| {name} | {runs} | {logits.attentions}: {widths} | {moved[0] / 1e9:.2f} | {moved[1] / 1e9:.2f} |")
    print(f"| together | | | {total[0] / 1e9:.2f} | {total[1] / 1e9:.2f} |")


if __name__ == "__main__":
    main()
