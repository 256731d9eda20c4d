"""DiffO's single step: the timestep and the condition leave the UNet, and what is linear before them with it.

* **Timestep.** Every residual block computes ``norm(h) (1 + scale) + shift`` of numbers that depend on t alone. With t
  fixed they are constants, and the norm ends in an affine map per channel: they move into its weight and bias.
* **Condition.** It enters by a convolution: ``conv(concat(x, l)) = conv_x(x) + conv_l(l)``. ``conv_l(l)`` is computed
  once with the base, and is the graph's input ``hint``; conv_x keeps the bias.
  A UNet that adds the base to what it predicts finds it in ``hint`` too.
* **Codes.** A 1x1 convolution of a code vector is another code vector: VQ-D's first one is done to the codebook.
* **Window attention.** The scale 1/sqrt(d) moves into the query's weights and biases, and the table of relative biases
  is expanded. The mask depends on the map's size, and is made in the graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ..modules.diffo import swin
from ..modules.diffo.autoencoder import LatentAutoencoder
from ..modules.diffo.swin import WindowAttention
from ..modules.diffo.unet import SwinUNet
from ..modules.unet import Stage


class SynthesisFromIndices(nn.Module):
    """Codebook, VQ-D, and the condition up to where it is added: vq_indices -> (z_c, hint)."""

    def __init__(self, codec: LatentAutoencoder, unet: SwinUNet) -> None:
        super().__init__()
        codes = codec.quantize.embedding.weight.detach()
        transformed = codec.post_quant_conv(codes[:, :, None, None])[:, :, 0, 0]
        self.codes, self.decoded_codes = _table(codes), _table(transformed.detach())
        self.decoder = codec.decoder
        self.factor = codec.config.factor
        self.adds_base = unet.config.adds_base
        self.condition = unet.condition
        first = _first_convolution(unet)
        self.first = _part_of(first, slice(first.in_channels - unet.config.hint_channels, None), bias=False)

    def forward(self, vq_indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z_c, hint), float [B, C, h, w] and [B, D, h, w], of int64 [B, Hq, Wq].

        D is the width of the UNet's first convolution and, where it adds the base, C more, which are that.
        """
        z_y = self.codes(vq_indices).permute(0, 3, 1, 2)
        z_c = self.decoder(self.decoded_codes(vq_indices).permute(0, 3, 1, 2))
        if self.factor > 1:
            z_y = F.interpolate(z_y, scale_factor=float(self.factor), mode="nearest")
        hint = self.first(self.condition(z_y))
        return z_c, torch.cat([hint, z_c], dim=1) if self.adds_base else hint


class OneStep(nn.Module):
    """The UNet at one timestep, folded: (z_n, hint) -> z_0."""

    def __init__(self, unet: SwinUNet) -> None:
        super().__init__()
        self.unet = unet
        first = _first_convolution(unet)
        self.first = _part_of(first, slice(0, first.in_channels - unet.config.hint_channels), bias=True)

    def forward(self, z_n: Tensor, hint: Tensor) -> Tensor:
        """Return z_0, float [B, C, h, w], of z_n over its deviation, and of hint, float [B, D, h, w]."""
        if not self.unet.config.adds_base:
            return self.unet.decode(self.first(z_n) + hint, None)
        width = self.unet.config.channels[0]
        return hint[:, width:] + self.unet.decode(self.first(z_n) + hint[:, :width], None)


@torch.no_grad()
def fold(unet: SwinUNet, timestep: int) -> None:
    """Fold a timestep and the attention of windows, in place; the UNet is called with ``emb=None`` afterwards."""
    activated = F.silu(unet.time_embed(torch.tensor([timestep])))
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            _fold_time(module, activated)
        elif isinstance(module, swin.SwinBlock):
            setattr(module, "attn", FoldedWindowAttention(module.attn))  # noqa: B010
    setattr(unet, "time_embed", nn.Identity())  # noqa: B010


class FoldedWindowAttention(nn.Module):
    """`swin.WindowAttention` with its scale in the weights and its biases expanded."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.window, self.shift, self.mask = attention.window, attention.shift, attention.mask
        self.heads, self.head_dim, self.proj = attention.heads, attention.head_dim, attention.proj
        dim = attention.qkv.in_features
        scale = torch.ones(3 * dim)
        scale[:dim] = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.qkv.weight = nn.Parameter(attention.qkv.weight.detach() * scale[:, None], requires_grad=False)
        self.qkv.bias = nn.Parameter(attention.qkv.bias.detach() * scale, requires_grad=False)
        self.register_buffer("bias", attention.bias().detach().contiguous())
        self.bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return float [B, C, H, W] of x, float [B, C, H, W]; H and W are multiples of the window."""
        height, width = x.shape[-2:]
        if self.shift:
            x = _rolled(x, self.shift)
        tokens = swin.windows_of(x, self.window)
        b, n_windows, n, dim = tokens.shape
        # All heads of all windows are one dimension: libraries know attention of four.
        qkv = self.qkv(tokens).reshape(b, n_windows, n, 3, self.heads, self.head_dim).transpose(2, 4)
        q, k, v = (part.reshape(b, n_windows * self.heads, n, self.head_dim) for part in qkv.split(1, dim=3))
        bias = self.bias.expand(n_windows, -1, -1, -1)
        if self.shift:
            bias = bias + swin.mask(height, width, self.window, self.shift, self.mask, x.device)[:, None]
        logits = torch.matmul(q, k.transpose(2, 3)) + bias.reshape(1, n_windows * self.heads, n, n)
        out = torch.matmul(torch.softmax(logits, dim=-1), v)
        out = out.reshape(b, n_windows, self.heads, n, self.head_dim).transpose(2, 3).reshape(b, n_windows, n, dim)
        h = swin.map_of(self.proj(out), self.window, height, width)
        return _rolled(h, -self.shift) if self.shift else h


def _fold_time(block: ResnetBlock2D, activated: Tensor) -> None:
    """Move a block's scale and shift, for one activated time embedding, float [1, D], into its second norm."""
    scale, shift = block.time_emb_proj(activated)[0].chunk(2)
    norm = block.norm2
    norm.bias.copy_(norm.bias * (1 + scale) + shift)
    norm.weight.copy_(norm.weight * (1 + scale))
    setattr(block, "time_emb_proj", None)  # noqa: B010
    block.time_embedding_norm = "default"


def _first_convolution(unet: SwinUNet) -> nn.Conv2d:
    stage = unet.input_blocks[0]
    assert isinstance(stage, Stage)
    first = stage[0]
    assert isinstance(first, nn.Conv2d)
    return first


def _table(rows: Tensor) -> nn.Embedding:
    table = nn.Embedding(rows.shape[0], rows.shape[1], device="meta")
    table.weight = nn.Parameter(rows.clone(), requires_grad=False)
    return table


def _part_of(conv: nn.Conv2d, channels: slice, *, bias: bool) -> nn.Conv2d:
    """Return the convolution of some of the input's channels."""
    weight = conv.weight.detach()[:, channels].contiguous()
    part = nn.Conv2d(weight.shape[1], conv.out_channels, 3, padding=1, bias=bias, device="meta")
    part.weight = nn.Parameter(weight, requires_grad=False)
    if bias:
        assert conv.bias is not None
        part.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
    return part


def _rolled(x: Tensor, shift: int) -> Tensor:
    """Return a map moved by ``shift`` rows up and columns left, around its edges: two slices a side."""
    x = torch.cat([x[:, :, shift:], x[:, :, :shift]], dim=2)
    return torch.cat([x[..., shift:], x[..., :shift]], dim=3)
