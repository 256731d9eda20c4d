"""A bundle's graphs -> TensorRT plans beside it, each built in a process of its own (`plan_builder`).

    graph ─ derive the precision's form ─▶ ONNX ─ subprocess ─▶ plan ─ key ─▶ plans/<flavor>-.../<graph>.plan + .json

TensorRT and TensorRT for RTX go through the same code; the first builds for the GPU it finds, the second for a list of
compute capabilities, without any GPU. An interrupted build is taken up where it was: a plan counts once its key is
written, and one whose key is the wanted one is not built again when resuming.
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rdeic_rt import plans as stored
from rdeic_rt.backends import cuda
from rdeic_rt.backends.base import COMBINE
from rdeic_rt.bundle import Bundle, GraphSpec, TensorSpec
from rdeic_rt.errors import BackendError, BundleError, ExportError
from rdeic_rt.plans import FLAVORS, MODULES, Plan, PlanKey, Profile

from . import disk, forms, plan_report
from .fidelity import FidelityReport
from .modules.spec import resolve
from .plan_builder import Request

# What TensorRT for RTX builds for: Ampere, Ada and Blackwell. Turing fails on the UNet, Hopper is no target of it.
PORTABLE = (80, 86, 89, 120)
# A plan takes about what its graph takes, and so does the derived ONNX file while it is built.
_DISK_FACTOR = 2.5
_PX_PER_UNIT = 64

logger = logging.getLogger("build_engines")


@dataclass(frozen=True)
class Options:
    """What to build for.

    Attributes:
        flavor, version: of the installed library.
        capabilities: of the devices.
        profile: sizes.
        workspace_bytes: limit of the scratch memory, or None.
    """

    flavor: str
    version: str
    capabilities: tuple[int, ...]
    profile: Profile
    workspace_bytes: int | None = None


def installed_flavor(asked: str) -> tuple[str, str]:
    """Return flavor and version of the library to build with.

    Args:
        asked: ``tensorrt``, ``tensorrt-rtx``, or ``auto`` for the first that is installed.

    Raises:
        ExportError: it is not installed.
    """
    reasons = []
    for flavor in FLAVORS if asked == "auto" else (asked,):
        try:
            return flavor, str(importlib.import_module(MODULES[flavor]).__version__)
        except ImportError as error:
            reasons.append(f"{flavor}: {error}")
    raise ExportError(
        f"no TensorRT to build plans with ({'; '.join(reasons)}). Install TensorRT for RTX with "
        "`pip install -e '.[export,tensorrt]'`, or build ONNX graphs only with --flavor onnx."
    )


def capabilities(flavor: str, asked: Sequence[int]) -> tuple[int, ...]:
    """Return the compute capabilities to build for: those asked for, `PORTABLE`, or that of the GPU here.

    Raises:
        ExportError: TensorRT builds for the GPU it runs on, and there is none, or it is another one than was asked for.
    """
    if flavor == "tensorrt-rtx":
        return tuple(sorted(asked)) or PORTABLE
    try:
        here = cuda.device_facts().capability
    except BackendError as error:
        raise ExportError(
            f"tensorrt builds plans on the GPU they are for: {error} Without a GPU, use --flavor tensorrt-rtx."
        ) from None
    if asked and tuple(asked) != (here,):
        raise ExportError(f"tensorrt builds for the GPU here, sm_{here}, not for {stored.target_of(tuple(asked))}")
    return (here,)


def build(
    bundle: Bundle,
    graph_ids: Sequence[str],
    precision: str,
    options: Options,
    derive: forms.Derive,
    checked: Mapping[str, FidelityReport] | None = None,
    *,
    resume: bool,
) -> list[Plan]:
    """Build the plans of these graphs in one precision; return them.

    Args:
        bundle: whose graphs; plans are written into its folder.
        graph_ids: which graphs, as rates refer to them.
        precision: ``fp32``, ``fp16`` or ``int8``.
        options: library, devices and sizes.
        derive: makes a graph's ONNX file of a precision.
        checked: form -> what a comparison of whole decodes with float32 found, for the plans' reports.
        resume: leave a plan alone that was built under the same key.

    Raises:
        ExportError: a build failed; its plan is not there, those before it are.
    """
    graphs = [*(bundle.graphs[name] for name in graph_ids), COMBINE]
    keys = {graph.id: _key(bundle, graph, precision, options, derive) for graph in graphs}
    waiting = [graph for graph in graphs if not (resume and _is_built(bundle, keys[graph.id]))]
    for graph in graphs:
        if graph not in waiting:
            logger.info("%s %s: built before under the same key", graph.id, precision)
    disk.check_free(bundle.folder, int(sum(map(_bytes, waiting)) * _DISK_FACTOR), "plans")
    done_bytes, began = 0, time.monotonic()
    for number, graph in enumerate(waiting, 1):
        facts = {"fidelity": {form: report.document() for form, report in (checked or {}).items()}}
        report = _build_one(bundle, graph, keys[graph.id], options, derive, facts)
        done_bytes += _bytes(graph)
        left = sum(map(_bytes, waiting[number:])) * (time.monotonic() - began) / done_bytes
        logger.info(
            "[%d/%d] %s %s: plan of %.1f MB in %.0f s, scratch memory %s%s",
            number,
            len(waiting),
            graph.id,
            precision,
            _plan_path(bundle, keys[graph.id]).stat().st_size / 1e6,
            report["build_seconds"],
            "unknown" if report["scratch_bytes"] is None else f"{report['scratch_bytes'] / 1e6:.0f} MB",
            f"; about {left:.0f} s left" if number < len(waiting) else "",
        )
    return [stored.read_key(_plan_path(bundle, key).with_suffix(".json")) for key in keys.values()]


def _build_one(
    bundle: Bundle,
    graph: GraphSpec,
    key: PlanKey,
    options: Options,
    derive: forms.Derive,
    facts: Mapping[str, Any],
) -> Mapping[str, Any]:
    path = _plan_path(bundle, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    with _working_folder(path.parent) as folder:
        onnx, derived = derive.onnx(graph, key.precision, folder)
        request = Request(
            flavor=options.flavor,
            onnx=str(onnx),
            output=str(folder / path.name),
            shapes={x.name: shapes for x in graph.inputs if (shapes := _shapes(bundle, graph, x, key.profile))},
            capabilities=options.capabilities,
            workspace_bytes=options.workspace_bytes,
            tf32=key.precision != "fp32",
            timing_cache=str(path.parent / "timing.cache") if options.flavor == "tensorrt" else None,
        )
        report = {**_run(request, graph, folder), **derived, **facts}
        plan = folder / path.name
        if options.flavor == "tensorrt-rtx":
            report["layers"] = plan_report.summary(plan_report.layers(plan.read_bytes()))
        plan.replace(path)
        stored.write_key(path, key, report)
    return report


def _run(request: Request, graph: GraphSpec, folder: Path) -> Mapping[str, Any]:
    """Run the builder in a process of its own and return its report."""
    file = folder / "request.json"
    file.write_text(json.dumps(asdict(request)))
    command = [sys.executable, "-m", "rdeic_export.plan_builder", str(file)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        said = [line for line in finished.stderr.splitlines() if line.strip()]
        why = said[-1].strip() if said else f"the builder ended with exit code {finished.returncode}"
        raise ExportError(f"graph {graph.id!r}: {request.flavor} cannot build {Path(request.onnx).name}: {why}")
    report: Mapping[str, Any] = json.loads(Path(f"{request.output}.report.json").read_text())
    return report


def _key(bundle: Bundle, graph: GraphSpec, precision: str, options: Options, derive: forms.Derive) -> PlanKey:
    batch = options.profile.max_batch if _has_residuals(graph) else 1
    return PlanKey(
        graph=graph.id,
        onnx_sha256=stored.onnx_digest(graph),
        flavor=options.flavor,
        version=options.version,
        target=stored.target_of(options.capabilities),
        precision=precision,
        profile=replace(options.profile, max_batch=batch),
        options={"workspace_bytes": options.workspace_bytes, **derive.options(graph, precision)},
    )


def _has_residuals(graph: GraphSpec) -> bool:
    """Return whether a graph is one of a denoising step's: unet_step, which guided steps run at batch 2, or control.

    Control is run at batch 1, but only a free batch keeps TensorRT from unfusing attention to the constant text.
    """
    return any(tensor.name.startswith("residual_") for tensor in (*graph.inputs, *graph.outputs))


def _is_built(bundle: Bundle, key: PlanKey) -> bool:
    path = _plan_path(bundle, key).with_suffix(".json")
    try:
        plan = stored.read_key(path) if path.is_file() else None
        return plan is not None and plan.key == key and bool(plan.read())
    except BundleError:
        return False


def _plan_path(bundle: Bundle, key: PlanKey) -> Path:
    return bundle.folder / stored.FOLDER / key.folder / f"{key.graph}.plan"


def _shapes(bundle: Bundle, graph: GraphSpec, tensor: TensorSpec, profile: Profile) -> list[list[int]] | None:
    """Return the smallest, typical and largest shape of an input, or None if nothing in it is free."""
    if not any(isinstance(dim, str) for dim in tensor.shape):
        return None
    shapes = []
    for size, batch in ((profile.smallest, 1), (profile.typical, 1), (profile.largest, profile.max_batch)):
        sizes = {
            "batch": batch,
            "hz": size.height // _PX_PER_UNIT,
            "wz": size.width // _PX_PER_UNIT,
            "channels": bundle.latent_channels,
            "height": size.height // bundle.latent_factor_px,
            "width": size.width // bundle.latent_factor_px,
        }
        try:
            shapes.append([resolve(dim, sizes) for dim in tensor.shape])
        except (KeyError, ValueError):
            raise ExportError(
                f"graph {graph.id!r}: its input {tensor.name} has the shape {list(tensor.shape)}, and plans "
                "need graphs whose free dimensions are batch, hz and wz. Export the bundle again."
            ) from None
    return shapes


@contextmanager
def _working_folder(parent: Path) -> Iterator[Path]:
    """Yield a folder on the same file system as the result, removed in the end; one left by a killed build goes too."""
    for stale in parent.glob(".building-*"):
        shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bytes(graph: GraphSpec) -> int:
    data = graph.path.with_name(f"{graph.path.name}.data")
    return graph.path.stat().st_size + (data.stat().st_size if data.exists() else 0)
