"""A bundle whose rates share one compression module: any rate between two, one entropy model, the same as PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rdeic_rt
from rdeic_export.bundle.build import build
from rdeic_export.modules import samplers
from rdeic_export.modules.gained import GainedCompressionModel
from rdeic_export.weights import recipe as recipes
from rdeic_export.weights.recipe import Recipe
from rdeic_rt import Codec, container, noise
from rdeic_rt.errors import BundleCorruptError, BundleMismatchError, ImageError
from tests.micro import make_micro

LEVELS = 129  # of three rates in the model


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return make_micro.levels_recipe(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    with Image.open(sorted(make_micro.PHOTOS.glob("*.jpg"))[0]) as photo:
        return np.asarray(photo.crop((60, 60, 252, 188)))


@pytest.fixture(scope="module")
def folder(recipe: Recipe, image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = tmp_path_factory.mktemp("photos")
    Image.fromarray(image).save(photos / "photo.png")
    out = tmp_path_factory.mktemp("engines") / "micro-levels"
    build(recipe, [photos], [], out)
    return out


@pytest.fixture(scope="module")
def codec(folder: Path) -> Codec:
    return rdeic_rt.load(folder, backend="cpu")


def test_bundle_has_one_of_each_graph_and_one_entropy_model(codec: Codec) -> None:
    bundle = codec.bundle
    assert set(bundle.graphs) == {"analysis", "synthesis", "control", "unet_step", "vae_decoder"}
    assert len({rate.entropy for rate in bundle.rates}) == len({rate.model_id for rate in bundle.rates}) == 1
    assert [rate.number for rate in bundle.rates] == [0, 100]
    assert bundle.levels is not None
    assert bundle.levels.count == LEVELS
    assert bundle.rates[0].bpp > bundle.rates[1].bpp


@torch.no_grad()
@pytest.mark.parametrize("rate", [0, 0.37, 1])
def test_decode_at_any_rate_is_as_pytorch_does(recipe: Recipe, codec: Codec, image: np.ndarray, rate: float) -> None:
    data = codec.encode(image, rate)
    latents = codec.read_latents(data)
    assert container.parse(data).header.rate == latents.rate.number == round(100 * rate)
    model = recipes.build_model(recipe, recipe.rates[0])
    assert isinstance(model.codec, GainedCompressionModel)
    position = torch.tensor([2.0 * latents.rate.number / (LEVELS - 1)])
    _, row = model.codec.rows(position)
    z_c, hint = model.codec.synthesise(torch.from_numpy(latents.tensors["y_hat"]), row)
    table = samplers.ddpm(recipe.config.diffusion, 2 if rate == 1 else 1)
    noises = [torch.from_numpy(noise.gaussian(tuple(z_c.shape), latents.crc, k)) for k in range(3)]
    start = table.abar_start**0.5 * z_c + (1 - table.abar_start) ** 0.5 * noises[0]
    for z_0, actual in (
        (model.denoise(start, hint, table, noises[1:]), codec.decode(data)),
        (z_c, codec.preview(data)),
    ):
        expected = ((model.vae.decode(z_0) + 1) * 127.5).clamp(0, 255).round()[0].permute(1, 2, 0).numpy()
        assert np.abs(actual - expected[: image.shape[0], : image.shape[1]]).max() <= 2


def test_encode_to_a_size_takes_the_largest_file_that_fits(codec: Codec, image: np.ndarray) -> None:
    sizes = [len(codec.encode(image, rate / 20)) for rate in range(21)]
    assert sizes[0] > 1.5 * sizes[-1]
    target = (sizes[0] + sizes[-1]) // 2
    fits = codec.encode(image, target_bytes=target)
    assert 0.95 * target <= len(fits) <= target
    with pytest.raises(ImageError, match="the smallest file of this 192x128 image"):
        codec.encode(image, target_bytes=30)


def test_tiles_of_one_level_agree_with_the_whole(folder: Path, codec: Codec, image: np.ndarray) -> None:
    large = np.tile(image, (4, 3, 1))
    data = codec.encode(large, 0.5)
    tiled = rdeic_rt.load(folder, backend="cpu", tile_px=256)
    whole, parts = codec.decode(data).astype(float), tiled.decode(data).astype(float)
    assert np.abs(whole - parts).mean() < 8  # seams; a wrong level would be far off
    assert np.abs(codec.preview(data).astype(float) - tiled.preview(data)).mean() < 8
    assert abs(len(tiled.encode(large, 0.5)) - len(data)) < 0.1 * len(data)


@pytest.mark.parametrize("rate", [-1, 2, 1.5, float("nan"), True, "0"])
def test_rates_that_are_not_there_are_refused(codec: Codec, image: np.ndarray, rate: float) -> None:
    with pytest.raises(ValueError, match=r"0 \(larger\), 1 \(smaller\), and all between them"):
        codec.encode(image, rate)


def test_a_level_that_the_bundle_lacks_is_a_mismatch(codec: Codec, image: np.ndarray) -> None:
    file = container.parse(codec.encode(image, 0))
    header = container.Header(file.header.size, file.header.model_id, LEVELS, file.header.z_is_plain)
    with pytest.raises(BundleMismatchError, match=f"at rate {LEVELS}"):
        codec.decode(container.pack(header, file.z, file.y))


def broken(folder: Path, target: Path, change: str) -> Path:
    document = json.loads((folder / "bundle.json").read_text())
    if change == "order":
        document["rates"][0]["level"] = 101
    elif change == "beyond":
        document["rates"][1]["level"] = LEVELS
    elif change == "one without":
        del document["rates"][1]["level"]
    elif change == "no levels":
        del document["levels"]
    elif change == "count":
        document["levels"]["count"] = LEVELS - 1
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).symlink_to(path) if path.name != "bundle.json" else None
    (target / "bundle.json").write_text(json.dumps(document))
    return target


@pytest.mark.parametrize("change", ["order", "beyond", "one without", "no levels", "count"])
def test_levels_that_contradict_the_rates_are_damage(
    folder: Path, tmp_path: Path, image: np.ndarray, change: str
) -> None:
    target = tmp_path / "broken"
    document_folder = broken(folder, target, change)
    for link in document_folder.iterdir():
        if link.is_symlink():
            content = link.read_bytes()
            link.unlink()
            link.write_bytes(content)
    with pytest.raises(BundleCorruptError):
        rdeic_rt.load(document_folder, backend="cpu").encode(image, 0)
