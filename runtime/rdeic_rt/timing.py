"""Host time of each stage, and NVTX ranges for it; nothing when off.

    with timing.collect() as times:
        codec.decode(data)
    times.total_ms()        # {"container": 0.1, "entropy": 31.0, "synthesis": 12.5, ...}

A stage inside another is named after it (``denoise.control``) and counted in both. A collector sees the stages run in
its own context (`contextvars`), so that codecs used from other threads are not mixed in. Stages that work on a device
are timed until the host goes on, unless the backend waits.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType


@dataclass
class StageTimes:
    """Durations in seconds, in the order the stages ended, by stage."""

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    nvtx: ModuleType | None = None

    def total_ms(self) -> dict[str, float]:
        """Return the sum of each stage in milliseconds, in the order the stages first ended."""
        return {name: 1e3 * sum(values) for name, values in self.seconds.items()}


_collector: ContextVar[StageTimes | None] = ContextVar("rdeic_rt.timing", default=None)
_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def collect(*, nvtx: bool = False) -> Iterator[StageTimes]:
    """Collect stage times in this context until the block ends.

    Args:
        nvtx: also mark each stage as an NVTX range, for Nsight Systems.

    Raises:
        ModuleNotFoundError: NVTX was asked for and the package ``nvtx`` is not installed.
    """
    times = StageTimes()
    if nvtx:
        import nvtx as nvtx_module

        times.nvtx = nvtx_module
    token = _collector.set(times)
    try:
        yield times
    finally:
        _collector.reset(token)


def stage(name: str) -> AbstractContextManager[None]:
    """Return a context that books its duration under name, or does nothing where nobody collects."""
    times = _collector.get()
    return _NOTHING if times is None else _timed(times, name)


@contextlib.contextmanager
def _timed(times: StageTimes, name: str) -> Iterator[None]:
    with times.nvtx.annotate(f"rdeic_rt.{name}") if times.nvtx else _NOTHING:
        start = time.perf_counter()
        try:
            yield
        finally:
            times.seconds[name].append(time.perf_counter() - start)
