"""A CUDA runtime in host memory, strict where the real one is undefined, for tests without a GPU.

Work is queued and runs only when something waits for it, so that a missing wait, and staging memory or device memory
that is reused too early show. Memory is filled with garbage when taken and when freed; whoever touches memory that is
not there fails the test. Recorded work runs when its graph is launched.

The garbage collector runs in the middle of every recording, as it may, unless it is switched off. A thread that has not
set its device, or been given it by a call that makes a context, has none. After an illegal address every call fails.

What this cannot show: that the real functions take these arguments in this way (test_cuda.py asks cuda-python itself),
anything about time, and anything that runs at once on a GPU: here a device runs one stream at a time.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import threading
from collections import Counter, deque
from collections.abc import Callable
from enum import IntEnum
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], None]


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class _Queue:
    def __init__(self, device: int | None = None) -> None:
        self.device = device  # None: a default stream, which is that of the current device
        self.waiting: deque[Work] = deque()
        self.recorded: list[Work] | None = None
        self.is_invalid = False
        self.recorder = 0


class _Event:
    def __init__(self, device: int) -> None:
        self.device = device
        self.queue: _Queue | None = None
        self.pending = 0


class _Piece:
    """One allocation; `array` is aligned to 256 bytes."""

    def __init__(self, size: int, garbage: int) -> None:
        self.whole = np.full(size + 256, garbage, np.uint8)
        start = -self.whole.ctypes.data % 256
        self.array = self.whole[start : start + size]
        self.address = self.array.ctypes.data


def _api(function: Callable[..., Any]) -> Callable[..., Any]:
    """Count the calls, inject errors, and take the place of the whole process by a lock."""

    @functools.wraps(function)
    def wrapper(self: FakeCuda, *arguments: Any) -> Any:
        with self.lock:
            name = function.__name__
            self.calls[name] += 1
            if name not in self._WITHOUT_CONTEXT:
                self._current.has_context = True
            if self.is_lost and name not in ("cudaGetErrorString", "cudaGetDevice"):
                return (Error.cudaErrorIllegalAddress, *[None] * 3)[: 1 + self._RESULTS.get(name, 0)]
            failure = self.failures.get((name, self.calls[name]))
            self.is_lost |= failure == Error.cudaErrorIllegalAddress
            if failure is not None:
                if name == "cudaStreamEndCapture":
                    self.streams[int(arguments[0])].recorded = None
                return (failure, *[None] * 3)[: 1 + self._RESULTS.get(name, 0)]
            if name not in self._ALLOWED_WHILE_RECORDING and self._recording_here() is not None:
                self._recording_here().is_invalid = True  # type: ignore[union-attr]
                return (Error.cudaErrorStreamCaptureUnsupported, *[None] * 3)[: 1 + self._RESULTS.get(name, 0)]
            return function(self, *arguments)

    return wrapper


class FakeCuda:
    """Stands for the module ``cuda.bindings.runtime``, as far as it is used.

    Attributes:
        failures: (function, number of the call) -> error that this call returns.
        calls: how often each function was called.
        waits: how often the host had to wait.
        total_bytes: memory of the device.
        n_devices: how many devices there are. Each thread has a current one, 0 at first; streams, events and pools
            belong to the one that was current when they were made, or that they were made for.
        is_lost: whether a kernel has touched an address that is none, after which nothing works in this process.
        is_shared: whether another library works on this memory: then nothing is put off, and any address is taken.
        device, host, streams, events, pools, graphs, modules: what is there, for finding leaks.
    """

    cudaError_t = Error
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaMemAllocationType = SimpleNamespace(cudaMemAllocationTypePinned=1)
    cudaMemLocationType = SimpleNamespace(cudaMemLocationTypeDevice=1)
    cudaMemPoolAttr = SimpleNamespace(cudaMemPoolAttrReleaseThreshold=4)
    cuuint64_t = int

    # What a function returns beside its error.
    _RESULTS = {
        "cudaGetDeviceCount": 1,
        "cudaGetDevice": 1,
        "cudaGetDeviceProperties": 1,
        "cudaDriverGetVersion": 1,
        "cudaRuntimeGetVersion": 1,
        "cudaMemGetInfo": 2,
        "cudaStreamCreateWithFlags": 1,
        "cudaStreamEndCapture": 1,
        "cudaGraphInstantiate": 1,
        "cudaEventCreateWithFlags": 1,
        "cudaMemPoolCreate": 1,
        "cudaMallocFromPoolAsync": 1,
        "cudaHostAlloc": 1,
        "cudaGetErrorString": 1,
    }
    _ALLOWED_WHILE_RECORDING = {
        "cudaGetDevice",
        "cudaSetDevice",
        "cudaMemcpyAsync",
        "cudaMemsetAsync",
        "cudaStreamEndCapture",
        "cudaGetErrorString",
    }

    _WITHOUT_CONTEXT = {
        "cudaGetErrorString",
        "cudaGetDeviceCount",
        "cudaGetDevice",
        "cudaGetDeviceProperties",
        "cudaDriverGetVersion",
        "cudaRuntimeGetVersion",
    }

    def __init__(self, *, total_bytes: int = 2**30, capability: tuple[int, int] = (8, 9)) -> None:
        self.lock = threading.RLock()
        self.failures: dict[tuple[str, int], Error] = {}
        self.calls: Counter[str] = Counter()
        self.waits = 0
        self.total_bytes = total_bytes
        self.capability = capability
        self.is_shared = False
        self.is_lost = False
        self.n_devices = 1
        self._current = threading.local()
        self.device: dict[int, _Piece] = {}
        self.host: dict[int, _Piece] = {}
        self.streams: dict[int, _Queue] = {0: _Queue(), 1: _Queue(), 2: _Queue()}
        self.events: dict[int, _Event] = {}
        self.pools: dict[int, int] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.modules: set[int] = set()
        self._handles = count(1000)

    @property
    def used_bytes(self) -> int:
        """Device memory in use, once everything queued is done."""
        self.drain()
        return sum(piece.array.size for piece in self.device.values())

    def leaks(self) -> dict[str, int]:
        """Return how many of each kind of thing are there, once everything queued is done."""
        self.drain()
        there = {
            "device": len(self.device),
            "host": len(self.host),
            "streams": len(self.streams) - 3,
            "events": len(self.events),
            "pools": len(self.pools),
            "graphs": len(self.graphs),
            "modules": len(self.modules),
        }
        return {name: number for name, number in there.items() if number}

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """Return memory of the device, or page-locked memory, at an address; a test fails if it is not there."""
        for pieces in (self.device, self.host):
            for start, piece in pieces.items():
                if start <= address and address + size <= start + piece.array.size:
                    return piece.array[address - start : address - start + size]
        if self.is_shared:
            return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        raise AssertionError(f"{size} bytes at {address:#x} are no memory of the device, nor page-locked")

    def submit(self, stream: int, work: Work) -> None:
        """Queue work on a stream, or add it to what is recorded of it."""
        queue = self.streams[int(stream)]
        (queue.waiting if queue.recorded is None else queue.recorded).append(work)
        if self.is_shared:
            self._run(queue)

    def is_recording(self, stream: int) -> bool:
        """Return whether a stream is being recorded."""
        return self.streams[int(stream)].recorded is not None

    def drain(self) -> None:
        """Run everything that is queued."""
        with self.lock:
            for queue in list(self.streams.values()):
                self._run(queue)

    def _run(self, queue: _Queue, until: Callable[[], bool] = lambda: False) -> None:
        while queue.waiting and not until():
            queue.waiting.popleft()()

    def _recording_here(self) -> _Queue | None:
        here = threading.get_ident()
        return next((q for q in self.streams.values() if q.recorded is not None and q.recorder == here), None)

    # --- device

    @_api
    def cudaGetErrorString(self, error: Error) -> Any:
        return Error.cudaSuccess, f"text of {error.name}".encode()

    @property
    def current(self) -> int:
        """The current device of the calling thread."""
        return getattr(self._current, "device", 0)

    @property
    def has_context(self) -> bool:
        """Whether the calling thread has called anything that makes a context current."""
        return getattr(self._current, "has_context", False)

    def _is_elsewhere(self, stream: int, device: int) -> bool:
        """Return whether a stream is of another device than this one."""
        of_stream = self.streams[int(stream)].device
        return (self.current if of_stream is None else of_stream) != device

    @_api
    def cudaGetDeviceCount(self) -> Any:
        return Error.cudaSuccess, self.n_devices

    @_api
    def cudaGetDevice(self) -> Any:
        return Error.cudaSuccess, self.current

    @_api
    def cudaSetDevice(self, ordinal: int) -> Any:
        if not 0 <= ordinal < self.n_devices:
            return (Error.cudaErrorInvalidDevice,)
        self._current.device = ordinal
        return (Error.cudaSuccess,)

    @_api
    def cudaGetDeviceProperties(self, ordinal: int) -> Any:
        major, minor = self.capability
        name = b"Fake GPU" + bytes(248)
        return Error.cudaSuccess, SimpleNamespace(name=name, major=major, minor=minor, totalGlobalMem=self.total_bytes)

    @_api
    def cudaDriverGetVersion(self) -> Any:
        return Error.cudaSuccess, 13000

    @_api
    def cudaRuntimeGetVersion(self) -> Any:
        return Error.cudaSuccess, 12080

    @_api
    def cudaMemGetInfo(self) -> Any:
        used = sum(piece.array.size for piece in self.device.values())
        return Error.cudaSuccess, self.total_bytes - used, self.total_bytes

    @_api
    def cudaDeviceSynchronize(self) -> Any:
        self.waits += any(queue.waiting for queue in self.streams.values())
        self.drain()
        return (Error.cudaSuccess,)

    # --- streams and events

    @_api
    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        handle = next(self._handles)
        self.streams[handle] = _Queue(self.current)
        return Error.cudaSuccess, handle

    @_api
    def cudaStreamDestroy(self, stream: int) -> Any:
        self._run(self.streams.pop(int(stream)))
        return (Error.cudaSuccess,)

    @_api
    def cudaStreamSynchronize(self, stream: int) -> Any:
        self.waits += bool(self.streams[int(stream)].waiting)
        self._run(self.streams[int(stream)])
        return (Error.cudaSuccess,)

    @_api
    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        there = self.events[event]

        def wait() -> None:
            if there.queue is not None:
                self._run(there.queue, lambda: there.pending == 0)

        self.submit(stream, wait)
        return (Error.cudaSuccess,)

    @_api
    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        handle = next(self._handles)
        self.events[handle] = _Event(self.current)
        return Error.cudaSuccess, handle

    @_api
    def cudaEventRecord(self, event: int, stream: int) -> Any:
        there = self.events[event]
        if self._is_elsewhere(stream, there.device):
            return (Error.cudaErrorInvalidResourceHandle,)
        there.queue = self.streams[int(stream)]
        there.pending += 1

        def reach() -> None:
            there.pending -= 1

        self.submit(stream, reach)
        return (Error.cudaSuccess,)

    @_api
    def cudaEventSynchronize(self, event: int) -> Any:
        there = self.events[event]
        self.waits += there.pending > 0
        if there.queue is not None:
            self._run(there.queue, lambda: there.pending == 0)
        return (Error.cudaSuccess,)

    @_api
    def cudaEventQuery(self, event: int) -> Any:
        return (Error.cudaErrorNotReady if self.events[event].pending else Error.cudaSuccess,)

    @_api
    def cudaEventDestroy(self, event: int) -> Any:
        del self.events[event]
        return (Error.cudaSuccess,)

    # --- memory

    def cudaMemPoolProps(self) -> Any:
        return SimpleNamespace(allocType=None, location=SimpleNamespace(type=None, id=None))

    @_api
    def cudaMemPoolCreate(self, properties: Any) -> Any:
        assert properties.allocType == 1
        assert properties.location.type == 1
        handle = next(self._handles)
        self.pools[handle] = properties.location.id
        return Error.cudaSuccess, handle

    @_api
    def cudaMemPoolSetAttribute(self, pool: int, attribute: int, value: int) -> Any:
        assert pool in self.pools
        return (Error.cudaSuccess,)

    @_api
    def cudaMemPoolDestroy(self, pool: int) -> Any:
        del self.pools[pool]
        return (Error.cudaSuccess,)

    @_api
    def cudaMemPoolTrimTo(self, pool: int, size: int) -> Any:
        assert pool in self.pools
        return (Error.cudaSuccess,)

    @_api
    def cudaMallocFromPoolAsync(self, size: int, pool: int, stream: int) -> Any:
        assert not self._is_elsewhere(stream, self.pools[pool])
        assert size > 0
        used = sum(piece.array.size for piece in self.device.values())
        if used + size > self.total_bytes:
            self._run(self.streams[int(stream)])  # what is to be freed on it counts as free
            used = sum(piece.array.size for piece in self.device.values())
        if used + size > self.total_bytes:
            return Error.cudaErrorMemoryAllocation, None
        piece = _Piece(size, garbage=0xA5)
        self.device[piece.address] = piece
        return Error.cudaSuccess, piece.address

    @_api
    def cudaFreeAsync(self, address: int, stream: int) -> Any:
        assert address in self.device, "freed twice, or never taken"

        def free() -> None:
            self.device.pop(address).array[:] = 0x5A

        self.submit(stream, free)
        return (Error.cudaSuccess,)

    @_api
    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        piece = _Piece(size, garbage=0xA5)
        self.host[piece.address] = piece
        return Error.cudaSuccess, piece.address

    @_api
    def cudaFreeHost(self, address: int) -> Any:
        self.drain()  # as the real one does
        self.host.pop(address).array[:] = 0x5A
        return (Error.cudaSuccess,)

    @_api
    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> Any:
        self.view(target, size), self.view(source, size)

        def copy() -> None:
            self.view(target, size)[:] = self.view(source, size)

        self.submit(stream, copy)
        return (Error.cudaSuccess,)

    @_api
    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> Any:
        def fill() -> None:
            self.view(address, size)[:] = value

        self.submit(stream, fill)
        return (Error.cudaSuccess,)

    # --- graphs

    @_api
    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:
        if int(stream) in (0, 1):
            return (Error.cudaErrorStreamCaptureUnsupported,)
        queue = self.streams[int(stream)]
        queue.recorded, queue.is_invalid, queue.recorder = [], False, threading.get_ident()
        if gc.isenabled():
            gc.collect()
        return (Error.cudaSuccess,)

    @_api
    def cudaStreamEndCapture(self, stream: int) -> Any:
        queue = self.streams[int(stream)]
        recorded, queue.recorded = queue.recorded, None
        assert recorded is not None
        if queue.is_invalid:
            return Error.cudaErrorStreamCaptureInvalidated, None
        return Error.cudaSuccess, self._new_graph(recorded)

    @_api
    def cudaGraphInstantiate(self, graph: int, flags: int) -> Any:
        return Error.cudaSuccess, self._new_graph(self.graphs[graph])

    @_api
    def cudaGraphLaunch(self, graph: int, stream: int) -> Any:
        assert not self.is_recording(stream)
        for work in self.graphs[graph]:
            self.submit(stream, work)
        return (Error.cudaSuccess,)

    @_api
    def cudaGraphDestroy(self, graph: int) -> Any:
        del self.graphs[graph]
        return (Error.cudaSuccess,)

    @_api
    def cudaGraphExecDestroy(self, graph: int) -> Any:
        del self.graphs[graph]
        return (Error.cudaSuccess,)

    def _new_graph(self, work: list[Work]) -> int:
        handle = next(self._handles)
        self.graphs[handle] = work
        return handle
