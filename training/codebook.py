"""A codebook of moving averages in training: started from clusters, and never with codes that nothing chooses.

The update alone would train the first thousand steps almost without information: it starts with cluster sizes of 0,
and a code that the first batch does not hit is thrown so far off that it takes 0.99^t to come back.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from rdeic_export.modules.diffo.autoencoder import MovingAverageQuantizer, Quantised

from . import loop

ITERATIONS = 25  # of k-means; what is left to move after them the updates move
DEAD = 0.02  # share of the mean cluster size under which a code counts as one that nothing chooses
RESEED_EVERY = 50  # steps between two looks for such codes
RESEED_UNTIL = 0.9  # share of the stage after which codes are left alone


def vectors_of(z_e: Tensor) -> Tensor:
    """Return z_e, float [B, D, H, W], as vectors, float32 [B * H * W, D]."""
    return z_e.detach().permute(0, 2, 3, 1).flatten(0, 2).float()


def k_means(vectors: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return means, float [count, D], and sizes, float [count], of clusters of vectors, float [N, D].

    Starts from random vectors, all different; a cluster that loses its last vector starts anew from another one.

    Args:
        vectors: as many as clusters, or more.
        count: of clusters.
        generator: of random numbers, on the CPU.

    Raises:
        ValueError: there are fewer vectors than clusters.
    """
    if len(vectors) < count:
        raise ValueError(f"{len(vectors)} vectors for {count} clusters")

    def some(n: int) -> Tensor:
        return vectors[torch.randperm(len(vectors), generator=generator)[:n].to(vectors.device)]

    means = some(count).clone()
    sizes = torch.zeros(count, device=vectors.device)
    for _ in range(ITERATIONS):
        nearest = torch.cat([torch.cdist(part, means).argmin(1) for part in torch.split(vectors, 1 << 14)])
        sizes = torch.bincount(nearest, minlength=count).to(vectors.dtype)
        sums = torch.zeros_like(means).index_add_(0, nearest, vectors)
        means = sums / sizes.clamp(min=1)[:, None]
        empty = torch.nonzero(sizes == 0).flatten()
        means[empty] = some(len(empty))
    return means, sizes.clamp(min=1)


class Codebook:
    """Keeps a quantiser's codebook up to date while its autoencoder is trained, the same in all processes."""

    def __init__(self, quantizer: MovingAverageQuantizer) -> None:
        self._quantizer = quantizer
        self._seen: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def start(self, vectors: Tensor, per_step: int, generator: torch.Generator) -> None:
        """Start from clusters of vectors, float [N, D]; a step has ``per_step`` of them in all processes."""
        means, sizes = k_means(vectors, self._quantizer.embedding.num_embeddings, generator)
        self._quantizer.start(means, sizes * (per_step / len(vectors)))
        self._share()

    def quantise(self, z_e: Tensor) -> Quantised:
        """Return what training makes of z_e, and keep it for `after_step`."""
        quantised = self._quantizer.quantise(z_e.float())
        self._seen = z_e.detach().float(), quantised.indices
        return quantised

    def used(self) -> Tensor:
        """Return how many codes are alive, a scalar."""
        return (~self._dead()).sum()

    @torch.no_grad()
    def after_step(self, step: int, share: float) -> None:
        """Update the codebook by what was quantised last, and now and then put dead codes where vectors are.

        Args:
            step: that is done.
            share: of the training that is done.
        """
        assert self._seen is not None  # a step quantises
        self._quantizer.update(*self._seen, _sum_over_processes)
        if step % RESEED_EVERY == 0 and share < RESEED_UNTIL:
            self._reseed(vectors_of(self._seen[0]))

    def _reseed(self, vectors: Tensor) -> None:
        quantizer, dead = self._quantizer, torch.nonzero(self._dead()).flatten()
        picks = vectors[torch.randperm(len(vectors), device=vectors.device)[: len(dead)]]
        chosen = dead[: len(picks)]
        size = quantizer.cluster_size.mean()
        quantizer.embedding.weight[chosen] = picks
        quantizer.cluster_size[chosen] = size
        quantizer.embed_avg[chosen] = picks * size
        self._share()

    def _share(self) -> None:
        """Give every process the first one's codebook."""
        if loop.process_count() > 1:
            for tensor in (self._quantizer.embedding.weight, self._quantizer.cluster_size, self._quantizer.embed_avg):
                distributed.broadcast(tensor, 0)

    def _dead(self) -> Tensor:
        sizes = self._quantizer.cluster_size
        return sizes < DEAD * sizes.mean()


def _sum_over_processes(sums: Tensor) -> Tensor:
    if loop.process_count() > 1:
        distributed.all_reduce(sums)
    return sums
