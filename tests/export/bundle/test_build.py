"""A bundle from weights: the same bytes twice, decoded as PyTorch does, and nothing left by a failure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import rdeic_rt
from rdeic_export import onnx_export
from rdeic_export.bundle import staging
from rdeic_export.bundle.build import build
from rdeic_export.modules import samplers
from rdeic_export.modules.signature import Signature
from rdeic_export.weights import recipe as recipes
from rdeic_export.weights.recipe import Recipe
from rdeic_rt import DecodeOptions, container, noise
from rdeic_rt.errors import ExportError
from tests.micro import make_micro


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    whole = make_micro.recipe(tmp_path_factory.mktemp("weights"))
    return dataclasses.replace(whole, rates=whole.rates[:1])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small crops, so that the micro model's attention stays small."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(make_micro.PHOTOS.glob("*.jpg"))[:2]:
        Image.open(path).crop((60, 60, 252, 188)).save(folder / f"{path.stem}.png")
    return folder


@pytest.fixture(scope="module")
def bundle(recipe: Recipe, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "micro"
    build(recipe, [photos], [], folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@torch.no_grad()
def test_build_bundle_decodes_as_pytorch_does(recipe: Recipe, photos: Path, bundle: Path) -> None:
    codec = rdeic_rt.load(bundle, backend="cpu")
    photo = np.asarray(Image.open(sorted(photos.glob("*.png"))[0]))
    data = codec.encode(photo)
    crc = container.parse(data).crc
    model = recipes.build_model(recipe, recipe.rates[0])
    table = samplers.ddpm(recipe.config.diffusion, 2)
    z_c, hint = model.codec.synthesise(torch.from_numpy(codec.read_latents(data).tensors["y_hat"]))
    eps = torch.from_numpy(noise.gaussian(tuple(z_c.shape), crc, 0))
    start = table.abar_start**0.5 * z_c + (1 - table.abar_start) ** 0.5 * eps
    noises = [torch.from_numpy(noise.gaussian(tuple(z_c.shape), crc, k + 1)) for k in range(2)]
    for sharpness in (1.0, 0.5):
        z_0 = model.denoise(start, hint, table, noises, sharpness)
        expected = ((model.vae.decode(z_0) + 1) * 127.5).clamp(0, 255).round()[0].permute(1, 2, 0).numpy()
        actual = codec.decode(data, DecodeOptions(sharpness=sharpness)).astype(float)
        assert np.abs(actual - expected[: photo.shape[0], : photo.shape[1]]).max() <= 2, sharpness


def test_build_bundle_says_what_it_was_made_from(bundle: Path) -> None:
    read = rdeic_rt.load(bundle).bundle
    assert read.provenance == {"weights": "random"}
    measured = read.calibration["rates"]["2 steps"]
    assert measured["bits_actual"] % 8 == 0
    assert measured["overhead"] == pytest.approx(measured["bits_actual"] / measured["bits_float"] - 1)
    assert read.rates[0].bpp == measured["bpp"]
    assert measured["skip_below"] == np.load(read.rates[0].entropy.path)["skip_below"][0]
    assert set(read.schedules) == {"ddpm-2", "ddpm-5", "ddim-2", "ddim-5"}


def test_build_interrupted_leaves_the_old_bundle_and_resumes_to_the_same_bytes(
    recipe: Recipe, photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "engines" / "micro"
    target.mkdir(parents=True)
    (target / "stale.onnx").write_bytes(b"old")
    exported: list[str] = []
    original = onnx_export.run

    def interrupted(module: nn.Module, signature: Signature, path: Path, *, half_weights: bool) -> None:
        if len(exported) == 2:
            raise KeyboardInterrupt
        exported.append(path.name)
        original(module, signature, path, half_weights=half_weights)

    monkeypatch.setattr(onnx_export, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(recipe, [photos], [], target)
    assert contents(target) == {"stale.onnx": b"old"}
    assert not list(target.parent.rglob("bundle.json")), "a half-written bundle could be loaded"
    finished, exported[:] = list(exported), [""]

    def resumed(module: nn.Module, signature: Signature, path: Path, *, half_weights: bool) -> None:
        exported.append(path.name)
        original(module, signature, path, half_weights=half_weights)

    monkeypatch.setattr(onnx_export, "run", resumed)
    build(recipe, [photos], [], target, resume=True)
    assert not set(finished) & set(exported)
    assert contents(target) == contents(bundle)
    assert [p.name for p in target.parent.iterdir()] == ["micro"]


def test_build_beside_another_one_of_the_same_bundle_is_refused(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "engines" / "micro"
    with staging.staging(target), pytest.raises(ExportError, match="another build is writing this bundle"):
        build(recipe, [photos], [], target)


def test_build_weights_that_do_not_fit_leaves_nothing(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    weights = recipe.rates[0].weights
    assert weights is not None
    swapped = dataclasses.replace(recipe, base=(weights,))
    with pytest.raises(ExportError, match="missing context"):
        build(swapped, [photos], [], tmp_path / "engines" / "broken")
    assert list((tmp_path / "engines").iterdir()) == []
