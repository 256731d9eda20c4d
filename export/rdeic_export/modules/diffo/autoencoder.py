"""The latent autoencoder: z_start to the indices that are sent, and their code vectors to the base z_y_start.

z_start ─ VQ-E ─▶ z_e ─ nearest code ─▶ vq_indices ─ codebook ─▶ z_y ─ VQ-D ─▶ z_y_start
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compression import VectorQuantizer
from .config import AutoencoderConfig
from .vqgan import Vqgan

DECAY = 0.99  # of the moving averages at each update
COMMITMENT = 0.25  # weight of the commitment loss: beta of VQ-VAE, equation 3
COUNT_EPS = 1e-5  # keeps the mean of a code that was never hit finite


@dataclass(frozen=True)
class Quantised:
    """What the quantiser makes of z_e in training.

    Attributes:
        z_y: the code vectors, float [B, D, H, W], whose gradients are z_e's.
        indices: int64 [B, H, W].
        commitment: how far z_e is from them, a scalar; its gradients are z_e's, too.
    """

    z_y: Tensor
    indices: Tensor
    commitment: Tensor


class MovingAverageQuantizer(VectorQuantizer):
    """A codebook whose vectors are moving averages of what falls on them (VQ-VAE, arXiv 1711.00937, appendix A.1).

    Attributes:
        cluster_size: float [K], moving average of the vectors of an update that fall on each code.
        embed_avg: float [K, D], moving average of their sum.
    """

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__(codebook_size, dim)
        self.embedding.weight.requires_grad_(False)
        self.cluster_size: Tensor
        self.embed_avg: Tensor
        self.register_buffer("cluster_size", torch.zeros(codebook_size))
        self.register_buffer("embed_avg", self.embedding.weight.detach().clone())

    def quantise(self, z_e: Tensor) -> Quantised:
        """Return what training makes of z_e, float [B, D, H, W]: gradients of z_y go straight through to it."""
        indices = self.indices(z_e)
        code = self.lookup(indices).detach()
        return Quantised(z_e + (code - z_e).detach(), indices, COMMITMENT * F.mse_loss(z_e, code))

    @torch.no_grad()
    def start(self, codes: Tensor, counts: Tensor) -> None:
        """Start from clusters of z_e: their means, float [K, D], and how many vectors of an update are in each, [K]."""
        self.embedding.weight.copy_(codes)
        self.cluster_size.copy_(counts)
        self.embed_avg.copy_(codes * counts[:, None])

    @torch.no_grad()
    def update(self, z_e: Tensor, indices: Tensor, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> None:
        """Move the codebook towards z_e, float [B, D, H, W], given its indices, int64 [B, H, W].

        A code that starts with cluster_size 0 is thrown far off by its first update: `start` from clusters of z_e.

        Args:
            z_e, indices: of this process.
            total: returns the sum of a tensor over all processes that train together.
        """
        vectors = z_e.permute(0, 2, 3, 1).flatten(0, 2)
        hits = F.one_hot(indices.flatten(), self.embedding.num_embeddings).to(vectors.dtype)
        self.cluster_size.mul_(DECAY).add_(total(hits.sum(0)), alpha=1 - DECAY)
        self.embed_avg.mul_(DECAY).add_(total(hits.t() @ vectors), alpha=1 - DECAY)
        n = self.cluster_size.sum()
        share = (self.cluster_size + COUNT_EPS) / (n + len(self.cluster_size) * COUNT_EPS)
        self.embedding.weight.copy_(self.embed_avg / (share * n)[:, None])


class LatentAutoencoder(Vqgan):
    """VQ-E, VQ-D and the codebook between them."""

    def __init__(self, config: AutoencoderConfig, codebook_size: int) -> None:
        super().__init__(config)
        self.quantize = MovingAverageQuantizer(codebook_size, config.embed_dim)

    def analyse(self, z_start: Tensor) -> Tensor:
        """Return vq_indices, int64 [B, Hq, Wq], of z_start, float [B, C, h, w]."""
        return self.quantize.indices(self.encode(z_start))

    def synthesise(self, vq_indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z_y, z_y_start), float [B, C, Hq, Wq] and [B, C, h, w], of int64 indices [B, Hq, Wq]."""
        z_y = self.quantize.lookup(vq_indices).contiguous()  # GroupNorm of channels-last maps is less exact
        return z_y, self.decode(z_y)
