"""DiffO's stages run end to end on real photos, resume, and leave what a bundle is built from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rdeic_export.modules.config import TINY_2
from rdeic_export.modules.diffo.config import DIFFO_TINY
from rdeic_export.modules.linear_vae import LinearVae
from rdeic_export.modules.model import RdeicModel
from rdeic_export.weights import any_recipe, diffo_recipe
from rdeic_export.weights.diffo_recipe import DiffoRecipe
from training import data, diffo, loop, pack_diffo, scan_noise, train_diffo, train_diffo_base, transforms

from .host_copies import WatchedLoop

PHOTOS = Path(__file__).parents[2] / "tests" / "data" / "photos"
CONFIG = """
model = "diffo-tiny"

[rates.coarse]
codebook_size = 16
index_px = 32
sqrt_eta = 0.4

[rates.fine]
codebook_size = 32
index_px = 16
sqrt_eta = 0.2
"""


def run(main: object, monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *map(str, options)])
    main()  # type: ignore[operator]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops, settings, and the small RDEIC model that training starts from."""
    folder = tmp_path_factory.mktemp("runs")
    squares = np.stack(list(data.cut(data.load_photos([PHOTOS], 128), 16, 128, seed=0)))
    np.save(folder / "crops.npy", squares)
    torch.manual_seed(0)
    rdeic = RdeicModel(TINY_2)
    transforms.start_from_linear(rdeic, squares, [0.3, 0.42, 0.6, 0.85])
    save_file({k: v.contiguous() for k, v in rdeic.state_dict().items()}, folder / "rdeic.safetensors")
    settings = diffo.CONFIG.read_text()
    (folder / "config.toml").write_text(CONFIG + settings[settings.index("[base]") :])
    return folder


@pytest.fixture
def common(folder: Path) -> list[object]:
    """Options of every stage."""
    options: list[object] = [
        "--crops",
        folder / "crops.npy",
        "--validation",
        PHOTOS,
        "--config",
        folder / "config.toml",
    ]
    return [*options, "--batch", 4, "--samples", 2, "--device", "cpu", "--precision", "fp32"]


def test_rescaled_latents_have_a_variance_of_one_and_decode_to_the_same(folder: Path) -> None:
    torch.manual_seed(0)
    vae = diffo.DiffoRates({"one": DIFFO_TINY}).vqgan
    rdeic = load_file(folder / "rdeic.safetensors")
    vae.load_state_dict({k.removeprefix("vae."): v for k, v in rdeic.items() if k.startswith("vae.")})
    image = data.to_tensor(np.load(folder / "crops.npy"))
    with torch.no_grad():
        before = vae.latents(image)
        expected = vae.decode(before[:2])
        vae.rescale(1 / before.std((0, 2, 3)))
        after = vae.latents(image)
        torch.testing.assert_close(after.std((0, 2, 3)), torch.ones(24))
        torch.testing.assert_close(vae.decode(after[:2]), expected, rtol=1e-4, atol=1e-4)
    # An error of z_0 weighs what it does to pixels: D's linear part is orthogonal.
    weights = diffo.latent_weights(vae)
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    assert weights[0] == weights.max()


