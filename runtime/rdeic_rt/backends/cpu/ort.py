"""ONNX Runtime on the CPU: the reference for every other backend.

Buffers are numpy arrays. One `InferenceSession` a graph serves all threads: ONNX Runtime allows concurrent runs, and
releases the interpreter lock while it computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ... import address_space, graph_file, stopping
from ...errors import BackendError, BundleCorruptError, DeviceMemoryError
from ...manifest import FORMS, GraphSpec
from ...onnx_runtime import FAILED, Session, ort, ort_state, useful_threads
from ..base import Buffer
from .host import HostArrays, check_tensors

_TYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32", "tensor(float16)": "float16"}
_NOT_A_MODEL = (
    ort_state.InvalidProtobuf,
    ort_state.InvalidGraph,
    ort_state.InvalidArgument,
    ort_state.NoSuchFile,
    ort_state.NoModel,
)
Weights = Mapping[str, NDArray[Any]]


class OrtBackend(HostArrays):
    """The ``cpu`` backend.

    Attributes:
        name: ``cpu``.
        threads: threads of one graph run; None for one per physical core.
    """

    name = "cpu"
    forms = frozenset(FORMS)

    def __init__(self, threads: int | None) -> None:
        self.threads = threads

    def description(self) -> dict[str, str]:
        """Return the version of ONNX Runtime and the number of threads."""
        return {"onnxruntime": ort.__version__, "threads": str(self.threads or "one per physical core")}

    def load(self, spec: GraphSpec) -> OrtGraph:
        """Return a session for the graph; errors as in `base.Backend.load`."""
        return OrtGraph(spec, *open_session(spec, self.threads, ["CPUExecutionProvider"]))


class OrtGraph:
    """One graph as an ONNX Runtime session."""

    def __init__(self, spec: GraphSpec, session: ort.InferenceSession, weights: Weights) -> None:
        self.spec = spec
        self._session = session
        self._weights = weights
        self._outputs = [output.name for output in spec.outputs]

    def run(self, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Return the outputs by name; errors as in `base.Graph.run`."""
        try:
            return dict(zip(self._outputs, self._run(dict(inputs)), strict=True))
        except FAILED as error:
            if address_space.is_shortage(error):
                shapes = ", ".join(f"{name} {list(buffer.shape)}" for name, buffer in inputs.items())
                raise DeviceMemoryError(
                    f"graph {self.spec.id!r} on {shapes}: ONNX Runtime found no memory ({error}). "
                    "Use smaller tiles (tile_px, --tile), or decode fewer images at a time."
                ) from None
            raise BackendError(f"ONNX Runtime {ort.__version__}, graph {self.spec.id!r}: {error}") from None

    def _run(self, inputs: dict[str, Any]) -> list[Any]:
        """Run the session, which ONNX Runtime leaves between two nodes once the work is to stop."""
        if stopping.current() is None:
            outputs: list[Any] = self._session.run(self._outputs, inputs)
            return outputs
        options = ort.RunOptions()
        options.log_severity_level = 4
        outputs = []
        with stopping.watch(lambda: setattr(options, "terminate", True)):
            outputs = self._session.run(self._outputs, inputs, options)
        return outputs


def open_session(
    spec: GraphSpec, threads: int | None, providers: Sequence[Any]
) -> tuple[ort.InferenceSession, Weights]:
    """Return a session for a graph, and the memory-mapped weights that it reads.

    The caller must keep the weights alive as long as the session. Errors as in `base.Backend.load`.

    Args:
        spec: the graph.
        threads: of the CPU for one run; None for one per physical core.
        providers: names, or pairs of name and options, as for ONNX Runtime.
    """
    graph = graph_file.read(spec)
    options = _session_options(threads)
    try:
        if graph.weights:
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in graph.weights.values()]
            options.add_external_initializers(list(graph.weights), values)
        session = Session(graph.onnx, options, providers=providers)
    except FAILED as error:
        if address_space.is_shortage(error):
            raise DeviceMemoryError(
                f"ONNX Runtime {ort.__version__} finds too little memory, or threads, to load {spec.path} ({error})"
            ) from None
        if isinstance(error, _NOT_A_MODEL):
            raise BundleCorruptError(f"{spec.path}: not a graph that ONNX Runtime can read: {error}") from None
        raise BackendError(f"ONNX Runtime {ort.__version__} cannot load {spec.path}: {error}") from None
    # The session would keep the file's bytes, to restart with other providers.
    session._model_bytes = None
    _check_io(spec, session)
    return session, graph.weights


def _session_options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    # Fatal only: errors are raised, so the library should not print them.
    options.log_severity_level = 4
    options.intra_op_num_threads = useful_threads(threads)
    # A memory pattern would be kept for every image size that occurs.
    options.enable_mem_pattern = False
    # Each session has threads of its own: those of one graph must not spin while another one computes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_io(spec: GraphSpec, session: ort.InferenceSession) -> None:
    """Raise BundleCorruptError unless the session has the inputs and outputs that bundle.json promises."""
    inputs, outputs = (
        {node.name: (_TYPES.get(node.type, node.type), len(node.shape)) for node in nodes}
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    check_tensors(spec, inputs, outputs)
