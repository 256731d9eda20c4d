"""bundle.json -> Bundle: schema, references, paths that stay inside, hashes; and where bundles are looked for.

A bundle is a folder with everything one codec model needs and nothing that is executed (docs/bundle.md):

    bundle.json ──▶ size ──▶ JSON ──▶ schema ──▶ references ──▶ paths ──▶ sizes, SHA-256 ──▶ Bundle

Nothing is loaded here but ``bundle.json``: graphs go through `graph_file` to a backend, tables to `schedule` and the
entropy model to `entropy`, each on first use. (More than 500 lines: all that ``bundle.json`` may say, and every
check of it, stands in one place.)
"""

from __future__ import annotations

import json
import operator
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, SupportsIndex

from . import onnx_walk, strict_json
from .bundle_file import BundleFile, Source
from .errors import BundleCorruptError, BundleError, BundleMismatchError, BundleNotFoundError
from .schedule import Schedule

SCHEMA = 1
MANIFEST = "bundle.json"
DEFAULT_NAME = "tiny"
SEARCH_VARIABLE = "RDEIC_RT_BUNDLES"

# A full-size manifest is about 20 kB; a megabyte stops a wrong or hostile file before it is parsed.
_MAX_MANIFEST_BYTES = 1 << 20
# One relative POSIX path: no drive, no backslash, no empty, "." or ".." part, nothing unprintable.
_SAFE_PATH = re.compile(r"(?!\.{1,2}(?:/|\Z))[\w.@+ -]+(?:/(?!\.{1,2}(?:/|\Z))[\w.@+ -]+)*\Z", re.ASCII)
# Longest path of a file; some systems follow four times as many characters, few files need a tenth.
_MAX_PATH_CHARS = 1024
# What each role's graph must be called with and return; control and unet_step also share residual_0, residual_1, ...
_ROLES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "analysis": (frozenset({"image"}), frozenset({"y", "vq_indices"})),
    "synthesis": (frozenset({"y_hat"}), frozenset({"z_c", "hint"})),
    "control": (frozenset({"z_n", "hint", "step"}), frozenset()),
    "unet_step": (frozenset({"z_n", "step", "coefficients", "noise"}), frozenset({"z_prev"})),
    "vae_decoder": (frozenset({"z_0"}), frozenset({"image"})),
}
# The input of graphs that rates share, and the roles that have it: a row of numbers for each level.
LEVEL = "level"
AT_A_LEVEL = ("analysis", "synthesis")
# Tensors [B, C, h, w] with the bundle's latent channels.
_LATENTS = frozenset({"z_c", "z_n", "noise", "z_prev", "z_0"})

# The roles after y_hat, in the order data meets them; analysis is the encoder's.
DECODING_ROLES = tuple(role for role in _ROLES if role != "analysis")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; a dimension given as a string is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX graph of a bundle: where it lies and what goes in and out.

    Attributes:
        id: its name in ``bundle.json``.
        file: the ONNX file; `graph_file.read` returns what a backend may load of it.
        precision: ``fp32``, ``fp16`` or ``int8``.
        inputs, outputs: in the graph's order.
        variants: other forms of the same graph (``fp16``, ``int8``, ``int8-cpu``) -> graph id.
        folder: of the file, in the bundle: empty, or with a slash at its end.
        listed: the bundle's files, in which weights of the graph may lie.
    """

    id: str
    file: Source
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    listed: Mapping[str, BundleFile] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the file lies, for messages and tools."""
        return self.file.path

    def input(self, name: str) -> TensorSpec:
        """Return the input called name; KeyError if there is none."""
        return {spec.name: spec for spec in self.inputs}[name]

    def weights_at(self, location: str) -> BundleFile | None:
        """Return the file at a path from the graph's folder, as the graph gives it; None if no such file is listed."""
        return self.listed.get(self.folder + location)


