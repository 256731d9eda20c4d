"""The forms of a bundle's graphs, derived from the float32 ones, each once.

fp32 ─ half ─▶ fp16 ─ quantize signed ─▶ int8
               fp16 ─ fused ─▶ fp16-cuda
fp32 ─ quantize unsigned-cpu ─▶ int8-cpu

They lie in a folder of their own while they are compared with float32 (`verify.gate`) and plans (`plans.build`) or a
bundle (`bundle.more_forms`) are made of them, so that what was compared is what is used.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rdeic_rt.backends.tensorrt.plans import joined_digest, onnx_digest
from rdeic_rt.bundle_file import BundleFile
from rdeic_rt.errors import ExportError
from rdeic_rt.manifest import Bundle, GraphSpec

from .. import disk, onnx_file
from . import fused, half, quantize
from .ranges import Ranges
from .selection import REFERENCE, float32_graphs


@dataclass(frozen=True)
class DerivedGraph:
    """One graph in one form.

    Attributes:
        spec: as a backend loads it.
        files: name -> file, the ONNX file first and then those with its weights, all in one folder.
        sha256: over all of them, see `rdeic_rt.backends.tensorrt.plans.joined_digest`.
        facts: what was done to it, for reports.
    """

    spec: GraphSpec
    files: Mapping[str, BundleFile]
    sha256: str
    facts: Mapping[str, Any]

    @property
    def size_bytes(self) -> int:
        """Length of all files."""
        return sum(file.size_bytes for file in self.files.values())


@dataclass(frozen=True)
class Derived:
    """Some graphs of a bundle in one form, by id; those that have a use for the form."""

    form: str
    graphs: Mapping[str, DerivedGraph]


class Derivation:
    """Derives the forms of some graphs into a folder, each form of each graph once; made by `derivation`."""

    def __init__(
        self, bundle: Bundle, graph_ids: Sequence[str], ranges: Ranges | None, folder: Path, *, one_scale: bool = False
    ) -> None:
        self._sources = float32_graphs(bundle, graph_ids)
        self._ranges = ranges
        self._one_scale = one_scale
        self._folder = folder
        self._done: dict[tuple[str, str], DerivedGraph | None] = {}

    def derive(self, form: str) -> Derived:
        """Return the graphs in a form: ``fp32``, ``fp16``, ``fp16-cuda``, ``int8`` or ``int8-cpu``.

        In ``fp16-cuda`` only those with attention that can be fused.

        Raises:
            ExportError: a weight does not fit, or the activation ranges are missing or of another graph.
        """
        if form != REFERENCE:
            disk.check_free(self._folder, sum(map(_size_bytes, self._sources.values())), f"graphs in {form}")
        graphs = {graph_id: self._graph(graph_id, form) for graph_id in self._sources}
        return Derived(form, {graph_id: graph for graph_id, graph in graphs.items() if graph is not None})

    def _graph(self, graph_id: str, form: str) -> DerivedGraph | None:
        if (graph_id, form) not in self._done:
            source = self._sources[graph_id]
            self._done[graph_id, form] = as_it_is(source) if form == REFERENCE else self._make(source, form)
        return self._done[graph_id, form]

    def _make(self, source: GraphSpec, form: str) -> DerivedGraph | None:
        target = self._folder / f"{source.id}.{form}.onnx"
        facts: dict[str, Any] = {}
        if form == "fp16":
            half.run(source.path, target)
        elif form == "fp16-cuda":
            facts = {"fused_attentions": fused.run(self._half(source.id), target)}
            if not facts["fused_attentions"]:
                return None
        elif form == "int8":
            facts = self._quantize(source.id, self._half(source.id), target, "signed")
        else:
            facts = self._quantize(source.id, source.path, target, "unsigned-cpu")
        files = {name: self._file(source, name) for name in (target.name, *onnx_file.locations_in(target))}
        spec = replace(source, form=form, file=files[target.name], folder="", listed=files)
        return DerivedGraph(spec, files, joined_digest([file.sha256 for file in files.values()]), facts)

    def _half(self, graph_id: str) -> Path:
        graph = self._graph(graph_id, "fp16")
        assert graph is not None  # every graph has this form
        return graph.spec.path

    def _quantize(self, graph_id: str, source: Path, target: Path, form: str) -> dict[str, Any]:
        if self._ranges is None:
            raise ExportError(
                "8-bit graphs need activation ranges: measure them with `python calibration/collect_ranges.py`, "
                "and name the file with --ranges"
            )
        ranges = self._ranges.graph(graph_id)
        report = quantize.run(source, target, ranges, form=form, one_scale=self._one_scale and form == "signed")
        return {"quantization": report.document()}

    def _file(self, source: GraphSpec, name: str) -> BundleFile:
        """Return a file of the folder; the hash of one that is a link to the bundle's is known."""
        path = self._folder / name
        weights = source.weights_at(name)
        if weights is not None and path.samefile(weights.path):
            return replace(weights, path=path, verify=False)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return BundleFile(path, path.stat().st_size, digest, verify=False)


@contextmanager
def derivation(
    bundle: Bundle, graph_ids: Sequence[str], ranges: Ranges | None, *, one_scale: bool = False
) -> Iterator[Derivation]:
    """Yield what derives the forms of a bundle's graphs, into a folder beside the bundle that is removed in the end.

    Args:
        bundle: has the graphs in float32.
        graph_ids: which of them.
        ranges: activation ranges of the model, for the 8-bit forms.
        one_scale: the form ``int8`` is for TensorRT for RTX, see `quantize.run`.

    Raises:
        ExportError: a graph is not there in float32.
    """
    with tempfile.TemporaryDirectory(prefix=f".{bundle.folder.name}-forms-", dir=bundle.folder.parent) as folder:
        yield Derivation(bundle, graph_ids, ranges, Path(folder), one_scale=one_scale)


def as_it_is(source: GraphSpec) -> DerivedGraph:
    """Return a graph in the form that it has."""
    files = {}
    if isinstance(source.file, BundleFile):
        data = f"{source.path.name}.data"
        beside = {source.path.name: source.file, data: source.weights_at(data)}
        files = {name: file for name, file in beside.items() if file is not None}
    return DerivedGraph(source, files, onnx_digest(source), {})


def with_forms(bundle: Bundle, taken: Sequence[Derived], *, drop_fp32: bool = False) -> Bundle:
    """Return a bundle, in memory alone, that has its graphs in these forms too, or instead of float32."""
    graphs = {graph_id: dict(by_form) for graph_id, by_form in bundle.graphs.items()}
    for derived in taken:
        for graph_id, graph in derived.graphs.items():
            graphs[graph_id][derived.form] = graph.spec
            if drop_fp32:
                graphs[graph_id].pop(REFERENCE, None)
    return replace(bundle, graphs=graphs)


def _size_bytes(graph: GraphSpec) -> int:
    return as_it_is(graph).size_bytes
