"""Files of weights in the formats that people have them in: read without executing anything, or told what they are."""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rdeic_export.bundle.common import digest
from rdeic_export.weights import folders
from rdeic_export.weights.state import State, read_state, take
from rdeic_rt.errors import ExportError


@pytest.fixture
def state() -> State:
    torch.manual_seed(0)
    return {"conv.weight": torch.randn(3, 2, 1, 1), "conv.bias": torch.randn(3), "norm.weight": torch.randn(3).half()}


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def save_sharded(state: State, index: Path, save: Callable[[State, Path], object] = save_file) -> list[Path]:
    """Write a file for each tensor, and the index that names them."""
    suffix = index.name.removesuffix(".index.json").rpartition(".")[2]
    stem = index.name.partition(".")[0]
    names = {key: f"{stem}-{n + 1:05}-of-{len(state):05}.{suffix}" for n, key in enumerate(state)}
    for key, name in names.items():
        save({key: state[key]}, index.parent / name)
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    return [index.parent / name for name in names.values()]


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "a.pth.tar", "a.bin", "a"])
@pytest.mark.parametrize("before_zip", [False, True])
def test_read_state_torch_of_any_age_and_name(state: State, tmp_path: Path, name: str, before_zip: bool) -> None:
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / name, _use_new_zipfile_serialization=not before_zip)
    assert same(read_state(tmp_path / name), state)


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "a.bin"])
def test_read_state_safetensors_of_any_name(state: State, tmp_path: Path, name: str) -> None:
    save_file(state, tmp_path / name)
    assert same(read_state(tmp_path / name), state)


def test_read_state_safetensors_whose_first_byte_is_that_of_a_pickle(state: State, tmp_path: Path) -> None:
    lengths = {}
    for n in range(1, 80):  # pad the header until its length is a multiple of 256 and 128
        save_file(state, tmp_path / f"{n}.safetensors", metadata={"note": "x" * 8 * n})
        lengths[(tmp_path / f"{n}.safetensors").read_bytes()[0]] = n
    assert same(read_state(tmp_path / f"{lengths[0x80]}.safetensors"), state)


@pytest.mark.parametrize(
    "part", ["state_dict", "ema", "params_ema", "ema_state_dict", "model", "model_state_dict", "weights_of_mine"]
)
def test_read_state_finds_the_tensors_in_a_checkpoint(state: State, tmp_path: Path, part: str) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"epoch": 3, part: state, "optimizer": optimizer}, tmp_path / "a.ckpt")
    assert same(read_state(tmp_path / "a.ckpt"), state)


def test_read_state_of_averaged_and_other_weights_takes_the_averaged(state: State, tmp_path: Path) -> None:
    others = {key: value + 1 for key, value in state.items()}
    torch.save({"params": others, "params_ema": state}, tmp_path / "a.pth")
    assert same(read_state(tmp_path / "a.pth"), state)


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("module.", []),
        ("module.", ["n_averaged"]),
        ("_orig_mod.", []),
        ("module._orig_mod.", []),
        ("ema_model.", ["initted", "step"]),
        ("model_ema.module.", ["decay", "num_updates"]),
    ],
)
def test_read_state_names_come_without_what_wrapped_the_network(
    state: State, tmp_path: Path, prefix: str, beside: list[str]
) -> None:
    wrapped = {f"{prefix}{key}": value for key, value in state.items()} | {key: torch.tensor(1) for key in beside}
    save_file(wrapped, tmp_path / "a.safetensors")
    assert same(read_state(tmp_path / "a.safetensors"), state)


def test_read_state_part_wrapped_inside_the_network(state: State, tmp_path: Path) -> None:
    save_file({f"net.module.{key}": value for key, value in state.items()}, tmp_path / "a.safetensors")
    assert read_state(tmp_path / "a.safetensors").keys() == {f"net.{key}" for key in state}


