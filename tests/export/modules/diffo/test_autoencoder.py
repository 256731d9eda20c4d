"""Quantiser and codebook against loops, and the autoencoder's sizes."""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models.autoencoders import vae

from rdeic_export.modules.diffo.autoencoder import MovingAverageQuantizer
from rdeic_export.modules.diffo.config import AutoencoderConfig
from rdeic_export.modules.diffo.vqgan import Encoder
from tests.micro import make_diffo
from tests.micro.make_micro import randomise, seeded

from . import specification


def quantizer() -> MovingAverageQuantizer:
    made = MovingAverageQuantizer(8, 4)
    randomise(made, seed=0)
    made.cluster_size.abs_()
    return made


def rows(z: torch.Tensor) -> np.ndarray:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).numpy()


@torch.no_grad()
def test_indices_are_those_of_the_nearest_codes() -> None:
    codebook, z = quantizer(), seeded((2, 4, 3, 5), "z")
    expected = specification.indices(rows(z), codebook.embedding.weight.numpy())
    assert codebook.indices(z).flatten().tolist() == expected
    assert len(set(expected)) > 4


@torch.no_grad()
def test_indices_of_equal_codes_are_the_first() -> None:
    codebook = quantizer()
    codebook.embedding.weight[5] = codebook.embedding.weight[2]
    z = codebook.embedding.weight[[5, 2]].t().reshape(1, 4, 1, 2)
    assert codebook.indices(z).tolist() == [[[2, 2]]]


@torch.no_grad()
def test_update_moves_the_codebook_as_specified() -> None:
    codebook, z = quantizer(), seeded((2, 4, 3, 5), "z")
    indices = codebook.indices(z)
    before = codebook.cluster_size.numpy().copy(), codebook.embed_avg.numpy().copy()
    weight, sizes, sums = specification.update(rows(z), indices.flatten().tolist(), *before)
    codebook.update(z, indices)
    np.testing.assert_allclose(codebook.cluster_size.numpy(), sizes, rtol=1e-5)
    np.testing.assert_allclose(codebook.embed_avg.numpy(), sums, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(codebook.embedding.weight.numpy(), weight, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_codes_at_half_resolution_come_back_at_the_latents() -> None:
    codec = make_diffo.model().codec
    indices = codec.analyse(seeded((2, 8, 8, 12), "z_start"))
    assert (indices.shape, indices.dtype) == ((2, 4, 6), torch.int64)
    z_y, base = codec.synthesise(indices)
    assert (z_y.shape, base.shape) == ((2, 8, 4, 6), (2, 8, 8, 12))


@torch.no_grad()
def test_encoder_with_a_stem_as_wide_as_its_first_level_is_diffusers() -> None:
    config = AutoencoderConfig(
        in_channels=3,
        stem_channels=8,
        channels=(8, 16),
        attention_levels=(False, True),
        z_channels=6,
        embed_dim=6,
        norm_groups=4,
    )
    ours = Encoder(config)
    theirs = vae.Encoder(
        out_channels=6,
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        double_z=False,
    )
    randomise(theirs, seed=0)
    ours.load_state_dict(theirs.state_dict())
    x = seeded((1, 3, 16, 24), "x")
    assert torch.equal(ours(x), theirs(x))
