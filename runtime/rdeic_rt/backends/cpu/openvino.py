"""OpenVINO on the CPU: faster than ONNX Runtime where the CPU computes in bfloat16, or the graphs are 8 bit.

Buffers are numpy arrays. Graphs are compiled once, with dynamic shapes: compiled for one size alone, the graphs of the
embedded bundle save a tenth of a decode, and cost 0.8 s and their weights once more for every size. Every run has an
inference request of its own (0.03 ms), so that threads do not share one and results belong to their holder.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ... import address_space, graph_file, onnx_walk, stopping, telemetry
from ...errors import BackendError, BackendUnavailableError, BundleCorruptError, DeviceMemoryError
from ...manifest import GraphSpec
from ..base import Buffer, Options
from .host import HostArrays, check_tensors

with telemetry.without_openvinos():
    import openvino
    from openvino import Core
    from openvino.frontend import (
        FrontEndManager,
        GeneralFailure,
        InitializationFailure,
        NotImplementedFailure,
        OpConversionFailure,
        OpValidationFailure,
    )

_DEVICE = "CPU"
_VERSION = openvino.__version__.partition("-")[0]
# The location of weights that lie at an address of this process, which is their offset (of OpenVINO and ONNX Runtime).
_IN_MEMORY = "*/_ORT_MEM_ADDR_/*"
_TYPES = {"u8": "uint8", "i64": "int64", "f32": "float32", "f16": "float16"}
# Where the CPU has it, of the precisions that allow it; weights and sums stay float32 otherwise.
_BF16, _F32 = "bf16", "f32"
_ALLOW_BF16 = ("auto", "int8")


class OpenVinoBackend(HostArrays):
    """The ``openvino`` backend; made by `open_backend`.

    Attributes:
        name: ``openvino``.
        threads: threads of one graph run; None for one per physical core.
        arithmetic: ``bf16`` or ``f32``, what floating-point layers compute in.
    """

    name = "openvino"
    # Not the signed form int8: on CPUs without AMX, OpenVINO 2026.4 computes layers after a Concat incorrectly
    # (10 dB), and on those without VNNI its sums saturate. The form for CPUs has neither problem (docs/openvino.md).
    forms = frozenset({"fp32", "fp16", "int8-cpu"})

    def __init__(self, core: Core, arithmetic: str, threads: int | None) -> None:
        self.arithmetic = arithmetic
        self.threads = threads
        self._core = core
        self._config = {"INFERENCE_PRECISION_HINT": arithmetic, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            self._config["INFERENCE_NUM_THREADS"] = str(min(threads, os.cpu_count() or 1))

    def description(self) -> dict[str, str]:
        """Return the version of OpenVINO, the CPU, what it computes in and the number of threads."""
        return {
            "openvino": _VERSION,
            "device": str(self._core.get_property(_DEVICE, "FULL_DEVICE_NAME")),
            "arithmetic": self.arithmetic,
            "threads": str(self.threads or "one per physical core"),
        }

    def load(self, spec: GraphSpec) -> OpenVinoGraph:
        """Return the graph, compiled; errors as in `base.Backend.load`."""
        graph = graph_file.read(spec)
        # Given an address, OpenVINO reads weights from there; given a path, it would open the file once more.
        addresses = {name: (_IN_MEMORY, array.ctypes.data) for name, array in graph.weights.items()}
        onnx = onnx_walk.relocated(graph.onnx, addresses) if addresses else graph.onnx
        # Not Core.read_model, which would try every format that it knows on a file that is not ONNX.
        reader = FrontEndManager().load_by_framework("onnx")
        try:
            model = reader.convert(reader.load(io.BytesIO(onnx)))
        except (MemoryError, OpConversionFailure, NotImplementedFailure) as error:
            raise _cannot("load", spec, error) from None
        except (RuntimeError, GeneralFailure, InitializationFailure, OpValidationFailure) as error:
            if address_space.is_shortage(error):
                raise _cannot("load", spec, error) from None
            raise BundleCorruptError(f"{spec.path}: not a graph that OpenVINO can read: {_one_line(error)}") from None
        _check_io(spec, model)
        try:
            return OpenVinoGraph(spec, self._core.compile_model(model, _DEVICE, self._config), graph.weights)
        except (RuntimeError, MemoryError) as error:
            raise _cannot("compile", spec, error) from None


class OpenVinoGraph:
    """One graph as an OpenVINO compiled model."""

    def __init__(self, spec: GraphSpec, compiled: openvino.CompiledModel, weights: Mapping[str, NDArray[Any]]) -> None:
        self.spec = spec
        self._compiled = compiled
        self._weights = weights  # where the model may still read them

    def run(self, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Return the outputs by name; errors as in `base.Graph.run`."""
        request = self._compiled.create_infer_request()
        try:
            with stopping.watch(request.cancel):
                request.infer(dict(inputs), share_inputs=True)
        except (RuntimeError, MemoryError) as error:
            shapes = ", ".join(f"{name} {list(buffer.shape)}" for name, buffer in inputs.items())
            if address_space.is_shortage(error):
                raise DeviceMemoryError(
                    f"graph {self.spec.id!r} on {shapes}: OpenVINO found no memory ({_one_line(error)}). "
                    "Use smaller tiles (tile_px, --tile), or decode fewer images at a time."
                ) from None
            raise BackendError(f"OpenVINO {_VERSION}, graph {self.spec.id!r} on {shapes}: {_one_line(error)}") from None
        return {output.name: request.get_tensor(output.name).data for output in self.spec.outputs}


def open_backend(options: Options) -> OpenVinoBackend:
    """Return the backend; BackendUnavailableError if OpenVINO finds no CPU that it can use."""
    try:
        core = Core()
        has_bf16 = "BF16" in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    except RuntimeError as error:
        raise BackendUnavailableError(
            f"openvino: version {_VERSION} cannot use this CPU ({_one_line(error)}). Use backend 'cpu'."
        ) from None
    # Set in both cases, because OpenVINO uses bfloat16 by default if the CPU supports it.
    arithmetic = _BF16 if has_bf16 and options.precision in _ALLOW_BF16 else _F32
    return OpenVinoBackend(core, arithmetic, options.threads)


def _cannot(do: str, spec: GraphSpec, error: Exception) -> BackendError:
    kind = DeviceMemoryError if address_space.is_shortage(error) else BackendError
    return kind(f"OpenVINO {_VERSION} cannot {do} {spec.path}: {_one_line(error)}")


def _check_io(spec: GraphSpec, model: openvino.Model) -> None:
    """Check the file's inputs and outputs; a tensor may have several names, of which the promised one counts."""
    promised = {tensor.name for tensor in (*spec.inputs, *spec.outputs)}
    inputs, outputs = (
        {
            next(iter(port.get_names() & promised), port.get_any_name()): (
                _TYPES.get(port.get_element_type().get_type_name(), port.get_element_type().get_type_name()),
                port.get_partial_shape().rank.get_length(),
            )
            for port in ports
        }
        for ports in (model.inputs, model.outputs)
    )
    check_tensors(spec, inputs, outputs)


def _one_line(error: BaseException) -> str:
    """Return OpenVINO's message, without the lines that name its source files."""
    return " ".join(re.sub(r"Exception from \S+:\d+:", "", str(error)).split())