def test_read_state_name_with_and_without_wrapper_is_refused(state: State, tmp_path: Path) -> None:
    save_file(state | {"module.conv.bias": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match=r"holds conv\.bias twice, once as module\.conv\.bias"):
        read_state(tmp_path / "a.safetensors")


def test_read_state_counter_of_an_unwrapped_network_stays(state: State, tmp_path: Path) -> None:
    save_file(state | {"step": torch.tensor(1)}, tmp_path / "a.safetensors")
    assert "step" in read_state(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_read_state_shards_of_an_index_are_one_state(state: State, tmp_path: Path, kind: str) -> None:
    index = tmp_path / f"model.{kind}.index.json"
    save_sharded(state, index, save_file if kind == "safetensors" else torch.save)
    assert same(read_state(index), state)
    assert same(read_state(tmp_path), state)


def test_read_state_missing_shards_are_all_named(state: State, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for path in save_sharded(state, index)[1:]:
        path.unlink()
    with pytest.raises(ExportError, match=r"shards are missing: model-00002-of-00003\.safetensors, model-00003"):
        read_state(index)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": []}}',
        '{"weight_map": {"a": "../outside.safetensors"}}',
        '{"weight_map": {"a": "/outside.safetensors"}}',
        '{"weight_map": {"a": ""}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": "model.safetensors.index.json"}}',
        "{" * 100_000,
    ],
)
def test_read_state_bad_index_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ExportError) as caught:
        read_state(tmp_path / "model.safetensors.index.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("before_zip", [False, True])
def test_read_state_what_lightning_and_numpy_add_is_left_out(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_zip: bool
) -> None:
    modules = {name: types.ModuleType(name) for name in ("pytorch_lightning", "pytorch_lightning.callbacks")}
    callback = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks"})
    modules["pytorch_lightning.callbacks"].ModelCheckpoint = callback  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    used = callback()
    used.best = 1
    whole = {
        "state_dict": state,
        "callbacks": {callback: {"best_model_score": torch.tensor(1.0)}, "used": used},
        "hyper_parameters": argparse.Namespace(lr=1e-4),
        "loss": torch.tensor(1.0).numpy()[()],
    }
    torch.save(whole, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not before_zip)
    for name in modules:
        monkeypatch.delitem(sys.modules, name)
    assert same(read_state(tmp_path / "a.ckpt"), state)


def test_read_state_whole_module_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(
        ExportError, match=r"it holds torch\.nn\.modules\.linear\.Linear.* save its state_dict"
    ) as caught:
        read_state(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_read_state_without_tensors_says_what_is_there(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 1e-4}, tmp_path / "a.ckpt")
    with pytest.raises(ExportError, match="holds no tensors by name: at its top are epoch, lr"):
        read_state(tmp_path / "a.ckpt")
    torch.save([torch.zeros(1)], tmp_path / "a.ckpt")
    with pytest.raises(ExportError, match="holds no tensors by name"):
        read_state(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x1f\x8b\x08\x00", "compressed archive"),
        (b"", "the file is empty"),
        (b"no weights", "neither torch nor safetensors"),
        (b"PK\x03\x04 cut", "not a readable checkpoint"),
        (b"\x80\x02", "not a readable checkpoint"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{", "not a readable checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_read_state_other_files_are_told_for_what_they_are(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=what) as caught:
        read_state(tmp_path / name)
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("before_zip", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_read_state_file_cut_short_is_refused(tmp_path: Path, before_zip: bool, share: float) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.zeros(500)}, path, _use_new_zipfile_serialization=not before_zip)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ExportError, match="not a readable checkpoint") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


def test_read_state_folder_with_several_files_names_them(state: State, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a folder without weights"):
        read_state(tmp_path)
    save_file(state, tmp_path / "a.safetensors")
    assert same(read_state(tmp_path), state)
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(ExportError, match=r"several files of weights: a\.safetensors, b\.pth"):
        read_state(tmp_path)


def test_weights_in_prefers_full_precision_then_safetensors(tmp_path: Path) -> None:
    names = [
        "model.non_ema.bin",
        "model.fp16.bin",
        "model.safetensors.index.fp16.json",
        "model.fp16.safetensors",
        "model.bin.index.json",
        "model.bin",
        "model.safetensors.index.json",
        "model.safetensors",
    ]
    for name in ("model-00001-of-00002.safetensors", "model.onnx", "other.safetensors", "model.safetensors.old"):
        (tmp_path / name).touch()
    assert folders.weights_in(tmp_path, ("model",)) is None
    for name in names:
        (tmp_path / name).touch()
        assert folders.weights_in(tmp_path, ("model",)) == tmp_path / name
    assert folders.weights_in(tmp_path / "absent", ("model",)) is None


@pytest.mark.parametrize(
    "name",
    [
        "model.fp16.safetensors",
        "model.fp16.bin",
        "model.safetensors.index.fp16.json",
        "model.safetensors.fp16.index.json",
        "model.fp16.safetensors.index.json",
        "model.bf16.safetensors",
    ],
)
def test_weights_in_takes_every_spelling_of_a_variant(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert folders.weights_in(tmp_path, ("model", "pytorch_model")) == tmp_path / name


def test_digest_of_an_index_changes_with_its_shards(state: State, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    shard = save_sharded(state, index)[-1]
    before = digest(index), digest(tmp_path)
    save_file({"norm.weight": torch.ones(3)}, shard)
    after = digest(index), digest(tmp_path)
    assert before[0] != after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.tensor([1.0, float("nan")]), "has values that are not finite"),
        (torch.tensor([float("inf"), 1.0]).half(), "has values that are not finite"),
        (torch.tensor([1, 2], dtype=torch.int8), "is int8, expected weights in float"),
    ],
)
def test_take_what_cannot_be_weights_is_a_problem(value: Tensor, problem: str) -> None:
    problems: list[str] = []
    take({"a": torch.zeros(2)}, {"a": value}, "file", problems)
    assert problems == [f"file: a {problem}"]
