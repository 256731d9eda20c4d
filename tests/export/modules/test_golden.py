"""Every stage against tensors that the released code computed: errors are at most 1e-3 of each tensor's rms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rdeic_export.modules import samplers
from rdeic_export.modules.compression import anchor_mask
from rdeic_export.modules.config import DiffusionConfig
from rdeic_export.modules.model import RdeicModel
from rdeic_export.modules.vae import Vae
from rdeic_rt.schedule import Schedule
from tests.export import reference

pytestmark = pytest.mark.skipif(not reference.SMALL.is_dir(), reason="no golden data; RDEIC_RT_REFERENCE names them")

LIMIT = 1e-3
IMAGES = ("A", "B")
SHARPNESS = (0.0, 0.5, 1.0, 1.5)


@pytest.fixture(scope="module")
def model() -> RdeicModel:
    return reference.small_model()


@pytest.fixture(scope="module", params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def check(value: Tensor, expected: np.ndarray, what: str) -> None:
    error = reference.relative_error(value, expected)
    assert error <= LIMIT, f"{what}: relative error {error:.2e}"


@torch.no_grad()
def test_analysis_released_weights_match_golden(model: RdeicModel, image: str) -> None:
    golden = reference.golden(f"codec_{image}")
    x = 2 * torch.from_numpy(golden["image"]) - 1
    h = model.vae.features(x)
    check(h, golden["h_raw"], "h")
    assert isinstance(model.vae, Vae)
    check(torch.cat(model.vae.moments(h), dim=1), golden["vae_moments"], "VAE moments")
    y, indices = model.analyse(x)
    check(y, golden["y"], "y")
    check(model.codec.hyper_enc(y), golden["z"], "l_p")
    assert np.array_equal(indices.numpy().ravel(), golden["vq_indices"].ravel())


@torch.no_grad()
def test_entropy_model_released_weights_match_golden(model: RdeicModel, image: str) -> None:
    golden = reference.golden(f"codec_{image}")
    y = torch.from_numpy(golden["y"])
    code = model.codec.quantize.lookup(torch.from_numpy(golden["vq_indices"]).reshape(1, *golden["z"].shape[2:]).long())
    check(code, golden["z_q"], "z_q")
    hyper = model.codec.hyper_dec(code)
    check(hyper, golden["hyper_params"], "hyper params")
    mask = anchor_mask(y)
    decoded = []
    for i, p in enumerate(model.codec.predict(y, hyper)):
        if p.channel_ctx is not None:
            check(p.channel_ctx, golden[f"slice{i}_channel_ctx"], f"slice {i} channel context")
        check(p.local_ctx, golden[f"slice{i}_local_ctx"], f"slice {i} local context")
        check(p.scales_anchor, golden[f"slice{i}_anchor_scales"], f"slice {i} anchor scales")
        check(p.means_anchor, golden[f"slice{i}_anchor_means"], f"slice {i} anchor means")
        check(p.scales_nonanchor, golden[f"slice{i}_nonanchor_scales"], f"slice {i} non-anchor scales")
        check(p.means_nonanchor, golden[f"slice{i}_nonanchor_means"], f"slice {i} non-anchor means")
        check(torch.where(mask, p.y_hat, 0.0), golden[f"slice{i}_anchor_hat"], f"slice {i} anchors of y_hat")
        check(torch.where(mask, 0.0, p.y_hat), golden[f"slice{i}_nonanchor_hat"], f"slice {i} non-anchors of y_hat")
        decoded.append(p.y_hat)
    check(torch.cat(decoded, dim=1), golden["y_hat"], "y_hat")


@torch.no_grad()
def test_synthesis_released_weights_match_golden(model: RdeicModel, image: str) -> None:
    golden = reference.golden(f"codec_{image}")
    z_c, hint = model.codec.synthesise(torch.from_numpy(golden["y_hat"]))
    check(z_c, golden["c_latent"], "z_c")
    check(hint, golden["guide_hint"], "hint")


def table_of(run: str, n_steps: int) -> Schedule:
    return (samplers.ddpm if run == "ddpm" else reference.released_ddim)(DiffusionConfig(), n_steps)


@pytest.mark.parametrize("n_steps", [2, 5])
@pytest.mark.parametrize(("sampler", "sharpness"), [*(("ddpm", s) for s in SHARPNESS), ("ddim", 1.0)])
@torch.no_grad()
def test_denoising_released_weights_match_golden(
    model: RdeicModel, image: str, sampler: str, sharpness: float, n_steps: int
) -> None:
    golden = reference.golden(f"diffusion_{image}")
    hint = torch.from_numpy(reference.golden(f"codec_{image}")["guide_hint"])
    model.context.copy_(torch.from_numpy(golden["context"]))
    run, table = f"{sampler}_L{n_steps}_s{sharpness}", table_of(sampler, n_steps)
    assert list(table.timesteps) == golden[f"{run}__timesteps"].tolist()
    z = torch.from_numpy(golden["x_T"])
    for k, (timestep, a, b, c) in enumerate(samplers.rows(table)):
        step = f"{run}__step{k}"
        check(z, golden[f"{step}_x_in"], f"{step} input")
        conditional = model.eps(z, hint, timestep)
        check(conditional, golden[f"{step}_eps_cond"], f"{step} eps conditional")
        eps = conditional
        if f"{step}_eps_uncond" in golden:
            plain = model.eps(z, None, timestep)
            check(plain, golden[f"{step}_eps_uncond"], f"{step} eps unconditional")
            eps = plain + sharpness * (conditional - plain)
        noise = torch.from_numpy(golden[f"step_noise{k}"]) if c else torch.zeros_like(z)
        z = a * z + b * eps + c * noise
        check(z, golden[f"{step}_x_out"], f"{step} output")
    noises = [torch.from_numpy(golden[f"step_noise{k}"]) for k in range(n_steps)]
    whole = model.denoise(torch.from_numpy(golden["x_T"]), hint, table, noises, sharpness)
    check(whole, golden[f"{run}__step{n_steps - 1}_x_out"], f"{run} whole loop")
    decoded = ((model.vae.decode(whole) + 1) / 2).clamp(0, 1)
    if f"{run}__image" in golden:
        check(decoded, golden[f"{run}__image"], f"{run} image")
    expected = golden[f"{run}__image_u8"].astype(int)
    height, width = expected.shape[:2]
    pixels = (decoded[0, :, :height, :width].permute(1, 2, 0) * 255).numpy().astype(np.uint8).astype(int)
    assert np.abs(pixels - expected).max() <= 1, f"{run}: pixels differ by more than one level"


def test_relay_ddim_between_ends_follows_equation_18() -> None:
    table = samplers.relay_ddim(DiffusionConfig(), 5)
    alphas = samplers.abar(DiffusionConfig())
    for k in range(4):
        now, after = alphas[table.timesteps[k]], alphas[table.timesteps[k + 1]]
        k_n = np.sqrt(after) - np.sqrt((1 - after) / (1 - now)) * np.sqrt(now)
        m_n = np.sqrt((1 - after) / (1 - now))
        assert table.a[k] == pytest.approx(k_n / np.sqrt(now) + m_n, rel=1e-12)
        assert table.b[k] == pytest.approx(-k_n * np.sqrt(1 / now - 1), rel=1e-12)
    assert table.c == (0.0,) * 5


def test_start_released_weights_match_golden(image: str) -> None:
    golden = reference.golden(f"diffusion_{image}")
    z_c = torch.from_numpy(reference.golden(f"codec_{image}")["c_latent"])
    abar = samplers.ddpm(DiffusionConfig(), 2).abar_start
    check(abar**0.5 * z_c + (1 - abar) ** 0.5 * torch.from_numpy(golden["noise_init"]), golden["x_T"], "z_N")


def test_check_last_element_differs_fails() -> None:
    expected = np.ones((1, 2, 3, 4), np.float32)
    value = torch.ones(1, 2, 3, 4)
    value[..., -1, -1] += 2 * LIMIT
    with pytest.raises(AssertionError):
        check(value, expected, "last element")
