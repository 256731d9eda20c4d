"""TensorRT plans of a bundle: where they lie, the key each was built under, and why one does not fit.

    engines/tiny-2/plans/tensorrt-rtx-1.7.1.116-sm_80+86+89+120-fp16/
      unet_step.plan     what the library deserialises
      unet_step.json     its key, inputs and outputs, size and hash, and a report of its layers; written last

A plan is used only where its whole key is what the bundle, the installed library and the device ask for. Plans are made
from the bundle's graphs (`export/build_engines.py`) and are not among the files that ``bundle.json`` lists: a bundle is
whole without any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...bundle_file import BundleFile
from ...errors import BackendUnavailableError, BundleCorruptError
from ...limits import MAX_PLAN_KEY_BYTES, Size
from ...manifest import Bundle, GraphSpec

FOLDER = "plans"
SCHEMA = 2
LIBRARIES = ("tensorrt", "tensorrt-rtx")  # in the order in which they are preferred
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# What TensorRT for RTX has a name for, in 1.5 to 1.7. NVIDIA's matrices of supported GPUs leave out 8.0 (A100).
RTX_CAPABILITIES = (75, 80, 86, 89, 120, 121)


@dataclass(frozen=True)
class Profile:
    """Sizes a plan was built for: padded images in pixels, both sides multiples of 64.

    Attributes:
        smallest, typical, largest: the plan runs between the first and the last and is tuned for the one between.
        max_batch: 1, or 2 so that guided steps (lambda_s other than 1) can run.
    """

    smallest: Size
    typical: Size
    largest: Size
    max_batch: int

    def covers(self, size: Size) -> bool:
        """Return whether a padded image of this size can be run."""
        return (
            self.smallest.height <= size.height <= self.largest.height
            and self.smallest.width <= size.width <= self.largest.width
        )


@dataclass(frozen=True)
class PlanKey:
    """Everything that decides whether a plan may be used.

    Attributes:
        graph: id of the graph in ``bundle.json``.
        onnx_sha256: of the files of its reference form, see `onnx_digest`; by this the runtime finds a plan.
        derived_sha256: of the files that the plan was built from, in the same way: the graph in the plan's precision;
            by this a build finds what it need not build again.
        library: ``tensorrt`` or ``tensorrt-rtx``.
        version: of that library.
        target: compute capabilities it runs on, such as ``sm_89`` or ``sm_80+86+89+120``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        profile: sizes it was built for.
        options: builder settings, by name.
    """

    graph: str
    onnx_sha256: str
    derived_sha256: str
    library: str
    version: str
    target: str
    precision: str
    profile: Profile
    options: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Name of the folder in ``plans`` that holds it."""
        return f"{self.library}-{self.version}-{self.target}-{self.precision}"


@dataclass(frozen=True)
class Plan:
    """A plan on disk; its JSON has been read, the plan itself has not.

    Attributes:
        path: the ``.plan`` file.
        key: what it was built under.
        sha256, size_bytes: of the file.
        report: layers, precisions and scratch memory as the builder reported them, free-form.
    """

    path: Path
    key: PlanKey
    sha256: str
    size_bytes: int
    report: Mapping[str, Any]

    def read(self) -> bytes:
        """Return the plan's bytes.

        Raises:
            BundleCorruptError: the file is missing, has another length or another hash.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            raise BundleCorruptError(f"{self.path}: no such plan, though there is a key for it. {_rebuild()}") from None
        if len(data) != self.size_bytes or hashlib.sha256(data).hexdigest() != self.sha256:
            raise BundleCorruptError(
                f"{self.path}: {len(data)} bytes that are not the {self.size_bytes} it was built with. {_rebuild()}"
            )
        return data


def onnx_digest(graph: GraphSpec) -> str:
    """Return the SHA-256 of a graph's file, or over its digest and that of its external weights (``FILE.data``)."""
    if not isinstance(graph.file, BundleFile):
        return hashlib.sha256(graph.file.read()).hexdigest()
    weights = graph.weights_at(f"{graph.path.name}.data")
    return joined_digest([file.sha256 for file in (graph.file, weights) if file is not None])


