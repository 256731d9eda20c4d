"""Each fold leaves the network's output as it was, and removes what it is meant to remove."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rdeic_export.fold import graphs, steps, text, upsample
from rdeic_export.fold.pixels import AnalysisFromPixels, PixelsFromVae
from rdeic_export.fold.update import UnetStep
from rdeic_export.modules import samplers
from rdeic_export.modules.model import RdeicModel
from rdeic_export.modules.vae import Vae
from tests.micro import make_micro

TIMESTEP = 150
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def model() -> RdeicModel:
    return make_micro.model()


@pytest.fixture(scope="module")
def z_n() -> Tensor:
    return torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def hint() -> Tensor:
    return torch.randn(2, 16, 16, 24, generator=torch.Generator().manual_seed(4))


def linear_layers(network: nn.Module) -> int:
    return sum(isinstance(m, nn.Linear) for m in network.modules())


def test_text_fold_same_context_keeps_output(model: RdeicModel, z_n: Tensor) -> None:
    emb = model.unet.time_embed(torch.tensor([TIMESTEP, TIMESTEP]))
    expected = model.unet(z_n, emb, model.context.expand(2, -1, -1))
    folded = copy.deepcopy(model.unet)
    text.fold(folded, model.context)
    torch.testing.assert_close(folded(z_n, emb, None), expected, **TOLERANCE)
    assert linear_layers(folded) < linear_layers(model.unet)


def test_text_fold_other_context_changes_output(model: RdeicModel, z_n: Tensor) -> None:
    emb = model.unet.time_embed(torch.tensor([TIMESTEP, TIMESTEP]))
    folded = copy.deepcopy(model.unet)
    text.fold(folded, model.context + 1)
    assert not torch.allclose(folded(z_n, emb, None), model.unet(z_n, emb, model.context.expand(2, -1, -1)), atol=1e-3)


def test_steps_fold_every_timestep_keeps_output(model: RdeicModel, z_n: Tensor) -> None:
    timesteps = samplers.ddpm(model.config.diffusion, 5).timesteps
    table = steps.table(model.unet, timesteps)
    folded = copy.deepcopy(model.unet)
    steps.fold(folded)
    context = model.context.expand(2, -1, -1)
    for row, timestep in zip(table, timesteps, strict=True):
        expected = model.unet(z_n, model.unet.time_embed(torch.tensor([timestep] * 2)), context)
        torch.testing.assert_close(folded(z_n, row[None], context), expected, **TOLERANCE)
    assert not any(name.startswith("time_embed.") for name, _ in folded.named_parameters())


def test_update_fold_matches_the_sampler(model: RdeicModel, z_n: Tensor, hint: Tensor) -> None:
    table = samplers.ddpm(model.config.diffusion, 2)
    noise = torch.randn(z_n.shape, generator=torch.Generator().manual_seed(5))
    expected = model.denoise(z_n, hint, table, [noise, noise])
    rows = graphs.step_tables(model, table)
    folded = copy.deepcopy(model)
    control, unet = graphs.rate_graphs(folded)["control"].module, graphs.shared_graphs(folded)["unet_step"].module
    assert isinstance(unet, UnetStep)
    z = z_n
    for k, (_, *coefficients) in enumerate(samplers.rows(table)):
        residuals = control(z, hint, torch.from_numpy(rows["control"][k : k + 1]))
        step = torch.from_numpy(rows["unet_step"][k : k + 1])
        z = unet(z, step, torch.tensor(coefficients), noise, residuals)
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)


def test_update_fold_zero_residuals_give_plain_estimator(model: RdeicModel, z_n: Tensor, hint: Tensor) -> None:
    rows = graphs.step_tables(model, samplers.ddpm(model.config.diffusion, 2))
    unet = graphs.shared_graphs(copy.deepcopy(model))["unet_step"]
    control = graphs.rate_graphs(copy.deepcopy(model))["control"].module
    zeros = [torch.zeros_like(r) for r in control(z_n, hint, torch.from_numpy(rows["control"][:1]))]
    eps = unet.module(
        z_n, torch.from_numpy(rows["unet_step"][:1]), torch.tensor([0.0, 1.0, 0.0]), torch.zeros_like(z_n), zeros
    )
    torch.testing.assert_close(eps, model.eps(z_n, None, 299), **TOLERANCE)


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_upsample_fold_keeps_output_with_fewer_multiplications(model: RdeicModel, z_n: Tensor, part: str) -> None:
    folded = copy.deepcopy(model)
    upsample.fold(getattr(folded, part))

    def run(network: RdeicModel) -> Tensor:
        return network.vae.decode(z_n) if part == "vae" else network.eps(z_n, None, TIMESTEP)

    with FlopCounterMode(display=False) as before:
        expected = run(model)
    with FlopCounterMode(display=False) as after:
        actual = run(folded)
    torch.testing.assert_close(actual, expected, **TOLERANCE)
    assert after.get_total_flops() < before.get_total_flops()


def test_pixels_fold_analysis_takes_bytes(model: RdeicModel) -> None:
    image = torch.randint(256, (1, 128, 192, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    y, indices = AnalysisFromPixels(model)(image)
    expected_y, expected_indices = model.analyse(image.permute(0, 3, 1, 2).float() / 255 * 2 - 1)
    torch.testing.assert_close(y, expected_y, rtol=1e-4, atol=1e-4)
    assert (indices == expected_indices).float().mean() > 0.99
    assert y.shape == (1, 16, 8, 12)
    assert indices.shape == (1, 2, 3)


def test_pixels_fold_decoder_rounds_and_clamps(model: RdeicModel, z_n: Tensor) -> None:
    decoded = 8 * model.vae.decode(z_n)
    vae = copy.deepcopy(model.vae)
    assert isinstance(vae, Vae)
    last = vae.kl.decoder.conv_out
    assert last.bias is not None
    last.weight *= 8
    last.bias *= 8
    pixels = PixelsFromVae(vae)(z_n)
    exact = ((decoded + 1) * 127.5).permute(0, 2, 3, 1)
    assert (pixels[exact < 0] == 0).all()
    assert (pixels[exact > 255] == 255).all()
    inside = (exact > 0) & (exact < 255)
    assert inside.any()
    assert (pixels[inside].float() - exact[inside]).abs().max() <= 0.51
