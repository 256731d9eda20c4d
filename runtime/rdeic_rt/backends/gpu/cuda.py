"""Checked CUDA calls, the device, streams and events, over cuda-python.

Importing this module needs neither cuda-python nor a driver; the first call does.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

from ...errors import BackendError, DeviceMemoryError
from ..base import BackendAbsentError

_log = logging.getLogger("rdeic_rt.backends.gpu.cuda")


@lru_cache(maxsize=1)
def api() -> ModuleType:
    """Return the CUDA runtime of cuda-python.

    Raises:
        BackendAbsentError: it is not installed.
    """
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendAbsentError(
            f"cuda-python cannot be imported ({error}). Install it with `pip install 'cuda-python>=12.9'`."
        ) from None


def call(name: str, *arguments: Any) -> Any:
    """Return what a function of the CUDA runtime returns beside its error code: nothing, a value, or a tuple.

    Raises:
        DeviceMemoryError: there was no memory.
        BackendError: any other error; names the function and its code.
    """
    code, *values = getattr(api(), name)(*arguments)
    if code != api().cudaError_t.cudaSuccess:
        _, text = api().cudaGetErrorString(code)
        kind = DeviceMemoryError if code == api().cudaError_t.cudaErrorMemoryAllocation else BackendError
        raise kind(f"{name}: {code.name} ({int(code)}): {text.decode()}")
    return results(values)


def driver_call(name: str, *arguments: Any) -> Any:
    """Return what a function of the CUDA driver returns, as `call` does; it finds the device that is active.

    Raises:
        BackendError: any error; names the function and its code.
    """
    driver = import_module("cuda.bindings.driver")
    code, *values = getattr(driver, name)(*arguments)
    if code != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"{name}: {code.name} ({int(code)})")
    return results(values)


def results(values: Sequence[Any]) -> Any:
    """Return what a function of cuda-python returned beside its code: nothing, a value, or a tuple."""
    return None if not values else values[0] if len(values) == 1 else tuple(values)


@dataclass(frozen=True)
class Device:
    """The GPU that is used: the process's current one, which ``CUDA_VISIBLE_DEVICES`` chooses.

    Attributes:
        ordinal: CUDA's number of it.
        name: as the maker calls it.
        capability: compute capability, 89 for 8.9.
        total_bytes: its memory.
        driver, runtime: versions of CUDA that driver and cuda-python are for, such as ``13.0``.
    """

    ordinal: int
    name: str
    capability: int
    total_bytes: int
    driver: str
    runtime: str

    def description(self) -> dict[str, str]:
        """Return what `doctor`, benchmarks and the log show of it, by name."""
        return {
            "gpu": f"{self.name}, sm_{self.capability}, {self.total_bytes / 2**30:.1f} GiB",
            "cuda": f"{self.runtime}, driver for {self.driver}",
        }

    def free_bytes(self) -> int:
        """Return how much of its memory no process uses."""
        with self.active():
            free, _ = call("cudaMemGetInfo")
        return int(free)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the calling thread's device until the block ends."""
        before = call("cudaGetDevice")
        # Also where it is the current one: a thread that has only been asked for it has no context yet.
        call("cudaSetDevice", self.ordinal)
        try:
            yield
        finally:
            if before != self.ordinal:
                call("cudaSetDevice", before)


def device_facts() -> Device:
    """Return the current device.

    Raises:
        BackendAbsentError: no driver, no device, or no cuda-python.
    """
    try:
        if call("cudaGetDeviceCount") < 1:
            raise BackendError("cudaGetDeviceCount: there are 0 devices")
        ordinal = call("cudaGetDevice")
        facts = call("cudaGetDeviceProperties", ordinal)
    except BackendAbsentError:
        raise
    except BackendError as error:
        raise BackendAbsentError(f"no NVIDIA GPU can be used ({error}). `nvidia-smi` shows what there is.") from None
    return Device(
        ordinal=int(ordinal),
        name=facts.name.split(b"\0")[0].decode(),
        capability=10 * facts.major + facts.minor,
        total_bytes=int(facts.totalGlobalMem),
        driver=_version(call("cudaDriverGetVersion")),
        runtime=_version(call("cudaRuntimeGetVersion")),
    )


class Stream:
    """A CUDA stream, ours or the user's.

    Attributes:
        handle: as an integer.
    """

    def __init__(self, handle: int, *, owner: object | None = None, owned: bool = False) -> None:
        self.handle = handle
        self._owner = owner  # what the user's stream lives as long as
        if owned:
            release_with(self, "cudaStreamDestroy", handle)

    @classmethod
    def create(cls) -> Stream:
        """Return a new stream that does not wait for the default one."""
        return cls(int(call("cudaStreamCreateWithFlags", api().cudaStreamNonBlocking)), owned=True)

    @classmethod
    def wrap(cls, stream: object) -> Stream:
        """Return a user's stream: a handle, or an object as `base.Options.stream` describes; TypeError for another."""
        if isinstance(stream, int) and not isinstance(stream, bool):
            return cls(stream)
        if hasattr(stream, "__cuda_stream__"):
            protocol: Any = stream.__cuda_stream__
            version, handle = protocol() if callable(protocol) else protocol
            if version != 0:
                raise TypeError(f"stream {stream!r} follows version {version} of __cuda_stream__; 0 is known")
            return cls(int(handle), owner=stream)
        for name in ("cuda_stream", "ptr"):
            if isinstance(handle := getattr(stream, name, None), int):
                return cls(handle, owner=stream)
        raise TypeError(
            f"stream is {type(stream).__name__}; it must be a handle (int), or have __cuda_stream__, cuda_stream or ptr"
        )

    def synchronize(self) -> None:
        """Wait for what is queued on it."""
        call("cudaStreamSynchronize", self.handle)

    def wait_for(self, other: int) -> None:
        """Let what is queued from now on wait for what is queued on another stream, given by its handle."""
        if other != self.handle:
            event = Event()
            event.record(other)
            call("cudaStreamWaitEvent", self.handle, event.handle, 0)


class Event:
    """A point in a stream that the host, or another stream, can wait for."""

    def __init__(self) -> None:
        self.handle = call("cudaEventCreateWithFlags", api().cudaEventDisableTiming)
        release_with(self, "cudaEventDestroy", self.handle)

    def record(self, stream: int) -> None:
        """Mark the end of what is queued on a stream."""
        call("cudaEventRecord", self.handle, stream)

    def synchronize(self) -> None:
        """Wait until it is reached; other Python threads run meanwhile."""
        call("cudaEventSynchronize", self.handle)

    def reached(self) -> bool:
        """Return whether it is reached, or was never recorded."""
        code, *_ = api().cudaEventQuery(self.handle)
        return bool(code == api().cudaError_t.cudaSuccess)


def release_with(owner: object, name: str, handle: Any, *, after: Stream | Event | None = None) -> None:
    """Call a function of the CUDA runtime with a handle when its owner goes; at exit the driver cleans up.

    Args:
        owner: an object.
        name: of the function.
        handle: its only argument.
        after: what is waited for before.
    """
    weakref.finalize(owner, _release, name, handle, after).atexit = False


def settle(work: Stream | Event) -> None:
    """Wait for what is queued, before something goes that it uses; errors are for the next call to report."""
    with suppress(BackendError):
        work.synchronize()


def _release(name: str, handle: Any, after: Stream | Event | None) -> None:
    if after is not None:
        settle(after)
    try:
        call(name, handle)
    except BackendError as error:  # nobody is there to hear it
        _log.warning("not released: %s", str(error))


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
