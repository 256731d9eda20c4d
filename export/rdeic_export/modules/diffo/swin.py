"""Swin layers on feature maps: attention within windows, shifted by half a window in every second block.

A layer replaces its input; there is no skip around it. Its norms are GroupNorms of the whole map, not of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import Mask, SwinUNetConfig

NORM_EPS = 1e-5
MASKED = -100.0  # added to the logits of tokens that must not see each other, as in Swin's own code


def regions(height: int, width: int, window: int, shift: int, mask: Mask, device: torch.device | None = None) -> Tensor:
    """Return int64 [height, width], labels on the rolled map: tokens of a window see those of their own label.

    ``textbook`` (arXiv 2103.14030, figure 4) parts what only the roll has made neighbours, by rows and by columns.
    ``released`` is what ResShift's and DiffO's code computes instead, as it labels along the wrong axes: in the last
    row of windows alone, the last ``shift`` columns of every window are parted from the rest. Weights trained so need
    it.
    """
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)[None, :]
    if mask == "released":
        return ((rows >= height - window) & (columns % window >= window - shift)).long()
    row_label = (rows >= height - window).long() + (rows >= height - shift)
    column_label = (columns >= width - window).long() + (columns >= width - shift)
    return 3 * row_label + column_label


def windows_of(x: Tensor, window: int) -> Tensor:
    """Return [B, windows, window * window, C], windows and their tokens row by row, of [B, C, H, W]."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // window, window, w // window, window)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // window) * (w // window), window * window, c)


def map_of(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Return [B, C, height, width] of windows as `windows_of` returns them."""
    b, c = x.shape[0], x.shape[-1]
    x = x.reshape(b, height // window, width // window, window, window, c)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, height, width)


def mask(height: int, width: int, window: int, shift: int, kind: Mask, device: torch.device | None = None) -> Tensor:
    """Return what is added to the logits of shifted windows, float [windows, tokens, tokens]; see `regions`."""
    labels = windows_of(regions(height, width, window, shift, kind, device)[None, None], window)[0]
    return torch.where(labels != labels.transpose(1, 2), MASKED, 0.0)


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for every offset of query and key."""

    def __init__(self, config: SwinUNetConfig, window: int, shift: int) -> None:
        super().__init__()
        dim, self.window, self.shift, self.mask = config.swin_dim, window, shift, config.mask
        self.heads, self.head_dim = dim // config.head_dim, config.head_dim
        self.qkv = nn.Linear(dim, 3 * dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, self.heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(dim, dim)

    def bias(self) -> Tensor:
        """Return what is added to the logits in every window, float [heads, tokens, tokens]: query, then key."""
        side = torch.arange(self.window, device=self.relative_position_bias_table.device)
        rows, columns = (grid.flatten() for grid in torch.meshgrid(side, side, indexing="ij"))
        row_offset = rows[:, None] - rows[None, :] + self.window - 1
        column_offset = columns[:, None] - columns[None, :] + self.window - 1
        bias = self.relative_position_bias_table[row_offset * (2 * self.window - 1) + column_offset]
        return bias.permute(2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return float [B, C, H, W] of x, float [B, C, H, W]; H and W are multiples of the window."""
        height, width = x.shape[-2:]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(2, 3))
        tokens = windows_of(x, self.window)
        b, n_windows, n, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(b, n_windows, n, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        logits = (q * self.head_dim**-0.5) @ k.transpose(-2, -1) + self.bias()
        if self.shift:
            logits = logits + mask(height, width, self.window, self.shift, self.mask, x.device)[:, None]
        out = (logits.softmax(-1) @ v).transpose(2, 3).reshape(b, n_windows, n, dim)
        h = map_of(self.proj(out), self.window, height, width)
        return h.roll((self.shift, self.shift), dims=(2, 3)) if self.shift else h


class SwinBlock(nn.Module):
    """Window attention and a perceptron on each position, each after a norm and around a skip."""

    def __init__(self, config: SwinUNetConfig, window: int, shift: int) -> None:
        super().__init__()
        dim, hidden = config.swin_dim, config.swin_dim * config.mlp_ratio
        self.norm1 = nn.GroupNorm(config.norm_groups, dim, eps=NORM_EPS)
        self.attn = WindowAttention(config, window, shift)
        self.norm2 = nn.GroupNorm(config.norm_groups, dim, eps=NORM_EPS)
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.activation = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return float [B, swin_dim, H, W]."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.fc2(self.activation(self.fc1(self.norm2(x))))
        return out


class SwinLayer(nn.Module):
    """A plain and a shifted block between 1x1 convolutions to ``swin_dim`` and back."""

    def __init__(self, config: SwinUNetConfig, channels: int, window: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, config.swin_dim, 1)
        self.blocks = nn.ModuleList([SwinBlock(config, window, 0), SwinBlock(config, window, window // 2)])
        self.unembed = nn.Conv2d(config.swin_dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return float [B, channels, H, W]."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.unembed(h)
        return out