def joined_digest(digests: Sequence[str]) -> str:
    """Return the only one of SHA-256 digests, or the digest of all of them one after the other."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def target_of(capabilities: tuple[int, ...]) -> str:
    """Return the name of a list of compute capabilities, 89 for 8.9: ``sm_89``, ``sm_80+86+89+120``."""
    return "sm_" + "+".join(map(str, sorted(capabilities)))


def capabilities_of(target: str) -> tuple[int, ...]:
    """Return the compute capabilities that `target_of` named; ValueError if it is no such name."""
    return tuple(map(int, target.removeprefix("sm_").split("+")))


def extra_for(capability: int) -> str:
    """Return the extra of this package with the TensorRT that runs on a GPU."""
    return "tensorrt" if capability in RTX_CAPABILITIES else "tensorrt-classic"


def beyond_rtx(capability: int) -> str:
    """Return what to do about a GPU that TensorRT for RTX does not run on."""
    return (
        f"TensorRT for RTX does not run on sm_{capability}, TensorRT does: install it with `pip install "
        "'rdeic-rt[tensorrt-classic]'`, and build plans on that GPU with `python export/build_engines.py --library "
        "tensorrt`."
    )


def write_key(plan: Path, key: PlanKey, report: Mapping[str, Any]) -> None:
    """Write the JSON beside a finished plan; from then on it can be found."""
    data = plan.read_bytes()
    document = {
        "schema": SCHEMA,
        "key": asdict(key),
        "plan": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "report": report,
    }
    temporary = plan.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    temporary.replace(plan.with_suffix(".json"))


def read_key(path: Path) -> Plan:
    """Return the plan whose JSON this is.

    Raises:
        BundleCorruptError: it is not such a file.
    """
    try:
        if path.stat().st_size > MAX_PLAN_KEY_BYTES:
            raise ValueError("too long")
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']}, not {SCHEMA}")
        key = dict(document["key"])
        profile = dict(key["profile"])
        sizes = {name: Size(**profile[name]) for name in ("smallest", "typical", "largest")}
        key["profile"] = Profile(**sizes, max_batch=int(profile["max_batch"]))
        file = document["plan"]
        plan = path.with_suffix(".plan")
        return Plan(plan, PlanKey(**key), str(file["sha256"]), int(file["bytes"]), document["report"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleCorruptError(f"{path}: not the key of a plan ({error}). {_rebuild()}") from None


def installed(folder: Path) -> Iterator[Plan]:
    """Yield every plan in a bundle's folder, in path order."""
    for path in sorted((folder / FOLDER).glob("*/*.json")):
        yield read_key(path)


def find(bundle: Bundle, graph: GraphSpec, *, library: str, version: str, capability: int, precision: str) -> Plan:
    """Return the plan of a graph for the installed library and device.

    Args:
        bundle: where plans lie.
        graph: in its reference form: the forms that plans are built from are derived from it while building, and need
            not be in the bundle.
        library, version: what is installed.
        capability: of the device, 89 for 8.9.
        precision: ``fp32``, ``fp16`` or ``int8``.

    Raises:
        BackendUnavailableError: there is none; says which fields of the nearest one differ and what builds it.
        BundleCorruptError: a key cannot be read.
    """
    wanted = {
        "onnx_sha256": onnx_digest(graph),
        "library": library,
        "version": version,
        "target": f"sm_{capability}",
        "precision": precision,
    }
    nearest: dict[str, str] | None = None
    for plan in installed(bundle.folder):
        if plan.key.graph != graph.id:
            continue
        has = {name: str(getattr(plan.key, name)) for name in wanted}
        if capability in capabilities_of(plan.key.target):
            has["target"] = wanted["target"]
        differing = {name: value for name, value in has.items() if value != wanted[name]}
        if not differing:
            return plan
        if nearest is None or len(differing) < len(nearest):
            nearest = differing
    where = bundle.folder / FOLDER
    if nearest is None:
        raise BackendUnavailableError(f"no plan of graph {graph.id!r} in {where}. {_rebuild(precision, bundle.folder)}")
    fields = ", ".join(f"{name} {_short(value)} instead of {_short(wanted[name])}" for name, value in nearest.items())
    # Without being asked, a build for TensorRT for RTX is for a list that this GPU may not be on.
    target = capability if library == "tensorrt-rtx" and "target" in nearest else None
    raise BackendUnavailableError(
        f"no plan of graph {graph.id!r} in {where} fits: the nearest has {fields}. "
        f"{_rebuild(precision, bundle.folder, target)}"
    )


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value


def _rebuild(precision: str = "fp16", bundle: Path | None = None, target: int | None = None) -> str:
    of = f" --bundle {bundle}" if bundle else ""
    to = f" --target {target}" if target else ""
    return f"Build it with `python export/build_engines.py{of} --precision {precision}{to}`."
