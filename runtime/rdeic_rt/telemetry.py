"""The libraries that run networks send telemetry unless they are told not to. Here they are told.

ONNX Runtime, from 1.29 on in its wheels for Linux, reads ``ORT_DISABLE_TELEMETRY`` when it is loaded. OpenVINO has no
such variable, but does without the package ``openvino_telemetry``. Both would write into the user's folders,
and complain on standard error, or fail, where there are none.
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
    """Let OpenVINO, where it is imported in the block for the first time, not find its telemetry."""
    if _OPENVINOS in sys.modules:
        yield
        return
    sys.modules[_OPENVINOS] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_OPENVINOS]
