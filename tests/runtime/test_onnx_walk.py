from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from rdeic_rt import graph_file, onnx_walk
from rdeic_rt.bundle_file import BundleFile
from rdeic_rt.errors import BundleCorruptError
from rdeic_rt.manifest import GraphSpec

from .. import hostile_graphs
from ..hostile_graphs import LISTED
from . import micro

MODEL = micro.graph("vae_decoder")
ACCEPTED = hostile_graphs.accepted(MODEL, LISTED)
REFUSED = hostile_graphs.refused(MODEL, LISTED)


def listed(path: Path, content: bytes) -> BundleFile:
    path.write_bytes(content)
    return BundleFile(path, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle's folder, with files that it does not list, and a file and a link outside of it."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (folder / "unlisted.bin").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    return folder


def spec(folder: Path, content: bytes, name: str = "g.onnx") -> GraphSpec:
    """Return the spec of a graph in a bundle that lists the graph and one file of weights."""
    files = {name: listed(folder / name, content), LISTED: listed(folder / LISTED, bytes(range(16)))}
    return GraphSpec("g", "fp32", files[name], (), (), listed=files)


@pytest.mark.parametrize("name", ACCEPTED)
def test_read_graph_within_the_rules_returns_its_bytes_and_weights(folder: Path, name: str) -> None:
    graph = graph_file.read(spec(folder, ACCEPTED[name]))
    assert graph.onnx == ACCEPTED[name]
    found = {weight: values.tolist() for weight, values in graph.weights.items()}
    expected = {"listed": {"outside": [0, 1, 2, 3]}, "two of one file": {"w0": [0, 1], "w2": [2, 3]}}
    assert found == expected.get(name, {})


@pytest.mark.parametrize("name", REFUSED)
def test_read_graph_that_reaches_outside_raises_corrupt(folder: Path, name: str) -> None:
    with pytest.raises(BundleCorruptError, match=r"g\.onnx"):
        graph_file.read(spec(folder, REFUSED[name]))


def test_read_graph_in_a_subfolder_finds_weights_beside_it_alone(folder: Path) -> None:
    (folder / "sub").mkdir()
    files = {
        "sub/g.onnx": listed(folder / "sub/g.onnx", ACCEPTED["listed"]),
        LISTED: listed(folder / LISTED, bytes(16)),
    }
    graph = GraphSpec("g", "fp32", files["sub/g.onnx"], (), (), folder="sub/", listed=files)
    with pytest.raises(BundleCorruptError, match="not among the bundle's files"):
        graph_file.read(graph)
    files[f"sub/{LISTED}"] = listed(folder / "sub" / LISTED, bytes(16))
    assert list(graph_file.read(graph).weights) == ["outside"]


def test_read_graph_or_weights_that_changed_raise_corrupt_unless_hashes_are_skipped(folder: Path) -> None:
    for name in ("g.onnx", LISTED):
        graph = spec(folder, ACCEPTED["listed"])
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleCorruptError, match="SHA-256"):
            graph_file.read(graph)
        path.write_bytes(content + b"x")
        with pytest.raises(BundleCorruptError, match="has .* bytes, should have"):
            graph_file.read(graph)
        path.unlink()
        with pytest.raises(BundleCorruptError, match="no such file"):
            graph_file.read(graph)
        os.mkfifo(path)
        with pytest.raises(BundleCorruptError, match="no such file"):
            graph_file.read(graph)
        path.unlink()
    graph = spec(folder, ACCEPTED["listed"])
    (folder / LISTED).write_bytes(bytes(16))
    files = {name: BundleFile(f.path, f.size_bytes, f.sha256, verify=False) for name, f in graph.listed.items()}
    unverified = GraphSpec("g", "fp32", files["g.onnx"], (), (), listed=files)
    assert graph_file.read(unverified).weights["outside"].tolist() == [0, 0, 0, 0]
    (folder / "g.onnx").write_bytes(ACCEPTED["listed"].replace(LISTED.encode(), b"g.onnx"))
    assert graph_file.read(unverified).weights["outside"].tobytes() == ACCEPTED["listed"][:4]
    (folder / "g.onnx").write_bytes(ACCEPTED["listed"].replace(LISTED.encode(), b"x.data"))
    with pytest.raises(BundleCorruptError, match="not among"):
        graph_file.read(unverified)


def test_walk_knows_every_field_on_the_way_to_a_tensor() -> None:
    """What onnx's own description of the format has, the walk either walks or leaves for a reason: it has no tensor."""
    names = {"main_graph": "graph", "weight": "tensor"}
    kinds = {
        "ModelProto": "model",
        "GraphProto": "graph",
        "TrainingInfoProto": "training",
        "FunctionProto": "function",
        "NodeProto": "node",
        "AttributeProto": "attribute",
        "SparseTensorProto": "sparse",
        "TensorProto": "tensor",
        "StringStringEntryProto": "entry",
    }

    def has_tensor(message: object, seen: frozenset[str] = frozenset()) -> bool:
        name = message.name  # type: ignore[attr-defined]
        if name == "TensorProto":
            return True
        inner = [f.message_type for f in message.fields if f.message_type]  # type: ignore[attr-defined]
        return any(has_tensor(one, seen | {name}) for one in inner if one.name not in seen)

    todo, done = [ModelProto.DESCRIPTOR], set()
    while todo:
        message = todo.pop()
        if message.name in done:
            continue
        done.add(message.name)
        known = onnx_walk._MESSAGES[kinds[message.name]]
        assert known.keys() == {f.number for f in message.fields}, message.name
        for f in message.fields:
            what = names.get(known[f.number], known[f.number])
            if f.message_type and has_tensor(f.message_type):
                assert what == kinds[f.message_type.name], f"{message.name}.{f.name}"
                todo.append(f.message_type)


