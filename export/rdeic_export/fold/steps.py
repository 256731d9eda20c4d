"""Time-embedding layers become a table with one row a step, passed as one input.

A row holds the time projection of every residual block, one after another, in the order of ``network.modules()``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ..modules.unet import UNetEncoder


class RowSlice(nn.Module):
    """The part of the step table's row that belongs to one residual block."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, row: Tensor) -> Tensor:
        """Return float [1, channels] of the row, float [1, D]."""
        return row[:, self.start : self.stop]


@torch.no_grad()
def table(network: UNetEncoder, timesteps: Sequence[int]) -> Tensor:
    """Return the step table, float [L, D], of a network whose time embedding has not been folded yet."""
    activated = F.silu(network.time_embed(torch.tensor(timesteps)))
    return torch.cat([block.time_emb_proj(activated) for block in _blocks(network)], dim=1)


def fold(network: UNetEncoder) -> None:
    """Replace, in place, every time projection by a slice of the row that is passed as ``emb`` from now on."""
    start = 0
    for block in _blocks(network):
        stop = start + block.time_emb_proj.out_features
        setattr(block, "time_emb_proj", RowSlice(start, stop))  # noqa: B010
        block.skip_time_act = True  # the activation is in the table
        start = stop
    setattr(network, "time_embed", nn.Identity())  # noqa: B010


def _blocks(network: nn.Module) -> Iterator[ResnetBlock2D]:
    return (m for m in network.modules() if isinstance(m, ResnetBlock2D))
