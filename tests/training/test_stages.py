"""All four stages run end to end on real photos and hand their weights to the next; the losses are what they claim."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rdeic_export.modules.compression import SlicePrediction
from rdeic_export.modules.config import TINY
from rdeic_export.modules.model import RdeicModel
from training import finetune_steps, losses, train_codec, train_denoiser, train_vae

PHOTOS = Path(__file__).parents[1] / "data" / "photos"


def run(main: object, monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    common = ["--photos", PHOTOS, "--steps", 2, "--batch", 2, "--samples", 1, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["train", *map(str, [*common, *options])])
    main()  # type: ignore[operator]


def test_stages_chain_produces_every_weight_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, denoiser, codec, final = (tmp_path / name for name in ("vae", "denoiser", "codec", "final"))
    run(train_vae.main, monkeypatch, "--out", vae)
    run(train_denoiser.main, monkeypatch, "--out", denoiser, "--vae", vae / "weights.safetensors")
    base = ["--base", vae / "weights.safetensors", denoiser / "weights.safetensors"]
    run(train_codec.main, monkeypatch, "--out", codec, *base, "--lambda-r", 0.5)
    rates = ["--lambda-r", 0.5, 0.1, "--n-steps", 2, 3]
    run(finetune_steps.main, monkeypatch, "--out", final, *base, *rates, "--init", codec / "weights.safetensors")
    stage_one = weights(vae, denoiser, codec)
    first, second = (load_file(final / f"rate_{i}.safetensors") for i in range(2))
    shared = load_file(final / "base.safetensors")
    assert stage_one.keys() | {"context"} == set(RdeicModel(TINY).state_dict())
    assert first.keys() | shared.keys() < stage_one.keys()
    assert any(not torch.equal(first[k], second[k]) for k in first)
    for learnt in (shared | first, shared | second):
        assert changed(stage_one, learnt) == {"codec", "control", "unet", "vae"}

    # The parts of stage II leave alone what they say.
    base.append(final / "base.safetensors")
    rates += ["--init", *(final / f"rate_{i}.safetensors" for i in range(2))]
    for part, learns in (("codec", {"codec", "vae"}), ("denoising", {"control", "unet", "vae"})):
        out = tmp_path / "parts" / part
        run(finetune_steps.main, monkeypatch, "--out", out, *base, *rates, "--train", part)
        for i, before in enumerate((first, second)):
            after = load_file(out / f"rate_{i}.safetensors") | load_file(out / "base.safetensors")
            assert changed(shared | before, after) == learns, part


def weights(*stages: Path) -> dict[str, torch.Tensor]:
    """Return what the stages left, later ones over earlier ones."""
    return {k: v for stage in stages for k, v in load_file(stage / "weights.safetensors").items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Return the networks of which a weight is another one than before."""
    return {key.split(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}


def test_standardise_keeps_the_decoded_image() -> None:
    torch.manual_seed(0)
    vae = RdeicModel(TINY).vae.eval()
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before, _ = vae.moments(vae.features(image))
        expected = vae.decode(before)
        mean, std = before.mean((0, 2, 3)), before.std((0, 2, 3))
        train_vae.standardise(vae, mean, std)
        after, _ = vae.moments(vae.features(image))
        torch.testing.assert_close(vae.decode(after), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-3)
    torch.testing.assert_close(after.std((0, 2, 3)), torch.ones(8), rtol=1e-3, atol=0)


def test_gaussian_bits_matches_the_entropy_of_a_wide_gaussian() -> None:
    torch.manual_seed(0)
    scale = torch.full((1, 1, 256, 256), 8.0)
    y = torch.round(torch.randn_like(scale) * scale)
    zeros = torch.zeros_like(scale)
    prediction = SlicePrediction(scale, zeros, scale, zeros, scale, zeros, y, None, zeros)
    bits = losses.gaussian_bits([prediction]) / y.numel()
    expected = 0.5 * torch.log2(2 * torch.pi * torch.e * torch.tensor(64.0))
    assert float(bits) == pytest.approx(float(expected), rel=0.01)
