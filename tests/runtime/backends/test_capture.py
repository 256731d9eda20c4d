"""Recording and replaying, on `fake_cuda`, with a backend whose graphs are arithmetic on addresses."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from rdeic_rt.backends.base import Buffer, Options
from rdeic_rt.backends.gpu import capture
from rdeic_rt.backends.gpu.buffers import DeviceBuffer
from rdeic_rt.backends.gpu.capture import Captures
from rdeic_rt.backends.gpu.device import device_buffer
from rdeic_rt.backends.gpu.workspace import Workspace
from rdeic_rt.errors import BackendError, DeviceMemoryError

from .fake_cuda import Error, FakeCuda

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


class Adder:
    """A backend with one operation, float32 x + y, and a count of how often it was queued."""

    def __init__(self, cuda: FakeCuda, **options: Any) -> None:
        self.cuda = cuda
        self.workspace = Workspace.open(Options(**options))
        self.queued = 0

    def add(self, x: Buffer, y: Buffer) -> DeviceBuffer:
        with self.workspace.entered() as target:
            first, second = device_buffer(x), device_buffer(y)
            result = self.workspace.empty(first.shape, first.dtype)
            addresses = [self.workspace.address(buffer) for buffer in (first, second, result)]
            size, cuda = first.size_bytes, self.cuda

            def work() -> None:
                a, b, c = (cuda.view(address, size).view(np.float32) for address in addresses)
                c[:] = a + b

            cuda.submit(target.stream.handle, work)
            self.queued += 1
        return result

    def sum(self, times: int, buffers: Mapping[str, Buffer]) -> Buffer:
        """Return x + times * y, with a result to forget at each step."""
        total = buffers["x"]
        for _ in range(times):
            total = self.add(total, buffers["y"])
        return total

    def scratched(self, size_bytes: int, buffers: Mapping[str, Buffer]) -> Buffer:
        """Return x + y, after having asked for scratch memory."""
        with self.workspace.entered():
            self.workspace.scratch(size_bytes)
        return self.add(buffers["x"], buffers["y"])


def inputs(length: int, x: float, y: float = 1.0) -> dict[str, np.ndarray[Any, Any]]:
    return {"y": np.full(length, y, np.float32), "x": np.full(length, x, np.float32)}


def result(adder: Adder, buffer: Buffer) -> list[float]:
    values = adder.workspace.download(device_buffer(buffer))
    assert len(set(values.tolist())) == 1
    return [len(values), values[0]]


def test_run_again_replays_without_calling_the_function(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    results = [captures.run("sum", partial(adder.sum, 3), inputs(8, n)) for n in range(6)]
    assert [result(adder, buffer) for buffer in results] == [[8, n + 3] for n in range(6)]
    assert adder.queued == 9  # once plainly, once before it is recorded, and once recorded
    assert cuda.calls["cudaGraphLaunch"] == 4


def test_run_keys_shapes_and_types_apart(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    for n in range(5):
        assert result(adder, captures.run("two", partial(adder.sum, 2), inputs(8, n))) == [8, n + 2]
        assert result(adder, captures.run("two", partial(adder.sum, 2), inputs(70, n))) == [70, n + 2]
        assert result(adder, captures.run("four", partial(adder.sum, 4), inputs(8, n, 2.0))) == [8, n + 8]
    assert len(captures) == 3


def test_run_over_capacity_drops_the_least_recently_used(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace, capacity=2)

    def run(length: int) -> None:
        assert result(adder, captures.run("sum", partial(adder.sum, 1), inputs(length, 4))) == [length, 5]

    for length in (8, 8, 16, 16, 8, 32, 32):  # 16 goes
        run(length)
    assert len(captures) == 2
    launches = cuda.calls["cudaGraphLaunch"]
    run(8)
    assert cuda.calls["cudaGraphLaunch"] == launches + 1
    for _ in range(4):  # it had to go, so it is recorded after twice as many times as before
        run(16)
        assert cuda.calls["cudaGraphLaunch"] == launches + 1
    run(16)
    assert cuda.calls["cudaGraphLaunch"] == launches + 2
    assert len(cuda.graphs) == 2


def test_run_more_keys_in_turn_than_there_is_room_for_replays_most(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace, capacity=8)
    recorded = []
    for _ in range(40):
        before = cuda.calls["cudaGraphInstantiate"]
        for length in range(8, 17):  # nine
            captures.run("sum", partial(adder.sum, 1), inputs(length, 4))
        recorded.append(cuda.calls["cudaGraphInstantiate"] - before)
    assert sum(recorded[20:]) < 10  # of 180 runs
    assert cuda.calls["cudaGraphLaunch"] > 250  # of 360


def test_run_many_sizes_once_records_none(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    for length in range(1, 400):
        captures.run("sum", partial(adder.sum, 1), inputs(length, 4))
    assert len(captures) == 0
    assert cuda.calls["cudaStreamBeginCapture"] == 0


def test_recorded_graphs_share_their_memory(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    used = []
    for length in (4096, 4000, 3900, 3800):
        for n in range(3):
            assert result(adder, captures.run("sum", partial(adder.sum, 9), inputs(length, n)))[1] == n + 9
        used.append(cuda.used_bytes)
    assert len(captures) == 4
    assert len(set(used)) == 1


def test_scratch_memory_that_moves_drops_what_was_recorded(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    for n in range(3):
        captures.run("small", partial(adder.scratched, 1000), inputs(8, n))
    assert len(captures) == 1
    captures.run("large", partial(adder.scratched, 100_000), inputs(8, 1))
    launches = cuda.calls["cudaGraphLaunch"]
    assert result(adder, captures.run("small", partial(adder.scratched, 1000), inputs(8, 5))) == [8, 6]
    assert cuda.calls["cudaGraphLaunch"] == launches
    assert result(adder, captures.run("small", partial(adder.scratched, 1000), inputs(8, 7))) == [8, 8]
    assert cuda.calls["cudaGraphLaunch"] == launches + 1


def test_scratch_memory_that_moves_while_recording_is_prepared_drops_the_others(cuda: FakeCuda) -> None:
    """The run that goes before a recording may be the one in which a graph asks for more."""
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    wanted = 1000
    for n in range(3):
        captures.run("small", partial(adder.scratched, 1000), inputs(8, n))
    captures.run("growing", lambda buffers: adder.scratched(wanted, buffers), inputs(8, 1))
    wanted = 100_000
    captures.run("growing", lambda buffers: adder.scratched(wanted, buffers), inputs(8, 1))
    assert len(captures) == 1
    assert result(adder, captures.run("small", partial(adder.scratched, 1000), inputs(8, 5))) == [8, 6]


def test_constant_that_its_owner_drops_stays_for_the_replay(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    with adder.workspace.entered():
        constant = adder.workspace.upload({"": np.full(8, 100, np.float32)})[""]

    def add(constant: Buffer, buffers: Mapping[str, Buffer]) -> Buffer:
        return adder.add(buffers["x"], constant)

    for n in range(2):
        captures.run("sum", partial(add, constant), inputs(8, n))
    del constant
    gc.collect()
    assert result(adder, captures.run("sum", partial(adder.sum, 0), inputs(8, 5))) == [8, 105]


def test_result_is_not_overwritten_by_the_next_run(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    kept = [captures.run("sum", partial(adder.sum, 2), inputs(8, n)) for n in range(10)]
    cuda.drain()
    assert [result(adder, buffer)[1] for buffer in kept] == [n + 2 for n in range(10)]


def test_function_that_takes_other_memory_when_recorded_is_not_recorded(
    cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    times = iter((1, 1, 2, 5, 6, 7, 8))
    with caplog.at_level(logging.WARNING, "rdeic_rt"):
        values = [
            result(adder, captures.run("sum", lambda buffers: adder.sum(next(times), buffers), inputs(8, 0)))[1]
            for _ in range(4)
        ]
    assert values == [1, 1, 5, 7]
    why = "a function takes 32 bytes when recorded, where it took None before"
    assert [record.getMessage() for record in caplog.records] == [
        f"not recorded as a CUDA graph from here on, others still are: {why}"
    ]
    assert captures.recordings.given_up == (why,)


def test_memory_that_cannot_be_freed_is_freed_later(cuda: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    adder = Adder(cuda)
    kept = [adder.workspace.memory.take(1000) for _ in range(3)]
    for nth in range(1, 7):  # what goes tries those before it again
        cuda.failures["cudaFreeAsync", nth] = Error.cudaErrorStreamCaptureUnsupported
    with caplog.at_level(logging.WARNING, "rdeic_rt"):
        kept.clear()
    assert len(caplog.records) == 1
    assert adder.workspace.memory.in_use == 3000
    adder.workspace.memory.take(1)
    assert adder.workspace.memory.in_use == 0
    assert cuda.used_bytes == 0


def test_two_recorders_leave_the_garbage_collector_as_it_was() -> None:
    with capture._no_garbage_collection():
        with capture._no_garbage_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with capture._no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_function_that_waits_while_recorded_is_not_recorded(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)

    def function(buffers: Mapping[str, Buffer]) -> Buffer:
        adder.workspace.stream.synchronize()
        return adder.sum(2, buffers)

    assert [result(adder, captures.run("sum", function, inputs(8, n)))[1] for n in range(5)] == [2, 3, 4, 5, 6]
    assert len(captures) == 0


def test_synchronize_of_the_workspace_may_be_called_while_recording(cuda: FakeCuda) -> None:
    """Collecting stage times calls it at the end of each stage."""
    adder = Adder(cuda)
    captures = Captures(adder.workspace)

    def function(buffers: Mapping[str, Buffer]) -> Buffer:
        total = adder.sum(2, buffers)
        adder.workspace.synchronize()
        return total

    assert [result(adder, captures.run("sum", function, inputs(8, n)))[1] for n in range(4)] == [2, 3, 4, 5]
    assert cuda.calls["cudaGraphLaunch"] == 2


def test_error_of_the_function_while_recorded_ends_the_recording(cuda: FakeCuda) -> None:
    adder = Adder(cuda)
    captures = Captures(adder.workspace)
    calls = iter(range(9))

    def function(buffers: Mapping[str, Buffer]) -> Buffer:
        if next(calls) == 2:
            raise BackendError("not now")
        return adder.sum(2, buffers)

    assert [result(adder, captures.run("sum", function, inputs(8, n)))[1] for n in range(4)] == [2, 3, 4, 5]
    assert not any(queue.recorded for queue in cuda.streams.values())


def test_memory_of_recorded_graphs_is_given_up_before_a_decode_fails(cuda: FakeCuda) -> None:
    adder = Adder(cuda, max_vram=70_000)
    captures = Captures(adder.workspace)
    for n in range(3):
        captures.run("sum", partial(adder.sum, 2), inputs(1000, n))
    assert len(captures) == 1
    assert result(adder, captures.run("sum", partial(adder.sum, 2), inputs(4000, 1))) == [4000, 3]
    assert len(captures) == 0
    with pytest.raises(DeviceMemoryError, match="max_vram allows 70000"):
        captures.run("sum", partial(adder.sum, 2), inputs(20_000, 1))
