"""ONNX files that reach outside of themselves, or that two readers could read differently: one for each way known.

Every one must be refused by both runtimes, whatever the bundle around it lists; `accepted` are files that look alike
and must not be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TrainingInfoProto,
    helper,
)

LISTED = "w.data"
CORPUS = Path(__file__).parents[1] / "fuzz/corpus/onnx_walk"
_CORPUS_BYTES = 1 << 16
IN_MEMORY = "*/_ORT_MEM_ADDR_/*"
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER, _NODE_ATTRIBUTE, _ATTRIBUTE_GRAPH = 7, 1, 5, 5, 6
_VARINT, _LENGTH, _GROUP, _GROUP_END = 0, 2, 3, 4


def outside(location: str, size_bytes: int = 4, offset: int = 0, *, name: str = "outside") -> TensorProto:
    """Return uint8 [size_bytes] whose values lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[size_bytes], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", size_bytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def accepted(model: ModelProto, listed: str) -> dict[str, bytes]:
    """Return a graph's bytes in forms that are right: as it is, and with weights in a file that the bundle lists."""

    def read(*tensors: TensorProto) -> ModelProto:
        """Return the model with initialisers, each read by a node: ONNX Runtime takes no others from memory."""
        changed = _changed(model, lambda m: m.graph.initializer.extend(tensors))
        for tensor in tensors:
            changed.graph.node.append(helper.make_node("Identity", [tensor.name], [f"{tensor.name}_read"]))
        return changed

    inside = TensorProto(name="w", data_type=2, dims=[1], raw_data=b"x", data_location=TensorProto.DEFAULT)
    forms = {
        "as it is": model,
        "listed": read(outside(listed)),
        "two of one file": read(*(outside(listed, 2, offset, name=f"w{offset}") for offset in (0, 2))),
        "not external, said so": read(inside),
    }
    return {name: form.SerializeToString() for name, form in forms.items()}


def refused(model: ModelProto, listed: str) -> dict[str, bytes]:
    """Return a graph's bytes with one thing wrong in each; listed is a file of the bundle, of 16 bytes."""
    changes: dict[str, Callable[[ModelProto], object]] = {
        **_elsewhere(listed),
        **_where_none_may_be(listed),
        **_incomplete(listed),
        "foreign node": lambda m: m.graph.node.append(NodeProto(op_type="EPContext", output=["e"])),
    }
    forms = {name: _changed(model, change).SerializeToString() for name, change in changes.items()}
    return forms | _encodings(model, listed)


def _elsewhere(listed: str) -> dict[str, Callable[[ModelProto], object]]:
    places = {
        "absolute path": outside("/etc/passwd"),
        "parent folder": outside("../secret.bin"),
        "parent folder, within": outside(f"x/../{listed}"),
        "own folder": outside(f"./{listed}"),
        "not listed": outside("unlisted.bin"),
        "link, not listed": outside("link.bin"),
        "manifest": outside("bundle.json"),
        "address": outside(IN_MEMORY, offset=4096),
        "no path": outside(""),
        "zero byte": outside(f"{listed}\0"),
        "other slash": outside(f".\\{listed}"),
        "device": outside("/dev/zero"),
        "URL": outside(f"file:{listed}"),
        "length beyond the file": outside(listed, 17),
        "offset beyond the file": outside(listed, 4, 13),
        "offset that overflows": outside(listed, 4, 999_999_999_999_999_998),
        "offset of 64 bits": outside(listed, 4, (1 << 64) - 4),
    }
    return {f"initialiser: {name}": _adding(tensor) for name, tensor in places.items()}


def _adding(tensor: TensorProto) -> Callable[[ModelProto], object]:
    return lambda model: _initializer(model, tensor)


def _where_none_may_be(listed: str) -> dict[str, Callable[[ModelProto], object]]:
    tensor = outside(listed)
    subgraph = helper.make_graph([], "inner", [], [], [tensor])
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    deeper = helper.make_graph([helper.make_node("If", ["b"], ["o"], then_branch=subgraph)], "outer", [], [])
    values = SparseTensorProto(values=outside(listed), indices=TensorProto(data_type=7, dims=[1]), dims=[4])
    indices = SparseTensorProto(values=TensorProto(data_type=1, dims=[1]), indices=outside(listed), dims=[4])
    function = FunctionProto(name="f", domain="local", node=[constant])
    default = FunctionProto(name="f", domain="local")
    default.attribute_proto.add(name="a", type=AttributeProto.TENSOR, t=tensor)
    training = [TrainingInfoProto(initialization=subgraph), TrainingInfoProto(algorithm=deeper)]

    def node(**attribute: Any) -> Callable[[ModelProto], object]:
        made = NodeProto(op_type="Any", output=["any"])
        made.attribute.add(name="a", **attribute)
        return lambda m: m.graph.node.append(made)

    return {
        "constant": lambda m: m.graph.node.append(constant),
        "tensor attribute": node(type=AttributeProto.TENSOR, t=tensor),
        "tensor attribute of another type": node(type=AttributeProto.INT, t=tensor),
        "list of tensors": node(type=AttributeProto.TENSORS, tensors=[TensorProto(data_type=1), tensor]),
        "then_branch": lambda m: m.graph.node.append(helper.make_node("If", ["b"], ["o"], then_branch=subgraph)),
        "loop body": lambda m: m.graph.node.append(helper.make_node("Loop", ["n", "b"], ["o"], body=subgraph)),
        "subgraph in a subgraph": node(type=AttributeProto.GRAPH, g=deeper),
        "list of graphs": node(type=AttributeProto.GRAPHS, graphs=[GraphProto(), deeper]),
        "function body": lambda m: m.functions.append(function),
        "function default": lambda m: m.functions.append(default),
        "sparse values": lambda m: m.graph.sparse_initializer.append(values),
        "sparse indices": lambda m: m.graph.sparse_initializer.append(indices),
        "sparse attribute": node(type=AttributeProto.SPARSE_TENSOR, sparse_tensor=values),
        "list of sparse attributes": node(type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[indices]),
        "training initialisation": lambda m: m.training_info.append(training[0]),
        "training algorithm": lambda m: m.training_info.append(training[1]),
    }


