"""Activation ranges: what they hold is what the graphs were fed, by step; and files of them are checked."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import rdeic_rt
from rdeic_export.calibration import calibrate, probe, sensitivity
from rdeic_export.forms import quantize, ranges
from rdeic_export.forms.ranges import BINS, CHANNEL_BINS, GraphRanges, Ranges, TensorRange
from rdeic_rt.errors import ExportError


@pytest.fixture(scope="module")
def found(golden_bundle: Path, crop: Path) -> Ranges:
    """Ranges over one photo, collected in several passes."""
    return calibrate.collect(golden_bundle, [crop], threads=1, pass_bytes=400_000)


@pytest.fixture(scope="module")
def inputs(golden_bundle: Path, crop: Path) -> dict[str, list[probe.Values]]:
    return probe.record_inputs(golden_bundle, [crop], threads=1)


def test_collect_every_step_of_every_schedule_has_the_range_of_its_input(
    found: Ranges, inputs: dict[str, list[probe.Values]]
) -> None:
    z_n = found.graph("unet_step").tensors["z_n"]
    runs = inputs["unet_step"]  # two rates, each in 2 and in 5 steps
    steps = [f"ddpm-{n}/{step}" for _ in range(2) for n in (2, 5) for step in range(n)]
    assert len(runs) == len(steps) and set(z_n.steps) == set(steps)
    for step in z_n.steps:
        values = np.concatenate([run["z_n"].ravel() for run, name in zip(runs, steps, strict=True) if name == step])
        assert z_n.steps[step] == (values.min(), values.max())


def test_collect_scales_over_all_steps_are_those_of_all_values(
    found: Ranges, inputs: dict[str, list[probe.Values]]
) -> None:
    values = np.concatenate([run["z_n"].ravel() for run in inputs["unet_step"]])
    z_n = found.graph("unet_step").source("conv2d")
    bin_width = 2 * np.abs(values).max() / BINS
    assert z_n.signed["max"] == np.abs(values).max()
    assert z_n.unsigned["max"] == (values.min(), values.max())
    reached = np.quantile(np.abs(values), 1 - ranges.OUTSIDE, method="higher")
    assert abs(z_n.signed["percentile"] - reached) < 2 * bin_width


def test_collect_has_every_layer_with_both_ends_and_channels_of_convolutions(
    golden_bundle: Path, found: Ranges
) -> None:
    for name, view in probe.decoding_graphs(golden_bundle).items():
        graph = found.graph(name)
        assert set(graph.layers) == {layer.name for layer in view.layers}
        for layer in view.layers:
            low, high = graph.result(layer.name).unsigned["max"]
            channels = graph.result(layer.name).channels
            if channels is not None:
                assert len(channels[0]) == len(channels[1]) == layer.channels[1]
                assert low <= min(channels[0]) <= 0 <= max(channels[1]) <= high
    assert found.graph("vae_decoder").result("conv2d_1").channels is not None


def test_collect_without_photos_is_refused(golden_bundle: Path) -> None:
    with pytest.raises(ExportError, match="--photos"):
        calibrate.collect(golden_bundle, [])


def test_decodes_leaves_the_images_as_they_are(golden_bundle: Path, crop: Path) -> None:
    plain = rdeic_rt.load(golden_bundle, backend="cpu", threads=1)
    data = plain.encode(Image.open(crop), 0)
    wanted = plain.decode(data)
    probes = {
        name: probe.Probe(("z_0",) if name == "vae_decoder" else ()) for name in probe.decoding_graphs(golden_bundle)
    }
    images = []

    def observe(graph_id: str, step: str, inputs: probe.Values, values: probe.Values) -> None:
        if graph_id == "vae_decoder" and step == "ddpm-2/0":
            images.append(inputs["z_0"])

    assert list(probe.decodes(golden_bundle, [crop], observe, probes, threads=1)) == [crop]
    graph = probe.session(plain.bundle.reference("vae_decoder").path, probe.Probe(), threads=1)
    assert np.array_equal(graph.run(["image"], {"z_0": images[0]})[0][0][: wanted.shape[0], : wanted.shape[1]], wanted)


def test_save_then_load_gives_the_same_ranges_and_the_same_file(tmp_path: Path, found: Ranges) -> None:
    path, again = tmp_path / "a" / "ranges.json", tmp_path / "again.json"
    found.save(path)
    loaded = ranges.load(path)
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()
    assert loaded.photos_sha256 == found.photos_sha256 and loaded.photos == 1
    one, other = (r.graph("control_r0").source("conv2d").unsigned for r in (found, loaded))
    assert all(np.allclose(one[method], other[method], rtol=1e-5) for method in ranges.METHODS)
    assert "ddpm-2/1" in loaded.graph("control_r1").source("conv2d").steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a file of activation ranges"),
        ("{", "not a file of activation ranges"),
        ('{"schema": 99}', "schema 99, this version reads schema 1"),
        ('{"schema": 1, "graphs": {}}', "not a file of activation ranges"),
    ],
)
def test_load_of_another_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(text)
    with pytest.raises(ExportError, match=message) as error:
        ranges.load(path)
    assert "\n" not in str(error.value) and "collect_ranges.py" in str(error.value)


def test_load_with_a_layer_whose_tensor_is_missing_is_refused(tmp_path: Path, found: Ranges) -> None:
    path = tmp_path / "ranges.json"
    found.save(path)
    document = json.loads(path.read_text())
    del document["graphs"]["unet_step"]["tensors"]["z_n"]
    path.write_text(json.dumps(document))
    with pytest.raises(ExportError, match="no range for z_n"):
        ranges.load(path)


def test_graph_that_has_no_ranges_is_named(found: Ranges) -> None:
    with pytest.raises(ExportError, match="'control_r7' .they have control_r0"):
        found.graph("control_r7")
    changed = found.with_graph("new", dataclasses.replace(found.graph("unet_step"), weights="0"))
    assert changed.graph("new").weights == "0" and "new" not in found.graphs


@pytest.fixture(scope="module")
def bell() -> np.ndarray:
    """Samples of a normal distribution and a few outliers, as activations have them."""
    values = np.random.default_rng(0).standard_normal(200_000)
    values[:5] = 20.0
    return values


def error_of(values: np.ndarray, low: float, high: float, scale: float) -> float:
    return float(((np.rint(np.clip(values, low, high) / scale) * scale - values) ** 2).mean())


def test_select_mse_is_the_best_of_all_limits_within_two_per_cent(bell: np.ndarray) -> None:
    limit = float(np.abs(bell).max())
    histogram = np.histogram(bell, BINS, (-limit, limit))[0]
    signed, unsigned = ranges.select(histogram, limit, float(bell.min()), float(bell.max()))
    errors = [error_of(bell, -x, x, x / 127) for x in np.linspace(0.05, 1, 200) * limit]
    assert error_of(bell, -signed["mse"], signed["mse"], signed["mse"] / 127) < 1.02 * min(errors)
    low, high = unsigned["mse"]
    assert error_of(bell, low, high, (high - low) / 255) < 1.02 * min(errors)
    assert signed["max"] == limit and signed["mse"] < signed["balanced"] < limit
    assert signed["balanced"] == pytest.approx((signed["mse"] * signed["max"]) ** 0.5)


def test_select_percentile_and_entropy_leave_outliers_out(bell: np.ndarray) -> None:
    limit = float(np.abs(bell).max())
    histogram = np.histogram(bell, BINS, (-limit, limit))[0]
    signed, unsigned = ranges.select(histogram, limit, float(bell.min()), float(bell.max()))
    assert signed["percentile"] == pytest.approx(np.quantile(np.abs(bell), 1 - ranges.OUTSIDE), abs=2 * limit / BINS)
    assert 1.5 < signed["entropy"] < 6.0
    for method in ranges.METHODS:
        low, high = unsigned[method]
        assert bell.min() <= low < 0 < high <= bell.max()


def test_select_channels_gives_each_channel_its_own_range() -> None:
    values = np.random.default_rng(1).standard_normal((3, 100_000)) * np.array([[1.0], [50.0], [1.0]]) + [[0], [0], [3]]
    low, high = np.minimum(values.min(1), 0), np.maximum(values.max(1), 0)
    histograms = np.stack([np.histogram(v, CHANNEL_BINS, (a, b))[0] for v, a, b in zip(values, low, high, strict=True)])
    lows, highs = ranges.select_channels(histograms, low, high)
    for channel in range(3):
        scale = (highs[channel] - lows[channel]) / 255
        widest = error_of(values[channel], low[channel], high[channel], (high[channel] - low[channel]) / 255)
        assert error_of(values[channel], lows[channel], highs[channel], scale) < widest
    assert 30 < highs[1] / highs[0] < 80


def test_ranges_of_a_constant_tensor_are_usable() -> None:
    tiny = float(np.finfo(np.float16).tiny)
    histogram = np.zeros(BINS, np.int64)
    histogram[BINS // 2] = 100
    signed, unsigned = ranges.select(histogram, tiny, 0.0, 0.0)
    entry = TensorRange({"ddpm-2/0": (0.0, 0.0)}, signed, unsigned)
    assert all(limit > 0 for limit in entry.signed.values())
    graph = GraphRanges("0", {"conv2d": ("x", "y")}, {"x": entry, "y": entry})
    assert graph.source("conv2d") is graph.result("conv2d")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[3] / "calibration" / "collect_ranges.py"
    spec = importlib.util.spec_from_file_location("collect_ranges", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script_writes_ranges_with_every_layers_noise_and_the_set_of_photos(
    script: ModuleType,
    golden_bundle: Path,
    crop: Path,
    found: Ranges,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrate, "collect", lambda bundle, photos, threads: found)
    monkeypatch.setattr(quantize, "LEAST_CHANNELS", dict.fromkeys(ranges.FORMS, 32))  # few layers of this small model
    output, names = tmp_path / "micro.json", tmp_path / "micro.txt"
    arguments = ["--bundle", golden_bundle, "--photos", crop.parent, "--output", output, "--set", names, "--threads", 1]
    assert script.main([*map(str, arguments), "--sensitivity-photos", "1"]) == 0
    assert names.read_text() == f"{hashlib.sha256(crop.read_bytes()).hexdigest()}  crop.png\n"
    graph = ranges.load(output).graph("unet_step")
    assert set(graph.snr_db) == set(graph.keep) == set(ranges.FORMS)
    wide = {
        layer.name for layer in probe.decoding_graphs(golden_bundle)["unet_step"].layers if min(layer.channels) >= 32
    }
    assert set(graph.snr_db["signed"]) == wide and all(20 < noise for noise in graph.snr_db["signed"].values())


def test_script_with_blocks_gives_the_layers_of_one_block_one_number_in_the_form_asked_for(
    script: ModuleType,
    golden_bundle: Path,
    crop: Path,
    found: Ranges,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrate, "collect", lambda bundle, photos, threads: found)
    monkeypatch.setattr(quantize, "LEAST_CHANNELS", {"signed": 32})
    output = tmp_path / "micro.json"
    arguments = ["--bundle", golden_bundle, "--photos", crop, "--output", output, "--threads", 1]
    assert script.main([*map(str, arguments), "--blocks", "--forms", "signed"]) == 0
    snr_db = ranges.load(output).graph("unet_step").snr_db
    blocks = sensitivity.blocks_of(probe.decoding_graphs(golden_bundle)["unet_step"])
    numbers = {(blocks[layer], ratio) for layer, ratio in snr_db["signed"].items()}
    assert set(snr_db) == {"signed"} and len(numbers) == len({block for block, _ in numbers}) < len(snr_db["signed"])


def test_script_on_missing_photos_or_bundle_says_so_in_one_line(
    script: ModuleType, golden_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "out.json")]
    (tmp_path / "empty").mkdir()
    assert script.main(["--bundle", str(golden_bundle), "--photos", str(tmp_path / "empty"), *output]) == 7
    assert script.main(["--bundle", str(golden_bundle), "--photos", str(tmp_path / "none.jpg"), *output]) == 3
    assert script.main(["--bundle", str(tmp_path / "nothing"), "--photos", str(tmp_path / "none.jpg"), *output]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("collect_ranges: ") for line in lines)
    assert not (tmp_path / "out.json").exists()


def test_counts_of_a_tensor_that_never_changes_are_in_one_bin() -> None:
    rows = np.full((2, 5), 3.0, np.float32)
    rows[1] = [0.0, 0.1, 0.5, 0.9, 1.0]
    with np.errstate(all="raise"):
        counts = calibrate._counts(rows, np.array([3.0, 0.0]), np.array([3.0, 1.0]), 4)
    assert counts.tolist() == [[5, 0, 0, 0], [2, 0, 1, 2]]
