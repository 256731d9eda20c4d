"""The build script from its command line to bundles, and one line for whatever cannot be had."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import build_engines
import rdeic_rt
from rdeic_eval.psnr import psnr_db
from rdeic_export import wish
from rdeic_export.forms.derive import Derived
from rdeic_export.modules.config import VaeConfig
from rdeic_export.verify import fidelity
from rdeic_export.weights import recipe as recipes
from rdeic_rt.cli.failures import EXIT_OS_ERROR
from rdeic_rt.errors import ExportError
from rdeic_rt.manifest import Bundle
from tests.conftest import REPOSITORY
from tests.micro import make_micro


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small crops, so that the micro model's attention stays small."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(make_micro.PHOTOS.glob("*.jpg"))[:2]:
        Image.open(path).crop((60, 60, 252, 188)).save(folder / f"{path.stem}.png")
    return folder


@pytest.fixture
def smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights of ``sd21`` are of networks that are exported quickly."""
    assert isinstance(make_micro.MICRO.vae, VaeConfig)
    vae = dataclasses.replace(make_micro.MICRO.vae, channels=(16, 16), mid_attention=False)
    unet = dataclasses.replace(make_micro.MICRO.unet, channels=(16,), attention_levels=(False,))
    monkeypatch.setitem(recipes.MODELS, "sd21", dataclasses.replace(make_micro.MICRO, vae=vae, unet=unet))


@pytest.mark.usefixtures("smallest")
def test_main_random_weights_makes_a_bundle_that_decodes(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert build_engines.main(["--random-weights", "sd21", *options]) == 0
    codec = rdeic_rt.load(output, backend="cpu", precision="fp16")
    assert set(codec.bundle.preferred["cpu"]) == {"fp32", "fp16"}
    assert [rate.schedule for rate in codec.bundle.rates] == ["ddpm-2"]
    photo = np.asarray(Image.open(sorted(photos.glob("*.png"))[0]))
    assert codec.decode(codec.encode(photo)).shape == photo.shape


@pytest.mark.usefixtures("smallest")
def test_main_new_bundle_with_plans_has_the_graphs_in_fp16_too(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a GPU without TensorRT runs them; what plans are built from is that very form."""
    output = tmp_path / "random"
    built: list[str] = []

    def build_plans(bundle: Bundle, derived: Derived, *_: object, **__: object) -> list[Any]:
        assert {graph.spec.form for graph in derived.graphs.values()} == {"fp16"}
        (output / "plans").mkdir()
        built.append(derived.form)
        return []

    monkeypatch.setattr(build_engines, "build_plans", build_plans)
    options = ["--steps", "2", "--library", "tensorrt-rtx", "--photos", str(photos), "--output", str(output)]
    assert build_engines.main(["--random-weights", "sd21", *options]) == 0
    assert built == ["fp16"]
    assert (output / "plans").is_dir()
    codec = rdeic_rt.load(output, backend="cpu", precision="fp16")
    roles = codec.bundle.decoding_roles
    assert all(set(codec.bundle.graphs[codec.bundle.rates[0].graphs[role]]) == {"fp32", "fp16"} for role in roles)
    assert codec.bundle.preferred["cuda"] == ("fp16-cuda", "fp16", "fp32")


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
    whole = rdeic_rt.load(embedded_bundle, backend="cpu", precision="fp32")
    assert sum(f.size_bytes for f in bundle.files.values()) < sum(f.size_bytes for f in whole.bundle.files.values())
    image = np.asarray(Image.open(photo))
    data = whole.encode(image)
    assert codec.encode(image) == data
    assert psnr_db(whole.decode(data), codec.decode(data)) > fidelity.LIMIT_DB["int8"]
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
    assert build_engines.main(["--random-weights", "sd21", *options]) == ExportError.exit_code
    assert "no activation ranges of bundle 'sd21-random'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_main_checkpoint_without_stable_diffusion_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = build_engines.main(["--checkpoint", str(tmp_path / "rdeic_2_step2.ckpt"), "--steps", "2"])
    assert code == ExportError.exit_code
    assert "v2-1_512-ema-pruned.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "is_refused"), [("fp16", True), ("fp32,fp16", True), ("fp32", False)])
def test_wish_for_attention_over_more_keys_than_float16_counts_is_refused(
    embedded_bundle: Path, precision: str, is_refused: bool
) -> None:
    words = ["--bundle", str(embedded_bundle), "--library", "tensorrt-rtx", "--precision", precision]
    for largest, refused in (("2048x2048", is_refused), ("2048x1984", False)):
        args = build_engines._parser().parse_args([*words, "--sizes", "64x64", "768x512", largest])
        if refused:
            with pytest.raises(ExportError, match=r"2048x2048 .* 65536 keys.* tiles, or --precision fp32"):
                wish.of(args, REPOSITORY)
        else:
            assert wish.of(args, REPOSITORY).target is not None


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
