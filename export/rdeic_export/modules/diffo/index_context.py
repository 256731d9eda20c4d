"""Networks that predict VQ indices from those of earlier passes, in floating point (docs/format.md, "Entropy model 3").

`ContextNets` see the grid as the integer networks of the runtime do: four planes, one of each pass, side by side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdeic_rt.entropy.index_context import PASSES

WIDTH = 64


class ContextNets(nn.Module):
    """Three layers for each pass but the first.

    Args:
        codes: code vectors, float [K, N]. Networks see them scaled to a variance of one, with a one beside them that
            tells them from positions that are not known.
        outputs: numbers for each position.
    """

    def __init__(self, codes: Tensor, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        seen = torch.cat([codes / codes.std(), codes.new_ones(len(codes), 1)], dim=1)
        self.register_buffer("codes", seen, persistent=False)
        self.nets = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(earlier * seen.shape[1], WIDTH, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(WIDTH, WIDTH, 1),
                nn.GELU(),
                nn.Conv2d(WIDTH, outputs, 1),
            )
            for earlier in range(1, len(PASSES))
        )

    def planes(self, indices: Tensor) -> list[Tensor]:
        """Return what is seen of each pass, float [B, N + 1, ceil(Hq / 2), ceil(Wq / 2)], of int64 [B, Hq, Wq]."""
        height, width = indices.shape[-2:]
        vectors = F.embedding(indices, self.get_buffer("codes")).permute(0, 3, 1, 2)
        whole = F.pad(vectors, (0, width % 2, 0, height % 2))
        return [whole[:, :, top::2, left::2] for top, left in PASSES]

    def forward(self, indices: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (outputs, float [n, outputs]; indices, int64 [n]) of the positions of each pass but the first."""
        planes = self.planes(indices)
        found = []
        for number, net in enumerate(self.nets, 1):
            top, left = PASSES[number]
            wanted = indices[:, top::2, left::2]
            outputs = net(torch.cat(planes[:number][::-1], dim=1))[:, :, : wanted.shape[1], : wanted.shape[2]]
            found.append((outputs.permute(0, 2, 3, 1).flatten(0, 2), wanted.flatten()))
        return found


class IndexContext(nn.Module):
    """What an entropy model's context model is made from: scores of classes, and how indices of each are distributed.

    Args:
        codes: code vectors, float [K, N].
        classes: C.
    """

    def __init__(self, codes: Tensor, classes: int) -> None:
        super().__init__()
        self.scores = ContextNets(codes, classes)
        self.tables = nn.Parameter(torch.zeros(classes, len(codes)))
        """Logarithms, but for a constant, of the distributions."""
