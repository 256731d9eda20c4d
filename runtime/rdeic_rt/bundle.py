"""bundle.json <-> Bundle: schema, family, references, paths inside the folder, hashes; and writing it.

A bundle is a folder with everything one codec model needs and nothing that is executed (docs/bundle.md):

    bundle.json ──▶ size ──▶ JSON ──▶ family, schema ──▶ references, roles ──▶ paths ──▶ sizes, SHA-256 ──▶ Bundle

Nothing is loaded here but ``bundle.json``: graphs go through `graph_file` to a backend, tables to `schedule` and the
entropy model to `entropy`, each on first use.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from . import container, families, limits, strict_json
from .bundle_file import BundleFile
from .bundle_search import MANIFEST, PULL, SEARCH_VARIABLE, default_first, find, search_folders
from .errors import (
    BundleCorruptError,
    BundleDecodesOnlyError,
    BundleError,
    BundleMismatchError,
    BundleNotFoundError,
)
from .families import Family
from .frozen import Frozen
from .limits import DEFAULT_LIMITS, Limits
from .manifest import LEVEL, STEP, Bundle, GraphSpec, Levels, Rate
from .schedule import Schedule
from .tensor_spec import TensorSpec

SCHEMA = 2

# One relative POSIX path: no drive, no backslash, no empty, "." or ".." part, nothing unprintable.
_SAFE_PATH = re.compile(r"(?!\.{1,2}(?:/|\Z))[\w.@+ -]+(?:/(?!\.{1,2}(?:/|\Z))[\w.@+ -]+)*\Z", re.ASCII)
# Inputs that are a row of numbers, [1, D].
_ROWS = (STEP, LEVEL)


def load(source: str | Path | None = None, *, verify: bool = True) -> Bundle:
    """Return the bundle found by `bundle_search.find`, checked.

    Args:
        source: a folder, a bundle's name, or None for ``tiny-2``.
        verify: compare the SHA-256 of every file, now and when it is used; sizes are compared in any case.

    Raises:
        BundleNotFoundError: no such bundle; the message lists the places that were searched.
        BundleCorruptError: a file is missing, has another size or hash, or ``bundle.json`` contradicts itself.
        BundleError: ``bundle.json`` has a schema or a family that this version does not know.
    """
    return read(find(source), verify=verify)


def read(folder: Path, *, verify: bool = True) -> Bundle:
    """Return the bundle in this folder; arguments and errors as for `load`."""
    bundle = read_manifest(folder, verify=verify)
    for file in bundle.files.values():
        file.check()
    return bundle


def read_manifest(folder: Path, *, verify: bool = True) -> Bundle:
    """Return what the ``bundle.json`` in this folder says; its files need not be there. Otherwise as `read`."""
    folder = folder.resolve()
    document = _read_manifest(folder / MANIFEST)
    return _Reader(folder, document, verify=verify).bundle()


def find_bundle(data: bytes | bytearray | memoryview, limits: Limits = DEFAULT_LIMITS) -> Path:
    """Return the folder of the installed bundle that an .rdc file was encoded with.

    Args:
        data: the file, or a truncated file that `container.parse` accepts with ``allow_partial``.
        limits: limits on the file.

    Raises:
        FileFormatError: as `container.parse`.
        BundleMismatchError: as `find_for`.
    """
    header = container.parse(data, limits, allow_partial=True).header
    return find_for(header.model_id, header.rate)


def find_for(model_id: bytes, rate: int) -> Path:
    """Return the folder of the first bundle of `default_first` that has a model at a rate.

    Manifests are read up to that bundle's, and no hashes are compared. A bundle that cannot be read is skipped.

    Args:
        model_id: 4 bytes, from a file's header.
        rate: rate number, from the header.

    Raises:
        BundleMismatchError: no installed bundle has it; the message lists every place that was searched.
    """
    looked = []
    for folder in default_first():
        try:
            bundle = read(folder, verify=False)
        except (BundleError, OSError):
            looked.append(f"{folder} (cannot be used)")
            continue
        if bundle.has(model_id, rate):
            return folder
        looked.append(str(folder))
    raise BundleMismatchError(
        f"the file needs model {model_id.hex()} at rate {rate}, which no installed bundle has; looked at "
        f"{', '.join(looked or map(str, search_folders()))}. Give the bundle that the file was made with, put the "
        f"folder that holds it into {SEARCH_VARIABLE}, or get it: {PULL}"
    )


def check_encodes(bundle: Bundle) -> None:
    """Raise BundleDecodesOnlyError, which lists the installed bundles that encode, if this one only decodes."""
    if bundle.encodes:
        return
    others = []
    for folder in default_first():
        with suppress(BundleError, OSError):
            if read_manifest(folder).encodes:
                others.append(folder.name)
    instead = f"Use another one to encode: {', '.join(others)}" if others else f"Get one that encodes: {PULL}"
    raise BundleDecodesOnlyError(f"bundle {bundle.name!r} in {bundle.folder} only decodes. {instead}")


def write(folder: Path, document: Mapping[str, Any], *, hashed: Mapping[str, BundleFile] | None = None) -> Bundle:
    """Write ``bundle.json`` for a folder that holds every other file already, and read the bundle back.

    Args:
        folder: of the bundle.
        document: all fields but ``schema`` and ``files``.
        hashed: files of another bundle with the same content, by path; they are not hashed again.

    Raises:
        BundleError: the bundle could not be loaded.
    """
    known = hashed or {}
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            name = path.relative_to(folder).as_posix()
            digest = known[name].sha256 if name in known else _sha256(path)
            files[name] = {"sha256": digest, "bytes": path.stat().st_size}
    whole = {"schema": SCHEMA, **document, "files": files}
    write_manifest(folder, whole)
    return read(folder, verify=False)


def write_manifest(folder: Path, document: Mapping[str, Any]) -> None:
    """Write ``bundle.json``, of which equal documents give equal bytes."""
    (folder / MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def graph_entry(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], forms: Mapping[str, str]
) -> dict[str, Any]:
    """Return a graph's entry in ``bundle.json``; ``forms``: form -> file."""

    def entry(tensor: TensorSpec) -> dict[str, Any]:
        return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}

    return {"inputs": [*map(entry, inputs)], "outputs": [*map(entry, outputs)], "forms": dict(forms)}