@dataclass(frozen=True)
class Rate:
    """One operating point of the codec: one of a bundle's own, or between two of them.

    Attributes:
        index: among the bundle's rates; of a rate between two, that of the larger.
        number: what an .rdc file stores: the level where the bundle has levels, else the index.
        label: for people.
        lambda_r: weight of the distortion in the training loss (Eq. 9); larger means larger files.
        bpp: bits per source pixel of a typical photo.
        schedule: name of the schedule it decodes with unless another number of steps is asked for.
        model_id: 4 bytes, the entropy model that files of this rate need.
        graphs: role (``analysis``, ``synthesis``, ``control``, ``unet_step``, ``vae_decoder``) -> graph id.
        step_tables: schedule name -> .npz with the rows `schedule.load_step_rows` reads.
        entropy: .npz of the integer networks and tables.
        bit_worth: squared steps of y that a bit is worth to the encoder, see `entropy.encode_latents`.
    """

    index: int
    number: int
    label: str
    lambda_r: float
    bpp: float
    schedule: str
    model_id: bytes
    graphs: Mapping[str, str]
    step_tables: Mapping[str, BundleFile]
    entropy: BundleFile
    bit_worth: float


@dataclass(frozen=True)
class Levels:
    """The scale of rates that share their graphs, from the largest, 0, to the smallest, ``count`` - 1.

    Attributes:
        count: of levels.
        file: .npz with the rows that ``analysis`` and ``synthesis`` read, one a level, see `loading.level_rows`.
    """

    count: int
    file: BundleFile


@dataclass(frozen=True)
class Bundle:
    """A checked ``bundle.json``; every path in it exists and lies inside ``folder``.

    Attributes:
        folder: absolute path of the bundle.
        name, family, licence, provenance: what the model is and where its weights come from.
        size_multiple_px: image sides are padded to a multiple of this.
        latent_channels: C, channels of z_0.
        latent_factor_px: pixels per latent position along one side.
        files: relative path -> file, for every file but ``bundle.json``.
        graphs, schedules: by id and by name.
        rates: by index.
        default_rate: index of the rate that `Codec.encode` takes unless told.
        levels: rates between the bundle's own; None where there are none.
        calibration: measured facts (rate overhead of the integer networks, ...), free-form.
    """

    folder: Path
    name: str
    family: str
    licence: str
    provenance: Mapping[str, Any]
    size_multiple_px: int
    latent_channels: int
    latent_factor_px: int
    files: Mapping[str, BundleFile]
    graphs: Mapping[str, GraphSpec]
    schedules: Mapping[str, Schedule]
    rates: tuple[Rate, ...]
    default_rate: int
    levels: Levels | None
    calibration: Mapping[str, Any]

    def rate_of(self, model_id: bytes, rate: int) -> Rate:
        """Return the rate an .rdc header asks for.

        Args:
            model_id: 4 bytes, from the header.
            rate: rate number, from the header.

        Raises:
            BundleMismatchError: the file was made with another model; both are named.
        """
        if self.levels is not None and rate < self.levels.count and self.rates[0].model_id == model_id:
            return self.rate_at(rate)
        if self.levels is None and rate < len(self.rates) and self.rates[rate].model_id == model_id:
            return self.rates[rate]
        has = ", ".join(f"rate {r.index}: {r.model_id.hex()}" for r in self.rates)
        raise BundleMismatchError(
            f"the file needs model {model_id.hex()} at rate {rate}; bundle {self.name!r} in {self.folder} has {has}. "
            f"Load the bundle that the file was made with (by path, or from a folder in {SEARCH_VARIABLE})."
        )

    def forms(self, graph_id: str) -> dict[str, GraphSpec]:
        """Return every form of a graph by name: the graph itself under its precision, and its variants."""
        base = self.graphs[graph_id]
        return {base.precision: base} | {form: self.graphs[name] for form, name in base.variants.items()}

    def rate_at(self, level: int) -> Rate:
        """Return the rate at a level, 0 to ``levels.count`` - 1.

        Beyond the bundle's first and last rate it is like these; between two, lambda_r and bits per pixel are geometric
        means of theirs.
        """
        numbers = [rate.number for rate in self.rates]
        below = max(bisect_right(numbers, level) - 1, 0)
        larger, smaller = self.rates[below], self.rates[min(below + 1, len(numbers) - 1)]
        if level == larger.number:
            return larger
        span = smaller.number - larger.number
        share = min(max((level - larger.number) / span, 0.0), 1.0) if span else 0.0
        return replace(
            larger,
            number=level,
            label=f"{larger.index + share:.2f}",
            lambda_r=larger.lambda_r ** (1 - share) * smaller.lambda_r**share,
            bpp=larger.bpp ** (1 - share) * smaller.bpp**share,
        )

    def choose_rate(self, rate: float | None) -> Rate:
        """Return the rate with this index, or the default one for None; ValueError lists the choices.

        Where the bundle has levels, ``rate`` may lie between two indices: 1.5 is halfway from rate 1 to rate 2.
        """
        if rate is None:
            return self.rates[self.default_rate]
        last = len(self.rates) - 1
        if isinstance(rate, SupportsIndex) and not isinstance(rate, bool) and 0 <= operator.index(rate) <= last:
            return self.rates[operator.index(rate)]
        if self.levels is not None and isinstance(rate, float) and 0 <= rate <= last:
            below = self.rates[min(int(rate), last - 1)] if last else self.rates[0]
            above = self.rates[min(below.index + 1, last)]
            return self.rate_at(round(below.number + (rate - below.index) * (above.number - below.number)))
        choices = ", ".join(f"{r.index} ({r.label})" for r in self.rates)
        between = "" if self.levels is None else ", and all between them"
        raise ValueError(f"rate {rate!r} is not one of bundle {self.name!r}'s: {choices}{between}")

    def choose_schedule(self, rate: Rate, n_steps: int | None) -> Schedule:
        """Return the rate's schedule, or that of the same sampler with n_steps; ValueError lists the choices."""
        default = self.schedules[rate.schedule]
        if n_steps is None:
            return default
        alike = [self.schedules[name] for name in rate.step_tables]
        by_steps = {s.n_steps: s for s in [*alike, default] if s.sampler == default.sampler}
        if isinstance(n_steps, bool) or n_steps not in by_steps:
            choices = " or ".join(map(str, sorted(by_steps)))
            raise ValueError(
                f"{n_steps!r} steps: rate {rate.index} of bundle {self.name!r} decodes in {choices} steps"
                f" (default {default.n_steps})"
            )
        return by_steps[n_steps]


