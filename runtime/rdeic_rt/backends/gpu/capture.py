"""The whole chain from y_hat to the image as one CUDA graph per shape: recorded once, then replayed.

    first time    upload ─ run the function
    second time   upload ─ run the function ─ run it once more, recorded
    later         upload ─ launch the graph ─ copy the result

What fails to be recorded runs as the first time, is tried once more when it comes again, and is then left alone: others
are still recorded. What had to go for others must come twice as often as before until it is recorded again, so that
more sizes in turn than there is room for do not end in recording each of them anew, every time.

A recorded graph holds the addresses of everything it touches. Its inputs, its intermediate results and its output
therefore lie in memory that does not move, which all recorded graphs share, since one runs at a time. The run before
the recording decides where each of them lies, and gives the libraries what they set up on first use. When scratch
memory moves (`Workspace.generation`), every recorded graph is dropped.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import finalize

from numpy.typing import NDArray

from ...errors import BackendError, DeviceMemoryError
from ..base import Buffer, Recordings, Result
from .cuda import Stream, api, call, release_with
from .device import device_buffer
from .memory import Block, Memory
from .workspace import Target, Workspace

Function = Callable[[Mapping[str, Buffer]], Result]

# A size of image takes one, or in tiles one for each stage. They share their memory, but not the libraries' contexts.
MAX_GRAPHS = 32
# How often a key must come until it is recorded, at first and at most; and how many are remembered.
_WANTED, _MOST_WANTED = 2, 64
_MAX_SEEN = 256
# Whatever fails this often is not tried again.
_TRIES = 2
_MAX_REASONS = 16

_log = logging.getLogger("rdeic_rt.backends.gpu.capture")


class Captures:
    """Recorded graphs by key and input shapes, at most ``capacity`` of them; the least recently used goes first."""

    def __init__(self, workspace: Workspace, capacity: int = MAX_GRAPHS) -> None:
        self._workspace = workspace
        self._capacity = capacity
        self._graphs: OrderedDict[Hashable, Recording] = OrderedDict()
        self._seen: OrderedDict[Hashable, _Seen] = OrderedDict()
        self._arena = Arena(workspace.memory)
        self._stream: Stream | None = None
        self._generation = workspace.generation
        self._given_up: list[str] = []

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def recordings(self) -> Recordings:
        """What has been recorded, and why other work was not."""
        return Recordings(len(self._graphs), tuple(self._given_up))

    def run(self, key: Hashable, function: Function[Result], inputs: Mapping[str, NDArray[Any]]) -> Result:
        """Return function(buffers) for buffers with the content of the host arrays; as `base.Backend.execute`."""
        with self._workspace.entered():
            try:
                return self._run(key, function, inputs)
            except DeviceMemoryError:
                if not self._graphs and not self._arena.blocks:
                    raise
            # Without what recorded graphs hold it may fit.
            self.clear()
            return self._run_plainly(function, inputs)

    def clear(self) -> None:
        """Drop every recorded graph and its memory, once what was launched is done."""
        self._graphs.clear()
        self._arena = Arena(self._workspace.memory)

    def _run(self, key: Hashable, function: Function[Result], inputs: Mapping[str, NDArray[Any]]) -> Result:
        if self._generation != self._workspace.generation:
            self.clear()
            self._generation = self._workspace.generation
        inputs = dict(sorted(inputs.items()))
        signature = (key, tuple((name, array.shape, array.dtype.str) for name, array in inputs.items()))
        if signature in self._graphs:
            self._graphs.move_to_end(signature)
            return cast(Result, self._replay(self._graphs[signature], inputs))
        seen = self._sighted(signature)
        if seen.times < seen.wanted or seen.failures >= _TRIES:
            return self._run_plainly(function, inputs)
        return self._record(signature, function, inputs)

    def _run_plainly(self, function: Function[Result], inputs: Mapping[str, NDArray[Any]]) -> Result:
        return function(self._workspace.upload(inputs))

    def _sighted(self, signature: Hashable) -> _Seen:
        seen = self._seen.setdefault(signature, _Seen())
        seen.times += 1
        self._seen.move_to_end(signature)
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return seen

    def _drop_oldest(self) -> None:
        signature, _ = self._graphs.popitem(last=False)
        if (seen := self._seen.get(signature)) is not None:
            seen.times, seen.wanted = 0, min(2 * seen.wanted, _MOST_WANTED)

    def _replay(self, recording: Recording, inputs: Mapping[str, NDArray[Any]]) -> Any:
        self._workspace.upload(inputs, recording.input_block)
        call("cudaGraphLaunch", recording.graph, self._workspace.stream.handle)
        return self._copied(recording.output)

    def _copied(self, output: Any) -> Any:
        """Return a copy of a result, one buffer or several, that the next launch leaves alone."""
        if isinstance(output, tuple):
            return tuple(self._copied(one) for one in output)
        buffer = device_buffer(output)
        result = self._workspace.empty(buffer.shape, buffer.dtype)
        self._workspace.copy(result.address, buffer.address, buffer.size_bytes)
        return result

    def _record(self, signature: Hashable, function: Function[Result], inputs: Mapping[str, NDArray[Any]]) -> Result:
        """Return function(buffers), and keep what it queued for the next time."""
        workspace = self._workspace
        if len(self._graphs) >= self._capacity:
            self._drop_oldest()
        placement = Placement(self._arena)
        self._stream = self._stream or Stream.create()
        target = Target(workspace.stream, placement.take, specialised=True, recorder=self._stream)
        with workspace.directed(target):
            output = function(workspace.upload(inputs))
        result = self._copied(output)
        del output
        if self._generation != workspace.generation:  # that run has moved the scratch memory
            self._graphs.clear()
            self._generation = workspace.generation
        try:
            if target.obstacles:
                raise BackendError("; ".join(target.obstacles))
            self._graphs[signature] = self._recorded(function, inputs, placement, target)
        except BackendError as error:
            self._failed(signature, str(error))  # as text: a record that is kept must keep no frames
        return cast(Result, result)

    def _failed(self, signature: Hashable, why: str) -> None:
        seen = self._seen[signature]
        seen.failures += 1
        if seen.failures < _TRIES:
            _log.info("not recorded as a CUDA graph, to be tried again: %s", why)
            return
        _log.warning("not recorded as a CUDA graph from here on, others still are: %s", why)
        if why not in self._given_up:
            self._given_up = [*self._given_up, why][-_MAX_REASONS:]

    def _recorded(
        self, function: Function[Any], inputs: Mapping[str, NDArray[Any]], placement: Placement, first: Target
    ) -> Recording:
        """Return what the function queues, for memory where it was in the run before."""
        workspace = self._workspace
        assert self._stream is not None
        stream, take = self._stream, placement.again()
        buffers = workspace.lay_out(inputs, take)
        target = Target(stream, take, first.bound, specialised=True, kept=[])
        with workspace.memory.holding(), workspace.directed(target), _no_garbage_collection():
            mode = api().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            call("cudaStreamBeginCapture", stream.handle, mode)
            try:
                output = function(buffers)
            except BaseException:
                code, graph = api().cudaStreamEndCapture(stream.handle)  # ends it; an error is the one that is raised
                if code == api().cudaError_t.cudaSuccess:
                    call("cudaGraphDestroy", graph)
                raise
            graph = call("cudaStreamEndCapture", stream.handle)
        try:
            executable = call("cudaGraphInstantiate", graph, 0)
        finally:
            call("cudaGraphDestroy", graph)
        return Recording(executable, workspace.stream, next(iter(buffers.values())).block, output, target)


@dataclass
class _Seen:
    """How often a key has come since it was last recorded, when that is often enough, and how often it failed."""

    times: int = 0
    wanted: int = _WANTED
    failures: int = 0


class _Pause:
    """Whether garbage is collected, for all threads that record: one collection is one of the whole process."""

    lock = threading.Lock()
    recorders = 0
    was_on = False


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect no garbage until the block ends: whatever is found may call CUDA, which ends what is recorded."""
    with _Pause.lock:
        if not _Pause.recorders:
            _Pause.was_on = gc.isenabled()
            gc.disable()
        _Pause.recorders += 1
    try:
        yield
    finally:
        with _Pause.lock:
            _Pause.recorders -= 1
            if not _Pause.recorders and _Pause.was_on:
                gc.enable()