def schedule_entry(table: Schedule) -> dict[str, Any]:
    """Return a schedule's entry in ``bundle.json``; floats survive the round trip exactly."""
    return {
        "sampler": table.sampler,
        "timesteps": list(table.timesteps),
        "abar_start": table.abar_start,
        "a": list(table.a),
        "b": list(table.b),
        "c": list(table.c),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(limits.MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise BundleNotFoundError(f"{path.parent} is not a bundle: it has no {MANIFEST}") from None
    if len(data) > limits.MAX_MANIFEST_BYTES:
        raise BundleCorruptError(
            f"{path}: longer than {limits.MAX_MANIFEST_BYTES} bytes; this is not a bundle's manifest"
        )
    try:
        document = strict_json.parse(data)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise BundleCorruptError(f"{path}: holds {type(document).__name__}, not an object")
    schema = document.get("schema")
    if isinstance(schema, int) and not isinstance(schema, bool) and schema != SCHEMA:
        raise BundleError(
            f"{path}: schema {schema}; this version of rdeic-rt reads schema {SCHEMA}. "
            "Upgrade rdeic-rt, or export the bundle again."
        )
    if isinstance(family := document.get("family"), str):
        try:
            families.family(family)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from None
    import fastjsonschema

    try:
        _schema_check()(document)
    except fastjsonschema.JsonSchemaValueException as error:
        raise BundleCorruptError(f"{path}: {error.message.replace('data', MANIFEST, 1)}") from None
    return document


@lru_cache(maxsize=1)
def _schema_check() -> Callable[[object], object]:
    import fastjsonschema

    text = resources.files(__package__).joinpath("bundle.schema.json").read_text(encoding="utf-8")
    check: Callable[[object], object] = fastjsonschema.compile(json.loads(text), use_default=False)
    return check


class _Reader:
    """Turns a document that the schema accepted into a `Bundle`, checking what a schema cannot express."""

    def __init__(self, folder: Path, document: Mapping[str, Any], *, verify: bool) -> None:
        self._folder = folder
        self._document = document
        self._where = folder / MANIFEST
        self._files = {
            name: BundleFile(folder / name, entry["bytes"], entry["sha256"], verify)
            for name, entry in document["files"].items()
        }

    def bundle(self) -> Bundle:
        doc = self._document
        family = families.family(doc["family"])
        for name in self._files:
            self._check_path(name)
        graphs = {name: self._graph(name, entry) for name, entry in doc["graphs"].items()}
        schedules = {name: self._schedule(name, entry) for name, entry in doc["schedules"].items()}
        levels = self._levels(doc["levels"]) if "levels" in doc else None
        rates = tuple(self._rate(entry, family, graphs, schedules, levels) for entry in doc["rates"])
        if [rate.index for rate in rates] != list(range(len(rates))):
            raise self._error(f"rates have the indices {[rate.index for rate in rates]}, not 0, 1, 2, ...")
        encode = {family.encoding <= rate.graphs.keys() for rate in rates}
        if len(encode) > 1:
            raise self._error("some rates have the graphs that encode, and others have not")
        if levels is not None and len({(rate.model_id, *sorted(rate.graphs.items())) for rate in rates}) > 1:
            raise self._error("rates have levels, but not the same graphs and the same model id")
        if doc["default_rate"] >= len(rates):
            raise self._error(f"default_rate is {doc['default_rate']}, but there are {len(rates)} rates")
        return Bundle(
            folder=self._folder,
            name=doc["name"],
            family=family.name,
            decoding_roles=tuple(role for role in family.roles if role not in family.encoding),
            encodes=encode == {True},
            licence=doc["licence"],
            provenance=Frozen(doc["provenance"]),
            size_multiple_px=doc["size_multiple_px"],
            files=Frozen(self._files),
            graphs=Frozen(graphs),
            preferred=Frozen({name: tuple(forms) for name, forms in doc["preferred"].items()}),
            schedules=Frozen(schedules),
            rates=rates,
            default_rate=doc["default_rate"],
            levels=levels,
            calibration=Frozen(doc["calibration"]),
        )

    def _graph(self, name: str, entry: Mapping[str, Any]) -> Mapping[str, GraphSpec]:
        """Return the graph in each of its forms."""
        inputs, outputs = (
            tuple(self._tensor(f"graph {name!r}", tensor) for tensor in entry[side]) for side in ("inputs", "outputs")
        )
        known = frozenset[str]().union(*(tensor.free for tensor in inputs))
        for tensor in outputs:
            if unknown := tensor.free - known:
                raise self._error(
                    f"graph {name!r}: no input has the free dimensions of {tensor.name}, {', '.join(sorted(unknown))}"
                )
        forms = {}
        for form, path in entry["forms"].items():
            file = self._listed(path, f"graph {name!r}")
            if file.size_bytes > limits.MAX_ONNX_BYTES:
                raise self._error(f"graph {name!r} has {file.size_bytes} bytes; no ONNX file has more than 2 GiB")
            folder = path[: path.rfind("/") + 1]
            forms[form] = GraphSpec(name, form, file, inputs, outputs, folder, Frozen(self._files))
        return Frozen(forms)

    def _tensor(self, where: str, entry: Mapping[str, Any]) -> TensorSpec:
        tensor = TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"]))
        try:
            tensor.check(self._document["size_multiple_px"])
        except ValueError as error:
            raise self._error(f"{where}: {error}") from None
        return tensor

    def _schedule(self, name: str, entry: Mapping[str, Any]) -> Schedule:
        try:
            return Schedule(
                name=name,
                sampler=entry["sampler"],
                timesteps=tuple(entry["timesteps"]),
                abar_start=float(entry["abar_start"]),
                a=tuple(map(float, entry["a"])),
                b=tuple(map(float, entry["b"])),
                c=tuple(map(float, entry["c"])),
            )
        except ValueError as error:
            raise self._error(f"schedule {name!r}: {error}") from None

    def _levels(self, entry: Mapping[str, Any]) -> Levels:
        numbers = [rate.get("level", -1) for rate in self._document["rates"]]
        if numbers != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= entry["count"]:
            raise self._error(f"rates have the levels {numbers}; they must increase, and be under {entry['count']}")
        return Levels(entry["count"], self._listed(entry["file"], "levels"))

    def _rate(
        self,
        entry: Mapping[str, Any],
        family: Family,
        graphs: Mapping[str, Mapping[str, GraphSpec]],
        schedules: Mapping[str, Schedule],
        levels: Levels | None,
    ) -> Rate:
        where = f"rate {entry['index']}"
        if levels is None and "level" in entry:
            raise self._error(f"{where}: it has a level, but the bundle has none")
        self._check_roles(where, entry["graphs"], family, graphs, levels)
        schedule, tables = entry.get("schedule"), entry.get("step_tables", {})
        has_tables = any(STEP in role.inputs for role in family.roles.values())
        for needed, given, what in (
            (family.has_steps, schedule is not None, "a schedule"),
            (has_tables, bool(tables), "step tables"),
        ):
            if needed != given:
                needs = "needs" if needed else "has no use for"
                raise self._error(f"{where}: family {family.name!r} {needs} {what}")
        for name in [] if schedule is None else [schedule, *tables]:
            self._known(name, schedules, f"{where}: schedule")
        if has_tables and schedule not in tables:
            raise self._error(f"{where}: no step table for its schedule {schedule!r}")
        return Rate(
            index=entry["index"],
            number=entry["index"] if levels is None else entry["level"],
            label=entry["label"],
            bpp=float(entry["bpp"]),
            model_id=bytes.fromhex(entry["model_id"]),
            graphs=Frozen(dict(entry["graphs"])),
            entropy=self._listed(entry["entropy"], f"{where}: entropy model"),
            schedule=schedule,
            step_tables=Frozen({name: self._listed(file, f"{where}: step table") for name, file in tables.items()}),
            lambda_r=float(entry["lambda_r"]) if "lambda_r" in entry else None,
            is_guided=entry.get("guided", True),
            bit_worth=float(entry.get("bit_worth", 0.0)),
        )

    def _check_roles(
        self,
        where: str,
        given: Mapping[str, str],
        family: Family,
        graphs: Mapping[str, Mapping[str, GraphSpec]],
        levels: Levels | None,
    ) -> None:
        """Check that a rate has graphs for all roles of the family, or all that decode, and that they fit together."""
        if set(given) not in (set(family.roles), set(family.roles) - family.encoding):
            raise self._error(
                f"{where}: it has graphs for {', '.join(sorted(given)) or 'nothing'}; "
                f"family {family.name!r} has the roles {', '.join(sorted(family.roles))}"
            )
        by_role = {
            role: next(iter(self._known(name, graphs, f"{where}: {role} graph").values()))
            for role, name in given.items()
        }
        made: dict[str, TensorSpec] = {}
        for graph in by_role.values():
            made |= {self._alias(family, tensor.name): tensor for tensor in graph.outputs}
        for role, wanted in family.roles.items():
            if role not in by_role:
                continue
            graph = by_role[role]
            level = {LEVEL} if levels is not None and wanted.at_a_level else set()
            has = [{tensor.name for tensor in side} for side in (graph.inputs, graph.outputs)]
            must = [_expanded(wanted.inputs, made) | level, _expanded(wanted.outputs, made)]
            if has != must:
                raise self._error(
                    f"{where}: graph {graph.id!r} maps {sorted(has[0])} to {sorted(has[1])}; "
                    f"as {role} it must map {sorted(must[0])} to {sorted(must[1])}"
                )
            self._check_tensors(f"{where}: graph {graph.id!r}", family, graph, made)

    def _check_tensors(self, where: str, family: Family, graph: GraphSpec, made: Mapping[str, TensorSpec]) -> None:
        """Check the shapes that the runtime depends on, and that inputs match the outputs they are connected to."""
        for tensor in (*graph.inputs, *graph.outputs):
            source = made.get(self._alias(family, tensor.name), tensor)
            if tensor.name != "image" and (tensor.dtype, tensor.shape) != (source.dtype, source.shape):
                raise self._error(
                    f"{where}: {tensor.name} is {tensor.dtype} {list(tensor.shape)}, but {source.name} is "
                    f"{source.dtype} {list(source.shape)}"
                )
            shape = list(tensor.shape)
            if tensor.name in _ROWS and (len(shape) != 2 or shape[0] != 1 or isinstance(shape[1], str)):
                raise self._error(f"{where}: {tensor.name} is {shape}, should be [1, D] with a number for D")
            unit = self._document["size_multiple_px"]
            if tensor.name == "image" and (tensor.dtype, shape) != (
                "uint8",
                ["batch", f"{unit}*hz", f"{unit}*wz", 3],
            ):
                raise self._error(
                    f"{where}: image is {tensor.dtype} {shape}, should be uint8 [batch, {unit}*hz, {unit}*wz, 3]"
                )

    @staticmethod
    def _alias(family: Family, name: str) -> str:
        """Return one name for all tensors that are alike."""
        return min(family.alike) if name in family.alike else name

    def _known(self, name: str, table: Mapping[str, Any], where: str) -> Any:
        if name not in table:
            raise self._error(f"{where} {name!r} is not defined; there are: {', '.join(table)}")
        return table[name]

    def _listed(self, name: str, where: str) -> BundleFile:
        if name not in self._files:
            raise self._error(f"{where}: {name!r} is not among the bundle's files")
        return self._files[name]

    def _check_path(self, name: str) -> None:
        if len(name) > limits.MAX_PATH_BYTES:
            raise self._error(f"a path of {len(name)} characters; at most {limits.MAX_PATH_BYTES} are allowed")
        if not _SAFE_PATH.match(name) or name == MANIFEST:
            raise self._error(f"{name!r} is not a relative path of a file inside the bundle")
        try:
            target = (self._folder / name).resolve()
        except (OSError, RuntimeError):  # a loop is the one or the other, by the version of Python
            raise self._error(f"the path {name!r} is too long, or a link to itself") from None
        if not target.is_relative_to(self._folder):
            raise self._error(f"{name!r} is a link that leaves the bundle's folder")

    def _error(self, text: str) -> BundleCorruptError:
        return BundleCorruptError(f"{self._where}: {text}")


def _expanded(names: frozenset[str], made: Mapping[str, TensorSpec]) -> set[str]:
    """Return names with ``residual_*`` replaced by all tensors that graphs make and call residual_..."""
    patterns = {name for name in names if name.endswith("*")}
    return set(names - patterns) | {name for name in made for pattern in patterns if name.startswith(pattern[:-1])}
