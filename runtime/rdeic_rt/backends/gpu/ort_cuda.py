"""ONNX Runtime's CUDA provider: the ``cuda`` backend, for GPUs without TensorRT plans.

Inputs are bound by address, outputs stay where ONNX Runtime puts them, and all of it runs on the workspace's stream.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from ...errors import BackendError, BackendUnavailableError, DeviceMemoryError
from ...manifest import GraphSpec
from ..base import WEIGHTED_SUM, BackendAbsentError, Buffer, Options
from ..cpu.ort import FAILED, Weights, open_session
from .buffers import DeviceBuffer
from .cuda import call
from .device import DeviceBackend, Workspace, device_buffer
from .memory import LOWER, Block

_PROVIDER, _DEVICE_TYPE = "CUDAExecutionProvider", "cuda"


class OrtCudaBackend(DeviceBackend):
    """The ``cuda`` backend; nothing is recorded, since ONNX Runtime decides anew in each run where results lie."""

    name = "cuda"
    forms = frozenset({"fp16", "fp32"})

    def __init__(self, workspace: Workspace, threads: int | None) -> None:
        super().__init__(workspace)
        self._threads = threads

    @classmethod
    def open(cls, options: Options) -> OrtCudaBackend:
        """Return the backend on the current device.

        Raises:
            BackendUnavailableError: no driver, an onnxruntime without the provider, one that cannot load it, or INT8.
        """
        if _PROVIDER not in ort.get_available_providers():
            raise BackendAbsentError(
                f"cuda: onnxruntime {ort.__version__} has no {_PROVIDER}. "
                "Install it with `pip uninstall onnxruntime && pip install 'rdeic-rt[cuda]'`."
            )
        if options.precision == "int8":
            raise BackendUnavailableError(
                f"cuda: {_PROVIDER} has no INT8 kernels for these graphs. Use backend tensorrt, or precision fp16."
            )
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA libraries that pip installed are found only so
        try:
            backend = cls(Workspace.open(options), options.threads)
        except BackendUnavailableError as error:
            raise type(error)(f"cuda: {error}") from None
        running = backend.load(WEIGHTED_SUM).providers
        if _PROVIDER not in running:
            raise BackendUnavailableError(
                f"cuda: onnxruntime {ort.__version__} cannot load its {_PROVIDER} and would use {running[0]}. CUDA and "
                "cuDNN must be of the versions it was built with: `python -c 'import onnxruntime as o; "
                "o.print_debug_info()'` shows them."
            )
        return backend

    def description(self) -> dict[str, str]:
        """Return the versions of ONNX Runtime, driver and CUDA, and the device."""
        return {"onnxruntime": ort.__version__, **self.workspace.device.description()}

    def load(self, spec: GraphSpec) -> OrtCudaGraph:
        """Return a session for the graph; errors as in `base.Backend.load`."""
        workspace = self.workspace
        settings: dict[str, str] = {
            "device_id": str(workspace.device.ordinal),
            "user_compute_stream": str(workspace.stream.handle),
            # Of two ways to grow, the one that keeps no more than was asked for.
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        if workspace.memory.limit is not None:
            settings["gpu_mem_limit"] = str(workspace.memory.limit)
        with workspace.entered():
            session, weights = open_session(spec, self._threads, [(_PROVIDER, settings), "CPUExecutionProvider"])
        return OrtCudaGraph(spec, session, weights, workspace)


class OrtCudaGraph:
    """One graph as an ONNX Runtime session on the GPU."""

    def __init__(self, spec: GraphSpec, session: ort.InferenceSession, weights: Weights, workspace: Workspace) -> None:
        self.spec = spec
        self._weights = weights
        self.providers: list[str] = session.get_providers()
        self._session = session
        self._workspace = workspace
        self._run_options = ort.RunOptions()
        # The stream orders everything; the host waits when it fetches a result.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Return the outputs by name; errors as in `base.Graph.run`."""
        workspace, ordinal = self._workspace, self._workspace.device.ordinal
        binding = self._session.io_binding()
        try:
            with workspace.entered():
                for name, buffer in inputs.items():
                    given = device_buffer(buffer)
                    binding.bind_input(
                        name, _DEVICE_TYPE, ordinal, given.dtype.type, given.shape, workspace.address(given)
                    )
                for output in self.spec.outputs:
                    binding.bind_output(output.name, _DEVICE_TYPE, ordinal)
                self._session.run_with_iobinding(binding, self._run_options)
                values = binding.get_outputs()
        except FAILED as error:
            text = str(error)
            if "Failed to allocate memory" in text or "out of memory" in text:
                shapes = ", ".join(f"{name} {list(buffer.shape)}" for name, buffer in inputs.items())
                raise DeviceMemoryError(
                    f"graph {self.spec.id!r} on {shapes}: ONNX Runtime found no memory ({text}), "
                    f"{workspace.device.free_bytes()} of {workspace.device.total_bytes} bytes are free. {LOWER}"
                ) from None
            raise BackendError(f"ONNX Runtime {ort.__version__}, graph {self.spec.id!r}: {text}") from None
        return {
            output.name: DeviceBuffer(_OrtBlock(value, workspace), tuple(value.shape()), np.dtype(output.dtype))
            for output, value in zip(self.spec.outputs, values, strict=True)
        }


class _OrtBlock(Block):
    """Memory of ONNX Runtime's, which gets it back when the last reference to it goes."""

    __slots__ = ("_value",)

    def __init__(self, value: Any, workspace: Workspace) -> None:
        super().__init__(value.data_ptr(), workspace.memory)
        self._value = value
        weakref.finalize(self, _wait_for, self.users).atexit = False


def _wait_for(users: set[int]) -> None:
    if users:
        call("cudaDeviceSynchronize")
