"""ONNX Runtime's CUDA provider: the ``cuda`` backend, for GPUs without TensorRT plans.

Inputs and outputs are bound by address in the workspace's memory, and stay bound from run to run where the address is
the same; all of it runs on the workspace's stream. A run waits until its work is done. Told not to, ONNX Runtime 1.31
keeps page-locked memory of every run until the session goes, and then ends the process, as it gives it back from a
callback in which CUDA may not be called.

ONNX Runtime's own recording of CUDA graphs (enable_cuda_graph) is not used. It records in CUDA's global mode: a call of
another thread that allocates, such as that of the entropy decoder beside it or of the program around it, would end the
recording, and the run with it. What is recorded belongs to the thread that did it. And it is replayed on the same
addresses, so that a buffer that was handed out would be overwritten by a later run (`base`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from weakref import WeakSet

from ...bundle_file import BundleFile
from ...errors import BackendError, BackendUnavailableError, DeviceMemoryError
from ...manifest import GraphSpec
from ...onnx_runtime import FAILED, ort
from ..base import WEIGHTED_SUM, BackendAbsentError, Buffer, Options
from ..cpu.ort import Weights, open_session
from .buffers import DeviceBuffer
from .cuda import device_facts
from .device import DeviceBackend, device_buffer
from .memory import LEGACY_STREAM, LOWER
from .workspace import Workspace

_PROVIDER, _DEVICE_TYPE = "CUDAExecutionProvider", "cuda"
# How many sizes have a session of a graph's at a time, and how many are remembered.
_MAX_SESSIONS = 8
_MAX_SEEN = 256
_ARENA = "gpu"  # what ONNX Runtime calls the device in one place
_ERROR = 3  # of ONNX Runtime's severities
# Both distributions install the module `onnxruntime`; which of them comes last is up to pip.
_REINSTALL = "pip install --force-reinstall --no-deps onnxruntime-gpu"
_INSTALL = f"pip install 'rdeic-rt[cuda]' && {_REINSTALL}"
_LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]'"

_Shapes = tuple[tuple[str, tuple[int, ...]], ...]

_log = logging.getLogger("rdeic_rt.backends.gpu.ort_cuda")


class OrtCudaBackend(DeviceBackend):
    """The ``cuda`` backend; nothing is recorded, since ONNX Runtime decides anew in each run where results lie."""

    name = "cuda"
    forms = frozenset({"fp16-cuda", "fp16", "fp32"})

    def __init__(
        self, workspace: Workspace, threads: int | None, *, tf32: bool, loaded: WeakSet[OrtCudaGraph] | None = None
    ) -> None:
        super().__init__(workspace)
        self._threads = threads
        self._tf32 = tf32
        self._loaded: WeakSet[OrtCudaGraph] = WeakSet() if loaded is None else loaded
        self._free_at_first = workspace.device.free_bytes()

    @classmethod
    def open(cls, options: Options) -> OrtCudaBackend:
        """Return the backend on the current device.

        Raises:
            BackendUnavailableError: no driver, an onnxruntime without the provider, one that cannot load it, or INT8.
        """
        if _PROVIDER not in ort.get_available_providers():
            raise BackendAbsentError(f"cuda: {_without_provider()}")
        if options.precision == "int8":
            raise BackendUnavailableError(
                f"cuda: {_PROVIDER} has no INT8 kernels for these graphs. Use backend tensorrt, or precision fp16."
            )
        try:
            device_facts()  # before any library of CUDA is loaded
            said = _preload()
            backend = cls(Workspace.open(options), options.threads, tf32=options.precision != "fp32")
        except BackendUnavailableError as error:
            raise type(error)(f"cuda: {error}") from None
        running = backend.load(WEIGHTED_SUM).providers
        if _PROVIDER not in running:
            missing = next((f" ({line})" for line in said.splitlines() if line.startswith("Failed to load")), "")
            raise BackendUnavailableError(
                f"cuda: onnxruntime {_version()} cannot load its {_PROVIDER}{missing} and would use {running[0]}. "
                f"Install the libraries of CUDA and cuDNN that it was built with: `{_LIBRARIES}`; `python -c 'import "
                "onnxruntime as o; o.print_debug_info()'` shows which these are and what is found."
            )
        return backend

    def exact(self) -> OrtCudaBackend:
        """Return this backend with all of float32's 24 bits in its products, which is what encodes."""
        return OrtCudaBackend(self.workspace, self._threads, tf32=False, loaded=self._loaded)

    def description(self) -> dict[str, str]:
        """Return the versions of ONNX Runtime, driver and CUDA, and the device."""
        return {"onnxruntime": _version(), **self.device_description()}

    def load(self, spec: GraphSpec) -> OrtCudaGraph:
        """Return a session for the graph; errors as in `base.Backend.load`."""
        workspace = self.workspace
        settings: dict[str, str] = {
            "device_id": str(workspace.device.ordinal),
            # 0 would mean that the session is to make a stream of its own; the default one has another name too.
            "user_compute_stream": str(workspace.stream.handle or LEGACY_STREAM),
            # Products of 11 bits where float32 was not asked for; ONNX Runtime's own default.
            "use_tf32": str(int(self._tf32)),
            # Of two ways to grow, the one that keeps no more than was asked for.
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        memory, size_bytes = workspace.memory, _weights_bytes(spec)
        if memory.limit is not None:
            memory.check(size_bytes)
            # The bound is of one session, and what the others hold between their runs is their weights.
            settings["gpu_mem_limit"] = str(memory.limit - memory.in_use)

        def make() -> _Session:
            # Threads of the CPU have nothing to do here.
            threads, providers = self._threads or 1, [(_PROVIDER, settings), "CPUExecutionProvider"]
            return _Session(*open_session(spec, threads, providers), workspace.device.ordinal)

        with workspace.entered():
            return OrtCudaGraph(spec, make, workspace, size_bytes, self._loaded)

    def trim(self) -> None:
        """Give back to the device what is kept for work to come, and the sessions that sizes have of their own."""
        with self.workspace.entered():
            for graph in self._loaded:
                graph.keep_one_session()
            super().trim()

    def peak_bytes(self) -> int:
        """Return the most device memory that was in use at a time, as far as ONNX Runtime has kept it.

        It does not say what it has. What other processes take or leave meanwhile counts too.
        """
        return max(super().peak_bytes(), self._free_at_first - self.workspace.device.free_bytes())


class OrtCudaGraph:
    """One graph on the GPU, as ONNX Runtime sessions.

    A session plans each convolution anew when the size changes, and keeps the plans of one size (docs/gpu.md has what
    that costs). So a size that comes again after another one gets a session of its own, while half of the device's
    memory is free, as each has a copy of the weights and keeps what it computed in. All but one go where memory is
    short.

    Attributes:
        spec: names, types and shapes.
        providers: what its session runs on, in order of preference.
    """

    def __init__(
        self,
        spec: GraphSpec,
        make: Callable[[], _Session],
        workspace: Workspace,
        size_bytes: int,
        loaded: WeakSet[OrtCudaGraph],
    ) -> None:
        self.spec = spec
        held, elsewhere = object(), workspace.memory.elsewhere
        self._make, self._first = make, make()
        elsewhere[held] = size_bytes
        weakref.finalize(self, elsewhere.pop, held, None).atexit = False
        self.providers: list[str] = self._first.providers
        self._sessions: OrderedDict[_Shapes, _Session] = OrderedDict()
        self._seen: OrderedDict[_Shapes, None] = OrderedDict()
        self._loaded = loaded
        loaded.add(self)
        self._workspace = workspace
        self._run_options = ort.RunOptions()
        if workspace.memory.limit is not None:  # what one session keeps for its next run, the others lack in theirs
            shrunk = f"{_ARENA}:{workspace.device.ordinal}"
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrunk)

    def run(self, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Return the outputs by name; errors as in `base.Graph.run`."""
        with self._workspace.entered():
            try:
                return self._run(inputs)
            except DeviceMemoryError:
                if not any([graph.keep_one_session() for graph in self._loaded]):
                    raise
            return self._run(inputs)

    def keep_one_session(self) -> bool:
        """Drop the sessions that sizes have of their own; return whether there were any."""
        had = len(self._sessions) > 1
        self._sessions.clear()
        return had

    def _run(self, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        workspace = self._workspace
        given = {name: device_buffer(buffer) for name, buffer in inputs.items()}
        sizes: dict[str, int] = {}
        for tensor in self.spec.inputs:
            sizes |= tensor.sizes_in(given[tensor.name].shape)
        try:
            session = self._session(tuple((name, given[name].shape) for name in sorted(given)))
            outputs = {
                output.name: workspace.empty(output.resolve(sizes), output.dtype) for output in self.spec.outputs
            }
            session.run(given, outputs, self._run_options)
        except FAILED as error:
            text = str(error)
            if "Failed to allocate memory" in text or "out of memory" in text:
                shapes = ", ".join(f"{name} {list(buffer.shape)}" for name, buffer in inputs.items())
                raise DeviceMemoryError(
                    f"graph {self.spec.id!r} on {shapes}: ONNX Runtime found no memory ({text}), "
                    f"{workspace.device.free_bytes()} of {workspace.device.total_bytes} bytes are free. {LOWER}"
                ) from None
            raise BackendError(f"ONNX Runtime {ort.__version__}, graph {self.spec.id!r}: {text}") from None
        return dict(outputs)

    def _session(self, shapes: _Shapes) -> _Session:
        """Return the session that last ran with these shapes, a new one, or the one unused for longest."""
        if shapes in self._sessions:
            self._sessions.move_to_end(shapes)
            return self._sessions[shapes]
        has_come = shapes in self._seen
        self._seen[shapes] = None
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        session = self._first if not self._sessions else self._another() if has_come else None
        if session is None:
            _, session = self._sessions.popitem(last=False)
        self._sessions[shapes] = session
        return session

    def _another(self) -> _Session | None:
        """Return a new session, or None where there is no room for one."""
        memory, device = self._workspace.memory, self._workspace.device
        if memory.limit is not None or len(self._sessions) >= _MAX_SESSIONS:
            return None
        if device.free_bytes() < device.total_bytes // 2:
            return None
        try:
            return self._make()
        except BackendError as error:
            _log.info("graph %r: no further session (%s)", self.spec.id, str(error))
            return None


class _Session:
    """A session of ONNX Runtime's with what is bound to it."""

    def __init__(self, session: ort.InferenceSession, weights: Weights, ordinal: int) -> None:
        self._binding = session.io_binding()
        self._bound: dict[str, tuple[Any, ...]] = {}
        self._session, self._weights, self._ordinal = session, weights, ordinal
        self.providers: list[str] = session.get_providers()

    def run(self, inputs: Mapping[str, DeviceBuffer], outputs: Mapping[str, DeviceBuffer], options: Any) -> None:
        """Compute outputs from inputs, and wait for them; what the session raises is passed on."""
        for bind, buffers in ((self._binding.bind_input, inputs), (self._binding.bind_output, outputs)):
            for name, buffer in buffers.items():
                place = buffer.dtype.type, buffer.shape, buffer.address
                if self._bound.get(name) != place:
                    bind(name, _DEVICE_TYPE, self._ordinal, *place)
                    self._bound[name] = place
        self._session.run_with_iobinding(self._binding, options)


def _weights_bytes(spec: GraphSpec) -> int:
    """Return what a graph's files take; little else is in them but weights."""
    files = (spec.file, spec.weights_at(f"{spec.path.name}.data"))
    return sum(file.size_bytes for file in files if isinstance(file, BundleFile))


def _preload() -> str:
    """Load the libraries of CUDA that pip installed, which are found only so; return what ONNX Runtime prints of it."""
    # It would tell on standard error, once for each session, that a device is also not found in another way.
    ort.set_default_logger_severity(_ERROR)
    if not hasattr(ort, "preload_dlls"):
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # standard output is for the image
        ort.preload_dlls()
    for line in printed.getvalue().splitlines():
        _log.info("onnxruntime: %s", line)
    return printed.getvalue()


def _without_provider() -> str:
    """Return what is installed instead of an ONNX Runtime with the provider, and what to do about it."""
    found = {name: _distribution(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    if all(found.values()):
        both = " and ".join(f"{name} {number}" for name, number in found.items())
        return (
            f"{both} are both installed, and what is there are the files of the first, which has no {_PROVIDER}. "
            f"Put the second in its place with `{_REINSTALL}`."
        )
    return f"onnxruntime {_version()} has no {_PROVIDER}. Install one that has it with `{_INSTALL}`."


def _distribution(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _version() -> str:
    # One of two distributions uninstalled leaves a module with nothing in it.
    return str(getattr(ort, "__version__", "without a version"))
