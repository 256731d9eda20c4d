"""`rdeic-rt bench`, on a tiny image."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

import rdeic_rt
from rdeic_rt import bundle
from rdeic_rt.backends.cpu.host import HostArrays
from rdeic_rt.cli.measure import drawn_image
from rdeic_rt.limits import Size

from .conftest import Command

QUICK = ("bench", "--runs", "3", "--size", "64x64", "--backend", "cpu")
STAGES = [
    "container",
    "entropy",
    "noise",
    "synthesis",
    "start",
    "denoise",
    "denoise.control",
    "denoise.unet_step",
    "vae",
]


def result_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_bench_json_has_stages_totals_memory_and_versions(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*QUICK, "--json", "-") == 0

    result = result_of(capsys)
    ms = result["ms"]
    assert list(ms["stages"]["decode"]) == [*STAGES, "pixels"]
    assert list(ms["stages"]["encode"]) == ["pixels", "analysis", "entropy", "container"]
    for spread in [ms["decode"], ms["encode"], *ms["stages"]["decode"].values(), *ms["stages"]["encode"].values()]:
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    decode = ms["stages"]["decode"]
    outer = [decode[name]["min"] for name in decode if "." not in name]
    assert sum(outer) <= ms["decode"]["max"] + decode["denoise"]["max"]
    assert decode["denoise.control"]["min"] + decode["denoise.unet_step"]["min"] <= decode["denoise"]["max"]
    assert ms["first_decode"] > 0
    assert ms["load"] > 0
    assert result["memory_mb"]["peak_device"] is None
    assert result["memory_mb"]["peak_rss"] > 50
    assert result["recorded"] is False
    assert result["backend"]["name"] == "cpu"
    assert result["versions"]["onnxruntime"] == result["backend"]["onnxruntime"]
    assert result["runs"] == 3
    rate = bundle.load().choose_rate(None)
    model = {"bundle": "tiny-2", "rate": rate.index, "label": rate.label, "steps": 1, "sharpness": 1.0}
    assert result["model"] == model
    image = result["image"]
    assert (image["photo"], image["width"], image["height"]) == (None, 64, 64)
    assert image["bpp"] == 8 * image["bytes"] / 64**2


def test_bench_text_lists_every_stage_with_three_numbers(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*QUICK) == 0

    text = capsys.readouterr().out
    rows = re.findall(r"^ *([a-z_]+) +\d+\.\d +\d+\.\d +\d+\.\d$", text, re.MULTILINE)
    decode = [name.rpartition(".")[2] for name in STAGES]
    assert rows == ["decode", *decode, "pixels", "encode", "pixels", "analysis", "entropy", "container"]
    assert re.search(r"^cold: load \d+\.\d ms, first decode \d+\.\d ms$", text, re.MULTILINE)
    assert re.search(r"^peak memory of the process: \d+ MB$", text, re.MULTILINE)
    assert "tiny-2, rate 1, L = 1, 64x64, cpu (onnxruntime " in text


def test_bench_photo_rate_steps_and_sharpness_reach_the_codec(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--photo", "photo.jpg", "--rate", "1", "--steps", "2", "--sharpness", "0.5", "--json", "-")
    assert command("bench", "--runs", "1", "--backend", "cpu", *words) == 0
    result = result_of(capsys)
    assert (result["image"]["width"], result["image"]["height"]) == (96, 80)
    assert (result["model"]["rate"], result["model"]["steps"], result["model"]["sharpness"]) == (1, 2, 0.5)

    assert (
        command("bench", "--runs", "1", "--backend", "cpu", "--photo", "photo.jpg", "--size", "64x70", "--json", "-")
        == 0
    )
    result = result_of(capsys)
    assert (result["image"]["width"], result["image"]["height"]) == (64, 70)


def test_bench_measures_a_rate_between_two(
    command: Command, small_photo: Path, golden_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = golden_bundle.parents[1] / "v1-levels" / "bundle"
    words = ("--bundle", str(folder), "--photo", "photo.jpg", "--rate", "0.5", "--json", "-")
    assert command("bench", "--runs", "1", "--backend", "cpu", *words) == 0

    result = result_of(capsys)
    assert (result["model"]["rate"], result["model"]["label"]) == (0.5, "0.50")
    codec = rdeic_rt.load(folder, backend="cpu")
    with Image.open(small_photo) as image:
        files = [codec.encode(image, rate) for rate in (0, 0.5, 1)]
    assert result["image"]["bytes"] == len(files[1]) not in (len(files[0]), len(files[2]))


def test_bench_writes_json_and_plot_beside_the_table(
    command: Command, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*QUICK, "--json", "run.json", "--plot", "run.png") == 0

    assert capsys.readouterr().out.startswith("rdeic-rt ")
    assert json.loads((here / "run.json").read_text())["runs"] == 3
    with Image.open(here / "run.png") as chart:
        assert len(np.unique(np.asarray(chart.convert("RGB")).reshape(-1, 3), axis=0)) > 3


def test_bench_of_a_backend_that_replays_splits_stages_in_one_that_does_not(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that records: from the third run of a key on, the function is not called any more."""
    from rdeic_rt.backends import select

    seen: dict[Any, Any] = {}
    opened, plain_open, plain_execute = [], select._OPENERS["cpu"], HostArrays.execute

    def open_recording(options: Any) -> Any:
        backend = plain_open(options)
        opened.append(options.capture)
        if options.capture:

            def execute(key: Any, function: Any, inputs: Any) -> Any:
                calls, result = seen.get(key, (0, None))
                if calls < 2:
                    result = plain_execute(cast(HostArrays, backend), key, function, inputs)
                seen[key] = (calls + 1, result)
                return result

            monkeypatch.setattr(backend, "execute", execute)
            monkeypatch.setattr(backend, "peak_bytes", lambda: 7_000_000)
        return backend

    monkeypatch.setitem(select._OPENERS, "cpu", open_recording)
    assert command(*QUICK, "--json", "-") == 0

    result = result_of(capsys)
    assert result["recorded"] is True
    assert opened == [True, False]
    assert list(result["ms"]["stages"]["decode"]) == [*STAGES, "pixels"]
    assert result["memory_mb"]["peak_device"] == 7.0