class Recording:
    """A recorded graph, with all that it refers to; it goes once what was launched on the stream is done.

    Attributes:
        graph: the executable graph.
        input_block: where `Workspace.upload` puts its inputs.
        output: where it leaves its result, one buffer or several.
    """

    def __init__(self, graph: Any, stream: Stream, input_block: Block, output: Any, target: Target) -> None:
        self.graph = graph
        self.input_block = input_block
        self.output = output
        self._target = target  # what the libraries bound and constants lie in
        release_with(self, "cudaGraphExecDestroy", graph, after=stream)


class Arena:
    """Memory that recorded graphs share; it grows, and goes as a whole."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.blocks: list[tuple[int, Block]] = []


class Placement:
    """Where in an arena each result of a run lies: where an earlier one lay that nothing refers to any more."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._free = set(range(len(arena.blocks)))
        self._taken: list[tuple[int, int]] = []

    def take(self, size_bytes: int) -> Block:
        """Return memory, free again when the last reference to it goes."""
        blocks = self._arena.blocks
        fitting = [(blocks[index][0], index) for index in self._free if blocks[index][0] >= size_bytes]
        if fitting:
            _, index = min(fitting)
            self._free.remove(index)
        else:
            index = len(blocks)
            blocks.append((size_bytes, self._arena.memory.take(size_bytes)))
        self._taken.append((size_bytes, index))
        lent = Block(blocks[index][1].address, self._arena.memory)
        finalize(lent, self._free.add, index).atexit = False
        return lent

    def again(self) -> Callable[[int], Block]:
        """Return a function that returns the same memory in the same order; BackendError for another size or number."""
        taken = iter(self._taken)

        def take(size_bytes: int) -> Block:
            before, index = next(taken, (None, 0))
            if before != size_bytes:
                raise BackendError(f"a function takes {size_bytes} bytes when recorded, where it took {before} before")
            return Block(self._arena.blocks[index][1].address, self._arena.memory)

        return take
