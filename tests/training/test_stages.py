"""The stages run end to end on real photos and hand their weights to the next; the losses are what they claim."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from rdeic_eval.psnr import psnr_of_mse
from rdeic_export.modules.compression import SlicePrediction
from rdeic_export.modules.config import TINY_2
from rdeic_export.modules.gained import GainedCompressionModel, rate_between
from rdeic_export.modules.linear_vae import LinearVae
from rdeic_export.modules.model import RdeicModel
from training import cut_crops, data, loop, losses, pack_weights, train_codec, train_decoder, train_texture, transforms

from .host_copies import WatchedLoop

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "tests" / "data" / "photos"


def run(main: object, monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *map(str, options)])
    main()  # type: ignore[operator]


def test_run_sh_trains_and_does_nothing_again_once_a_stage_is_done(tmp_path: Path) -> None:
    options = "--steps 1 --batch 2 --samples 1 --device cpu --precision fp32"
    environment = {**os.environ, "PYTHON": sys.executable, "PROCESSES": "1", "STAGES": "codec", "OPTIONS": options}
    np.save(tmp_path / "crops.npy", np.stack(list(data.cut(data.load_photos([PHOTOS], 128), 4, 128, seed=0))))
    command = [str(ROOT / "training" / "run.sh"), str(tmp_path), str(PHOTOS), str(PHOTOS)]
    for _ in range(2):
        subprocess.run(command, check=True, env=environment)
    metrics = (tmp_path / "codec" / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 1
    assert (tmp_path / "codec" / "weights.safetensors").exists()


@pytest.fixture(scope="module")
def squares() -> np.ndarray:
    return np.stack(list(data.cut(data.load_photos([PHOTOS], 128), 32, 128, seed=0)))


@pytest.fixture
def linear(squares: np.ndarray) -> RdeicModel:
    torch.manual_seed(0)
    model = RdeicModel(TINY_2).eval()
    transforms.start_from_linear(model, squares, [0.3, 0.42, 0.6, 0.85])
    return model


def test_stages_chain_produces_every_weight_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops, codec, decoder = tmp_path / "crops.npy", tmp_path / "codec", tmp_path / "decoder"
    run(cut_crops.main, monkeypatch, "--photos", PHOTOS, "--out", crops, "--count", 16, "--side", 128)
    common = ["--crops", crops, "--validation", PHOTOS, "--steps", 2, "--batch", 4, "--samples", 1, "--device", "cpu"]
    common += ["--precision", "fp32"]  # to time both would take longer than the steps
    run(train_codec.main, monkeypatch, *common, "--out", codec)
    run(train_decoder.main, monkeypatch, *common, "--out", decoder, "--init", codec / "weights.safetensors")
    first, second = (load_file(stage / "weights.safetensors") for stage in (codec, decoder))
    assert second.keys() | {"context"} == set(RdeicModel(TINY_2).state_dict())
    assert first.keys() == {key for key in second if key.startswith(("vae.", "codec."))}
    learnt = {key for key in first if not torch.equal(first[key], second[key])}
    assert learnt
    # Files are made and read by what stage decoder leaves alone.
    frozen = ("codec.g_a", "codec.hyper", "codec.quantize", "codec.channel", "codec.local", "codec.entropy")
    assert not [key for key in learnt if key.startswith((*frozen, "codec.log_gain", "codec.analysis_bias"))]
    assert not learnt & {"vae.basis", "vae.mean"}
    for part in ("vae.linear.weight", "codec.g_s.hint.weight", "codec.log_inverse_gain"):
        assert part in learnt
    assert (decoder / "samples" / "000002.png").exists()

    texture, packed = tmp_path / "texture", tmp_path / "packed"
    run(train_texture.main, monkeypatch, *common, "--out", texture, "--init", decoder / "weights.safetensors")
    run(pack_weights.main, monkeypatch, texture / "weights.safetensors", "--out", packed)
    third, kept = load_file(texture / "weights.safetensors"), load_file(packed / "codec.safetensors")
    # Stages after the first leave one of the two files alone.
    assert not kept.keys() & learnt
    kept |= load_file(packed / "decoder.safetensors")
    assert any(key.startswith("discriminator.") for key in third)
    assert kept.keys() == set(RdeicModel(TINY_2).state_dict())
    assert all(value.dtype == torch.float16 for value in kept.values())
    changed = {key for key in second if not torch.equal(second[key], third[key])}
    assert changed
    assert not [key for key in changed if key.startswith(frozen)]


@pytest.mark.parametrize("stage", ["codec", "decoder", "texture"])
def test_a_step_neither_reads_a_value_back_nor_copies_one_from_the_host(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = WatchedLoop()
    weights = tmp_path / "weights.safetensors"
    loop.save_weights(weights, {k: v for k, v in RdeicModel(TINY_2).state_dict().items() if k != "context"})
    np.save(tmp_path / "crops.npy", np.stack(list(data.cut(data.load_photos([PHOTOS], 128), 4, 128, seed=0))))
    monkeypatch.setattr(loop, "run", watched)
    options = ["--crops", tmp_path / "crops.npy", "--validation", PHOTOS, "--batch", 2, "--samples", 1]
    options += ["--device", "cpu", "--init", weights, "--out", tmp_path / stage]
    run({"codec": train_codec, "decoder": train_decoder, "texture": train_texture}[stage].main, monkeypatch, *options)
    assert watched.found == [set()]


def test_linear_start_codes_photos_as_well_as_its_components_allow(linear: RdeicModel, squares: np.ndarray) -> None:
    vae, codec = linear.vae, linear.codec
    assert isinstance(vae, LinearVae) and isinstance(codec, GainedCompressionModel)
    image = data.to_tensor(squares[:4])
    with torch.no_grad():
        features = vae.features(image)
        analysis, synthesis = codec.rows(torch.zeros(4))
        y = codec.analyse(features, analysis)
        assert (y - codec.g_a.linear(features) / 0.3).abs().max() < 1e-3  # its network starts from nothing
        exact, _ = codec.synthesise(y, synthesis)
        rounded, _ = codec.synthesise(y.round(), synthesis)
        # z_c is z_0 as far as 96 of 768 coefficients tell it: a linear D of both agrees with the photo.
        for z, least in ((vae.latents(image), 24.0), (exact, 24.0), (rounded, 22.0)):
            decoded = F.pixel_shuffle(vae.linear(z), 8)
            assert psnr_of_mse(float((decoded - image).square().mean()), 2) > least


def test_rates_between_two_are_geometric_means(linear: RdeicModel) -> None:
    lambdas = torch.tensor([2.4e-3, 1.2e-3, 6e-4, 3e-4])
    rates = torch.tensor([0.0, 0.5, 1.0, 2.25, 3.0])
    assert rate_between(lambdas, rates).tolist() == pytest.approx(
        [2.4e-3, 2.4e-3 * 0.5**0.5, 1.2e-3, 6e-4 * 0.5**0.25, 3e-4]
    )
    assert isinstance(linear.codec, GainedCompressionModel)
    analysis, synthesis = linear.codec.rows(rates)
    gains, inverse = analysis[:, :96], synthesis[:, :96]
    steps = [0.3, (0.3 * 0.42) ** 0.5, 0.42, 0.6 * (0.85 / 0.6) ** 0.25, 0.85]
    assert (1 / gains[:, 0]).tolist() == pytest.approx(steps)
    torch.testing.assert_close(gains * inverse, torch.ones_like(gains))


def test_gaussian_bits_matches_the_entropy_of_a_wide_gaussian() -> None:
    torch.manual_seed(0)
    scale = torch.full((2, 1, 256, 256), 8.0)
    scale[1] = 16.0
    y = torch.round(torch.randn_like(scale) * scale)
    zeros = torch.zeros_like(scale)
    prediction = SlicePrediction(scale, zeros, scale, zeros, scale, zeros, y, None, zeros)
    bits = losses.gaussian_bits([prediction], y) / y[0].numel()
    expected = 0.5 * torch.log2(2 * torch.pi * torch.e * torch.tensor([64.0, 256.0]))
    torch.testing.assert_close(bits, expected, rtol=0.01, atol=0)


def test_gaussian_bits_tell_a_zero_that_nears_the_next_symbol_what_it_would_cost() -> None:
    y = torch.tensor([0.0, 0.1, 0.45, 0.55, 1.2]).view(1, 1, 1, 5).requires_grad_()
    scale, zeros = torch.full_like(y, 0.2).detach().requires_grad_(), torch.zeros(1, 1, 1, 5)
    prediction = SlicePrediction(scale, zeros, scale, zeros, scale, zeros, y.round(), None, zeros)
    bits = losses.gaussian_bits([prediction], y)
    bits.backward()  # type: ignore[no-untyped-call]
    assert y.grad is not None and scale.grad is not None
    zero, one = (train_bits(symbol, 0.2) for symbol in (0.0, 1.0))
    assert float(bits.detach()) == pytest.approx(3 * zero + 2 * one, rel=1e-4)  # of the rounded symbols
    at_rest, small, near, over, far = y.grad.flatten().tolist()
    assert at_rest == 0
    assert 0 < small < 0.5 < 3 < near < over < far
    assert (scale.grad.flatten()[:3] >= 0).all()  # zeros want a narrow Gaussian,
    assert (scale.grad.flatten()[3:] < 0).all()  # others a wider one


def train_bits(symbol: float, scale: float) -> float:
    normal = torch.distributions.Normal(0.0, scale)
    below, above = normal.cdf(torch.tensor([-0.5 - symbol, 0.5 - symbol]))  # type: ignore[no-untyped-call]
    return -float(torch.log2(above - below))


def test_lattice_is_of_patterns_that_repeat_and_of_uneven_steps() -> None:
    torch.manual_seed(0)
    photo = torch.linspace(-0.5, 0.5, 128).expand(2, 3, 128, 128)
    noise = 0.01 * torch.randn(2, 1, 128, 128)
    clean = losses.lattice(photo + noise, photo)
    pattern = photo + noise + 0.01 * torch.randn(8, 8).repeat(16, 16)  # the same in each block
    seams = noise.clone()
    seams[..., ::8] *= 3  # of either sign, so that they do not repeat
    assert losses.lattice(photo, photo) == pytest.approx(0.0, abs=1e-4)
    assert losses.lattice(pattern, photo) > 5 * clean
    assert losses.lattice(photo + seams, photo) > 5 * clean
    edges = torch.rand(2, 3, 128, 128) * 2 - 1  # nothing of it is flat
    assert losses.lattice(edges + (pattern - photo), edges) == pytest.approx(0.0, abs=1e-4)


def test_block_means_of_a_grey_ramp_and_of_a_colour() -> None:
    grey = torch.linspace(-1, 1, 4).repeat_interleave(16).expand(1, 3, 16, 64)
    luma, *chroma = losses.block_means(grey)[0]
    torch.testing.assert_close(luma[0], torch.linspace(-1, 1, 4))
    for plane in chroma:
        torch.testing.assert_close(plane, torch.zeros(1, 4), rtol=0, atol=1e-3)
    blue = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert losses.block_means(blue).flatten().tolist() == pytest.approx([0.114, 0.5, -0.0813], rel=1e-3)
