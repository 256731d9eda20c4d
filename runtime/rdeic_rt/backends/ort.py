"""ONNX Runtime on the CPU: the reference for every other backend.

Buffers are numpy arrays. One `InferenceSession` a graph serves all threads: ONNX Runtime allows concurrent runs, and
releases the interpreter lock while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ..bundle import GraphSpec, TensorSpec
from ..errors import BackendError, BundleCorruptError, DeviceMemoryError
from .base import Buffer

_TYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32", "tensor(float16)": "float16"}
_NOT_A_MODEL = (ort_state.InvalidProtobuf, ort_state.InvalidGraph, ort_state.NoSuchFile, ort_state.NoModel)
_FAILED = (ort_state.Fail, ort_state.RuntimeException, ort_state.EPFail, ort_state.NotImplemented)


class OrtBackend:
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
            session = ort.InferenceSession(spec.path, _options(self.threads), providers=["CPUExecutionProvider"])
        except _NOT_A_MODEL as error:
            raise BundleCorruptError(f"{spec.path}: not a graph that ONNX Runtime can read: {error}") from None
        except _FAILED as error:
            raise BackendError(f"ONNX Runtime {ort.__version__} cannot load {spec.path}: {error}") from None
        _check_io(spec, session)
        return OrtGraph(spec, session)

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array itself, made C-contiguous."""
        return np.ascontiguousarray(array)

    def get(self, buffer: Buffer) -> NDArray[Any]:
        """Return the buffer itself, made C-contiguous."""
        return np.ascontiguousarray(_array(buffer))

    def stack(self, buffers: Sequence[Buffer]) -> NDArray[Any]:
        """Return the buffers joined along the batch axis."""
        return np.concatenate([_array(buffer) for buffer in buffers])

    def zeros_like(self, buffer: Buffer) -> NDArray[Any]:
        """Return zeros of the same type and shape."""
        return np.zeros_like(_array(buffer))

    def combine(self, x: Buffer, y: Buffer, weights: Buffer) -> NDArray[np.float32]:
        """Return weights[0] x + weights[1] y."""
        first, second = _array(weights)
        result: NDArray[np.float32] = first * _array(x) + second * _array(y)
        return result

    def split(self, buffer: Buffer) -> tuple[NDArray[Any], ...]:
        """Return the batch items, each [1, ...], as views."""
        array = _array(buffer)
        return tuple(array[item : item + 1] for item in range(len(array)))

    def execute(
        self, key: Hashable, function: Callable[[Mapping[str, Buffer]], Buffer], inputs: Mapping[str, NDArray[Any]]
    ) -> Buffer:
        """Return function(inputs); nothing is recorded."""
        return function({name: self.put(array) for name, array in inputs.items()})


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
        except _FAILED as error:
            if "Failed to allocate memory" in str(error):
                shapes = ", ".join(f"{name} {list(buffer.shape)}" for name, buffer in inputs.items())
                raise DeviceMemoryError(
                    f"graph {self.spec.id!r} on {shapes}: ONNX Runtime found no memory ({error}). "
                    "Decode a smaller image, or fewer at a time."
                ) from None
            raise BackendError(f"ONNX Runtime {ort.__version__}, graph {self.spec.id!r}: {error}") from None


def _options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # A pattern would be kept for every image size ever seen.
    options.enable_mem_pattern = False
    # Each session has threads of its own: those of one graph must not spin while another one computes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_io(spec: GraphSpec, session: ort.InferenceSession) -> None:
    for side, promised, there in (
        ("inputs", spec.inputs, session.get_inputs()),
        ("outputs", spec.outputs, session.get_outputs()),
    ):
        found = {node.name: (_TYPES.get(node.type, node.type), len(node.shape)) for node in there}
        wanted = {tensor.name: (tensor.dtype, len(tensor.shape)) for tensor in promised}
        if found != wanted:
            raise BundleCorruptError(
                f"{spec.path}: bundle.json gives graph {spec.id!r} the {side} {_listed(promised)}; the file has {found}"
            )


def _listed(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in tensors)


def _array(buffer: Buffer) -> NDArray[Any]:
    return cast("NDArray[Any]", buffer)
