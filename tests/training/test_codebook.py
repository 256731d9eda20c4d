"""The codebook of DiffO's training: straight through, started from clusters, and without dead codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from training.codebook import Codebook, k_means, vectors_of

from rdeic_export.modules.diffo.autoencoder import COMMITMENT, MovingAverageQuantizer
from tests.export import reference_diffo


def clusters(n: int, spread: float = 0.05) -> Tensor:
    """Return z_e, float [2, 4, 16, n], about 32 centres, of which some are met more often than others."""
    generator = torch.Generator().manual_seed(n)
    centres = torch.randn(32, 4, generator=generator)
    chosen = (torch.rand(2, 16, n, generator=generator).square() * 32).long()
    z_e = centres[chosen] + spread * torch.randn(2, 16, n, 4, generator=generator)
    return z_e.permute(0, 3, 1, 2)


def quantizer(codes: int = 32) -> MovingAverageQuantizer:
    torch.manual_seed(0)
    return MovingAverageQuantizer(codes, 4)


def test_gradients_go_straight_through_and_commit() -> None:
    z_e = clusters(8).requires_grad_()
    made = quantizer().quantise(z_e)
    codes = quantizer().lookup(made.indices)
    torch.testing.assert_close(made.z_y, codes, rtol=0, atol=1e-6)
    weights = torch.randn(made.z_y.shape, generator=torch.Generator().manual_seed(1))
    (straight,) = torch.autograd.grad((made.z_y * weights).sum(), z_e, retain_graph=True)
    torch.testing.assert_close(straight, weights)
    (commitment,) = torch.autograd.grad(made.commitment, z_e)
    torch.testing.assert_close(commitment, 2 * COMMITMENT * (z_e - codes).detach() / z_e.numel())


def test_commitment_and_update_are_those_of_the_golden_data() -> None:
    if not reference_diffo.SMALL.exists():
        pytest.skip(f"no reference data in {reference_diffo.SMALL}; RDEIC_RT_REFERENCE_DIFFO names its folder")
    golden = reference_diffo.golden("training")
    model = reference_diffo.small_model().codec.quantize
    codebook = Codebook(model)
    made = codebook.quantise(torch.from_numpy(golden["ema_z_e"]))
    np.testing.assert_array_equal(made.indices.numpy().ravel(), golden["ema_indices"].ravel())
    np.testing.assert_allclose(made.commitment.numpy(), golden["ema_commit_loss"], rtol=1e-5)
    codebook.after_step(step=1, share=0.0)
    for array, name in (
        (model.embedding.weight, "ema_weight"),
        (model.cluster_size, "ema_cluster_size"),
        (model.embed_avg, "ema_embed_avg"),
    ):
        wanted = golden[name]
        error = np.abs(array.numpy() - wanted).max() / np.sqrt(np.square(wanted).mean())
        assert error < 5e-3, name


def test_k_means_finds_clusters_and_counts_them() -> None:
    vectors = vectors_of(clusters(200))
    means, sizes = k_means(vectors, 48, torch.Generator().manual_seed(0))
    assert sizes.sum() == pytest.approx(len(vectors), abs=1)
    assert torch.cdist(vectors, means).amin(1).square().mean() < 0.1 * vectors.var(0).sum()
    again, _ = k_means(vectors, 48, torch.Generator().manual_seed(0))
    assert torch.equal(means, again)
    with pytest.raises(ValueError, match="48 clusters"):
        k_means(vectors[:40], 48, torch.Generator())


def test_codes_of_clusters_are_all_in_use_where_random_ones_are_not() -> None:
    """With the released start, cluster sizes of 0, most codes are thrown away by the first updates."""
    batches = [clusters(64) for _ in range(20)]

    def in_use(codebook: Codebook, model: MovingAverageQuantizer) -> int:
        used = [0]
        for step, z_e in enumerate(batches, start=1):
            used = torch.unique(codebook.quantise(z_e).indices).tolist()
            codebook.after_step(step, share=1.0)
        return len(used)

    released = quantizer()
    assert in_use(Codebook(released), released) <= 16
    ours = quantizer()
    codebook = Codebook(ours)
    codebook.start(vectors_of(batches[0]), batches[0][:, 0].numel(), torch.Generator().manual_seed(0))
    assert in_use(codebook, ours) >= 24
    torch.testing.assert_close(ours.cluster_size.sum(), torch.tensor(float(batches[0][:, 0].numel())), rtol=0.1, atol=0)


def test_dead_codes_are_put_where_vectors_are() -> None:
    model = quantizer()
    codebook = Codebook(model)
    z_e = clusters(64)
    codebook.start(vectors_of(z_e), z_e[:, 0].numel(), torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.embedding.weight[:8] += 100.0
        model.embed_avg[:8] = model.embedding.weight[:8] * 1e-6
        model.cluster_size[:8] = 1e-6
    assert codebook.used() == 24
    codebook.quantise(z_e)
    codebook.after_step(step=1, share=0.0)  # not yet
    assert codebook.used() == 24
    codebook.quantise(z_e)
    codebook.after_step(step=50, share=0.0)
    assert codebook.used() == 32
    assert model.embedding.weight.abs().max() < 10
    for step in range(51, 60):
        codebook.quantise(z_e)
        codebook.after_step(step, share=0.0)
    assert len(torch.unique(codebook.quantise(z_e).indices)) >= 28
