"""The constant text context becomes constant cross-attention keys and values."""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn


class Constant(nn.Module):
    """A projection of the text context, computed once: [1, tokens, channels] whatever the input."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)
        self.value: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the constant for each item of x, float [B, tokens, channels]."""
        return self.value.expand(x.shape[0], -1, -1)


@torch.no_grad()
def fold(network: nn.Module, context: Tensor) -> None:
    """Replace, in place, every cross-attention's key and value projections by their value for this context.

    Args:
        network: a ``UNetEncoder``; afterwards it is called with ``context=None``.
        context: float [1, tokens, context_dim].
    """
    for block in network.modules():
        if isinstance(block, BasicTransformerBlock):
            for name in ("to_k", "to_v"):
                setattr(block.attn2, name, Constant(getattr(block.attn2, name)(context)))
