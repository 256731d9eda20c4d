"""Encodes and decodes of photos with probes in the graphs: what happens inside, as the codec runs them for a user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import rdeic_rt
from rdeic_rt import DecodeOptions, pixels
from rdeic_rt.backends.base import Buffer
from rdeic_rt.backends.cpu.ort import OrtBackend
from rdeic_rt.backends.select import Selection
from rdeic_rt.codec import Codec
from rdeic_rt.limits import DEFAULT_LIMITS
from rdeic_rt.manifest import GraphSpec

from ..forms.selection import float32_graphs
from ..onnx_view import GraphView

# lambda_s of photo i is SHARPNESS[i % len]: mostly what the model is used with, and both sides of it. At anything but
# 1 the frozen denoiser runs beside the controlled one, so its ranges are covered too.
SHARPNESS = (1.0, 1.0, 0.5, 1.0, 1.0, 1.5)
# Every so many photos are also decoded with the rate's other numbers of steps.
OTHER_STEPS_EVERY = 4
_PREFIX = "probe/"

Values = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Probe:
    """What to hand out of one graph.

    Attributes:
        tensors: names inside the graph.
        channels: those among them, of rank 4, that are looked at channel by channel.
        whole: hand out their values; else ``<name>/least``, ``<name>/greatest`` and ``<name>/size``.
    """

    tensors: tuple[str, ...] = ()
    channels: frozenset[str] = frozenset()
    whole: bool = False


def decoding_graphs(bundle: Path) -> dict[str, GraphView]:
    """Return the graphs of a bundle that may be quantised, by id: not analysis, which decides the symbols."""
    found = rdeic_rt.load(bundle, backend="cpu", precision="fp32").bundle
    names = dict.fromkeys(rate.graphs[role] for rate in found.rates for role in found.decoding_roles)
    return {name: GraphView(graph.path) for name, graph in float32_graphs(found, [*names]).items()}


def decodes(
    bundle: Path,
    photos: Sequence[Path],
    observe: Callable[[str, str, Values, Values], None],
    probes: Mapping[str, Probe],
    *,
    threads: int | None = None,
) -> Iterator[Path]:
    """Encode and decode photos with probes in the graphs, and yield each when it is done.

    Args:
        bundle: a bundle's folder.
        photos: image files.
        observe: called after each run of a probed graph with its id, ``<schedule>/<step>``, what went in, and what the
            probe hands out.
        probes: by graph id.
        threads: CPU threads.
    """
    steps = _Steps()
    backend = _ProbedBackend(threads, probes, lambda name, i, o: observe(name, steps.of(name, i), i, o))
    found = rdeic_rt.load(bundle, backend="cpu", precision="fp32").bundle
    selection = Selection(backend, backend, {})
    codec = Codec(found, selection, precision="fp32", threads=threads, limits=DEFAULT_LIMITS)
    for index, photo in enumerate(photos):
        image = pixels.read_image(photo)[0]
        for rate in found.rates:
            data = codec.encode(image, rate.index)
            own = found.choose_schedule(rate, None)
            assert own is not None  # the exporter makes no others
            others = [found.schedules[name] for name in rate.step_tables]
            counts = {own.n_steps} | {s.n_steps for s in others if s.sampler == own.sampler}
            for n_steps in sorted(counts) if index % OTHER_STEPS_EVERY == 0 else (own.n_steps,):
                schedule = found.choose_schedule(rate, n_steps)
                assert schedule is not None
                steps.begin(schedule.name)
                sharpness = SHARPNESS[index % len(SHARPNESS)] if rate.is_guided else 1.0
                codec.decode(data, DecodeOptions(sharpness=sharpness, steps=n_steps))
        yield photo


def record_inputs(bundle: Path, photos: Sequence[Path], *, threads: int | None = None) -> dict[str, list[Values]]:
    """Return what every decoding graph is run with, in order, when photos are encoded and decoded at every rate."""
    runs: dict[str, list[Values]] = {name: [] for name in decoding_graphs(bundle)}

    def observe(graph_id: str, step: str, inputs: Values, values: Values) -> None:
        runs[graph_id].append(inputs)

    for _ in decodes(bundle, photos, observe, dict.fromkeys(runs, Probe()), threads=threads):
        pass
    return runs


class _Steps:
    """Which step of a decode a graph's run is: the place of its row of the step table among those seen."""

    def __init__(self) -> None:
        self._schedule = ""
        self._rows: dict[str, dict[bytes, int]] = {}

    def begin(self, schedule: str) -> None:
        self._schedule, self._rows = schedule, {}

    def of(self, graph_id: str, inputs: Values) -> str:
        rows = self._rows.setdefault(graph_id, {})
        row = inputs["step"].tobytes() if "step" in inputs else b""
        return f"{self._schedule}/{rows.setdefault(row, len(rows))}"


class _ProbedBackend(OrtBackend):
    """The ``cpu`` backend, with probes in some graphs."""

    def __init__(
        self, threads: int | None, probes: Mapping[str, Probe], observe: Callable[[str, Values, Values], None]
    ) -> None:
        super().__init__(threads)
        self._probes = probes
        self._observe = observe

    def load(self, spec: GraphSpec) -> Any:
        """Return the graph, probed if it is to be."""
        if spec.id not in self._probes:
            return super().load(spec)
        return _ProbedGraph(spec, session(spec.path, self._probes[spec.id], self.threads), self._observe)


class _ProbedGraph:
    """A graph that reports every run."""

    def __init__(
        self, spec: GraphSpec, probed: ort.InferenceSession, observe: Callable[[str, Values, Values], None]
    ) -> None:
        self.spec = spec
        self._session = probed
        self._observe = observe

    def run(self, inputs: Mapping[str, Buffer]) -> dict[str, Any]:
        """Return the graph's own outputs by name."""
        feeds: Values = {name: np.asarray(value) for name, value in inputs.items()}
        names = [output.name for output in self._session.get_outputs()]
        values = dict(zip(names, self._session.run(names, feeds), strict=True))
        own = {output.name: values.pop(output.name) for output in self.spec.outputs}
        self._observe(self.spec.id, feeds, {name.removeprefix(_PREFIX): value for name, value in values.items()})
        return own


def session(path: Path, probe: Probe, threads: int | None = None) -> ort.InferenceSession:
    """Return a session for a graph with a probe's outputs, ``probe/...``, beside its own."""
    model = GraphView(path).model
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3]), f"{_PREFIX}axes"))
    for tensor in probe.tensors:
        reduced = [tensor, f"{_PREFIX}axes"] if tensor in probe.channels else [tensor]
        outputs = (
            [f"{_PREFIX}{tensor}"] if probe.whole else [f"{_PREFIX}{tensor}/{x}" for x in ("least", "greatest", "size")]
        )
        if probe.whole:
            model.graph.node.append(helper.make_node("Identity", [tensor], outputs))
        else:
            model.graph.node.append(helper.make_node("ReduceMin", reduced, outputs[:1], keepdims=0))
            model.graph.node.append(helper.make_node("ReduceMax", reduced, outputs[1:2], keepdims=0))
            model.graph.node.append(helper.make_node("Size", [tensor], outputs[2:]))
        model.graph.output.extend(map(helper.make_empty_tensor_value_info, outputs))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
