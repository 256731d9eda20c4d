"""ONNX Runtime without telemetry and without its own output; every module imports it from here."""

from __future__ import annotations

import os

from . import telemetry

telemetry.turn_off_onnx_runtimes()

import onnxruntime as ort  # noqa: E402
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state  # noqa: E402

__all__ = ["FAILED", "Session", "ort", "ort_state", "useful_threads"]

# Everything that ONNX Runtime has a name for, some of it only in newer versions. Runs with a binding have none.
FAILED: tuple[type[Exception], ...] = (
    MemoryError,
    RuntimeError,
    *(error for error in vars(ort_state).values() if isinstance(error, type) and issubclass(error, Exception)),
)


class Session(ort.InferenceSession):  # type: ignore[misc]
    """A session that raises where it fails; ONNX Runtime's own prints to standard output, and tries other providers."""

    _enable_fallback = property(lambda self: False, lambda self, value: None)


def useful_threads(threads: int | None) -> int:
    """Return how many threads to ask of a session: no more than there are cores, and 0, its own choice, for None."""
    return 0 if threads is None else min(threads, os.cpu_count() or 1)
