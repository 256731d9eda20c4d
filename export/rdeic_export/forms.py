"""The forms of a bundle's graphs: derived from the float32 ones, for plans or as variants in a bundle.

fp32 ─ half ─▶ fp16 ─ quantize signed ─▶ int8
fp32 ─ quantize unsigned-cpu ─▶ int8-cpu
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rdeic_rt
from rdeic_rt import bundle as bundles
from rdeic_rt.backends.base import COMBINE
from rdeic_rt.bundle import DECODING_ROLES, Bundle, GraphSpec, Rate
from rdeic_rt.errors import ExportError

from . import bundle_writer, disk, half, quantize
from .fidelity import FidelityReport
from .ranges import Ranges

# What a bundle gets for each precision: every form that some backend runs best.
FORMS_OF: dict[str, tuple[str, ...]] = {"fp32": (), "fp16": ("fp16",), "int8": ("int8", "int8-cpu")}

logger = logging.getLogger("build_engines")


@dataclass(frozen=True)
class Derive:
    """Makes the ONNX file of a graph in some form.

    Attributes:
        ranges: activation ranges of the model, for the 8-bit forms.
    """

    ranges: Ranges | None = None

    def onnx(self, graph: GraphSpec, form: str, folder: Path) -> tuple[Path, dict[str, Any]]:
        """Return the file and facts about it for reports; it lies in ``folder`` unless it is the graph's own.

        Raises:
            ExportError: the graph is not in float32, a weight does not fit, or there are no ranges.
        """
        if form == "fp32" or graph.id == COMBINE.id:
            return graph.path, {}
        if graph.precision != "fp32":
            raise ExportError(f"graph {graph.id!r} is in {graph.precision}; other forms are derived from fp32 only")
        target = folder / f"{graph.id}.{form}.onnx"
        if form == "fp16":
            half.run(graph.path, target)
            return target, {}
        if self.ranges is None:
            raise ExportError(
                "8-bit graphs need activation ranges: measure them with `python calibration/collect_ranges.py`, "
                "and name the file with --ranges"
            )
        if form == "int8-cpu":
            return target, self._quantize(graph, graph.path, target, "unsigned-cpu")
        between = folder / f"{graph.id}.fp16.onnx"
        half.run(graph.path, between)
        facts = self._quantize(graph, between, target, "signed")
        between.unlink()
        return target, facts

    def options(self, graph: GraphSpec, precision: str) -> dict[str, Any]:
        """Return what besides the graph decides the content of a form, for keys."""
        options: dict[str, Any] = {"exporter": rdeic_rt.__version__}
        if precision == "int8" and self.ranges is not None and graph.id != COMBINE.id:
            document = json.dumps(asdict(self.ranges.graph(graph.id)), sort_keys=True)
            options["ranges_sha256"] = hashlib.sha256(document.encode()).hexdigest()
        return options

    def _quantize(self, graph: GraphSpec, source: Path, target: Path, form: str) -> dict[str, Any]:
        assert self.ranges is not None
        report = quantize.run(source, target, self.ranges.graph(graph.id), form=form)
        return {"quantization": report.document()}


def rates_of(bundle: Bundle, steps: Sequence[int]) -> list[Rate]:
    """Return the rates that can be decoded in one of these numbers of steps.

    Raises:
        ExportError: there is no such rate.
    """
    possible = [{bundle.schedules[name].n_steps for name in rate.step_tables} for rate in bundle.rates]
    chosen = [rate for rate, counts in zip(bundle.rates, possible, strict=True) if counts & set(steps)]
    if not chosen:
        raise ExportError(
            f"bundle {bundle.name!r} has no rate for {' or '.join(map(str, steps))} steps; its rates take "
            f"{', '.join(map(str, sorted(set().union(*possible))))}. Choose among those with --steps."
        )
    return chosen


def decoding_graphs(bundle: Bundle, steps: Sequence[int]) -> list[str]:
    """Return the ids of the graphs that decode the rates of `rates_of`; errors as there."""
    return sorted({rate.graphs[role] for rate in rates_of(bundle, steps) for role in DECODING_ROLES})


def write_variants(
    source: Path,
    output: Path,
    wanted: Sequence[str],
    steps: Sequence[int],
    derive: Derive,
    checked: Mapping[str, FidelityReport] | None = None,
    *,
    quiet: bool = False,
) -> None:
    """Write a bundle with its graphs in more forms.

    Args:
        source: folder of a bundle in float32; stays as it is unless ``output`` is the same folder.
        output: folder to write; an older bundle there is replaced.
        wanted: names of the forms: ``fp16``, ``int8``, ``int8-cpu``.
        steps: as for `decoding_graphs`.
        derive: makes the forms.
        checked: form -> what a comparison with float32 found, to be kept in the bundle.
        quiet: log no line for each file.

    Raises:
        ExportError: as `Derive.onnx`.
    """
    bundle = bundles.read(source)
    document = json.loads((source / bundles.MANIFEST).read_text())
    with bundle_writer.staging(output) as stage:
        for name in bundle.files:
            disk.link(source / name, stage.folder / name)
        facts: dict[str, Mapping[str, Any]] = {}
        for graph_id in decoding_graphs(bundle, steps):
            graph, entry = bundle.graphs[graph_id], document["graphs"][graph_id]
            for form in wanted:
                path, facts[f"{graph_id}.{form}"] = derive.onnx(graph, form, stage.folder)
                variant = {**entry, "file": path.name, "precision": form.removesuffix("-cpu")}
                document["graphs"][f"{graph_id}.{form}"] = {k: v for k, v in variant.items() if k != "variants"}
                entry.setdefault("variants", {})[form] = f"{graph_id}.{form}"
                if not quiet:
                    logger.info("%s: %.1f MB", path.name, path.stat().st_size / 1e6)
        document["calibration"]["forms"] = facts
        document["calibration"]["fidelity"] = {form: report.document() for form, report in (checked or {}).items()}
        bundle_writer.write_manifest(stage.folder, {k: v for k, v in document.items() if k not in ("schema", "files")})
