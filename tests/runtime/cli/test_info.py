"""`info` on files and bundles, for people and for machines, without loading anything heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rdeic_rt import container
from rdeic_rt.codec import Codec

from .conftest import Command


def test_info_json_of_a_file_states_the_header(
    command: Command, here: Path, small_rdc: bytes, codec: Codec, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("info", "--json", "made.rdc") == 0

    facts = json.loads(capsys.readouterr().out)
    rate = codec.bundle.choose_rate(None)
    assert (facts["width"], facts["height"]) == (96, 80)
    assert facts["bytes"] == len(small_rdc)
    assert facts["bpp"] == pytest.approx(8 * len(small_rdc) / (96 * 80), abs=1e-6)
    assert facts["model_id"] == rate.model_id.hex()
    assert facts["rate"] == rate.number
    assert (facts["bundle"], facts["label"], facts["steps"]) == (codec.bundle.name, rate.label, 1)
    assert facts["metadata_bytes"] == 0
    assert 0 < facts["bytes"] - facts["z_bytes"] - facts["y_bytes"] <= 24


def test_info_of_a_file_with_metadata_counts_what_it_takes(
    command: Command, here: Path, small_rdc: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = container.parse(small_rdc)
    tagged = container.pack(file.header, file.z, file.y, container.Metadata(icc=bytes(range(200))))
    (here / "tagged.rdc").write_bytes(tagged)
    assert command("info", "--json", "tagged.rdc") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["icc_bytes"] == 200
    assert facts["metadata_bytes"] == len(tagged) - len(small_rdc)


def test_info_of_a_file_that_no_installed_bundle_made_leaves_label_and_steps_out(
    command: Command, here: Path, small_rdc: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = container.parse(small_rdc)
    (here / "other.rdc").write_bytes(container.pack(replace(file.header, model_id=b"\0\1\2\3"), file.z, file.y))
    assert command("info", "--json", "other.rdc") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["bundle"], facts["label"], facts["steps"]) == (None, None, None)
    assert facts["model_id"] == "00010203"


def test_info_text_of_a_file_has_a_line_for_each_fact(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("info", "made.rdc") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["file: made.rdc", "format: rdc version 1", "width: 96", "height: 80"]


def test_info_json_of_several_is_one_object_a_line_and_bad_ones_are_named(
    command: Command, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("info", "--json", "made.rdc", "photo.jpg", "missing.rdc", "made.rdc") == 4

    out, err = capsys.readouterr()
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["made.rdc", "made.rdc"]
    assert [line.split(": ")[1] for line in err.splitlines()] == ["photo.jpg", "missing.rdc"]


def test_info_damaged_file_ends_in_4(
    command: Command, here: Path, small_rdc: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "damaged.rdc").write_bytes(small_rdc[:-1] + bytes([small_rdc[-1] ^ 1]))

    assert command("info", "damaged.rdc") == 4
    assert capsys.readouterr().out == ""


def test_info_of_a_bundle_lists_rates_and_graphs(
    command: Command, codec: Codec, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = codec.bundle.folder
    assert command("info", "--json", folder, folder / "bundle.json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == second
    assert first["bundle"] == codec.bundle.name
    assert [rate["model_id"] for rate in first["rates"]] == [rate.model_id.hex() for rate in codec.bundle.rates]
    assert sum(rate["default"] for rate in first["rates"]) == 1
    assert {graph["id"] for graph in first["graphs"]} == set(codec.bundle.graphs)

    assert command("info", folder) == 0
    assert "  index 0, " in capsys.readouterr().out


def test_info_of_a_folder_without_a_bundle_ends_in_5(command: Command, here: Path) -> None:
    (here / "empty").mkdir()
    assert command("info", "empty") == 5


def test_info_of_a_folder_is_of_the_files_in_it(
    command: Command, here: Path, small_rdc: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "below").mkdir()
    (here / "below" / "b.rdc").write_bytes(small_rdc)
    for words, found in ((["."], ["./made.rdc"]), (["-r", "."], ["./made.rdc", "./below/b.rdc"])):
        assert command("info", "--json", *words) == 0
        assert [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()] == found


def test_info_of_a_file_loads_no_runtime(here: Path) -> None:
    script = """
import sys
from rdeic_rt.cli.main import main
assert main(["info", "made.rdc"]) == 0
heavy = {"onnxruntime", "openvino", "constriction"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
