"""ONNX bytes -> external weights: a scan of the whole message, before any library reads it.

    model ─▶ main graph ─▶ weight                      may name a listed file of the bundle
               └─▶ node ─▶ attribute ─▶ tensor         must hold its own values, as in functions, subgraphs,
                                 └─▶ graph ─▶ ...      sparse tensors and training graphs

An ONNX tensor may name a file that holds its values. Libraries have followed such names out of the bundle, to any file
of the machine (ONNX Runtime before 1.24) and to any address of the process (location ``*/_ORT_MEM_ADDR_/*``). So a
graph of a bundle may name files in one place only, and `graph_file` opens them itself.

This is not an ONNX reader. It knows the fields of the messages on the path to a tensor, and skips all others by their
length. Everything that two libraries could interpret differently is rejected: unknown fields, fields of another wire
type, integers in more bytes than necessary, a main graph in parts.
(The counterpart in librdeic is src/onnx_walk.cc; tests/conformance/parity.py compares the two.)
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from . import limits
from .errors import BundleCorruptError

# ONNX data type -> numpy's name and bytes of an element, for weights that may lie in other files.
_ELEMENTS = {1: ("float32", 4), 2: ("uint8", 1), 3: ("int8", 1), 6: ("int32", 4), 7: ("int64", 8), 10: ("float16", 2)}
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")

# Wire types: what follows the number of a field.
_NUMBER, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_WIRES = {
    "number": (_NUMBER,),
    "numbers": (_NUMBER, _BYTES),
    "float": (_FOUR_BYTES,),
    "floats": (_FOUR_BYTES, _BYTES),
    "doubles": (_EIGHT_BYTES, _BYTES),
}


def _message(**fields: tuple[int, ...] | int) -> dict[int, str]:
    """Return field number -> what the field is, for one kind of message."""
    return {number: kind for kind, some in fields.items() for number in (some if isinstance(some, tuple) else (some,))}


# The fields of ONNX's messages up to IR version 13. A field is of one of _WIRES' kinds, or a message that is walked, or
# `other`: text, bytes, and messages in which there is no tensor.
_TENSOR = _message(numbers=(1, 5, 7, 11), number=(2, 14), floats=4, doubles=10, entry=13, other=(3, 6, 8, 9, 12, 16))
_GRAPH = _message(node=1, tensor=5, sparse=15, other=(2, 10, 11, 12, 13, 14, 16))
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": _message(number=(1, 5), main_graph=7, training=20, function=25, other=(2, 3, 4, 6, 8, 14, 26)),
    "main_graph": _GRAPH | {5: "weight"},
    "graph": _GRAPH,
    "training": _message(graph=(1, 2), other=(3, 4)),
    "function": _message(node=7, attribute=11, other=(1, 4, 5, 6, 8, 9, 10, 12, 13, 14)),
    "node": _message(attribute=5, op_type=4, other=(1, 2, 3, 6, 7, 8, 9, 10)),
    "attribute": _message(
        float=2,
        number=(3, 20),
        tensor=(5, 10),
        graph=(6, 11),
        sparse=(22, 23),
        floats=7,
        numbers=8,
        other=(1, 4, 9, 13, 14, 15, 21),
    ),
    "sparse": _message(tensor=(1, 2), numbers=3),
    "weight": _TENSOR,
    "tensor": _TENSOR,
    "entry": _message(other=(1, 2)),
}
# For each kind of message: what a field begins with, its number and wire type -> its number, and what it is.
_FIELDS: Mapping[str, Mapping[int, tuple[int, str]]] = {
    message: {
        number << 3 | wire: (number, kind) for number, kind in fields.items() for wire in _WIRES.get(kind, (_BYTES,))
    }
    for message, fields in _MESSAGES.items()
}
_DIMS, _DATA_TYPE, _NAME, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 13, 14
_OWN_DATA = {3, 4, 5, 6, 7, 9, 10, 11}
_MAIN_GRAPH, _INITIALIZER = 7, 5
_KEY, _VALUE = 1, 2
_DEFAULT, _EXTERNAL = 0, 1
# A node whose attribute names a file that some of ONNX Runtime's providers read, or holds a program for a device.
_FOREIGN = b"EPContext"
# Bytes 4 to 7 of a model in ONNX Runtime's own format, as which it would take what also is an ONNX file.
_OTHER_FORMAT = b"ORTM"


@dataclass(frozen=True)
class ExternalWeight:
    """An initialiser of the main graph whose values lie in another file.

    Attributes:
        name: of the initialiser.
        location: of the file, as the graph gives it; nothing has been looked up.
        offset: first byte, a multiple of the element's size.
        size_bytes: what dtype and shape take, 1 or more.
        dtype: numpy's name of the element type.
        shape: dimensions, each 1 or more.
    """

    name: str
    location: str
    offset: int
    size_bytes: int
    dtype: str
    shape: tuple[int, ...]


class _Field(NamedTuple):
    """One field of a message, which begins at byte `tag` of the file; what it holds lies from `start` to `end`."""

    number: int
    kind: str
    value: int  # of a number
    tag: int
    start: int
    end: int


def external_weights(data: bytes, where: object) -> tuple[ExternalWeight, ...]:
    """Return the weights that an ONNX file keeps in other files, in its order.

    Args:
        data: the whole file.
        where: begins messages.

    Raises:
        BundleCorruptError: it is no ONNX model as described above, names a file elsewhere than in an initialiser of the
            main graph, or describes such a weight incompletely or twice.
    """
    return _Walk(data, where).external_weights()


def relocated(data: bytes, places: Mapping[str, tuple[str, int]]) -> bytes:
    """Return an ONNX file in which weights lie elsewhere.

    Args:
        data: a file that `external_weights` accepts.
        places: name -> location and offset of every weight that it returned.
    """
    walk = _Walk(data, "")
    model = []
    for field in walk.fields("model", 0, len(data)):
        if field.number != _MAIN_GRAPH:
            model.append(data[field.tag : field.end])
            continue
        graph = []
        for part in walk.fields(field.kind, field.start, field.end):
            tensor = walk.tensor(part) if part.number == _INITIALIZER else None
            if tensor is None or tensor.name not in places:
                graph.append(data[part.tag : part.end])
                continue
            location, offset = places[tensor.name]
            entries = {"location": location, "offset": str(offset), "length": str(tensor.size_bytes)}
            kept = [
                data[x.tag : x.end] for x in walk.fields(part.kind, part.start, part.end) if x.number != _EXTERNAL_DATA
            ]
            kept += [
                _delimited(_EXTERNAL_DATA, _delimited(_KEY, key.encode()) + _delimited(_VALUE, value.encode()))
                for key, value in entries.items()
            ]
            graph.append(_delimited(_INITIALIZER, b"".join(kept)))
        model.append(_delimited(_MAIN_GRAPH, b"".join(graph)))
    return b"".join(model)


class _Walk:
    """The walk over one file; every method raises BundleCorruptError for what it cannot accept."""

    def __init__(self, data: bytes, where: object) -> None:
        self._data = data
        self._where = where
        self._fields_left = limits.MAX_ONNX_FIELDS

    def external_weights(self) -> tuple[ExternalWeight, ...]:
        if self._data[4:8] == _OTHER_FORMAT:
            self.fail("begins as ONNX Runtime's own format")
        weights: list[ExternalWeight] = []
        names: Counter[bytes] = Counter()
        main_graphs = 0
        messages = [("model", 0, len(self._data), 0)]  # still to be walked: kind, where, and how deep it lies
        while messages:
            kind, start, end, depth = messages.pop()
            if depth > limits.MAX_ONNX_DEPTH:
                self.fail(f"messages lie more than {limits.MAX_ONNX_DEPTH} deep in each other")
            found = []
            for field in self.fields(kind, start, end):
                if field.kind in ("weight", "tensor"):
                    external = self.tensor(field, names)
                    if external is not None:
                        weights.append(external)
                elif field.kind in _MESSAGES:
                    found.append((field.kind, field.start, field.end, depth + 1))
                elif field.kind == "op_type" and self._data[field.start : field.end] == _FOREIGN:
                    self.fail(f"a node is {_FOREIGN.decode()}, which stands for something that is not ONNX")
                main_graphs += field.kind == "main_graph"
            messages += reversed(found)
        if main_graphs != 1:
            self.fail(f"has {main_graphs} graphs, should have one")
        for weight in weights:
            if names[weight.name.encode()] > 1:
                self.fail(f"weight {weight.name!r} comes twice")
        return tuple(weights)

    def fields(self, kind: str, start: int, end: int) -> Iterator[_Field]:
        """Yield the fields of a message. (In one piece, as most of the time of a walk is spent here.)"""
        data, known, at = self._data, _FIELDS[kind], start
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                self.fail(f"has more than {limits.MAX_ONNX_FIELDS} fields")
            tag, key = at, data[at]
            if key < 0x80:
                at += 1
            else:
                key, at = self._varint(at, end)
            if key not in known:
                self.fail(f"byte {tag}: {kind} has no field {key >> 3} of wire type {key & 7}")
            number, what = known[key]
            wire = key & 7
            if wire == _NUMBER:
                begin = at
                value, at = self._varint(at, end)
                yield _Field(number, what, value, tag, begin, at)
                continue
            if wire == _BYTES:
                if at < end and data[at] < 0x80:
                    length = data[at]
                    at += 1
                else:
                    length, at = self._varint(at, end)
            else:
                length = 4 if wire == _FOUR_BYTES else 8
            begin = at
            at += length
            if at > end:
                self.fail(f"byte {tag}: field {number} of {kind} has {length} bytes, {end - begin} are left")
            yield _Field(number, what, 0, tag, begin, at)

    def tensor(self, tensor: _Field, names: Counter[bytes] | None = None) -> ExternalWeight | None:
        """Return a tensor if it is a weight in another file; None if it holds its values. Counts the main graph's."""
        by_number: dict[int, list[_Field]] = {}
        for field in self.fields(tensor.kind, tensor.start, tensor.end):
            by_number.setdefault(field.number, []).append(field)
        name = b"".join(self._bytes(field) for field in by_number.get(_NAME, [])[-1:])
        if names is not None and tensor.kind == "weight":
            names[name] += 1
        locations = [field.value for field in by_number.get(_DATA_LOCATION, [])]
        entries = by_number.get(_EXTERNAL_DATA, [])
        if locations in ([], [_DEFAULT]) and not entries:
            return None
        what = f"byte {tensor.tag}: tensor {name[:60].decode('ascii', 'backslashreplace')!r}"
        if tensor.kind != "weight":
            self.fail(f"{what} names another file, which only initialisers of the main graph may")
        if locations != [_EXTERNAL]:
            self.fail(f"{what} has the data locations {locations[:4]}, should have {_EXTERNAL} once")
        if len(by_number.get(_NAME, [])) != 1 or len(by_number.get(_DATA_TYPE, [])) != 1:
            self.fail(f"{what} should have one name and one type")
        if not _OWN_DATA.isdisjoint(by_number):
            self.fail(f"{what} has values of its own beside those in another file")
        location, offset, size_bytes = self._entries(entries, what)
        data_type = by_number[_DATA_TYPE][0].value
        if data_type not in _ELEMENTS:
            self.fail(f"{what}: values of ONNX type {data_type} cannot lie in another file")
        dtype, element_bytes = _ELEMENTS[data_type]
        shape = self._dims(by_number.get(_DIMS, []), what)
        if size_bytes != element_bytes * math.prod(shape) or offset % element_bytes:
            self.fail(f"{what}: {size_bytes} bytes at {offset} are not {dtype} {list(shape)}")
        try:
            return ExternalWeight(name.decode(), location, offset, size_bytes, dtype, shape)
        except UnicodeDecodeError:
            self.fail(f"{what} has a name that is not UTF-8")

    def _entries(self, entries: list[_Field], what: str) -> tuple[str, int, int]:
        """Return location, offset and length."""
        pairs: dict[bytes, bytes] = {}
        for entry in entries:
            texts = [(field.number, self._bytes(field)) for field in self.fields(entry.kind, entry.start, entry.end)]
            if [number for number, _ in sorted(texts)] != [_KEY, _VALUE]:
                self.fail(f"{what}: an entry of external_data is not one key and one value")
            (_, key), (_, value) = sorted(texts)
            if key in pairs:
                self.fail(f"{what}: external_data has a key twice")
            pairs[key] = value
        if pairs.keys() != {b"location", b"offset", b"length"}:
            self.fail(f"{what}: external_data should have the keys location, offset and length")
        if not _DIGITS.match(pairs[b"offset"]) or not _DIGITS.match(pairs[b"length"]):
            self.fail(f"{what}: offset and length in external_data should be whole numbers")
        # What is not ASCII is no path that a bundle lists.
        location = pairs[b"location"].decode("ascii", "backslashreplace")
        return location, int(pairs[b"offset"]), int(pairs[b"length"])

    def _dims(self, fields: list[_Field], what: str) -> tuple[int, ...]:
        dims: list[int] = []
        for field in fields:
            at = field.start
            while at < field.end and len(dims) <= limits.MAX_ONNX_RANK:
                dim, at = self._varint(at, field.end)
                dims.append(dim)
        if len(dims) > limits.MAX_ONNX_RANK or not all(0 < dim < 1 << 63 for dim in dims):
            self.fail(f"{what}: has the dimensions {dims}; up to {limits.MAX_ONNX_RANK} are allowed, each 1 or more")
        return tuple(dims)

    def _bytes(self, field: _Field) -> bytes:
        return self._data[field.start : field.end]

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number that begins at a byte, and where it ends."""
        data, value, shift = self._data, 0, 0
        while at < end:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64 or (shift and not byte):
                    self.fail(f"byte {at - 1}: a number is too large, or has more bytes than it needs")
                return value, at
            shift += 7
            if shift > 63:
                self.fail(f"byte {at - 1}: a number has more than 10 bytes")
        self.fail(f"byte {at}: ends within a number")

    def fail(self, problem: str) -> NoReturn:
        raise BundleCorruptError(f"{self._where}: not a graph that a bundle may have: {problem}")


def _delimited(number: int, content: bytes) -> bytes:
    """Return a field of bytes."""
    return _encoded(number << 3 | 2) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
