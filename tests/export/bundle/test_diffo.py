"""A DiffO bundle from weights: two rates that differ in codes and noise, decoded as PyTorch does."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import build_engines
import rdeic_rt
from rdeic_export.bundle.build import build
from rdeic_export.calibration import calibrate
from rdeic_export.entropy import index_context
from rdeic_export.forms import quantize, ranges
from rdeic_export.modules.diffo import resshift
from rdeic_export.modules.diffo.config import SwinUNetConfig
from rdeic_export.modules.diffo.index_context import IndexContext
from rdeic_export.weights import any_recipe, diffo_recipe
from rdeic_export.weights.diffo_recipe import DiffoRecipe
from rdeic_rt import container, noise
from rdeic_rt.errors import ExportError
from rdeic_rt.limits import Size
from tests.micro import make_diffo, make_micro

from .. import reference_diffo
from .test_build import contents

UNET = SwinUNetConfig((8,), (1,), (4,), hint_channels=4, swin_dim=8, head_dim=4, norm_groups=4, mask="textbook")
CONFIG = replace(make_diffo.MICRO_DIFFO, name="smallest-diffo", unet=UNET)
RECIPE = """
name = "micro-diffo"
model = "smallest-diffo"
licence = "Apache-2.0"
default_rate = 1
base = ["base.safetensors"]
half_weights = true

[[rates]]
label = "coarse"
weights = ["rate_0.safetensors"]

[[rates]]
label = "fine"
weights = ["rate_1.safetensors"]
codebook_size = 20
index_px = 8
sqrt_eta = 0.5
context = "context_1.safetensors"

[provenance]
weights = "random"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights and recipe of a bundle."""
    folder = tmp_path_factory.mktemp("weights")
    for index, config in enumerate((CONFIG, CONFIG.at(codebook_size=20, index_px=8, sqrt_eta=0.5))):
        state = make_diffo.model(config).state_dict()
        base = {key: value for key, value in state.items() if key.startswith("vqgan.")}
        save_file(base, folder / "base.safetensors")
        save_file({key: state[key] for key in state.keys() - base.keys()}, folder / f"rate_{index}.safetensors")
    torch.manual_seed(0)
    codes = state["codec.quantize.embedding.weight"]
    save_file(IndexContext(codes, 6).state_dict(), folder / "context_1.safetensors")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def recipe(folder: Path) -> DiffoRecipe:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(diffo_recipe.MODELS, CONFIG.name, CONFIG)
        chosen = any_recipe.load(folder / "recipe.toml")
    assert isinstance(chosen, DiffoRecipe)
    return chosen


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small crops, so that the micro model's attention stays small."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(make_micro.PHOTOS.glob("*.jpg"))[:2]:
        Image.open(path).crop((60, 60, 172, 148)).save(folder / f"{path.stem}.png")
    return folder


@pytest.fixture(scope="module")
def bundle(recipe: DiffoRecipe, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "micro-diffo"
    build(recipe, [photos], [], folder)
    return folder


@torch.no_grad()
def test_bundle_decodes_as_pytorch_does(recipe: DiffoRecipe, photos: Path, bundle: Path) -> None:
    codec = rdeic_rt.load(bundle, backend="cpu")
    photo = np.asarray(Image.open(sorted(photos.glob("*.png"))[0]))
    for index, rate in enumerate(recipe.rates):
        data = codec.encode(photo, index)
        model = diffo_recipe.build_model(recipe, rate)
        indices = torch.from_numpy(codec.read_latents(data).tensors["vq_indices"])
        z_y, base = model.codec.synthesise(indices)
        eps = torch.from_numpy(noise.gaussian(tuple(base.shape), container.parse(data).crc, 0))
        table = resshift.ddpm(rate.config.diffusion)
        for z, decoded in ((model.denoise(base, z_y, table, [eps]), codec.decode(data)), (base, codec.preview(data))):
            expected = ((model.vqgan.decode(z) + 1) * 127.5).clamp(0, 255).round()[0].permute(1, 2, 0).numpy()
            difference = np.abs(decoded.astype(float) - expected[: photo.shape[0], : photo.shape[1]])
            assert difference.max() <= 1, rate.label


def test_bundle_says_what_it_was_made_from(bundle: Path) -> None:
    codec = rdeic_rt.load(bundle, backend="cpu")
    read = codec.bundle
    assert (read.family, read.default_rate, read.size_multiple_px) == ("diffo", 1, 32)
    assert read.provenance == {"weights": "random"}
    assert [read.schedules[rate.schedule or ""].abar_start for rate in read.rates] == pytest.approx([1 / 3.56, 1 / 2])
    assert not any(rate.is_guided for rate in read.rates)
    assert len({rate.graphs["vae_decoder"] for rate in read.rates}) == 1
    for rate in read.rates:
        measured = read.calibration["rates"][rate.label]
        assert rate.bpp == measured["bpp"]
        assert measured["bits_actual"] <= measured["bits_fixed"]
    # 96 x 128 padded: 6 x 8 codes of 5 bits, 12 x 16 of 5.
    sizes = [codec.fixed_size_bytes(Size(88, 112), rate) for rate in (0, 1)]
    assert sizes == [19 + 30, 19 + 120]


def test_context_model_is_kept_if_it_saves_bits(
    recipe: DiffoRecipe, photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was never trained saves nothing, unless its tables are counted on the very photos that are measured."""
    dropped = rdeic_rt.load(bundle, backend="cpu").bundle
    measured = [dropped.calibration["rates"][rate.label] for rate in dropped.rates]
    assert "bits_context" not in measured[0]
    assert measured[1]["bits_context"] > 0.98 * measured[1]["bits_prior"]
    assert int(np.load(bundle / "entropy_r1.npz")["version"][0]) == 2

    monkeypatch.setattr(index_context, "_TABLE_WORTH", 0.01)
    build(replace(recipe, rates=recipe.rates[1:], default_rate=0), [photos], [], tmp_path / "kept")
    codec = rdeic_rt.load(tmp_path / "kept", backend="cpu")
    (facts,) = codec.bundle.calibration["rates"].values()
    assert facts["bits_actual"] == facts["bits_context"] < 0.98 * facts["bits_prior"]
    photo = np.asarray(Image.open(sorted(photos.glob("*.png"))[0]))
    data = codec.encode(photo)
    assert len(data) < len(codec.encode(photo, fixed_size=True))
    indices = codec.read_latents(data).tensors["vq_indices"]
    again = codec.read_latents(codec.encode(photo, fixed_size=True)).tensors["vq_indices"]
    np.testing.assert_array_equal(indices, again)