def test_stages_chain_resume_and_make_a_bundle(
    folder: Path, common: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, one_step = tmp_path / "base", tmp_path / "one_step"
    of_base = [*common, "--init", folder / "rdeic.safetensors"]
    run(train_diffo_base.main, monkeypatch, *of_base, "--steps", 1, "--out", base)
    run(train_diffo_base.main, monkeypatch, *of_base, "--steps", 3, "--out", base)  # goes on
    run(train_diffo_base.main, monkeypatch, *of_base, "--steps", 3, "--out", tmp_path / "unbroken")
    first, unbroken = (load_file(path / "weights.safetensors") for path in (base, tmp_path / "unbroken"))
    for key in ("vqgan.basis", "coarse.codec.quantize.cluster_size"):
        torch.testing.assert_close(first[key], unbroken[key], rtol=0.2, atol=1e-3)  # a learning rate fell in between

    # From its own weights the stage goes on: E is not scaled again, and codes are not clustered anew.
    of_base[-1] = base / "weights.safetensors"
    run(train_diffo_base.main, monkeypatch, *of_base, "--steps", 1, "--out", tmp_path / "further")
    further = load_file(tmp_path / "further" / "weights.safetensors")
    torch.testing.assert_close(further["vqgan.basis"], first["vqgan.basis"])
    codes = "fine.codec.quantize.embedding.weight"
    assert (further[codes] - first[codes]).abs().mean() < 0.1 * first[codes].abs().mean()

    of_step = [*common, "--init", base / "weights.safetensors"]
    run(train_diffo.main, monkeypatch, *of_step, "--steps", 2, "--out", one_step)
    second = load_file(one_step / "weights.safetensors")
    assert first.keys() == second.keys()
    learnt = {key for key in first if not torch.equal(first[key], second[key])}
    assert "vqgan.basis" not in learnt  # files would not be those of the base
    assert "vqgan.linear.weight" in learnt
    for rate in ("coarse", "fine"):
        assert {f"{rate}.codec.decoder.conv_out.weight", f"{rate}.codec.post_quant_conv.weight"} <= learnt
        written = (f"{rate}.codec.encoder.", f"{rate}.codec.quant")
        assert not [key for key in learnt if key.startswith(written)]  # files stay as they are
        assert second[f"{rate}.unet.out.2.weight"].abs().max() > 0
    assert (one_step / "samples" / "000002.png").exists()

    packed = tmp_path / "packed"
    weights = one_step / "weights.safetensors"
    run(pack_diffo.main, monkeypatch, weights, "--config", folder / "config.toml", "--out", packed)
    recipe = any_recipe.load(packed / "recipe.toml")
    assert isinstance(recipe, DiffoRecipe)
    configs = diffo.configs(diffo.read_settings(folder / "config.toml"))
    assert {one.label: one.config for one in recipe.rates} == configs
    for one in recipe.rates:
        model = diffo_recipe.build_model(recipe, one)
        assert isinstance(model.vqgan, LinearVae)
        torch.testing.assert_close(model.vqgan.basis, second["vqgan.basis"], rtol=1e-3, atol=1e-3)
        learnt_codes = second[f"{one.label}.codec.quantize.embedding.weight"]
        torch.testing.assert_close(model.codec.quantize.embedding.weight, learnt_codes, rtol=1e-3, atol=1e-3)

    # Training goes on from what was packed, too.
    assert diffo.is_own(packed / "recipe.toml")
    rates = diffo.DiffoRates(configs)
    diffo.load_weights(rates, packed / "recipe.toml")
    for key, value in rates.state_dict().items():
        torch.testing.assert_close(value, second[key].half().to(value.dtype), msg=key)
    with pytest.raises(ValueError, match="rates"):
        diffo.load_weights(diffo.DiffoRates({"one": DIFFO_TINY}), packed / "recipe.toml")


def test_scan_trains_with_each_noise_and_reads_what_is_done(
    folder: Path, common: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = diffo.DiffoRates(diffo.configs(diffo.read_settings(folder / "config.toml")))
    rdeic = load_file(folder / "rdeic.safetensors")
    model.vqgan.load_state_dict({k.removeprefix("vae."): v for k, v in rdeic.items() if k.startswith("vae.")})
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "base.safetensors")
    options = [*common, "--init", tmp_path / "base.safetensors", "--steps", 1]
    for _ in range(2):
        run(scan_noise.main, monkeypatch, *options, "--sqrt-eta", 0.1, 0.8, "--out", tmp_path / "scan")
    table = [row.split(" | ") for row in (tmp_path / "scan" / "noise.md").read_text().splitlines()]
    assert len(table) == 2 + 4
    assert {(row[0].strip("| "), row[1]) for row in table[2:]} == {
        (rate, noise) for rate in ("coarse", "fine") for noise in ("0.1", "0.8")
    }
    assert len((tmp_path / "scan" / "0.1" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_step_neither_reads_a_value_back_nor_copies_one_from_the_host(
    folder: Path, common: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = WatchedLoop()
    monkeypatch.setattr(loop, "run", watched)
    run(train_diffo_base.main, monkeypatch, *common, "--init", folder / "rdeic.safetensors", "--out", tmp_path / "base")
    rates = diffo.DiffoRates(diffo.configs(diffo.read_settings(folder / "config.toml")))
    loop.save_weights(tmp_path / "weights.safetensors", rates.state_dict())
    run(
        train_diffo.main,
        monkeypatch,
        *common,
        "--init",
        tmp_path / "weights.safetensors",
        "--out",
        tmp_path / "one_step",
    )
    assert watched.found == [set(), set()]


def test_settings_have_the_rates_that_were_meant() -> None:
    configs = diffo.configs(diffo.read_settings(diffo.CONFIG))
    bits = {name: np.log2(config.codebook_size) / config.index_px**2 for name, config in configs.items()}
    assert bits == pytest.approx({"low": 0.0107, "high": 0.0234}, rel=0.01)
