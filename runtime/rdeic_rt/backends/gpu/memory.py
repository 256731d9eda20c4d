"""Device memory in stream order, and page-locked host memory that goes with it.

Taking and freeing device memory queues on one stream and waits for nothing: what was queued before still finds it. A
block is freed when the last reference to it goes.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError, DeviceMemoryError
from .cuda import Device, Event, Stream, api, call, release_with

# Handles that always exist: the default stream, which is also 0, and that of each thread.
LEGACY_STREAM, PER_THREAD_STREAM = 1, 2
# What TensorRT wants of addresses, and CUDA gives.
ALIGNMENT = 256

# Stands for the stream of a consumer that does not say which it uses.
UNKNOWN_STREAM = -1
LOWER = "Decode a smaller image, set max_vram (--max-vram) so that it is decoded in tiles, or take a lower precision."

_log = logging.getLogger("rdeic_rt.backends.gpu.memory")


class Memory:
    """Device memory in stream order, from a pool of its own, with a bound.

    Attributes:
        device, stream: where it is, and the stream in whose order it is taken and freed.
        limit: bytes that may be in use, or None.
        elsewhere: bytes that count, but come from elsewhere: the weights that a library keeps, by whatever name.
        peak: the most bytes that were in use when some were taken.
    """

    def __init__(self, device: Device, stream: Stream, limit: int | None, within: Memory | None = None) -> None:
        """Make it; ``within`` is other memory, whose bound then holds for both together."""
        self.device = device
        self.stream = stream
        self.limit = limit
        self.elsewhere: dict[object, int] = {}
        self.peak = 0
        self._in_use: dict[int, int] = {}
        self._holding = False
        self._late: deque[tuple[int, set[int]]] = deque()
        self._has_told = False
        self._within, self._key = within, object()
        if within is not None:
            weakref.finalize(self, within.elsewhere.pop, self._key, None).atexit = False
        properties = api().cudaMemPoolProps()
        properties.allocType = api().cudaMemAllocationType.cudaMemAllocationTypePinned
        properties.location.type = api().cudaMemLocationType.cudaMemLocationTypeDevice
        properties.location.id = device.ordinal
        self._pool = call("cudaMemPoolCreate", properties)
        release_with(self, "cudaMemPoolDestroy", self._pool)
        # What the pool keeps for reuse; by default it returns everything to the driver at each synchronisation.
        threshold = api().cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        call("cudaMemPoolSetAttribute", self._pool, threshold, _uint64(limit or 2**64 - 1))

    @property
    def in_use(self) -> int:
        """Bytes taken and not freed, with what is elsewhere."""
        return sum(list(self._in_use.values())) + sum(list(self.elsewhere.values()))

    def take(self, size_bytes: int) -> Block:
        """Return a block of at least one byte, aligned to `ALIGNMENT`.

        Raises:
            DeviceMemoryError: it would exceed the limit, or the device has no more.
        """
        self._free_late()
        self.check(size_bytes)
        try:
            address = int(call("cudaMallocFromPoolAsync", max(size_bytes, 1), self._pool, self.stream.handle))
        except DeviceMemoryError as error:
            raise DeviceMemoryError(
                f"{error}: {size_bytes} bytes wanted, {self.device.free_bytes()} free of {self.device.total_bytes} on "
                f"{self.device.name}, {self.in_use} in use here. {LOWER}"
            ) from None
        block = Block(address, self)
        self._in_use[address] = size_bytes
        self._count()
        weakref.finalize(block, self._release, address, block.users).atexit = False
        return block

    def check(self, size_bytes: int) -> None:
        """Raise DeviceMemoryError if so many more bytes would exceed the limit."""
        if self.limit is not None and self.in_use + size_bytes > self.limit:
            raise DeviceMemoryError(
                f"{size_bytes} bytes of GPU memory wanted with {self.in_use} in use, but max_vram allows {self.limit}. "
                f"Raise max_vram, or: {LOWER}"
            )
        if self._within is not None:
            self._within.check(size_bytes)

    def trim(self) -> None:
        """Give the device back what is not in use, once what was queued on the stream is done."""
        self._free_late()
        self.stream.synchronize()
        call("cudaMemPoolTrimTo", self._pool, 0)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Free nothing until the block ends: the thread that records one stream may not touch another."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            self._free_late()

    def _release(self, address: int, users: set[int]) -> None:
        self._late.append((address, users))
        if not self._holding:
            self._free_late()

    def _free_late(self) -> None:
        for _ in range(len(self._late)):  # what cannot be freed is put back, for the next time
            try:
                address, users = self._late.popleft()
            except IndexError:  # another thread was quicker
                return
            self._free(address, users)

    def _free(self, address: int, users: set[int]) -> None:
        try:
            with self.device.active():
                # What consumers have queued must be done before the memory is used again. Of their streams only the
                # default ones are sure to exist still.
                if users - {LEGACY_STREAM, PER_THREAD_STREAM}:
                    call("cudaDeviceSynchronize")
                for user in users & {LEGACY_STREAM, PER_THREAD_STREAM}:
                    self.stream.wait_for(user)
                call("cudaFreeAsync", address, self.stream.handle)
        except BackendError as error:  # nobody is there to hear it; another thread may be recording
            self._late.append((address, users))
            if not self._has_told:
                _log.warning("device memory could not be freed, which is tried again: %s", str(error))
            self._has_told = True
        else:
            self._in_use.pop(address, None)
            self._count()

    def _count(self) -> None:
        in_use = self.in_use
        self.peak = max(self.peak, in_use)
        if self._within is not None:
            self._within.elsewhere[self._key] = in_use
            self._within._count()


class Block:
    """A piece of device memory, freed when the last reference to it goes.

    Attributes:
        address: where it begins.
        memory: what it was taken from.
        users: streams of others that may still use it when it goes; `UNKNOWN_STREAM` for one we were not told.
    """

    __slots__ = ("__weakref__", "address", "memory", "users")

    def __init__(self, address: int, memory: Memory) -> None:
        self.address = address
        self.memory = memory
        self.users: set[int] = set()


class Staging:
    """Page-locked host memory, which the device copies to and from while the host goes on; a few pieces, reused."""

    _MAX_PIECES = 4

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[_Piece] = []

    @contextmanager
    def piece(self, size_bytes: int, stream: Stream) -> Iterator[NDArray[np.uint8]]:
        """Lend uint8 [size_bytes]; what is queued on the stream in the block may go on using it after the block."""
        piece = self._take(size_bytes)
        try:
            yield piece.array[:size_bytes]
        finally:
            piece.last_use.record(stream.handle)
            with self._lock:
                self._free.append(piece)
                if len(self._free) > self._MAX_PIECES:  # the smallest that is idle, or that must be waited for
                    self._free.remove(min(self._free, key=lambda p: (not p.last_use.reached(), p.array.size)))

    def trim(self) -> None:
        """Give back what nothing uses; the caller has waited for the stream."""
        with self._lock:
            self._free.clear()

    def _take(self, size_bytes: int) -> _Piece:
        with self._lock:
            fitting = [piece for piece in self._free if piece.array.size >= size_bytes]
            idle = next((piece for piece in fitting if piece.last_use.reached()), None)
            if idle is not None:
                self._free.remove(idle)
                return idle
        return _Piece(size_bytes)


class _Piece:
    """One page-locked allocation."""

    def __init__(self, size_bytes: int) -> None:
        size_bytes = max(size_bytes, 1)
        address = int(call("cudaHostAlloc", size_bytes, 0))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))
        self.last_use = Event()
        release_with(self, "cudaFreeHost", address, after=self.last_use)


def _uint64(value: int) -> Any:
    # Moved between versions of cuda-python.
    home = api() if hasattr(api(), "cuuint64_t") else import_module("cuda.bindings.driver")
    return home.cuuint64_t(value)