def load(source: str | Path | None = None, *, verify: bool = True) -> Bundle:
    """Return the bundle found by `find`, checked.

    Args:
        source: a folder, a bundle's name, or None for ``tiny``.
        verify: compare the SHA-256 of every file, now and when it is used; sizes are compared in any case.

    Raises:
        BundleNotFoundError: no such bundle; says where it looked.
        BundleCorruptError: a file is missing, has another size or hash, or ``bundle.json`` contradicts itself.
        BundleError: ``bundle.json`` has a schema this version does not read.
    """
    return read(find(source), verify=verify)


def find(source: str | Path | None = None) -> Path:
    """Return the folder of a bundle: an existing path as it is, a name from the first of `search_folders` that has it.

    A source with a path separator, or an existing folder, is a path; anything else is a name.

    Raises:
        BundleNotFoundError: lists every place that was looked at.
    """
    name = DEFAULT_NAME if source is None else source
    looked = []
    if source is not None:
        path = Path(name).expanduser()
        if (path / MANIFEST).is_file():
            return path.resolve()
        looked.append(path)
    if isinstance(name, str) and name not in ("", ".", "..") and not any(c in name for c in "/\\:"):
        for folder in search_folders():
            if (folder / name / MANIFEST).is_file():
                return (folder / name).resolve()
            looked.append(folder / name)
    raise BundleNotFoundError(
        f"no bundle {str(name)!r}: there is no {MANIFEST} in {', '.join(map(str, looked))}. "
        f"Give a bundle's folder, or put the folder that holds it into {SEARCH_VARIABLE}."
    )


def search_folders() -> tuple[Path, ...]:
    """Return the folders that hold bundles by name, first match first.

    They are those listed in the environment variable ``RDEIC_RT_BUNDLES``, the user's cache folder, and the ``engines``
    folder of the installed package or of the checkout it runs from.
    """
    import platformdirs

    listed = [Path(p).expanduser() for p in os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep) if p]
    cache = platformdirs.user_cache_path("rdeic-rt", appauthor=False) / "bundles"
    package = Path(__file__).resolve().parent
    embedded = [package / "engines", package.parent.parent / "engines"]
    return (*listed, cache, *embedded)


