"""Weights that lie in a bundle's graphs: the same tensors as before, or one line that states what changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch import Tensor

from build_engines import ROOT
from rdeic_export.bundle.build import build
from rdeic_export.weights import any_recipe, in_graphs
from rdeic_export.weights.state import read_state
from rdeic_rt import bundle as bundles
from rdeic_rt.errors import ExportError
from training import loop, share_weights

RECIPES = sorted((ROOT / "training/weights").glob("*/recipe.toml"))
BUNDLES = sorted(path.parent for path in (ROOT / "engines").glob("*/bundle.json"))
GRAPH = "vae_decoder.onnx"
HALF = (torch.arange(4 * 3 * 2 * 64).reshape(4, 3, 2, 64) / 256).half()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle whose decoder also has the values of `HALF` with its axes in another order, twice."""
    folder = tmp_path / "bundle"
    shutil.copytree(ROOT / "engines/diffo-tiny", folder, ignore=shutil.ignore_patterns("plans"))
    document = json.loads((folder / "bundle.json").read_text())
    for graph in document["graphs"].values():
        (folder / graph["forms"]["fp32"]).write_bytes(
            helper.make_model(helper.make_graph([], "empty", [], [])).SerializeToString()
        )
    change(folder, lambda graph: graph.initializer.append(named(HALF.permute(2, 0, 3, 1).reshape(2, 4, -1), "weight")))
    bundles.write(folder, {name: value for name, value in document.items() if name not in ("schema", "files")})
    return folder


def named(tensor: Tensor, name: str) -> TensorProto:
    return numpy_helper.from_array(tensor.numpy(), name)


def change(bundle: Path, edit: object) -> None:
    model = onnx.load(bundle / GRAPH)
    edit(model.graph)  # type: ignore[operator]
    onnx.save(model, bundle / GRAPH)


def state() -> dict[str, Tensor]:
    return {
        "large": HALF,
        "other": (HALF + 1).contiguous(),
        "float": HALF.float(),
        "small": torch.arange(24).half(),
        "counts": torch.arange(400),
    }


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        value.dtype == right[name].dtype
        and value.shape == right[name].shape
        and value.numpy().tobytes() == right[name].numpy().tobytes()
        for name, value in left.items()
    )


def test_write_refers_to_equal_tensors_of_the_same_type_and_reads_all_back(tmp_path: Path, bundle: Path) -> None:
    path = tmp_path / "w.safetensors"
    assert in_graphs.write(path, state(), bundle) == HALF.nbytes
    assert load_file(path).keys() == state().keys() - {"large"}
    assert same(read_state(path), state())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["w.safetensors"]


def test_written_whole_again_is_the_file_that_it_was(tmp_path: Path, bundle: Path) -> None:
    path = tmp_path / "w.safetensors"
    in_graphs.write(path, state())
    before = path.read_bytes()
    in_graphs.write(path, read_state(path), bundle)
    assert path.stat().st_size < len(before)
    in_graphs.write(path, read_state(path))
    assert path.read_bytes() == before


def test_training_starts_from_tensors_in_the_bundle(tmp_path: Path, bundle: Path) -> None:
    module = torch.nn.ParameterDict({"large": torch.zeros(HALF.shape)})
    in_graphs.write(tmp_path / "w.safetensors", {"large": HALF}, bundle)
    loop.load_weights(module, tmp_path / "w.safetensors")
    assert torch.equal(module["large"], HALF.float())


def _last_value(graph: onnx.GraphProto) -> None:
    values = numpy_helper.to_array(graph.initializer[0]).copy()
    values.reshape(-1)[-1] += 1
    graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "weight"))


def _name(graph: onnx.GraphProto) -> None:
    graph.initializer[0].name = "renamed"


def _size(graph: onnx.GraphProto) -> None:
    graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros(3, np.float16), "weight"))


