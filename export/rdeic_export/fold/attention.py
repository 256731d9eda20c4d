"""Attention in the form that half precision survives and TensorRT still fuses into one kernel.

The scale 1/sqrt(d) moves into the query's weights, so that logits are formed at their final size: q k of 1e5, which
Stable Diffusion 2.1 is known for and float16 cannot hold, never exists. The softmax is float32 whatever the precision,
and its operand is still a float16 product::

    x --Linear(scale * W_q)--> q --+
    x --Linear-----------> k --MatMul-- logits --Cast fp32-- Softmax --Cast fp16-- MatMul --Linear-->
    x --Linear-----------> v ------------------------------------------------------+

TensorRT takes the Cast after the first product as leave to sum it in float32 inside the fused kernel; without it the
kernel sums in float16. A Cast *before* the product would be as accurate but is not fused: the logits are then
written to memory, gigabytes of them at the first level. In a float32 graph the Casts vanish.

Keys and values of the constant text are laid out per head here. They are expanded to the batch in the graph because
the fused kernel wants operands of one batch; that copies 77 tokens.
"""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from .text import Constant


class SelfAttention(nn.Module):
    """Attention of the tokens to each other."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.to_q = _scaled(attention.to_q, attention.scale)
        self.to_k, self.to_v, self.to_out = attention.to_k, attention.to_v, attention.to_out[0]

    def forward(self, x: Tensor, encoder_hidden_states: None = None, attention_mask: None = None) -> Tensor:
        """Return float [B, tokens, channels] of x, of the same shape; the keywords are those of diffusers' module."""
        q, k, v = (_split(project(x), self.heads) for project in (self.to_q, self.to_k, self.to_v))
        out: Tensor = self.to_out(_merge(_attend(q, k.transpose(2, 3), v)))
        return out


class ConstantAttention(nn.Module):
    """Attention to keys and values that never change."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.to_q = _scaled(attention.to_q, attention.scale)
        self.to_out = attention.to_out[0]
        keys, values = attention.to_k, attention.to_v
        assert isinstance(keys, Constant) and isinstance(values, Constant)  # text.fold comes first
        self.register_buffer("keys", _split(keys.value, self.heads).transpose(2, 3).contiguous())
        self.register_buffer("values", _split(values.value, self.heads).contiguous())
        self.keys: Tensor
        self.values: Tensor

    def forward(self, x: Tensor, encoder_hidden_states: None = None, attention_mask: None = None) -> Tensor:
        """Return float [B, tokens, channels] of x, of the same shape; the keywords are those of diffusers' module."""
        keys, values = (constant.expand(x.shape[0], -1, -1, -1) for constant in (self.keys, self.values))
        out: Tensor = self.to_out(_merge(_attend(_split(self.to_q(x), self.heads), keys, values)))
        return out


def fold(network: nn.Module) -> None:
    """Replace, in place, both attentions of every transformer block; ``text.fold`` comes before.

    Args:
        network: a ``UNetEncoder`` in float32: scaled weights are rounded once, by a later ``half()``.
    """
    for block in network.modules():
        if isinstance(block, BasicTransformerBlock):
            setattr(block, "attn1", SelfAttention(block.attn1))  # noqa: B010
            setattr(block, "attn2", ConstantAttention(block.attn2))  # noqa: B010


def _scaled(linear: nn.Linear, scale: float) -> nn.Linear:
    """Return a linear layer without bias whose output is ``scale`` times that of the given one."""
    assert linear.bias is None  # queries of these networks have none
    scaled = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    scaled.weight = nn.Parameter(linear.weight.detach() * scale, requires_grad=False)
    return scaled


def _attend(q: Tensor, k_transposed: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k) v, float [B, heads, tokens, d]; q carries the scale, keys are [B, heads, d, tokens]."""
    logits = torch.matmul(q, k_transposed).to(torch.float32)
    return torch.matmul(torch.softmax(logits, dim=-1).to(v.dtype), v)


def _split(x: Tensor, heads: int) -> Tensor:
    """Return [B, heads, tokens, d] of [B, tokens, heads * d]."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """Return [B, tokens, heads * d] of [B, heads, tokens, d]."""
    return x.transpose(1, 2).flatten(2)
