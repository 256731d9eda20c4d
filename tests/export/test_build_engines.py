"""The build script: the same bundle twice, one the runtime decodes as PyTorch does, and nothing left by a failure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import build_engines
import rdeic_rt
from rdeic_export import fidelity, onnx_export, schedule, staging
from rdeic_export import recipe as recipes
from rdeic_export.modules.signature import Signature
from rdeic_export.recipe import Recipe
from rdeic_rt import DecodeOptions, container, noise
from rdeic_rt.cli.batch import EXIT_OS_ERROR
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
    build_engines.build(recipe, [photos], [], folder)
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
    table = schedule.ddpm(recipe.config.diffusion, 2)
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
        build_engines.build(recipe, [photos], [], target)
    assert contents(target) == {"stale.onnx": b"old"}
    assert not list(target.parent.rglob("bundle.json")), "a half-written bundle could be loaded"
    finished, exported[:] = list(exported), [""]
    monkeypatch.setattr(onnx_export, "run", lambda *a, **k: (exported.append(a[2].name), original(*a, **k))[1])
    build_engines.build(recipe, [photos], [], target, resume=True)
    assert not set(finished) & set(exported)
    assert contents(target) == contents(bundle)
    assert [p.name for p in target.parent.iterdir()] == ["micro"]


def test_staging_resumed_takes_only_whole_files_of_the_same_key_and_not_resumed_none(tmp_path: Path) -> None:
    key = {"weights": {"a.ckpt": "0123"}, "half_weights": True}
    with pytest.raises(KeyboardInterrupt), staging.staging(tmp_path / "x") as stage:
        for name in ("whole.onnx", "cut.onnx"):
            (stage.folder / name).write_bytes(b"graph")
            stage.record(name, key, 0.25)
        raise KeyboardInterrupt
    (tmp_path / ".x.partial" / "cut.onnx").write_bytes(b"gra")
    with pytest.raises(KeyboardInterrupt), staging.staging(tmp_path / "x", resume=True) as stage:
        assert stage.finished("whole.onnx", key) == 0.25
        assert stage.finished("whole.onnx", {**key, "half_weights": False}) is None
        assert stage.finished("cut.onnx", key) is None
        assert stage.finished("never.onnx", key) is None
        raise KeyboardInterrupt
    with staging.staging(tmp_path / "x") as stage:
        assert stage.finished("whole.onnx", key) is None
        assert list(stage.folder.iterdir()) == []


def test_building_again_keeps_the_model_card_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    for name in ("README.md", "old.onnx"):
        (target / name).write_text("by people")
    with staging.staging(target) as stage:
        (stage.folder / "new.onnx").write_bytes(b"graph")
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "new.onnx"]
    assert (target / "README.md").read_text() == "by people"


def test_build_beside_another_one_of_the_same_bundle_is_refused(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "engines" / "micro"
    with staging.staging(target), pytest.raises(ExportError, match="another build is writing this bundle"):
        build_engines.build(recipe, [photos], [], target)


def test_build_weights_that_do_not_fit_leaves_nothing(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    swapped = dataclasses.replace(recipe, base=(recipe.rates[0].weights,))
    with pytest.raises(ExportError, match="missing context"):
        build_engines.build(swapped, [photos], [], tmp_path / "engines" / "broken")
    assert list((tmp_path / "engines").iterdir()) == []


def test_main_random_weights_makes_a_bundle_that_decodes(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = dataclasses.replace(make_micro.MICRO.vae, channels=(16, 16), mid_attention=False)
    unet = dataclasses.replace(make_micro.MICRO.unet, channels=(16,), attention_levels=(False,))
    smallest = dataclasses.replace(make_micro.MICRO, vae=vae, unet=unet)  # exports quickly
    monkeypatch.setitem(recipes.MODELS, "tiny", smallest)
    output = tmp_path / "random"
    options = [
        "--steps",
        "2",
        "--library",
        "onnx",
        "--precision",
        "fp16",
        "--photos",
        str(photos),
        "--output",
        str(output),
    ]
    assert build_engines.main(["--random-weights", "tiny", *options]) == 0
    codec = rdeic_rt.load(output, backend="cpu", precision="fp16")
    assert set(codec.bundle.preferred["cpu"]) == {"fp32", "fp16"}
    assert [rate.schedule for rate in codec.bundle.rates] == ["ddpm-2"]
    photo = np.asarray(Image.open(sorted(photos.glob("*.png"))[0]))
    assert codec.decode(codec.encode(photo)).shape == photo.shape


def test_main_drop_fp32_makes_a_smaller_bundle_that_decodes_and_from_which_no_plans_are_built(
    embedded_bundle: Path, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tiny-int8"
    photo = sorted(photos.glob("*.png"))[0]
    options = ["--library", "onnx", "--precision", "int8", "--drop-fp32", "--photos", str(photo)]
    assert build_engines.main(["--bundle", str(embedded_bundle), *options, "--output", str(output)]) == 0
    codec = rdeic_rt.load(output, backend="cpu")
    bundle = codec.bundle
    for rate in bundle.rates:
        assert {bundle.reference(rate.graphs[role]).form for role in bundle.decoding_roles} == {"int8-cpu"}
    assert bundle.preferred["cpu"] == ("int8-cpu",)
    whole = rdeic_rt.load(embedded_bundle, backend="cpu")
    assert sum(f.size_bytes for f in bundle.files.values()) < sum(f.size_bytes for f in whole.bundle.files.values())
    image = np.asarray(Image.open(photo))
    data = whole.encode(image)
    assert codec.encode(image) == data
    assert fidelity.psnr_db(whole.decode(data), codec.decode(data)) > fidelity.LIMIT_DB["int8"]
    capsys.readouterr()
    for more in ([], ["--library", "onnx", "--output", str(tmp_path / "again")]):
        assert build_engines.main(["--bundle", str(output), *more]) == ExportError.exit_code
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "in int8-cpu only, and plans and other forms are made of float32 graphs" in said
    assert not (output / "plans").exists() and not (tmp_path / "again").exists()


def test_main_int8_of_weights_without_ranges_is_refused_before_anything_is_written(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--library", "onnx", "--precision", "int8", "--photos", str(photos), "--output", str(tmp_path / "out")]
    assert build_engines.main(["--random-weights", "tiny", *options]) == ExportError.exit_code
    assert "no activation ranges of bundle 'tiny-random'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("rdeic_2_step2.ckpt", (5,), r"rdeic_2_step2\.ckpt: trained for 2 steps, not 5; give --steps 2"),
        ("own.ckpt", (2, 5), r"own\.ckpt: its name does not say .*give one --steps"),
        ("rdeic_2_step2.ckpt", (2,), r"no such weights: .*rdeic_2_step2\.ckpt"),
    ],
)
def test_from_checkpoints_of_other_steps_or_absent_are_refused(
    tmp_path: Path, name: str, steps: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        recipes.from_checkpoints("x", [tmp_path / name], tmp_path / "sd.ckpt", steps, half_weights=True)


def test_from_checkpoints_takes_rates_from_their_names_largest_first(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("rdeic_0.1_step5.ckpt", "rdeic_2_step2.ckpt")]
    for path in (*paths, tmp_path / "sd.ckpt"):
        path.touch()
    made = recipes.from_checkpoints("x", paths, tmp_path / "sd.ckpt", (2, 5), half_weights=True)
    assert [(rate.lambda_r, rate.n_steps, rate.weights) for rate in made.rates] == [
        (2.0, 2, paths[1]),
        (0.1, 5, paths[0]),
    ]


def test_main_checkpoint_without_stable_diffusion_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = build_engines.main(["--checkpoint", str(tmp_path / "rdeic_2_step2.ckpt"), "--steps", "2"])
    assert code == ExportError.exit_code
    assert "v2-1_512-ema-pruned.ckpt" in capsys.readouterr().err


def test_main_absent_recipe_is_one_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = build_engines.main(["--recipe", str(tmp_path / "none.toml"), "--output", str(tmp_path / "out")])
    assert code == ExportError.exit_code
    assert capsys.readouterr().err.count("\n") == 1


def test_main_absent_photos_are_one_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = build_engines.main(["--photos", str(tmp_path / "none.jpg"), "--output", str(tmp_path / "out")])
    assert code == EXIT_OS_ERROR
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "none.jpg" in message
    assert not (tmp_path / "out").exists()


def test_load_recipe_names_every_missing_file(tmp_path: Path) -> None:
    text = Path(build_engines.ROOT / "training/weights/tiny/recipe.toml").read_text()
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ExportError, match=r"base\.safetensors, .*rate_0\.safetensors, .*rate_1\.safetensors"):
        recipes.load(tmp_path / "recipe.toml")