def test_bench_marks_ranges_only_with_nvtx(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvtx = pytest.importorskip("nvtx")
    opened: list[str] = []
    plain = nvtx.annotate

    def annotate(text: str) -> Any:
        opened.append(text)
        return plain(text)

    monkeypatch.setattr(nvtx, "annotate", annotate)

    assert command(*QUICK, "--json", "-") == 0
    assert opened == []
    assert command(*QUICK, "--steps", "2", "--nvtx", "--json", "-") == 0
    # Three whole decodes and three whose stages are timed.
    assert opened.count("rdeic_rt.denoise.unet_step.1") == 6
    assert opened.count("rdeic_rt.analysis") == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--plot", "run.gif"), 2, r"--plot run\.gif: the suffix must be one of \.png, \.svg, \.pdf"),
        (("--size", "64"), 2, r"'64' is not WIDTHxHEIGHT, like 768x512"),
        (("--size", "0x64"), 2, r"0 is not between 1 and 65535"),
        (("--rate", "99"), 2, r"rate 99"),
        (("--steps", "77"), 2, r"77"),
        (("--photo", "missing.jpg"), 3, r"missing\.jpg: No such file"),
        (("--photo", "made.rdc"), 4, r"made\.rdc"),
        (("--max-pixels", "100"), 4, r"max_pixels"),
        (("--bundle", "no-such"), 5, r"no-such"),
        (("photo.jpg",), 2, r"unrecognized arguments: photo\.jpg"),
        (("--max-vram", "much"), 2, r"'much' is not a number of bytes, like 500M or 2G"),
        (("--tile", "100"), 2, r"100 is not between 256 and 65536"),
    ],
)
def test_bench_mistake_ends_in_its_exit_code_and_one_message(
    command: Command, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, message: str
) -> None:
    assert command(*QUICK, *words) == code

    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(message, said.err.splitlines()[-1])


@pytest.mark.parametrize(
    ("words", "package", "extra"), [(("--plot", "run.png"), "matplotlib", "plot"), (("--nvtx",), "nvtx", "nvtx")]
)
def test_bench_without_an_optional_package_says_how_to_install_it(
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    package: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert command(*QUICK, *words) == 2
    assert f"pip install 'rdeic-rt[{extra}]'" in capsys.readouterr().err.splitlines()[-1]


def test_drawn_image_is_the_same_every_time_and_not_flat() -> None:
    size = Size(height=96, width=128)
    image = drawn_image(size)
    np.testing.assert_array_equal(drawn_image(size), image)
    assert image.shape == (96, 128, 3)
    assert image.std(axis=(0, 1)).min() > 20
    assert drawn_image(replace(size, height=1, width=1)).shape == (1, 1, 3)