def test_bundle_of_the_same_weights_is_the_same(
    recipe: DiffoRecipe, photos: Path, bundle: Path, tmp_path: Path
) -> None:
    build(replace(recipe, rates=recipe.rates[:1], default_rate=0), [photos], [], tmp_path / "again")
    again, whole = contents(tmp_path / "again"), contents(bundle)
    for name in again.keys() - {"bundle.json"}:
        assert again[name] == whole[name]


def test_recipe_with_rates_out_of_range_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(diffo_recipe.MODELS, CONFIG.name, CONFIG)
    for old, new, message in (
        ("index_px = 8", "index_px = 64", "rate 'fine': codes of 64 pixels"),
        ("sqrt_eta = 0.5", "sqrt_eta = -1.0", "rate 'fine': sqrt"),
        ("rate_1", "rate_7", "no such weights"),
        ("context_1", "context_7", "no such weights"),
    ):
        with pytest.raises(ExportError, match=message):
            diffo_recipe.from_document(tomllib.loads(RECIPE.replace(old, new)), folder / "recipe.toml")
    changed = tomllib.loads(RECIPE.replace("codebook_size = 20", "codebook_size = 21"))
    other = diffo_recipe.from_document(changed, folder / "recipe.toml")
    with pytest.raises(ExportError, match=r"3 problems.*fine: codec.quantize.*expected \[21"):
        diffo_recipe.build_model(other, other.rates[1])


def test_released_checkpoints_say_how_many_codes_there_are() -> None:
    if not reference_diffo.SMALL.exists():
        pytest.skip(f"no reference data in {reference_diffo.SMALL}; RDEIC_RT_REFERENCE_DIFFO names its folder")
    files = [reference_diffo.SMALL / f"weights_{part}.safetensors" for part in ("unet", "vq", "gt")]
    recipe = diffo_recipe.from_checkpoints("x", *files, sqrt_eta=0.7, half_weights=False)
    (rate,) = recipe.rates
    assert (rate.config.codebook_size, rate.config.index_px) == (64, 16)
    assert rate.config.diffusion.sqrt_eta_end == 0.7
    with pytest.raises(ExportError, match="1227 problems"):  # it is small, and the command is for the full size
        diffo_recipe.build_model(recipe, rate)
    small = replace(recipe, rates=(replace(rate, config=reference_diffo.small_config()),))
    assert diffo_recipe.build_model(small, small.rates[0]).config.codebook_size == 64


def test_main_random_weights_of_diffo_need_no_steps(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(diffo_recipe.MODELS, "diffo-tiny", CONFIG)
    output = tmp_path / "random"
    options = ["--random-weights", "diffo-tiny", "--library", "onnx", "--photos", str(photos), "--output", str(output)]
    assert build_engines.main([*options, "--steps", "2"]) == ExportError.exit_code
    assert "the rates of 'diffo-tiny-random' decode in 1 steps, not in 2" in capsys.readouterr().err
    assert build_engines.main(options) == 0
    codec = rdeic_rt.load(output, backend="cpu", precision="fp16")
    photo = np.asarray(Image.open(sorted(photos.glob("*.png"))[0]))
    assert codec.decode(codec.encode(photo)).shape == photo.shape


def test_one_graph_alone_gets_an_8_bit_form(
    bundle: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantize, "LEAST_CHANNELS", dict.fromkeys(ranges.FORMS, 4))  # layers here have few channels
    measured = calibrate.collect(bundle, sorted(photos.glob("*.png")))  # at sharpness 1: it knows no other
    measured.save(tmp_path / "ranges.json")
    output = tmp_path / "micro-diffo"
    options = ["--bundle", bundle, "--library", "onnx", "--precision", "int8", "--ranges", tmp_path / "ranges.json"]
    options += ["--photos", photos, "--output", output, "--no-verify", "--graphs"]
    assert build_engines.main([*map(str, options), "analysis"]) == ExportError.exit_code
    assert "no graph 'analysis' decodes; --graphs takes some of synthesis_r0, " in capsys.readouterr().err
    assert build_engines.main([*map(str, options), "vae_decoder"]) == 0
    codec = rdeic_rt.load(output, backend="cpu")
    assert {name: set(forms) for name, forms in codec.bundle.graphs.items() if len(forms) > 1} == {
        "vae_decoder": {"fp32", "int8-cpu"}
    }
    assert set(codec.bundle.preferred["cpu"]) == {"fp32", "int8-cpu"}  # measured with the other graphs in float32
    photo = np.asarray(Image.open(sorted(photos.glob("*.png"))[0]))
    data = codec.encode(photo)
    assert data == rdeic_rt.load(bundle, backend="cpu").encode(photo)
    assert codec.decode(data).shape == photo.shape
