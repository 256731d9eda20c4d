"""Host time of each stage, and NVTX ranges for it; nothing when off.

    with timing.collect() as times:
        codec.decode(data)
    times.total_ms()        # {"container": 0.1, "entropy": 31.0, "synthesis": 12.5, ...}

A stage inside another is named after it (``denoise.control``) and counted in both. A collector sees the stages run in
its own context (`contextvars`), so that codecs used from other threads are not mixed in. Stages that work on a device
are timed until the host goes on, unless the collector waits for the device.

NVTX ranges are named ``rdeic_rt.STAGE``, and ``rdeic_rt.STAGE.STEP`` in the denoising loop. Under Nsight Systems, or
with the environment variable ``RDEIC_RT_NVTX=1``, every thread of the process marks them, without a collector;
``RDEIC_RT_NVTX=0`` switches that off (docs/profiling.md).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType

NVTX_VARIABLE = "RDEIC_RT_NVTX"
# `nsys` sets it in what it profiles.
NSYS_VARIABLE = "NSYS_PROFILING_SESSION_ID"

_log = logging.getLogger("rdeic_rt.timing")


@dataclass
class StageTimes:
    """Durations in seconds, in the order the stages ended, by stage."""

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    nvtx: ModuleType | None = None
    wait: Callable[[], None] | None = None
    around: Callable[[str], AbstractContextManager[object]] | None = None

    def total_ms(self) -> dict[str, float]:
        """Return the sum of each stage in milliseconds, in the order the stages first ended."""
        return {name: 1e3 * sum(values) for name, values in self.seconds.items()}


def _nvtx_of_process() -> ModuleType | None:
    variable = NVTX_VARIABLE if NVTX_VARIABLE in os.environ else NSYS_VARIABLE
    value = os.environ.get(variable, "")
    if not value or (variable == NVTX_VARIABLE and value == "0"):
        return None
    try:
        nvtx = importlib.import_module("nvtx")
    except ModuleNotFoundError:
        _log.warning("%s is set, but nvtx is not installed: `pip install 'rdeic-rt[nvtx]'`. No ranges", variable)
        return None
    return nvtx


_collector: ContextVar[StageTimes | None] = ContextVar("rdeic_rt.timing", default=None)
_always_nvtx = _nvtx_of_process()
_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def collect(
    *,
    nvtx: bool = False,
    wait: Callable[[], None] | None = None,
    around: Callable[[str], AbstractContextManager[object]] | None = None,
) -> Iterator[StageTimes]:
    """Collect stage times in this context until the block ends.

    Args:
        nvtx: also mark each stage as an NVTX range, for Nsight Systems.
        wait: called before a stage ends; `Codec.synchronize` assigns work on a device to the stage that queued it.
        around: makes a context around each stage of its name, ``rdeic_rt.STAGE``, such as a tracer's span.

    Raises:
        ModuleNotFoundError: ``nvtx`` is true and the package ``nvtx`` is not installed.
    """
    times = StageTimes(wait=wait, around=around)
    if nvtx:
        times.nvtx = importlib.import_module("nvtx")
    token = _collector.set(times)
    try:
        yield times
    finally:
        _collector.reset(token)


def stage(name: str, step: int | None = None) -> AbstractContextManager[None]:
    """Return a context that records its duration under name, or does nothing without a collector.

    Args:
        name: of the stage.
        step: of the denoising loop; durations of all steps are summed under one name, NVTX ranges are per step.
    """
    times = _collector.get()
    if times is None:
        return _NOTHING if _always_nvtx is None else _range(_always_nvtx, name, step)
    return _timed(times, name, step)


@contextlib.contextmanager
def _timed(times: StageTimes, name: str, step: int | None) -> Iterator[None]:
    nvtx = times.nvtx or _always_nvtx
    around = _NOTHING if times.around is None else times.around(f"rdeic_rt.{name}")
    with around, _range(nvtx, name, step) if nvtx else _NOTHING:
        start = time.perf_counter()
        try:
            yield
            if times.wait is not None:
                times.wait()
        finally:
            times.seconds[name].append(time.perf_counter() - start)


def _range(nvtx: ModuleType, name: str, step: int | None) -> AbstractContextManager[None]:
    text = f"rdeic_rt.{name}" if step is None else f"rdeic_rt.{name}.{step}"
    annotation: AbstractContextManager[None] = nvtx.annotate(text)
    return annotation