def _incomplete(listed: str) -> dict[str, Callable[[ModelProto], object]]:
    def edited(edit: Callable[[TensorProto], object]) -> Callable[[ModelProto], object]:
        tensor = outside(listed)
        edit(tensor)
        return lambda model: _initializer(model, tensor)

    def entry(**pairs: str) -> Callable[[TensorProto], object]:
        return lambda t: [t.external_data.add(key=key, value=value) for key, value in pairs.items()]

    def value(index: int, text: str) -> Callable[[TensorProto], object]:
        return lambda t: setattr(t.external_data[index], "value", text)

    def not_aligned(t: TensorProto) -> None:
        t.data_type = TensorProto.FLOAT16
        t.dims[0] = 2
        value(1, "1")(t)

    edits: dict[str, Callable[[TensorProto], object]] = {
        "location twice": entry(location="/etc/passwd"),
        "offset twice": entry(offset="0"),
        "unknown key": entry(checksum="0"),
        "no location": lambda t: t.external_data.pop(0),
        "no offset": lambda t: t.external_data.pop(1),
        "no length": lambda t: t.external_data.pop(2),
        "no entries": lambda t: t.ClearField("external_data"),
        "entry without a key": lambda t: t.external_data.add(value="x"),
        "negative offset": value(1, "-4"),
        "signed offset": value(1, "+0"),
        "hexadecimal length": value(2, "0x4"),
        "length of spaces": value(2, " 4"),
        "empty length": value(2, ""),
        "length of 19 digits": value(2, "0000000000000000004"),
        "location not said": lambda t: t.ClearField("data_location"),
        "location default": lambda t: setattr(t, "data_location", TensorProto.DEFAULT),
        "raw data too": lambda t: setattr(t, "raw_data", b"\0\0\0\0"),
        "int32 data too": lambda t: t.int32_data.extend([0] * 4),
        "no type": lambda t: t.ClearField("data_type"),
        "texts": lambda t: setattr(t, "data_type", TensorProto.STRING),
        "packed type": lambda t: setattr(t, "data_type", TensorProto.INT4),
        "no name": lambda t: t.ClearField("name"),
        "other shape": lambda t: t.dims.__setitem__(0, 3),
        "more elements than 64 bits": lambda t: t.dims.extend([1 << 62, 1 << 62]),
        "no elements": lambda t: t.dims.append(0),
        "negative dimension": lambda t: t.dims.extend([-1, -1]),
        "nine dimensions": lambda t: t.dims.extend([1] * 8),
        "not aligned": not_aligned,
    }
    changes = {f"description: {name}": edited(edit) for name, edit in edits.items()}
    inner = TensorProto(name="outside", data_type=TensorProto.UINT8, dims=[1], raw_data=b"x")
    changes["description: weight twice"] = lambda m: m.graph.initializer.extend([outside(listed), outside(listed)])
    changes["description: weight here and there"] = lambda m: m.graph.initializer.extend([outside(listed), inner])
    return changes


