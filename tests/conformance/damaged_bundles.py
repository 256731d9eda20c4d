"""Bundles that are damaged or hostile, made from a good one; hashes are right unless the damage is to them.

Each is what somebody could write who knows the format: only the checks in the runtime stand between it and the
libraries below.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from . import hostile_graphs

Document = dict[str, Any]
Change = Callable[[Path, Document], object]
GRAPH = "vae_decoder.onnx"


def copy(source: Path, target: Path, change: Change | None = None, *, hashes: bool = True) -> Path:
    """Write a bundle with a change to it, and return its folder.

    Args:
        source: the bundle; its files are linked, so that a change must replace them, as `replace` does.
        target: the folder to make.
        change: called with the folder and ``bundle.json``.
        hashes: bring lengths and hashes of what is listed and there up to date.
    """
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.name != "bundle.json":
            try:
                os.link(path, target / path.name)
            except OSError:  # another file system
                shutil.copyfile(path, target / path.name)
    document = json.loads((source / "bundle.json").read_text())
    if change is not None:
        change(target, document)
    for name, entry in document["files"].items():
        if hashes and isinstance(entry, dict) and (target / name).is_file():
            data = (target / name).read_bytes()
            entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (target / "bundle.json").write_text(document.get("text") or json.dumps(document))
    return target


def replace(path: Path, content: bytes) -> None:
    """Give a file another content, not touching what its name was linked to."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def graphs(source: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield every hostile form of the graph of the VAE, in a bundle that lists 16 bytes of weights and has others."""
    model = onnx.load(source / GRAPH)
    forms = hostile_graphs.accepted(model, hostile_graphs.LISTED) | hostile_graphs.refused(model, hostile_graphs.LISTED)
    (folder / "secret.bin").write_bytes(bytes(64))
    for number, (name, content) in enumerate(forms.items()):

        def change(target: Path, document: Document, content: bytes = content) -> None:
            replace(target / GRAPH, content)
            for extra in (hostile_graphs.LISTED, "unlisted.bin"):
                (target / extra).write_bytes(bytes(16))
            (target / "link.bin").symlink_to(folder / "secret.bin")
            document["files"][hostile_graphs.LISTED] = {}

        yield name, copy(source, folder / f"graph{number}", change)
    yield "leak", copy(source, folder / "leak", lambda target, _: leak(target, "/etc/passwd"))