@pytest.mark.parametrize("edit", [_last_value, _name, _size])
def test_bundle_that_has_changed_is_refused_in_one_line(tmp_path: Path, bundle: Path, edit: object) -> None:
    path = tmp_path / "w.safetensors"
    in_graphs.write(path, state(), bundle)
    change(bundle, edit)
    message = f"{path}: 1 of its tensors are no longer in {GRAPH} of {bundle}, first large. Restore"
    with pytest.raises(ExportError, match=re.escape(message)) as error:
        read_state(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"\xff" * 9, "not an ONNX file")])
def test_graph_that_cannot_be_read_is_named(tmp_path: Path, bundle: Path, content: bytes | None, reason: str) -> None:
    in_graphs.write(tmp_path / "w.safetensors", state(), bundle)
    (bundle / GRAPH).unlink()
    if content is not None:
        (bundle / GRAPH).write_bytes(content)
    with pytest.raises(ExportError, match=rf"w\.safetensors: \S+{GRAPH} holds weights of it.*{reason}"):
        read_state(tmp_path / "w.safetensors")


REFERENCE = {"graph": GRAPH, "initialiser": "weight", "shape": [2, 3], "axes": [0, 1], "sha256": ""}


@pytest.mark.parametrize(
    "entry",
    [
        "{",
        "[]",
        {"bundle": "b"},
        {"bundle": 1, "tensors": {}},
        {"bundle": "b", "tensors": {"x": {}}},
        *(
            {"bundle": "b", "tensors": {"x": {**REFERENCE, **fault}}}
            for fault in (
                {"graph": "../x.onnx"},
                {"graph": 1},
                {"shape": ["a", 2]},
                {"shape": [-2, -3]},
                {"axes": [1, 1]},
            )
        ),
    ],
)
def test_damaged_entry_is_one_line(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "w.safetensors"
    text = entry if isinstance(entry, str) else json.dumps(entry)
    save_file({"y": torch.zeros(2)}, path, {in_graphs.ENTRY: text})
    with pytest.raises(ExportError, match=r"w\.safetensors: its entry \S+ is damaged"):
        read_state(path)


def test_bundle_is_not_built_over_the_one_that_its_weights_lie_in(tmp_path: Path, bundle: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((ROOT / "training/weights/tiny-2/recipe.toml").read_text())
    in_graphs.write(tmp_path / "codec.safetensors", state(), bundle)
    in_graphs.write(tmp_path / "decoder.safetensors", {})
    with pytest.raises(ExportError, match=r"codec\.safetensors: 1 of its tensors lie in \S+, which would be replaced"):
        build(any_recipe.load(recipe), [ROOT / "tests/data/photos"], [], bundle)


def test_share_weights_command_and_its_errors(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((ROOT / "training/weights/tiny-2/recipe.toml").read_text())
    files = [tmp_path / f"{name}.safetensors" for name in ("codec", "decoder")]
    for path, names in zip(files, (["large", "other"], ["small"]), strict=True):
        in_graphs.write(path, {name: state()[name] for name in names})
    whole = files[0].read_bytes()

    def run(*options: object) -> None:
        monkeypatch.setattr("sys.argv", ["share_weights", str(recipe), *map(str, options)])
        share_weights.main()

    run("--bundle", bundle)
    assert f"{HALF.nbytes} in the bundle" in capsys.readouterr().out
    assert load_file(files[0]).keys() == {"other"}
    run("--whole")
    assert files[0].read_bytes() == whole
    with pytest.raises(SystemExit, match=r"^share_weights: \S+ is not a bundle"):
        run("--bundle", tmp_path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_weights_of_a_committed_bundle_are_stored_once(path: Path, tmp_path: Path) -> None:
    for file in any_recipe.load(path).files:
        whole, rest = read_state(file), load_file(file)  # the first compares the hash of every tensor in the bundle
        assert whole.keys() >= rest.keys()
        for bundle in BUNDLES:
            shared = in_graphs.write(tmp_path / "rest.safetensors", rest, bundle)
            assert shared == 0, f"{bundle} holds tensors of {file} too: run `python -m training.share_weights`"
