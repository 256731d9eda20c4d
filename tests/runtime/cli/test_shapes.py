"""`info --shapes`: graphs run at the shapes that are printed, and each tool is given them in its own syntax."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.conftest import missing

from .conftest import Command

SIZES = "64x64,2x128x64,2x192x128"
Shapes = dict[str, list[int]]


def from_x(text: str) -> Shapes:
    """Read what trtexec and ONNX Runtime take."""
    return {name: [*map(int, shape.split("x"))] for name, shape in (one.split(":") for one in text.split(","))}


def from_trtexec(line: str) -> tuple[str, list[Shapes]]:
    found = re.fullmatch(r"--onnx=(\S+) --minShapes=(\S+) --optShapes=(\S+) --maxShapes=(\S+)", line)
    assert found
    return found[1], [from_x(found[at]) for at in (2, 3, 4)]


def from_polygraphy(line: str) -> tuple[str, list[Shapes]]:
    path, *words = shlex.split(line)
    given: dict[str, Shapes] = {}
    for word in words:
        if word.startswith("--"):
            shapes = given[word] = {}
        else:
            name, shape = word.split(":")
            shapes[name] = json.loads(shape)
    assert given.pop("--input-shapes") == given["--trt-opt-shapes"]
    return path, [given[f"--trt-{end}-shapes"] for end in ("min", "opt", "max")]


def from_ort(line: str) -> tuple[str, list[Shapes]]:
    document = json.loads(line)
    options = document["options"]
    assert set(options) == {f"trt_profile_{end}_shapes" for end in ("min", "opt", "max")}
    return document["file"], [from_x(options[f"trt_profile_{end}_shapes"]) for end in ("min", "opt", "max")]


@pytest.mark.parametrize(
    ("name", "read"), [("trtexec", from_trtexec), ("polygraphy", from_polygraphy), ("ort", from_ort)]
)
def test_every_graph_runs_at_the_shapes_of_each_tool(
    command: Command, capsys: pytest.CaptureFixture[str], golden_bundle: Path, name: str, read: Any
) -> None:
    assert command("info", golden_bundle, "--shapes", SIZES, "--format", name) == 0

    lines = capsys.readouterr().out.splitlines()
    graphs = json.loads((golden_bundle / "bundle.json").read_text(encoding="utf-8"))["graphs"]
    assert len(lines) == len(graphs)
    for line in lines:
        path, profile = read(line)
        session = ort.InferenceSession(path)
        inputs = session.get_inputs()
        free = {one.name for one in inputs if any(isinstance(side, str) for side in one.shape)}
        assert free
        for shapes in profile:
            assert set(shapes) == free
            types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}
            outputs = session.run(
                None, {one.name: np.zeros(shapes.get(one.name, one.shape), types[one.type]) for one in inputs}
            )
            batch = next(iter(shapes.values()))[0]
            assert all(len(output) == batch for output in outputs)
        assert profile[0] != profile[1] != profile[2]


def test_tensorrt_takes_them_as_profiles_of_all_graphs_that_decode(embedded_bundle: Path) -> None:
    """Parsed and checked by TensorRT for RTX in a process of its own; to run them would take a GPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        missing("tensorrt_rtx")
    script = """
import contextlib, io, sys
import tensorrt_rtx as trt
from rdeic_rt.cli.main import main
out = io.StringIO()
with contextlib.redirect_stdout(out):
    assert main(["info", sys.argv[1], "--shapes", "256x256,768x512,2x1024x1024", "--format", "trtexec"]) == 0
taken = []
for line in out.getvalue().splitlines():
    path, *ends = (word.partition("=")[2] for word in line.split())
    if path.endswith("analysis.onnx"):
        continue
    pairs = [[one.split(":") for one in end.split(",")] for end in ends]
    shapes = [{name: [*map(int, shape.split("x"))] for name, shape in end} for end in pairs]
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR))
    assert parser.parse_from_file(path), parser.get_error(0).desc()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    assert {one.name for one in inputs if -1 in tuple(one.shape)} == set(shapes[0]), path
    profile = builder.create_optimization_profile()
    for name in shapes[0]:
        profile.set_shape(name, *(end[name] for end in shapes))
    assert builder.create_builder_config().add_optimization_profile(profile) == 0, path
    taken.append(path.rpartition("/")[2])
print(*taken)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(embedded_bundle)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-4:] == ["control.onnx", "synthesis.onnx", "unet_step.onnx", "vae_decoder.onnx"]


def test_sizes_are_padded_as_the_codec_pads(
    command: Command, capsys: pytest.CaptureFixture[str], embedded_bundle: Path
) -> None:
    assert command("info", embedded_bundle / "bundle.json", "--shapes", "700x500", "--json") == 0

    inputs = json.loads(capsys.readouterr().out)["graphs"]["unet_step"]["inputs"]
    of = {one["name"]: one for one in inputs}
    assert of["z_n"] == {
        "name": "z_n",
        "dtype": "float32",
        "min": "1x24x64x88",
        "opt": "1x24x64x88",
        "max": "1x24x64x88",
    }
    assert of["coefficients"]["max"] == "3"


def test_without_a_format_every_input_has_a_line(
    command: Command, capsys: pytest.CaptureFixture[str], embedded_bundle: Path
) -> None:
    assert command("info", embedded_bundle, "--shapes", "256x256,768x512,1024x1024") == 0
    assert (
        "name z_0, dtype float32, min 1x24x32x32, opt 1x24x64x96, max 1x24x128x128"
        in capsys.readouterr().out.splitlines()[-1]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shapes", "768"), "WIDTHxHEIGHT"),
        (("--shapes", "768x512,1024x1024"), "one size, or three"),
        (("--shapes", "768x512,256x1024,1024x1024"), "do not grow"),
        (("--shapes", "0x512"), "a side is 1 to"),
        (("--shapes", "70000x512"), "a side is 1 to"),
        (("--shapes", f"{'9' * 5000}x1"), "WIDTHxHEIGHT"),
        (("--format", "ort"), "--format goes with --shapes"),
        (("--shapes", "768x512", "--format", "ort", "--json"), "without --json"),
    ],
)
def test_what_makes_no_sense_ends_in_2(
    command: Command, capsys: pytest.CaptureFixture[str], golden_bundle: Path, words: tuple[str, ...], message: str
) -> None:
    assert command("info", golden_bundle, *words) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_bundle_is_named_and_others_are_shown(
    command: Command, capsys: pytest.CaptureFixture[str], golden_bundle: Path
) -> None:
    assert command("info", "made.rdc", golden_bundle, "--shapes", "64x64", "--format", "trtexec") == 2

    out, err = capsys.readouterr()
    assert out.startswith("--onnx=")
    assert "made.rdc: --shapes is for bundles" in err
