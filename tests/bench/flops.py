"""Floating-point operations of a graph at a size: 2 for each multiply-add of its convolutions and matrix products.

Nothing is computed: shapes are traced on tensors without memory, so that full size costs a second. Element-wise
operations, norms and softmax are not counted; the result is the floor that a GPU's matrix units set.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rdeic_export.modules.signature import Signature


@torch.no_grad()
def count(module: nn.Module, signature: Signature, sizes: Mapping[str, int]) -> int:
    """Return the operations of one run of a module.

    Args:
        module: what the graph is exported from, on any device and in any precision; it is left as it is.
        signature: its inputs.
        sizes: the free dimensions: ``batch``, ``hz`` and ``wz``, the padded sides in units of 64 px.
    """
    inputs = [torch.empty(x.resolve(sizes), dtype=getattr(torch, x.dtype), device="meta") for x in signature.inputs]
    state = {name: x.to("meta") for name, x in chain(module.named_parameters(), module.named_buffers())}
    with FlopCounterMode(display=False) as counter:
        torch.func.functional_call(module, state, signature.arguments(inputs))
    return int(counter.get_total_flops())


def weight_bytes(module: nn.Module, bytes_per_value: int = 2) -> int:
    """Return what the module's parameters and constants take, in float16 unless told."""
    return bytes_per_value * sum(x.numel() for x in chain(module.parameters(), module.buffers()))
