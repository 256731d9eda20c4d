"""One stream of a device with its memory, and the lock of those who queue work on it.

Work is queued by one thread at a time (`Workspace.entered`) and runs in the order it was queued; the host waits for it
only in `Workspace.download`, outside the lock, so that other threads queue theirs meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...errors import BackendError, DeviceMemoryError
from ..base import Options
from .buffers import DeviceBuffer
from .cuda import Device, Event, Stream, api, call, device_facts
from .memory import ALIGNMENT, Block, Memory, Staging


@dataclass(frozen=True)
class Target:
    """Where work is queued, and what it is given.

    Attributes:
        stream: what it is queued on.
        take: size in bytes -> memory for a result.
        bound: what each graph keeps for this target alone, by graph.
        specialised: whether the same shapes will come again and again.
        kept: None where work runs; where it is only recorded, the memory that it refers to.
        recorder: the stream on which the same work will be recorded next, if it will be.
        obstacles: why that cannot be, as far as who queues it can tell.
    """

    stream: Stream
    take: Callable[[int], Block]
    bound: MutableMapping[Any, Any] = field(default_factory=dict)
    specialised: bool = False
    kept: list[Block] | None = None
    recorder: Stream | None = None
    obstacles: list[str] = field(default_factory=list)


class Workspace:
    """One stream of a device with its memory, and the lock of those who queue work on it.

    Attributes:
        device, stream, memory, staging: what it is made of.
        target: where work goes; the stream itself unless it is being recorded.
        generation: changes whenever memory moves that recorded work refers to.
        scratch_wish: bytes of scratch memory that the largest image will want; taken at once where there is so much,
            so that what smaller ones have recorded need not go for it.
    """

    def __init__(
        self,
        device: Device,
        stream: Stream,
        max_vram: int | None,
        *,
        capture: bool = False,
        within: Memory | None = None,
    ) -> None:
        self.device = device
        self.stream = stream
        self.memory = Memory(device, stream, max_vram, within)
        self.staging = Staging()
        # What runs without being recorded has shapes that may never come again, unless recording is off.
        self.target = Target(stream, self.memory.take, WeakKeyDictionary(), specialised=not capture)
        self.generation = 0
        self.scratch_wish = 0
        self._scratch: Block | None = None
        self._scratch_bytes = 0
        self._lock = threading.RLock()

    @classmethod
    def open(cls, options: Options) -> Workspace:
        """Return one on the current device; errors as of `cuda.device_facts`, and TypeError for what is no stream."""
        device = device_facts()
        with device.active():
            stream = Stream.create() if options.stream is None else Stream.wrap(options.stream)
            return cls(device, stream, options.max_vram, capture=options.capture)

    @contextmanager
    def entered(self) -> Iterator[Target]:
        """Queue work, alone, on the device; give the target."""
        with self._lock, self.device.active():
            yield self.target

    @contextmanager
    def directed(self, target: Target) -> Iterator[None]:
        """Send what the calling thread queues to another target; only inside `entered`."""
        before, self.target = self.target, target
        try:
            yield
        finally:
            self.target = before

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceBuffer:
        """Return a new buffer with anything in it; only inside `entered`."""
        size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return DeviceBuffer(self.target.take(size_bytes), tuple(shape), dtype)

    def scratch(self, size_bytes: int) -> Block:
        """Return memory that a graph may use while it runs, the same for all of them; only inside `entered`.

        Raises:
            BackendError: it would have to move while work is recorded.
        """
        if self._scratch is None or size_bytes > self._scratch_bytes:
            if self.target.kept is not None:
                raise BackendError(f"{size_bytes} bytes of scratch memory wanted, {self._scratch_bytes} before")
            self._scratch, self._scratch_bytes = None, 0
            self.generation += 1
            if self.scratch_wish > size_bytes:
                try:
                    self._scratch, self._scratch_bytes = self.memory.take(self.scratch_wish), self.scratch_wish
                    return self._scratch
                except DeviceMemoryError:
                    self.scratch_wish = 0
            self._scratch, self._scratch_bytes = self.memory.take(size_bytes), size_bytes
        return self._scratch

    def trim(self) -> None:
        """Give back to the device what is kept for work to come; only where nothing is recorded."""
        with self.entered():
            self._scratch, self._scratch_bytes = None, 0
            self.generation += 1
            self.stream.synchronize()
            self.staging.trim()
            self.memory.trim()

    def address(self, buffer: DeviceBuffer) -> int:
        """Return the address of a buffer that is about to be used, which what is recorded keeps where it is."""
        if self.target.kept is not None:
            self.target.kept.append(buffer.block)
        return buffer.address

    def lay_out(self, arrays: Mapping[str, NDArray[Any]], take: Callable[[int], Block]) -> dict[str, DeviceBuffer]:
        """Return buffers like host arrays, by name, one after the other in one block."""
        offsets = _offsets(arrays)
        block = take(sum(map(_padded_bytes, arrays.values())))
        return {
            name: DeviceBuffer(block, array.shape, array.dtype, offset_bytes=offset)
            for (name, array), offset in zip(arrays.items(), offsets, strict=True)
        }

    def upload(self, arrays: Mapping[str, NDArray[Any]], block: Block | None = None) -> dict[str, DeviceBuffer]:
        """Return buffers with the content of host arrays, by name; only inside `entered`.

        Args:
            arrays: any; they are copied before the call returns.
            block: where to put them, as `lay_out` does; None for new memory.
        """
        buffers = self.lay_out(arrays, self.target.take if block is None else lambda _: block)
        size_bytes = sum(map(_padded_bytes, arrays.values()))
        with self.staging.piece(size_bytes, self.stream) as piece:
            for array, buffer in zip(arrays.values(), buffers.values(), strict=True):
                end = buffer.offset_bytes + array.nbytes
                piece[buffer.offset_bytes : end] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            if buffers:
                self.copy(next(iter(buffers.values())).block.address, piece.ctypes.data, size_bytes)
        return buffers

    def download(self, buffer: DeviceBuffer) -> NDArray[Any]:
        """Return the content of a dense buffer as a new host array; waits, and must not be called inside `entered`."""
        # An event belongs to the device that is current when it is made, and another thread may have another one.
        with self.device.active():
            done = Event()
            with self.staging.piece(buffer.size_bytes, self.stream) as piece:
                with self.entered():
                    self.copy(piece.ctypes.data, buffer.address, buffer.size_bytes)
                    done.record(self.stream.handle)
                done.synchronize()
                return piece.copy().view(buffer.dtype).reshape(buffer.shape)

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Queue a copy between addresses of the device or of page-locked memory; only inside `entered`."""
        if size_bytes:
            kind = api().cudaMemcpyKind.cudaMemcpyDefault
            call("cudaMemcpyAsync", target, source, size_bytes, kind, self.target.stream.handle)

    def synchronize(self) -> None:
        """Wait for everything queued, unless it is only being recorded."""
        with self.entered() as target:
            runs = target.kept is None
        if runs:
            self.stream.synchronize()


def _padded_bytes(array: NDArray[Any]) -> int:
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT


def _offsets(arrays: Mapping[str, NDArray[Any]]) -> list[int]:
    return [0, *accumulate(map(_padded_bytes, arrays.values()))][: len(arrays)]
