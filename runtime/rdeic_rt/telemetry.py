"""Turns off the telemetry of the inference libraries.

ONNX Runtime, since 1.29 in its wheels for Linux, reads ``ORT_DISABLE_TELEMETRY`` when it is loaded. OpenVINO has no
such variable, but works without the package ``openvino_telemetry``. Both would write to the user's home folder,
and print warnings or fail if there is none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "ORT_DISABLE_TELEMETRY"
_OPENVINOS = "openvino_telemetry"


def turn_off_onnx_runtimes() -> None:
    """Turn it off, unless the user has set the variable; to be called before ONNX Runtime is imported."""
    os.environ.setdefault(VARIABLE, "1")


@contextmanager
def without_openvinos() -> Iterator[None]:
    """Hide the telemetry package from OpenVINO while it is imported in the block for the first time."""
    if _OPENVINOS in sys.modules:
        yield
        return
    sys.modules[_OPENVINOS] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_OPENVINOS]