def installed() -> tuple[Path, ...]:
    """Return the folder of every bundle that `find` would return by name, in search order."""
    found: dict[str, Path] = {}
    for folder in search_folders():
        if folder.is_dir():
            for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
                found.setdefault(manifest.parent.name, manifest.parent.resolve())
    return tuple(found.values())


def read(folder: Path, *, verify: bool = True) -> Bundle:
    """Return the bundle in this folder; arguments and errors as for `load`."""
    folder = folder.resolve()
    document = _read_manifest(folder / MANIFEST)
    bundle = _Reader(folder, document, verify=verify).bundle()
    for file in bundle.files.values():
        file.check()
    return bundle


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise BundleNotFoundError(f"{path.parent} is not a bundle: it has no {MANIFEST}") from None
    if len(data) > _MAX_MANIFEST_BYTES:
        raise BundleCorruptError(f"{path}: longer than {_MAX_MANIFEST_BYTES} bytes; this is not a bundle's manifest")
    try:
        document = strict_json.parse(data)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise BundleCorruptError(f"{path}: holds {type(document).__name__}, not an object")
    if (schema := document.get("schema")) != SCHEMA and isinstance(schema, int):
        raise BundleError(
            f"{path}: schema {schema}; this version of rdeic-rt reads schema {SCHEMA}. "
            "Upgrade rdeic-rt, or export the bundle again."
        )
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
    """Turns a document that the schema accepted into a `Bundle`, checking what a schema cannot say."""

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
        for name in self._files:
            self._check_path(name)
        graphs = {name: self._graph(name, entry) for name, entry in doc["graphs"].items()}
        self._check_variants(graphs)
        schedules = {name: self._schedule(name, entry) for name, entry in doc["schedules"].items()}
        levels = self._levels(doc["levels"]) if "levels" in doc else None
        rates = tuple(self._rate(entry, graphs, schedules, levels) for entry in doc["rates"])
        if [rate.index for rate in rates] != list(range(len(rates))):
            raise self._error(f"rates have the indices {[rate.index for rate in rates]}, not 0, 1, 2, ...")
        if levels is not None and len({(rate.model_id, *sorted(rate.graphs.items())) for rate in rates}) > 1:
            raise self._error("rates have levels, but not the same graphs and the same model id")
        if doc["default_rate"] >= len(rates):
            raise self._error(f"default_rate is {doc['default_rate']}, but there are {len(rates)} rates")
        if doc["size_multiple_px"] % doc["latent"]["factor_px"]:
            raise self._error("size_multiple_px is not a multiple of latent.factor_px")
        return Bundle(
            folder=self._folder,
            name=doc["name"],
            family=doc["family"],
            licence=doc["licence"],
            provenance=MappingProxyType(doc["provenance"]),
            size_multiple_px=doc["size_multiple_px"],
            latent_channels=doc["latent"]["channels"],
            latent_factor_px=doc["latent"]["factor_px"],
            files=MappingProxyType(self._files),
            graphs=MappingProxyType(graphs),
            schedules=MappingProxyType(schedules),
            rates=rates,
            default_rate=doc["default_rate"],
            levels=levels,
            calibration=MappingProxyType(doc["calibration"]),
        )

    def _graph(self, name: str, entry: Mapping[str, Any]) -> GraphSpec:
        inputs, outputs = (
            tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in entry[side])
            for side in ("inputs", "outputs")
        )
        file = self._listed(entry["file"], f"graph {name!r}")
        if file.size_bytes > onnx_walk.MAX_ONNX_BYTES:
            raise self._error(f"graph {name!r} has {file.size_bytes} bytes; no ONNX file has more than 2 GiB")
        variants = MappingProxyType(dict(entry.get("variants", {})))
        folder = entry["file"][: entry["file"].rfind("/") + 1]
        listed = MappingProxyType(self._files)
        return GraphSpec(name, file, entry["precision"], inputs, outputs, variants, folder, listed)

    def _check_variants(self, graphs: Mapping[str, GraphSpec]) -> None:
        for graph in graphs.values():
            for form, name in graph.variants.items():
                variant = self._known(name, graphs, f"graph {graph.id!r}: {form} variant")
                same = [_names(side) for side in (graph.inputs, graph.outputs)]
                if [_names(side) for side in (variant.inputs, variant.outputs)] != same:
                    raise self._error(f"graph {graph.id!r}: its {form} variant {name!r} has other inputs or outputs")
                if variant.precision != form.removesuffix("-cpu") or variant.precision == graph.precision:
                    raise self._error(f"graph {graph.id!r}: its {form} variant {name!r} is in {variant.precision}")

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
        graphs: Mapping[str, GraphSpec],
        schedules: Mapping[str, Schedule],
        levels: Levels | None,
    ) -> Rate:
        where = f"rate {entry['index']}"
        if levels is None and "level" in entry:
            raise self._error(f"{where}: it has a level, but the bundle has none")
        by_role = {role: self._known(name, graphs, f"{where}: {role} graph") for role, name in entry["graphs"].items()}
        self._check_roles(where, by_role, frozenset() if levels is None else frozenset({LEVEL}))
        for name in (entry["schedule"], *entry["step_tables"]):
            self._known(name, schedules, f"{where}: schedule")
        if entry["schedule"] not in entry["step_tables"]:
            raise self._error(f"{where}: no step table for its schedule {entry['schedule']!r}")
        return Rate(
            index=entry["index"],
            number=entry["index"] if levels is None else entry["level"],
            label=entry["label"],
            lambda_r=float(entry["lambda_r"]),
            bpp=float(entry["bpp"]),
            schedule=entry["schedule"],
            model_id=bytes.fromhex(entry["model_id"]),
            graphs=MappingProxyType(dict(entry["graphs"])),
            step_tables=MappingProxyType(
                {name: self._listed(file, f"{where}: step table") for name, file in entry["step_tables"].items()}
            ),
            entropy=self._listed(entry["entropy"], f"{where}: entropy model"),
            bit_worth=float(entry.get("bit_worth", 0.0)),
        )

    def _check_roles(self, where: str, by_role: Mapping[str, GraphSpec], level: frozenset[str]) -> None:
        names = {role: (_names(graph.inputs), _names(graph.outputs)) for role, graph in by_role.items()}
        residuals = {name for name in names["control"][1] if name.startswith("residual_")}
        for role, (inputs, outputs) in _ROLES.items():
            inputs = inputs | (residuals if role == "unet_step" else set()) | (level if role in AT_A_LEVEL else set())
            outputs = outputs | (residuals if role == "control" else set())
            if names[role][0] != inputs or names[role][1] != outputs:
                raise self._error(
                    f"{where}: graph {by_role[role].id!r} maps {sorted(names[role][0])} to {sorted(names[role][1])}; "
                    f"as {role} it must map {sorted(inputs)} to {sorted(outputs)}"
                )
            self._check_shapes(f"{where}: graph {by_role[role].id!r}", by_role[role])

    def _check_shapes(self, where: str, graph: GraphSpec) -> None:
        """Check the dimensions that the runtime itself counts on."""
        channels = self._document["latent"]["channels"]
        for tensor in (*graph.inputs, *graph.outputs):
            shape = list(tensor.shape)
            if tensor.name in _LATENTS and (len(shape) != 4 or shape[1] != channels):
                raise self._error(f"{where}: {tensor.name} is {shape}, should have latent.channels, {channels}, as C")
            if tensor.name in ("step", LEVEL) and (len(shape) != 2 or shape[0] != 1 or isinstance(shape[1], str)):
                raise self._error(f"{where}: {tensor.name} is {shape}, should be [1, D] with a number for D")

    def _known(self, name: str, table: Mapping[str, Any], where: str) -> Any:
        if name not in table:
            raise self._error(f"{where} {name!r} is not defined; there are: {', '.join(table)}")
        return table[name]

    def _listed(self, name: str, where: str) -> BundleFile:
        if name not in self._files:
            raise self._error(f"{where}: {name!r} is not among the bundle's files")
        return self._files[name]

    def _check_path(self, name: str) -> None:
        if len(name) > _MAX_PATH_CHARS:
            raise self._error(f"a path of {len(name)} characters; at most {_MAX_PATH_CHARS} are allowed")
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


def _names(specs: Sequence[TensorSpec]) -> set[str]:
    return {spec.name for spec in specs}
