"""ONNX Runtime on the CPU: the reference for every other backend.

Buffers are numpy arrays. One `InferenceSession` a graph serves all threads: ONNX Runtime allows concurrent runs, and
releases the interpreter lock while it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ..bundle import GraphSpec
from ..errors import BackendError, BundleCorruptError, DeviceMemoryError
from .base import Buffer
from .host import HostArrays, check_tensors

_TYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32", "tensor(float16)": "float16"}
NOT_A_MODEL = (ort_state.InvalidProtobuf, ort_state.InvalidGraph, ort_state.NoSuchFile, ort_state.NoModel)
FAILED = (ort_state.Fail, ort_state.RuntimeException, ort_state.EPFail, ort_state.NotImplemented)


class OrtBackend(HostArrays):
    """The ``cpu`` backend.

    Attributes:
        name: ``cpu``.
        threads: threads of one graph run; None for one per physical core.
    """

    name = "cpu"
    # 8-bit activations run in integer kernels only when unsigned and with quantised outputs: the form int8-cpu.
    forms: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {
            "auto": ("fp32", "fp16", "int8-cpu", "int8"),
            "fp32": ("fp32",),
            "fp16": ("fp16",),
            "int8": ("int8-cpu", "int8"),
        }
    )

    def __init__(self, threads: int | None) -> None:
        self.threads = threads

    def facts(self) -> dict[str, str]:
        """Return the version of ONNX Runtime and the number of threads."""
        return {"onnxruntime": ort.__version__, "threads": str(self.threads or "one per physical core")}

    def load(self, spec: GraphSpec) -> OrtGraph:
        """Return a session for the graph; errors as in `base.Backend.load`."""
        try:
            session = ort.InferenceSession(spec.path, session_options(self.threads), providers=["CPUExecutionProvider"])
        except NOT_A_MODEL as error:
            raise BundleCorruptError(f"{spec.path}: not a graph that ONNX Runtime can read: {error}") from None
        except FAILED as error:
            raise BackendError(f"ONNX Runtime {ort.__version__} cannot load {spec.path}: {error}") from None
        check_io(spec, session)
        return OrtGraph(spec, session)


class OrtGraph:
    """One graph as an ONNX Runtime session."""

    def __init__(self, spec: GraphSpec, session: ort.InferenceSession) -> None:
        self.spec = spec
        self._session = session
        self._outputs = [output.name for output in spec.outputs]

    def run(self, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Return the outputs by name; errors as in `base.Graph.run`."""
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))
        except FAILED as error:
            if "Failed to allocate memory" in str(error):
                shapes = ", ".join(f"{name} {list(buffer.shape)}" for name, buffer in inputs.items())
                raise DeviceMemoryError(
                    f"graph {self.spec.id!r} on {shapes}: ONNX Runtime found no memory ({error}). "
                    "Use smaller tiles (tile_px, --tile), or decode fewer images at a time."
                ) from None
            raise BackendError(f"ONNX Runtime {ort.__version__}, graph {self.spec.id!r}: {error}") from None


def session_options(threads: int | None) -> ort.SessionOptions:
    """Return the options of every session."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # A pattern would be kept for every image size ever seen.
    options.enable_mem_pattern = False
    # Each session has threads of its own: those of one graph must not spin while another one computes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def check_io(spec: GraphSpec, session: ort.InferenceSession) -> None:
    """Raise BundleCorruptError unless the session has the inputs and outputs that bundle.json promises."""
    inputs, outputs = (
        {node.name: (_TYPES.get(node.type, node.type), len(node.shape)) for node in nodes}
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    check_tensors(spec, inputs, outputs)
