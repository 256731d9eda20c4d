"""A bundle's graphs in one form -> TensorRT plans beside it, each built in a process of its own (`builder`).

    derived graph ─ key ─ subprocess ─▶ plan ─▶ plans/<library>-.../<graph>.plan + .json

TensorRT and TensorRT for RTX go through the same code; the first builds for the GPU it finds, the second for a list of
compute capabilities, without any GPU. An interrupted build is taken up where it was: a plan counts once its key is
written, and one whose key is the wanted one, with the hash of what it was built from, is not built again when resuming.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rdeic_rt import families
from rdeic_rt.backends.base import WEIGHTED_SUM
from rdeic_rt.backends.tensorrt import plans as stored
from rdeic_rt.backends.tensorrt.plans import Plan, PlanKey, Profile
from rdeic_rt.errors import BundleError, ExportError
from rdeic_rt.limits import Size
from rdeic_rt.manifest import Bundle, GraphSpec
from rdeic_rt.tensor_spec import TensorSpec

from .. import disk
from ..forms import derive
from ..forms.derive import Derived, DerivedGraph
from ..verify.fidelity import FidelityReport
from . import report as plan_report
from .builder import Request
from .target import Target

_DISK_FACTOR = 1.5  # a plan takes about what its graph takes

logger = logging.getLogger("build_engines")


def build(
    bundle: Bundle, derived: Derived, target: Target, fidelity: FidelityReport | None = None, *, resume: bool
) -> list[Plan]:
    """Build the plans of graphs in one form; return them.

    Args:
        bundle: whose graphs; plans are written into its folder.
        derived: the graphs, in the form that the plans are built from.
        target: library, devices and sizes.
        fidelity: what a comparison of whole decodes with float32 found, for the plans' reports.
        resume: leave a plan alone that was built under the same key.

    Raises:
        ExportError: a build failed; its plan is not there, those before it are.
    """
    graphs = [*derived.graphs.values(), derive.as_it_is(WEIGHTED_SUM)]
    keys = {graph.spec.id: _key(bundle, graph, derived.form, target) for graph in graphs}
    waiting = [graph for graph in graphs if not (resume and _is_built(bundle, keys[graph.spec.id]))]
    for graph in graphs:
        if graph not in waiting:
            logger.info("%s %s: built before under the same key", graph.spec.id, derived.form)
    disk.check_free(bundle.folder, int(sum(graph.size_bytes for graph in waiting) * _DISK_FACTOR), "plans")
    sizes = _SizesOf(bundle, target.profile)
    facts = {"fidelity": {} if fidelity is None else {derived.form: fidelity.document()}}
    done_bytes, began = 0, time.monotonic()
    for number, graph in enumerate(waiting, 1):
        report = _build_one(bundle, graph, keys[graph.spec.id], target, sizes, facts)
        done_bytes += graph.size_bytes
        left = sum(graph.size_bytes for graph in waiting[number:]) * (time.monotonic() - began) / max(done_bytes, 1)
        logger.info(
            "[%d/%d] %s %s: plan of %.1f MB in %.0f s, scratch memory %s%s",
            number,
            len(waiting),
            graph.spec.id,
            derived.form,
            _plan_path(bundle, keys[graph.spec.id]).stat().st_size / 1e6,
            report["build_seconds"],
            "unknown" if report["scratch_bytes"] is None else f"{report['scratch_bytes'] / 1e6:.0f} MB",
            f"; about {left:.0f} s left" if number < len(waiting) else "",
        )
    return [stored.read_key(_plan_path(bundle, key).with_suffix(".json")) for key in keys.values()]


def _build_one(
    bundle: Bundle, graph: DerivedGraph, key: PlanKey, target: Target, sizes: _SizesOf, facts: Mapping[str, Any]
) -> Mapping[str, Any]:
    path = _plan_path(bundle, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    with _working_folder(path.parent) as folder:
        request = Request(
            library=target.library,
            onnx=str(graph.spec.path),
            output=str(folder / path.name),
            shapes=sizes.shapes(graph.spec, key.profile.max_batch),
            capabilities=target.capabilities,
            workspace_bytes=target.workspace_bytes,
            tf32=key.options["tf32"],
            timing_cache=str(path.parent / "timing.cache") if target.library == "tensorrt" else None,
        )
        report = {**_run(request, graph.spec, folder), **graph.facts, **facts}
        plan = folder / path.name
        if target.library == "tensorrt-rtx":
            report["layers"] = plan_report.summary(plan_report.layers(plan.read_bytes()))
        plan.replace(path)
        stored.write_key(path, key, report)
    return report


def _run(request: Request, graph: GraphSpec, folder: Path) -> Mapping[str, Any]:
    """Run the builder in a process of its own and return its report."""
    file = folder / "request.json"
    file.write_text(json.dumps(asdict(request)))
    command = [sys.executable, "-m", "rdeic_export.plans.builder", str(file)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        said = [line for line in finished.stderr.splitlines() if line.strip()]
        why = said[-1].strip() if said else f"the builder ended with exit code {finished.returncode}"
        raise ExportError(f"graph {graph.id!r}: {request.library} cannot build {Path(request.onnx).name}: {why}")
    report: Mapping[str, Any] = json.loads(Path(f"{request.output}.report.json").read_text())
    return report


def _key(bundle: Bundle, graph: DerivedGraph, precision: str, target: Target) -> PlanKey:
    graph_id = graph.spec.id
    reference = graph.spec if graph_id == WEIGHTED_SUM.id else bundle.reference(graph_id)
    batch = target.profile.max_batch if _has_residuals(graph.spec) else 1
    return PlanKey(
        graph=graph_id,
        onnx_sha256=stored.onnx_digest(reference),
        derived_sha256=graph.sha256,
        library=target.library,
        version=target.version,
        target=stored.target_of(target.capabilities),
        precision=precision,
        profile=replace(target.profile, max_batch=batch),
        options={"workspace_bytes": target.workspace_bytes, "tf32": precision != "fp32"},
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


class _SizesOf:
    """What the free dimensions of a bundle's graphs are at the sizes of a profile."""

    def __init__(self, bundle: Bundle, profile: Profile) -> None:
        self._bundle = bundle
        self._latent = _latent(bundle)
        self._profile = profile

    def shapes(self, graph: GraphSpec, max_batch: int) -> dict[str, list[list[int]]]:
        """Return for each input of which something is free its smallest, typical and largest shape."""
        at = [self._at(self._profile.smallest, 1), self._at(self._profile.typical, 1)]
        at.append(self._at(self._profile.largest, max_batch))
        shapes = [graph.free_shapes(sizes) for sizes in at]
        return {name: [list(of_inputs[name]) for of_inputs in shapes] for name in shapes[0]}

    def _at(self, size: Size, batch: int) -> dict[str, int]:
        sizes = self._bundle.free_sizes(size, batch)
        of_latent = dict(zip(("channels", "height", "width"), self._latent.resolve(sizes)[1:], strict=True))
        return {**sizes, **of_latent}  # the latter are what `WEIGHTED_SUM` calls them, which is run on latents


def _latent(bundle: Bundle) -> TensorSpec:
    """Return the tensor that denoising works on."""
    graphs = [bundle.reference(bundle.rates[0].graphs[role]) for role in bundle.decoding_roles]
    alike = families.family(bundle.family).alike
    return next(tensor for graph in graphs for tensor in graph.inputs if tensor.name in alike)


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
