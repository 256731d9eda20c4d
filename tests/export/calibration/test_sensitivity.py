"""Which layers stay in floating point, layer by layer and block by block."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from PIL import Image

from rdeic_export.calibration import calibrate, probe, sensitivity
from rdeic_export.forms import quantize
from rdeic_export.forms import ranges as range_files
from rdeic_export.forms.ranges import Ranges
from rdeic_rt.errors import ExportError
from tests.micro.make_micro import PHOTOS

DECODER = "vae_decoder"
RANGES = Path(__file__).parents[3] / "calibration" / "ranges" / "tiny-2.json"


@pytest.fixture(scope="module")
def found(golden_bundle: Path, crop: Path) -> Ranges:
    return calibrate.collect(golden_bundle, [crop], threads=1)


@pytest.fixture(scope="module")
def ranges() -> Ranges:
    return range_files.load(RANGES)


@pytest.fixture(scope="module")
def runs(embedded_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[probe.Values]]:
    """What each graph of the embedded bundle is run with when a photo is decoded."""
    path = tmp_path_factory.mktemp("photos") / "astronaut.png"
    Image.open(PHOTOS / "astronaut.jpg").crop((60, 60, 252, 188)).save(path)
    return probe.record_inputs(embedded_bundle, [path], threads=1)


def test_sensitivity_finds_the_layer_whose_range_is_wrong_and_keeps_it(
    embedded_bundle: Path, ranges: Ranges, runs: dict[str, list[probe.Values]]
) -> None:
    graph = ranges.graph("vae_decoder")
    source = graph.layers["conv2d_9"][0]
    spoilt = {m: 0.01 * limit for m, limit in graph.tensors[source].signed.items()}
    tensors = {**graph.tensors, source: dataclasses.replace(graph.tensors[source], signed=spoilt)}
    snr_db = sensitivity.of_layers(
        embedded_bundle / "vae_decoder.onnx",
        dataclasses.replace(graph, tensors=tensors),
        runs["vae_decoder"][:1],
        form="signed",
        threads=1,
    )
    assert "conv2d_18" not in snr_db  # 3 output channels: never quantised
    assert min(snr_db, key=lambda name: snr_db[name]) == "conv2d_9" and snr_db["conv2d_9"] < 25
    kept = sensitivity.choose(snr_db, 25.0)
    assert list(kept) == ["conv2d_9"] and f"{snr_db['conv2d_9']:.1f} dB" in kept["conv2d_9"]


def test_sensitivity_of_groups_gives_all_members_the_noise_of_all(
    embedded_bundle: Path, ranges: Ranges, runs: dict[str, list[probe.Values]]
) -> None:
    source, graph, some = embedded_bundle / "synthesis.onnx", ranges.graph("synthesis"), runs["synthesis"][:1]
    whole = sensitivity.of_layers(source, graph, some, form="signed", group=lambda name: "all", threads=1)
    assert len(set(whole.values())) == 1
    alone = sensitivity.of_layers(source, graph, some, form="signed", threads=1)
    assert whole["conv2d_5"] < min(alone.values())


def test_choose_keeps_the_worst_until_the_rest_meets_the_budget() -> None:
    snr_db = {"a": 20.0, "b": 30.0, "c": 29.0, "d": math.inf}
    assert sensitivity.choose(snr_db, 15.0) == {}
    assert list(sensitivity.choose(snr_db, 25.0)) == ["a"]
    assert list(sensitivity.choose(snr_db, 29.0)) == ["a", "c"]
    assert list(sensitivity.choose(snr_db, 100.0)) == ["a", "c", "b"]


def test_blocks_of_a_graph_are_its_modules_and_linear_layers_are_in_that_before(golden_bundle: Path) -> None:
    views = probe.decoding_graphs(golden_bundle)
    unet = sensitivity.blocks_of(views["unet_step"])
    assert set(unet) == {layer.name for layer in views["unet_step"].layers}
    assert unet["conv2d"] == "unet.input_blocks.0" and unet["linear_1"] == unet["conv2d_2"] == "unet.input_blocks.1"
    decoder = list(dict.fromkeys(sensitivity.blocks_of(views[DECODER]).values()))
    assert decoder[:3] == [f"vae.kl.{x}" for x in ("post_quant_conv", "decoder.conv_in", "decoder.mid_block.resnets.0")]
    assert {f"vae.kl.decoder.up_blocks.0.{x}" for x in ("resnets.0", "resnets.1", "upsamplers.0")} <= {*decoder}


def test_measure_by_block_gives_the_layers_of_a_block_one_number_and_keeps_them_together(
    golden_bundle: Path, crop: Path, found: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "LEAST_CHANNELS", {"signed": 16, "unsigned-cpu": 16})
    blocks = sensitivity.blocks_of(probe.decoding_graphs(golden_bundle)[DECODER])
    measured = sensitivity.measure(
        golden_bundle, found, [crop], budget_db=0.0, forms=["signed"], graphs=[DECODER], by_block=True, threads=1
    )
    all_layers = measured.graph(DECODER)
    snr_db = all_layers.snr_db["signed"]
    assert len({blocks[name] for name in snr_db}) > 3 and all(20 < ratio < math.inf for ratio in snr_db.values())
    assert all(snr_db[a] == snr_db[b] for a in snr_db for b in snr_db if blocks[a] == blocks[b])
    assert all_layers.keep == {"signed": {}}

    worst = min(snr_db, key=lambda name: snr_db[name])
    budget_db = snr_db[worst] + 1e-6  # more than the worst block allows alone
    kept = sensitivity.choose(snr_db, budget_db, blocks)
    assert {name for name in snr_db if blocks[name] == blocks[worst]} <= set(kept) < set(snr_db)
    assert all(blocks[name] in reason or blocks[name] == name for name, reason in kept.items())


def test_choose_counts_the_noise_of_a_block_once() -> None:
    snr_db = {"a": 30.0, "b": 30.0, "c": 30.0, "d": 40.0}
    groups = {"a": "block", "b": "block", "c": "block", "d": "d"}
    assert sensitivity.choose(snr_db, 29.0, groups) == {}  # 29.6 dB together
    kept = sensitivity.choose(snr_db, 35.0, groups)
    assert set(kept) == {"a", "b", "c"} and "block" in kept["a"]
    assert set(sensitivity.choose(snr_db, 29.0)) == {"a", "b"}  # each with noise of its own: 25.1 dB together


def test_measure_leaves_other_graphs_and_forms_as_they_are(golden_bundle: Path, crop: Path, found: Ranges) -> None:
    with pytest.raises(ExportError, match=f"no decoding graph nothing; it has .*{DECODER}"):
        sensitivity.measure(golden_bundle, found, [crop], graphs=["nothing"])
    graphs = ["synthesis_r0"]
    measured = sensitivity.measure(golden_bundle, found, [crop], forms=["signed"], graphs=graphs, by_block=True)
    assert set(measured.graph("synthesis_r0").snr_db) == {"signed"}
    assert measured.graph(DECODER) == found.graph(DECODER)
