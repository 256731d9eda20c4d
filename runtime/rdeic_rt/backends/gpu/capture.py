"""The whole chain from y_hat to the image as one CUDA graph per shape: recorded once, then replayed.

    first time    upload ─ run the function
    second time   upload ─ run the function ─ run it once more, recorded
    later         upload ─ launch the graph ─ copy the result

A recorded graph holds the addresses of everything it touches. Its inputs, its intermediate results and its output
therefore lie in memory that does not move, which all recorded graphs share, since one runs at a time. The run before
the recording decides where each of them lies, and gives the libraries what they set up on first use. When scratch
memory moves (`Workspace.generation`), every recorded graph is dropped.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, cast
from weakref import finalize

from numpy.typing import NDArray

from ...errors import BackendError, DeviceMemoryError
from ..base import Buffer, Recordings, Result
from .cuda import Stream, api, call, release_with
from .device import Target, Workspace, device_buffer
from .memory import Block, Memory

Function = Callable[[Mapping[str, Buffer]], Result]

MAX_GRAPHS = 8
# Keys remembered as run once: what comes a second time is worth recording.
_MAX_SEEN = 256

_log = logging.getLogger("rdeic_rt.backends.gpu.capture")


class Captures:
    """Recorded graphs by key and input shapes, at most ``capacity`` of them; the least recently used goes first."""

    def __init__(self, workspace: Workspace, capacity: int = MAX_GRAPHS) -> None:
        self._workspace = workspace
        self._capacity = capacity
        self._graphs: OrderedDict[Hashable, Recording] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
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
        if self._given_up or not self._is_known(signature):
            return self._run_plainly(function, inputs)
        return self._record(signature, function, inputs)

    def _run_plainly(self, function: Function[Result], inputs: Mapping[str, NDArray[Any]]) -> Result:
        return function(self._workspace.upload(inputs))

    def _is_known(self, signature: Hashable) -> bool:
        known = signature in self._seen
        self._seen[signature] = None
        self._seen.move_to_end(signature)
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return known

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
            self._graphs.popitem(last=False)
        placement = Placement(self._arena)
        target = Target(workspace.stream, placement.take, specialised=True)
        with workspace.directed(target):
            output = function(workspace.upload(inputs))
        result = self._copied(output)
        del output
        if self._generation != workspace.generation:  # that run has moved the scratch memory
            self._graphs.clear()
            self._generation = workspace.generation
        try:
            self._graphs[signature] = self._recorded(function, inputs, placement, target)
        except BackendError as error:
            self._given_up.append(str(error))
            _log.warning("no CUDA graphs from here on: %s", str(error))  # a record that is kept must keep no frames
        return cast(Result, result)

    def _recorded(
        self, function: Function[Any], inputs: Mapping[str, NDArray[Any]], placement: Placement, first: Target
    ) -> Recording:
        """Return what the function queues, for memory where it was in the run before."""
        workspace = self._workspace
        stream = self._stream = self._stream or Stream.create()
        take = placement.again()
        buffers = workspace.lay_out(inputs, take)
        target = Target(stream, take, first.bound, specialised=True, kept=[])
        with workspace.memory.holding(), workspace.directed(target):
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