def _encodings(model: ModelProto, listed: str) -> dict[str, bytes]:
    """Return files that no protobuf library writes, or only one that was asked to."""
    good = model.SerializeToString()
    elsewhere = outside("/etc/passwd")
    parts = [TensorProto(), TensorProto()]
    for entry in elsewhere.external_data:
        parts[0].external_data.add().CopyFrom(entry)
    parts[1].CopyFrom(elsewhere)
    parts[1].ClearField("external_data")
    weight = elsewhere.SerializeToString()
    plain = TensorProto(name="w", data_type=2, dims=[1], raw_data=b"x").SerializeToString()
    nested = b""
    for _ in range(30):
        nested = field(_ATTRIBUTE_GRAPH, field(_GRAPH_NODE, field(_NODE_ATTRIBUTE, nested)))

    def weights(*tensors: bytes) -> bytes:
        """Return the model with initialisers, as bytes, in its one graph."""
        graph = model.graph.SerializeToString() + b"".join(field(_GRAPH_INITIALIZER, tensor) for tensor in tensors)
        return _without_graph(model) + field(_MODEL_GRAPH, graph)

    def node(*attributes: bytes) -> bytes:
        graph = model.graph.SerializeToString() + field(_GRAPH_NODE, b"".join(attributes))
        return _without_graph(model) + field(_MODEL_GRAPH, graph)

    def location(*values: bytes) -> bytes:
        """Return a weight with these data locations."""
        tensor = outside(listed)
        tensor.ClearField("data_location")
        return bytes(tensor.SerializeToString()) + b"".join(key(14, _VARINT) + x for x in values)

    return {
        "empty": b"",
        "no graph": _without_graph(model),
        "graph twice": good + field(_MODEL_GRAPH, b""),
        "graph in two parts": good + field(_MODEL_GRAPH, field(_GRAPH_INITIALIZER, weight)),
        "cut by a byte": good[:-1],
        "cut in half": good[: len(good) // 2],
        "a byte more": good + b"\0",
        "tag that ends in the file": good + b"\xba",
        "length beyond the file": good + key(_MODEL_GRAPH, _LENGTH) + varint(1 << 20),
        "length of 64 bits": good + key(_MODEL_GRAPH, _LENGTH) + b"\xff" * 9 + b"\x01",
        "data location twice, outside last": weights(location(b"\0", b"\1")),
        "data location twice, outside first": weights(location(b"\1", b"\0")),
        "data location twice, the same": weights(location(b"\1", b"\1")),
        "data location 2": weights(location(b"\2")),
        "data location of 33 bits": weights(location(varint((1 << 32) + 1))),
        "data location as bytes": weights(location() + field(14, b"\1")),
        "attribute's tensor in two parts": node(
            field(_NODE_ATTRIBUTE, b"".join(field(5, part.SerializeToString()) for part in parts))
        ),
        "entry's key twice": weights(
            TensorProto(name="w", data_location=TensorProto.EXTERNAL, data_type=2, dims=[4]).SerializeToString()
            + field(13, field(1, b"offset") + field(1, b"location") + field(2, b"/etc/passwd"))
        ),
        "number longer than it needs": weights(location(b"\x81\0")),
        "number of 11 bytes": weights(location(b"\x81" + b"\x80" * 9 + b"\0")),
        "number of 65 bits": weights(location(b"\x81" + b"\x80" * 8 + b"\x02")),
        "tag longer than it needs": good + b"\xba\x00\x00",
        "tag of 35 bits": good + varint((1 << 32) | _MODEL_GRAPH << 3 | _LENGTH) + b"\0",
        "length longer than it needs": good + key(_MODEL_GRAPH, _LENGTH) + b"\x80\0",
        "field 0": good + b"\x02\x00",
        "unknown field of the model": good + field(100, weight),
        "unknown field of a tensor": weights(plain + field(17, b"")),
        "weight in a group": _without_graph(model)
        + field(_MODEL_GRAPH, model.graph.SerializeToString() + key(5, _GROUP) + weight + key(5, _GROUP_END)),
        "graph as a number": good + key(_MODEL_GRAPH, _VARINT) + b"\1",
        "wire type 6": good + key(1, 6),
        "90 messages in each other": node(field(_NODE_ATTRIBUTE, nested)),
        "a million fields": node(field(8, b"") * (1 << 20)),
        "flatbuffer": b"\x12\x06\x10\x00ORTM" + good,
        "text": b"<?xml version='1.0'?><net/>",
        "name that is no text": weights(location(b"\1").replace(b"outside", b"out\xffide")),
        "name twice": weights(location(b"\1") + field(8, b"w")),
    }


def field(number: int, content: bytes) -> bytes:
    """Return a protobuf field of bytes."""
    return key(number, _LENGTH) + varint(len(content)) + content


def key(number: int, wire: int) -> bytes:
    """Return what a protobuf field begins with."""
    return varint(number << 3 | wire)


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _without_graph(model: ModelProto) -> bytes:
    rest = ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    return bytes(rest.SerializeToString())


def _changed(model: ModelProto, change: Callable[[ModelProto], object]) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    change(changed)
    return changed


def _initializer(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def files() -> dict[str, bytes]:
    """Return all forms of a small graph, as the corpus of the fuzzer ``onnx_walk`` has them, by file name."""
    from ..runtime import micro

    model = micro.graph("vae_decoder")
    forms = {f"accepted: {name}": content for name, content in accepted(model, LISTED).items()}
    forms |= {f"refused: {name}": content for name, content in refused(model, LISTED).items()}
    names = {re.sub(r"[^a-z0-9]+", "_", name.lower()): content for name, content in forms.items()}
    assert len(names) == len(forms)
    return {name: content for name, content in names.items() if len(content) < _CORPUS_BYTES}


def main() -> None:
    """Write the corpus: python -m tests.conformance.hostile_graphs."""
    for name, content in files().items():
        (CORPUS / name).write_bytes(content)


if __name__ == "__main__":
    main()