def levels(source: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield bundles, made from one with levels, whose levels are not what the rates, the graphs or the runtime need."""
    for number, (name, change) in enumerate(LEVELS.items()):
        yield name, copy(source, folder / f"levels{number}", change)


def contradictions(source: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield bundles that are whole, and contradict themselves, cannot be meant, or only look so."""
    for number, (name, change) in enumerate((ALLOWED | LARGER_UNITS | UNKNOWN | CONTRADICTIONS).items()):
        yield name, copy(source, folder / f"contradiction{number}", change)
    linked = copy(source, folder / "linked")
    (folder / "elsewhere.npz").write_bytes((linked / "entropy_r0.npz").read_bytes())
    (linked / "entropy_r0.npz").unlink()
    (linked / "entropy_r0.npz").symlink_to(folder / "elsewhere.npz")
    yield "listed file is a link out of the folder", linked


def damage(source: Path, folder: Path, count: int) -> Iterator[tuple[str, Path]]:
    """Yield bundles with random damage to one file, every other time listed as it is.

    (Not so of archives: zipfile compares the two names that a member has, minizip does not.)
    """
    rng = random.Random(13)
    names = sorted(path.name for path in source.iterdir() if "analysis" not in path.name and "_r1" not in path.name)
    for number in range(count):
        name = names[number % len(names)]
        content = bytearray((source / name).read_bytes())
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(content))
            kind = rng.randrange(4)
            if kind == 0:
                content[start] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del content[start : start + rng.randint(1, 64)]
            elif kind == 2:
                content[start:start] = rng.randbytes(rng.randint(1, 8))
            else:
                del content[start + 1 :]
        target = copy(source, folder / f"damage{number}")
        replace(target / name, bytes(content))
        fits = name.endswith(".onnx") and number // len(names) % 2 == 1
        if fits:
            document = json.loads((target / "bundle.json").read_text())
            document["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            (target / "bundle.json").write_text(json.dumps(document))
        yield f"{name} damaged, {'listed so' if fits else 'found by its hash'}", target


def leak(target: Path, location: str) -> None:
    """Have the VAE put the first 60 bytes of a file into the first row of the image."""
    model = onnx.load(target / GRAPH)
    graph, out = model.graph, model.graph.output[0].name
    leaked = hostile_graphs.outside(location, 60, name="leak")
    leaked.dims[:] = [1, 1, 20, 3]
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == out:
                node.output[index] = "was_out"
    integers = {"a0": [0, 0], "a1": [1, 20], "ax": [1, 2], "b0": [0, 20], "b1": [1, 10**6], "c0": [1], "c1": [10**6]}
    constants = {name: np.array(value, np.int64) for name, value in (integers | {"cx": [1]}).items()}
    graph.initializer.extend([leaked, numpy_helper.from_array(np.array(0, np.int32), "zero")])
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    node = helper.make_node
    graph.node.extend(
        [
            node("Cast", ["was_out"], ["i32"], to=TensorProto.INT32),
            node("Cast", ["leak"], ["l32"], to=TensorProto.INT32),
            node("Mul", ["i32", "zero"], ["z"]),
            node("Slice", ["z", "a0", "a1", "ax"], ["row"]),
            node("Add", ["row", "l32"], ["text"]),
            node("Slice", ["z", "b0", "b1", "ax"], ["rest"]),
            node("Concat", ["text", "rest"], ["first"], axis=2),
            node("Slice", ["z", "c0", "c1", "cx"], ["below"]),
            node("Concat", ["first", "below"], ["all"], axis=1),
            node("Cast", ["all"], [out], to=TensorProto.UINT8),
        ]
    )
    replace(target / GRAPH, model.SerializeToString())


def _tensor(name: str, key: str, value: object, graph: str = "") -> Change:
    """Change what is said of a tensor: in one graph, or in all that have it."""

    def change(_: Path, document: Document) -> None:
        found = [
            spec
            for id_, one in document["graphs"].items()
            for spec in one["inputs"] + one["outputs"]
            if graph in ("", id_) and spec["name"] == name
        ]
        assert found, (graph, name)
        for spec in found:
            spec[key] = value

    return change


def _shape(graph: str, tensor: str, shape: list[object]) -> Change:
    return _tensor(tensor, "shape", shape, graph)


def _z(*shape: object) -> Change:
    """Give every latent that the denoiser works on another shape."""

    def change(target: Path, document: Document) -> None:
        for name in ("z_c", "z_n", "noise", "z_prev", "z_0"):
            _tensor(name, "shape", list(shape))(target, document)

    return change


def _rate(change: Callable[[Document], object]) -> Change:
    return lambda _, document: [change(rate) for rate in document["rates"]]


def _rate_field(name: str, value: object) -> Change:
    """Give the first rate another value of a field."""
    return _rate(lambda rate: rate.update({name: value}))


def _forms(graph: str, **forms: str) -> Change:
    return lambda _, d: d["graphs"][graph].update(forms={name.replace("_", "-"): file for name, file in forms.items()})


def _schedule(**values: float) -> Change:
    def change(_: Path, document: Document) -> None:
        for schedule in document["schedules"].values():
            for name, value in values.items():
                schedule[name] = [value] * len(schedule["timesteps"])

    return change


def _set(*keys: str | int, value: object) -> Change:
    def change(_: Path, document: Document) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


def _text(before: str, after: str) -> Change:
    """Change the text of ``bundle.json``, where that is more than its value."""

    def change(target: Path, document: Document) -> None:
        text = json.dumps(document)
        assert before in text
        document["text"] = text.replace(before, after, 1)

    return change


def _content(name: str, content: bytes) -> Change:
    return lambda target, _: replace(target / name, content)


def _archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def edited(name: str, edit: Callable[[ModelProto], object]) -> Change:
    def change(target: Path, _: Document) -> None:
        model = onnx.load(target / name)
        edit(model)
        replace(target / name, model.SerializeToString())

    return change


def _not_a_number(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.raw_data:
            tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()


def output_through(*ops: tuple[str, dict[str, Any]]) -> Callable[[ModelProto], object]:
    """Return an edit that has the first output pass through more nodes."""

    def edit(model: ModelProto) -> None:
        out = model.graph.output[0].name
        for node in model.graph.node:
            for index, name in enumerate(node.output):
                if name == out:
                    node.output[index] = "through0"
        for number, (op, attributes) in enumerate(ops):
            target = out if number == len(ops) - 1 else f"through{number + 1}"
            model.graph.node.append(helper.make_node(op, [f"through{number}"], [target], **attributes))

    return edit


_STEPS = ("steps_r0_2.npz", "steps_r0_5.npz")
SHAPES: dict[str, Change] = {
    "latent of rank 3": _shape("vae_decoder", "z_0", ["batch", "8*hz", "8*wz"]),
    "latents of rank 3": _z("batch", "8*hz", "8*wz"),
    "latents without channels": _z("batch", "channels", "8*hz", "8*wz"),
    "latents of other channels": _z("batch", 5, "8*hz", "8*wz"),
    "latents of another grid": _z("batch", 4, "4*hz", "4*wz"),
    "latents on their side": _z("batch", 4, "8*wz", "8*hz"),
    "latents that are the same for all sizes": _z(1, 4, 32, 32),
    "z_0 that is the same for all sizes": _shape("vae_decoder", "z_0", [1, 4, 32, 32]),
    "rows without columns": _z("batch", 4, "8*hz", 8),
    "columns without rows": _z("batch", 4, 8, "8*wz"),
    "rows and columns apart": _z("batch", "8*hz", 4, "8*wz"),
    "rows and columns of two factors": _z("batch", 4, "8*hz", "4*wz"),
    "rows twice": _z("8*hz", "8*wz", "8*hz", "8*wz"),
    "batch twice": _z("batch", "batch", "8*hz", "8*wz"),
    "batch with a factor": _z("2*batch", 4, "8*hz", "8*wz"),
    "batch last": _z(4, "8*hz", "8*wz", "batch"),
    "factor that divides nothing": _z("batch", 4, "7*hz", "7*wz"),
    "factor above the unit": _z("batch", 4, "128*hz", "128*wz"),
    "factor of 1 that is written": _shape("analysis_r0", "vq_indices", ["batch", "1*hz", "1*wz"]),
    "factor of 0": _shape("analysis_r0", "vq_indices", ["batch", "0*hz", "0*wz"]),
    "factor that begins with 0": _z("batch", 4, "08*hz", "08*wz"),
    "factor of five digits": _z("batch", 4, "10000*hz", "10000*wz"),
    "factor of two": _z("batch", 4, "2*4*hz", "2*4*wz"),
    "factor that comes last": _z("batch", 4, "hz*8", "wz*8"),
    "factor with a blank": _z("batch", 4, "8 *hz", "8 *wz"),
    "name in capitals": _z("batch", 4, "8*HZ", "8*WZ"),
    "name with a line break": _z("batch", 4, "8*hz\n", "8*wz\n"),
    "name that is empty": _z("", 4, "8*hz", "8*wz"),
    "dimension of 0": _z("batch", 0, "8*hz", "8*wz"),
    "dimension below 0": _z("batch", -4, "8*hz", "8*wz"),
    "dimension as a real number": _z("batch", 4.0, "8*hz", "8*wz"),
    "dimension as a truth": _z("batch", True, "8*hz", "8*wz"),
    "nine dimensions": _z("batch", 4, "8*hz", "8*wz", 1, 1, 1, 1, 1),
    "shape that is a text": _tensor("hint", "shape", "batch"),
    "z_0 of other channels": _shape("vae_decoder", "z_0", ["batch", 5, "8*hz", "8*wz"]),
    "z_0 of another type": _tensor("z_0", "dtype", "float16"),
    "hint of two grids": _shape("control_r0", "hint", ["batch", 16, "4*hz", "4*wz"]),
    "residual of two shapes": _shape("unet_step", "residual_0", ["batch", 15, "8*hz", "8*wz"]),
    "residual of another name": lambda _, d: d["graphs"]["control_r0"]["outputs"][0].update(name="residual_x"),
    "y_hat of other channels": _tensor("y_hat", "shape", ["batch", 15, "4*hz", "4*wz"]),
    "y_hat of another grid": _tensor("y_hat", "shape", ["batch", 16, "2*hz", "2*wz"]),
    "y_hat of rank 3": _tensor("y_hat", "shape", [16, "4*hz", "4*wz"]),
    "image in float32": _tensor("image", "dtype", "float32"),
    "image with the colours first": _tensor("image", "shape", ["batch", 3, "64*hz", "64*wz"]),
    "image of four colours": _tensor("image", "shape", ["batch", "64*hz", "64*wz", 4]),
    "image of half the size": _tensor("image", "shape", ["batch", "32*hz", "32*wz", 3]),
    **{f"units of {px}": _set("size_multiple_px", value=px) for px in (0, 1, 32, 63, 128, 4096, 4097, 64.0, "64")},
}
FAMILIES: dict[str, Change] = {
    "family as a number": _set("family", value=1),
    "family that is none": _set("family", value=None),
    "no family": lambda _, d: d.pop("family"),
    "role that is missing": lambda _, d: d["rates"][0]["graphs"].pop("control"),
    "role of encoding that one rate lacks": lambda _, d: d["rates"][0]["graphs"].pop("analysis"),
    "role of encoding that the last rate lacks": lambda _, d: d["rates"][-1]["graphs"].pop("analysis"),
    "role too many": lambda _, d: d["rates"][0]["graphs"].update(mixer="unet_step"),
    "no roles": _rate(lambda rate: rate.update(graphs={})),
    "roles in an array": _rate(lambda rate: rate.update(graphs=list(rate["graphs"]))),
    "role that is a number": _rate(lambda rate: rate["graphs"].update(control=1)),
    "role of a graph that is not there": _rate(lambda rate: rate["graphs"].update(control="other")),
    "roles exchanged": _rate(lambda rate: rate["graphs"].update(control="unet_step", unet_step="control_r0")),
}
FORMS: dict[str, Change] = {
    "form that is unknown": _forms("vae_decoder", fp8=GRAPH),
    "no form": _forms("vae_decoder"),
    "forms that are none": lambda _, d: d["graphs"]["vae_decoder"].update(forms=None),
    "form in a file that is not listed": _forms("vae_decoder", fp32="other.onnx"),
    "second form in a file that is not listed": _forms("vae_decoder", fp32=GRAPH, fp16="other.onnx"),
    "form that is a number": lambda _, d: d["graphs"]["vae_decoder"].update(forms={"fp32": 1}),
    "file and precision, as schema 1 has them": lambda _, d: d["graphs"]["vae_decoder"].update(
        file=GRAPH, precision="fp32"
    ),
    "better form that is another graph": _forms("vae_decoder", fp32=GRAPH, int8_cpu="synthesis_r0.onnx"),
    "preferred that is missing": lambda _, d: d.pop("preferred"),
    "preferred in an array": _set("preferred", value=["fp32"]),
    "preferred as a text": _set("preferred", "cpu", value="fp32"),
    "preferred of none": _set("preferred", "cpu", value=[]),
    "preferred twice": _set("preferred", "cpu", value=["fp32", "fp16", "fp32"]),
    "preferred form that is unknown": _set("preferred", "cpu", value=["fp32", "fp8"]),
    "preferred form that is a number": _set("preferred", "cpu", value=[32]),
}
_NO_FLAGS: tuple[object, ...] = (0, 1, "true", None, [])
RATES: dict[str, Change] = {
    **{f"guided {value!r}": _rate_field("guided", value) for value in _NO_FLAGS},
    **{f"lambda_r {value!r}": _rate_field("lambda_r", value) for value in (0, -1, "1", None, True)},
    "no schedule": _rate(lambda rate: rate.pop("schedule")),
    "no step tables": _rate(lambda rate: rate.pop("step_tables")),
    "neither schedule nor step tables": _rate(lambda rate: [rate.pop("schedule"), rate.pop("step_tables")]),
    "step tables of nothing": _rate(lambda rate: rate.update(step_tables={})),
    "no schedules": _set("schedules", value={}),
    "schedule that is not there": _rate(lambda rate: rate.update(schedule="other")),
}
_TWICE_AS_WIDE = ("Concat", {"axis": 2})
# As they may be; of those with larger units, files of others do not fit.
ALLOWED: dict[str, Change] = {
    "whole surrogate pair": _text('"licence": "', '"licence": "\\ud83d\\ude00'),
    "tensor twice": lambda _, d: d["graphs"]["vae_decoder"]["inputs"].append(d["graphs"]["vae_decoder"]["inputs"][0]),
    "preferred by nobody": _set("preferred", value={}),
    "preferred by others": _set("preferred", value={"abacus": ["int8"], "": ["fp32"]}),
    "preferred forms without the ones there are": _set("preferred", "cpu", value=["fp16", "int8"]),
    "roles of decoding alone": _rate(lambda rate: rate["graphs"].pop("analysis")),
    "lambda_r left out": _rate(lambda rate: rate.pop("lambda_r")),
    **{f"only as {form}": _forms("vae_decoder", **{form: GRAPH}) for form in ("fp16", "fp16_cuda", "int8", "int8_cpu")},
    "second form that is another graph": lambda target, d: [
        _forms("vae_decoder", fp32=GRAPH, int8_cpu="synthesis_r0.onnx")(target, d),
        _set("preferred", value={"cpu": ["fp32"]})(target, d),
    ],
    **{f"guided {value}": _rate_field("guided", value) for value in (True, False)},
    **{f"lambda_r {value}": _rate_field("lambda_r", value) for value in (1, 0.5)},
}
LARGER_UNITS: dict[str, Change] = {
    "units of 128 throughout": lambda target, d: [
        _set("size_multiple_px", value=128)(target, d),
        _tensor("image", "shape", ["batch", "128*hz", "128*wz", 3])(target, d),
    ],
}
# For another version of the runtime.
UNKNOWN: dict[str, Change] = {
    "schema 1": _set("schema", value=1),
    "schema 3": _set("schema", value=3),
    **{f"family {name!r}": _set("family", value=name) for name in ("toy", "RDEIC", "rdeic ", "", "x" * 200)},
    "unknown family with a field of its own": lambda _, d: d.update(family="toy", latent={}),
}


def _step_tables(content: bytes) -> Change:
    """Give the files of step tables another content."""

    def change(target: Path, _: Document) -> None:
        for name in _STEPS:
            replace(target / name, content)

    return change


CONTRADICTIONS: dict[str, Change] = {
    "schema as a real number": _set("schema", value=2.0),
    "schema as a truth": _set("schema", value=True),
    "latent, as schema 1 has it": _set("latent", value={"channels": 4, "factor_px": 8}),
    "length as a real number": lambda _, d: d["files"].update({"x.bin": {"sha256": "0" * 64, "bytes": 1.0}}),
    "default rate as a real number": _set("default_rate", value=0.0),
    "half of a surrogate pair": _text('"licence": "', '"licence": "\\udc80'),
    "half of a surrogate pair as a key": _text('"provenance": {', '"provenance": {"\\ud800": 1, '),
    "step without a width": _shape("unet_step", "step", [1, "batch"]),
    "step of a batch": _shape("unet_step", "step", [2, 3]),
    "step of rank 1": _shape("control_r0", "step", [3]),
    **SHAPES,
    **FAMILIES,
    **FORMS,
    **RATES,
    "coefficients that overflow float32": _schedule(b=1e308),
    "coefficients just above float32": _schedule(a=3.4028235677973366e38),
    "coefficients that lead to infinity": _schedule(a=3e38, b=3e38),
    "empty graph": _content(GRAPH, b""),
    "another graph": lambda target, _: replace(target / GRAPH, (target / "synthesis_r0.onnx").read_bytes()),
    "weights that are no numbers": edited("unet_step.onnx", _not_a_number),
    "synthesis that is no number": edited("synthesis_r0.onnx", _not_a_number),
    "operator that nobody has": edited(GRAPH, output_through(("NoSuchOperator", {}))),
    "operator with a wrong attribute": edited(GRAPH, output_through(("Transpose", {"perm": [0, 1]}))),
    "image turned on its side": edited(GRAPH, output_through(("Transpose", {"perm": [0, 2, 1, 3]}))),
    "colours first": edited(GRAPH, output_through(("Transpose", {"perm": [0, 3, 1, 2]}))),
    "latent turned on its side": edited("unet_step.onnx", output_through(("Transpose", {"perm": [0, 1, 3, 2]}))),
    "z_c turned on its side": edited("synthesis_r0.onnx", output_through(("Transpose", {"perm": [0, 1, 3, 2]}))),
    "step table of other members": _step_tables(_archive({"control.npy": b"hello", "unet_step.npy": b"hello"})),
    "step table of texts": _step_tables(_archive({"control": b"hello", "unet_step": b"hello"})),
    "entropy model of other members": _content("entropy_r0.npz", _archive({"version": b"hello"})),
    "entropy model of nothing": _content("entropy_r0.npz", _archive({})),
    "step table that is empty": _step_tables(b""),
}


def _rows(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the arrays of the file of levels, which holds ``analysis`` and ``synthesis``."""

    def rewrite(target: Path, _: Document) -> None:
        with np.load(target / LEVELS_FILE) as archive:
            arrays = dict(archive)
        change(arrays)
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        replace(target / LEVELS_FILE, stream.getvalue())

    return rewrite


def _synthesis(change: Callable[[Any], Any]) -> Change:
    return _rows(lambda arrays: arrays.update(synthesis=change(arrays["synthesis"])))


def _not_finite(value: float) -> Change:
    """Set a number of a row that no golden file reads."""

    def change(rows: Any) -> Any:
        rows = rows.copy()
        rows[-2, 0] = value
        return rows

    return _synthesis(change)


def _level_input(role: str, shape: list[int | str] | None) -> Change:
    """Give the input ``level`` of a graph another shape, or leave it out."""

    def change(_: Path, document: Document) -> None:
        inputs = document["graphs"][role]["inputs"]
        for spec in [spec for spec in inputs if spec["name"] == "level"]:
            if shape is None:
                inputs.remove(spec)
            else:
                spec["shape"] = shape

    return change


def _second_graph(document: Document) -> None:
    document["graphs"]["another"] = document["graphs"]["synthesis"]
    document["rates"][1]["graphs"]["synthesis"] = "another"


def _without_levels(document: Document, *, inputs: bool) -> None:
    """Leave out all that says levels, and the graphs' inputs too or not."""
    del document["levels"]
    for rate in document["rates"]:
        del rate["level"]
    for role in ("analysis", "synthesis") if inputs else ():
        _level_input(role, None)(Path(), document)


LEVELS_FILE = "levels.npz"
# For the golden bundle with levels: rates at 0 and 100, and 129 levels. First those that are as they may be.
LEVELS_ALLOWED: dict[str, Change] = {
    "as it is": lambda *_: None,
    "rates at 1 and 128": lambda _, d: [r.update(level=n) for r, n in zip(d["rates"], (1, 128), strict=True)],
    "worth of a bit left out": lambda _, d: [rate.pop("bit_worth", None) for rate in d["rates"]],
    "worth of a bit that is 0": _set("rates", 0, "bit_worth", value=0),
    "worth of a bit that is 1": _set("rates", 0, "bit_worth", value=1),
    "rows of the analysis that are not there": _rows(lambda arrays: arrays.pop("analysis")),
    "roles of decoding alone": _rate(lambda rate: rate["graphs"].pop("analysis")),
    "rows of zeros": _synthesis(np.zeros_like),
}
LEVELS: dict[str, Change] = {
    **LEVELS_ALLOWED,
    "levels that fall": _set("rates", 0, "level", value=101),
    "the same level twice": _set("rates", 1, "level", value=0),
    "level that is the count": _set("rates", 1, "level", value=129),
    "level 256": _set("rates", 1, "level", value=256),
    "level below 0": _set("rates", 0, "level", value=-1),
    "level as a real number": _set("rates", 1, "level", value=100.0),
    "level as a truth": _set("rates", 1, "level", value=True),
    "level as a text": _set("rates", 1, "level", value="100"),
    "first rate without a level": lambda _, d: d["rates"][0].pop("level"),
    "last rate without a level": lambda _, d: d["rates"][1].pop("level"),
    "rates without levels": lambda _, d: [rate.pop("level") for rate in d["rates"]],
    "bundle without levels": lambda _, d: d.pop("levels"),
    "graphs with levels alone": lambda _, d: _without_levels(d, inputs=False),
    "files with levels alone": lambda _, d: _without_levels(d, inputs=True),
    "levels that are none": _set("levels", value=None),
    "levels without a file": lambda _, d: d["levels"].pop("file"),
    "levels without a count": lambda _, d: d["levels"].pop("count"),
    "levels with something else": _set("levels", "rows", value=3),
    "levels in a file that is not listed": _set("levels", "file", value="other.npz"),
    "levels in a file outside": _set("levels", "file", value="../levels.npz"),
    "one level": _set("levels", "count", value=1),
    "257 levels": _set("levels", "count", value=257),
    "levels as a real number": _set("levels", "count", value=129.0),
    "one level less": _set("levels", "count", value=128),
    "one level more": _set("levels", "count", value=130),
    "rates of two model ids": _set("rates", 1, "model_id", value="00000000"),
    "rates of another model id": lambda _, d: [rate.update(model_id="00000000") for rate in d["rates"]],
    "rates of two graphs": lambda _, d: _second_graph(d),
    "worth of a bit above 1": _set("rates", 0, "bit_worth", value=1.5),
    "worth of a bit below 0": _set("rates", 0, "bit_worth", value=-0.5),
    "worth of a bit as a text": _set("rates", 0, "bit_worth", value="0.5"),
    "worth of a bit as a truth": _set("rates", 0, "bit_worth", value=True),
    "analysis without a level": _level_input("analysis", None),
    "synthesis without a level": _level_input("synthesis", None),
    "level without a width": _level_input("synthesis", [1, "batch"]),
    "level of a batch": _level_input("synthesis", [2, 16]),
    "level of rank 1": _level_input("analysis", [16]),
    "level of another width": _level_input("synthesis", [1, 15]),
    "rows of the synthesis that are not there": _rows(lambda arrays: arrays.pop("synthesis")),
    "rows of another width": _synthesis(lambda rows: rows[:, :-1]),
    "a row less": _synthesis(lambda rows: rows[:-1]),
    "rows in one": _synthesis(lambda rows: rows.reshape(-1)),
    "rows in float64": _synthesis(lambda rows: rows.astype(np.float64)),
    "rows in integers": _synthesis(lambda rows: rows.astype(np.int32)),
    "rows with a value that is no number": _not_finite(np.nan),
    "rows with a value that is infinite": _not_finite(-np.inf),
    "rows that lead to infinity": _synthesis(lambda rows: np.full_like(rows, 3e38)),
    "file of levels that is empty": _content(LEVELS_FILE, b""),
    "file of levels of other members": _content(LEVELS_FILE, _archive({"synthesis.npy": b"hello"})),
}
