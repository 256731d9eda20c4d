"""Each fold of DiffO leaves its networks' output as it was, and removes what it is meant to remove."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rdeic_export.fold import one_step, upsample
from rdeic_export.fold.pixels import IndicesFromPixels
from rdeic_export.modules.diffo import resshift
from rdeic_export.modules.diffo.config import DIFFO, DIFFO_TINY, DiffoConfig, Mask
from rdeic_export.modules.diffo.model import DiffoModel
from tests.micro import make_diffo

from .. import reference_diffo

TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def micro(mask: Mask, *, adds_base: bool = False) -> DiffoConfig:
    config = make_diffo.MICRO_DIFFO
    return replace(config, unet=replace(config.unet, mask=mask, adds_base=adds_base))


@pytest.fixture(scope="module", params=["released", "textbook", "adds_base"])
def model(request: pytest.FixtureRequest) -> DiffoModel:
    is_base = request.param == "adds_base"
    return make_diffo.model(micro("textbook" if is_base else request.param, adds_base=is_base))


@pytest.fixture(scope="module")
def z_n() -> Tensor:
    return torch.randn(2, 8, 16, 24, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def indices() -> Tensor:
    return torch.randint(32, (2, 8, 12), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("timestep", [0, 1])
@torch.no_grad()
def test_fold_keeps_the_prediction_of_its_timestep(
    model: DiffoModel, z_n: Tensor, indices: Tensor, timestep: int
) -> None:
    z_y, base = model.codec.synthesise(indices)
    expected = model.predict(z_n, z_y, torch.full((2,), timestep), base)
    z_c, hint = one_step.SynthesisFromIndices(model.codec, model.unet)(indices)
    torch.testing.assert_close(z_c, base, **TOLERANCE)
    unet = copy.deepcopy(model.unet)
    one_step.fold(unet, timestep)
    torch.testing.assert_close(one_step.OneStep(unet)(z_n, hint), expected, **TOLERANCE)
    other = model.predict(z_n, z_y, torch.full((2,), 1 - timestep), base)
    assert not torch.allclose(expected, other, atol=1e-2)


@torch.no_grad()
def test_fold_leaves_no_time_and_no_scale_of_attention(model: DiffoModel) -> None:
    unet = copy.deepcopy(model.unet)
    one_step.fold(unet, 1)
    assert isinstance(unet.time_embed, nn.Identity)
    assert not any("time_emb_proj" in name for name, _ in unet.named_parameters())
    before = sum(isinstance(m, nn.Linear) for m in model.unet.modules())
    blocks = sum(isinstance(m, one_step.FoldedWindowAttention) for m in unet.modules())
    assert blocks == 2 * 5  # a layer in the first block of either level, down and up, and in the middle
    assert sum(isinstance(m, nn.Linear) for m in unet.modules()) == 2 * blocks < before


@torch.no_grad()
def test_upsample_fold_keeps_the_vqgan(model: DiffoModel, z_n: Tensor) -> None:
    vqgan = copy.deepcopy(model.vqgan)
    upsample.fold(vqgan)
    torch.testing.assert_close(vqgan.decode(z_n), model.vqgan.decode(z_n), **TOLERANCE)
    assert any(isinstance(m, upsample.PhaseConv) for m in vqgan.modules())


@torch.no_grad()
def test_folded_graphs_give_the_golden_image() -> None:
    """The released code's own run, from its image to z_0, through what is exported."""
    if not reference_diffo.SMALL.exists():
        pytest.skip(f"no reference data in {reference_diffo.SMALL}; RDEIC_RT_REFERENCE_DIFFO names its folder")
    model, run = reference_diffo.small_model(), reference_diffo.golden("run_B")
    table = resshift.ddpm(model.config.diffusion)
    assert (table.timesteps, table.a, table.b, table.c) == ((1,), (0.0,), (1.0,), (0.0,))
    np.testing.assert_allclose(table.start_weights(), [0.52999894, 0.84799830], rtol=1e-7)
    image = np.pad(run["image_u8"], [(0, 6), (0, 12), (0, 0)], mode="reflect")
    indices = IndicesFromPixels(model)(torch.from_numpy(image)[None])
    np.testing.assert_array_equal(indices.numpy().ravel(), run["vq_indices"].ravel())
    synthesis = one_step.SynthesisFromIndices(model.codec, model.unet)
    one_step.fold(model.unet, 1)
    z_c, hint = synthesis(indices)
    weights = table.start_weights()
    z_0 = one_step.OneStep(model.unet)(weights[0] * z_c + weights[1] * torch.from_numpy(run["noise"]), hint).numpy()
    for found, wanted in ((z_c.numpy(), run["z_y_start"]), (z_0, run["ddim_one__pred_xstart"])):
        assert np.abs(found - wanted).max() < 1e-3 * np.sqrt(np.square(wanted).mean())


def test_rates_differ_in_codes_and_noise() -> None:
    assert DIFFO.image_multiple_px == 256
    assert (DIFFO.index_px, DIFFO_TINY.index_px, DIFFO_TINY.image_multiple_px) == (16, 16, 32)
    coarse = DIFFO_TINY.at(codebook_size=1024, index_px=32, sqrt_eta=0.5)
    assert (coarse.index_px, coarse.latent_px, coarse.image_multiple_px) == (32, 8, 32)
    assert coarse.latent.channels == (48, 96, 96)
    assert coarse.at(index_px=16, codebook_size=256, sqrt_eta=0.8) == DIFFO_TINY
    assert resshift.ddpm(coarse.diffusion).abar_start == pytest.approx(1 / (1 + 4 * 0.25))
    for numbers, message in (
        ({"index_px": 64}, "can have codes of 8 or 16 or 32"),
        ({"codebook_size": 1}, "2 to 65536"),
        ({"sqrt_eta": 0.0}, "over 0 and at most 1"),
    ):
        with pytest.raises(ValueError, match=message):
            DIFFO_TINY.at(**numbers)