def test_corpus_of_the_fuzzer_has_every_form() -> None:
    assert {path.name for path in hostile_graphs.CORPUS.iterdir()} >= hostile_graphs.files().keys()


def test_walk_of_every_graph_there_is_finds_no_fault(embedded_bundle: Path, golden_bundle: Path) -> None:
    paths = [*embedded_bundle.glob("*.onnx"), *golden_bundle.glob("*.onnx")]
    assert len(paths) > 10
    for path in paths:
        assert onnx_walk.external_weights(path.read_bytes(), path) == ()


def test_walk_of_the_most_fields_ends_within_seconds() -> None:
    start = time.process_time()
    with pytest.raises(BundleCorruptError, match="more than 1048576 fields"):
        onnx_walk.external_weights(REFUSED["a million fields"], "x")
    assert time.process_time() - start < 20


def test_relocated_changes_the_place_of_weights_and_nothing_else() -> None:
    moved = onnx.load_from_string(
        onnx_walk.relocated(ACCEPTED["two of one file"], {"w0": ("there", 1 << 60), "w2": ("here", 6)})
    )
    before = onnx.load_from_string(ACCEPTED["two of one file"])
    found = {t.name: {e.key: e.value for e in t.external_data} for t in moved.graph.initializer if t.data_location == 1}
    assert found == {
        "w0": {"location": "there", "offset": str(1 << 60), "length": "2"},
        "w2": {"location": "here", "offset": "6", "length": "2"},
    }
    for model in (moved, before):
        for tensor in model.graph.initializer:
            tensor.ClearField("external_data")
    assert moved == before


def tensors(message: object) -> Iterator[TensorProto]:
    """Yield every tensor within a protobuf message, as the library reads it."""
    if isinstance(message, TensorProto):
        yield message
    for f, value in message.ListFields():  # type: ignore[attr-defined]
        if f.message_type:
            for one in value if f.is_repeated else [value]:
                yield from tensors(one)


def check_against_protobuf(content: bytes) -> bool:
    """Check that a file which the walk accepts is, for the library, a model with exactly the weights it returned."""
    try:
        found = onnx_walk.external_weights(content, "x")
    except BundleCorruptError:
        return False
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # the walk steps over much that the library looks into
        return False
    external = [t for t in tensors(model) if t.data_location == TensorProto.EXTERNAL or t.external_data]
    inits = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert len(external) == len(inits) == len(found)
    for tensor, weight in zip(inits, found, strict=True):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries["location"]  # bytes, where it is no UTF-8
        as_text = location.decode("ascii", "backslashreplace") if isinstance(location, bytes) else location
        assert tensor.name == weight.name
        assert as_text.encode("ascii", "backslashreplace") == weight.location.encode() or not location.isascii()
        assert (int(entries["offset"]), int(entries["length"])) == (weight.offset, weight.size_bytes)
        assert tuple(tensor.dims) == weight.shape
    return True


def test_walk_of_changed_bytes_never_accepts_what_the_library_reads_otherwise() -> None:
    rng = random.Random(11)
    seeds = [content for content in (*ACCEPTED.values(), *REFUSED.values()) if 0 < len(content) < 20_000]
    accepted = 0
    for _ in range(6000):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(0, 3)):
            at, kind = rng.randrange(len(content)), rng.randrange(4)
            if kind == 0:
                content[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                content[at] = rng.randrange(256)
            elif kind == 2:
                del content[at : at + rng.randint(1, 4)]
            else:
                content[at:at] = rng.choice(seeds)[: rng.randint(0, 8)]
            if not content:
                break
        accepted += check_against_protobuf(bytes(content))
    assert accepted > 100


@st.composite
def models(draw: st.DrawFn) -> bytes:
    """Protobuf of the shape of a model: nested fields of the numbers that ONNX has, with weights among them."""

    def message(depth: int) -> bytes:
        parts = []
        for _ in range(draw(st.integers(0, 4))):
            number = draw(st.sampled_from([1, 2, 5, 6, 7, 8, 10, 11, 13, 14, 15, 20, 22, 25]))
            kind = draw(st.integers(0, 5))
            if kind == 0:
                parts.append(hostile_graphs.key(number, 0) + hostile_graphs.varint(draw(st.integers(0, 3))))
            elif kind == 1 or depth == 0:
                parts.append(hostile_graphs.field(number, draw(st.binary(max_size=4))))
            elif kind == 2:
                parts.append(hostile_graphs.field(5, hostile_graphs.outside(LISTED).SerializeToString()))
            else:
                parts.append(hostile_graphs.field(number, message(depth - 1)))
        return b"".join(parts)

    return hostile_graphs.field(7, message(4)) + message(2)


@settings(max_examples=300, deadline=None)
@given(models())
def test_walk_of_anything_shaped_like_a_model_agrees_with_the_library(content: bytes) -> None:
    check_against_protobuf(content)


def test_weights_are_views_of_the_file_with_their_type_and_shape(folder: Path) -> None:
    values = np.arange(4, dtype=np.float16).reshape(2, 2)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[2, 2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", LISTED), ("offset", "8"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    model = ModelProto()
    model.CopyFrom(MODEL)
    model.graph.initializer.append(tensor)
    files = {
        "g.onnx": listed(folder / "g.onnx", model.SerializeToString()),
        LISTED: listed(folder / LISTED, bytes(8) + values.tobytes()),
    }
    found = graph_file.read(GraphSpec("g", "fp32", files["g.onnx"], (), (), listed=files)).weights["w"]
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.float16
    assert not found.flags.writeable
