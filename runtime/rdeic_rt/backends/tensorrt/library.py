"""TensorRT, or TensorRT for RTX, as a library: its version and log, and plans turned into engines.

The two have the same interface and go through the same code; what only one has is asked for by name.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from ...errors import BackendError, BackendUnavailableError, DeviceMemoryError
from ..base import BackendAbsentError
from ..gpu.cuda import Device
from ..gpu.memory import LOWER
from . import plans
from .plans import Plan

_log = logging.getLogger("rdeic_rt.backends.tensorrt.backend")


@dataclass(frozen=True)
class Library:
    """TensorRT or TensorRT for RTX, with its log.

    Attributes:
        name: one of `plans.LIBRARIES`.
        module: what was imported.
        runtime: deserialises plans.
        errors: the last things it reported as such, newest last.
    """

    name: str
    module: ModuleType
    runtime: Any
    errors: deque[str]

    @property
    def version(self) -> str:
        """The library's version."""
        return str(self.module.__version__)

    def check_runs_on(self, capability: int) -> None:
        """Raise BackendUnavailableError if it has no kernels for a compute capability, 89 for 8.9."""
        # Without the name for it, it takes plans for no such GPU. TensorRT builds for the GPU that is there.
        if self.name == "tensorrt-rtx" and not hasattr(self.module.ComputeCapability, f"SM{capability}"):
            raise BackendUnavailableError(plans.beyond_rtx(capability))

    def last_error(self) -> str:
        """Return its last report, and forget all of them."""
        text = self.errors[-1] if self.errors else "no reason given"
        self.errors.clear()
        return text


def open_library(name: str) -> Library:
    """Return an installed library.

    Raises:
        BackendAbsentError: it cannot be imported.
        BackendUnavailableError: its runtime cannot be made.
    """
    try:
        module = import_module(plans.MODULES[name])
    except (ImportError, OSError) as error:
        raise BackendAbsentError(f"{name} cannot be imported ({error})") from None
    errors: deque[str] = deque(maxlen=8)
    try:
        runtime = module.Runtime(_logger(module, errors))
    except TypeError as error:  # what its binding makes of no runtime
        said = errors[-1] if errors else str(error)
        raise BackendUnavailableError(
            f"{name} {module.__version__} cannot start: {said}. Driver, CUDA and library must be of versions that go "
            "together; `rdeic-rt doctor` shows them."
        ) from None
    return Library(name, module, runtime, errors)


def deserialise(plan: Plan, library: Library, device: Device) -> Any:
    """Return the engine that a plan holds.

    Raises:
        BundleCorruptError: the file is missing or damaged.
        DeviceMemoryError: its weights do not fit.
        BackendError: the library does not take it; says why as far as it tells.
    """
    data = plan.read()
    library.errors.clear()
    engine = library.runtime.deserialize_cuda_engine(data)
    if engine is not None:
        return engine
    said = library.last_error()
    if "memory" in said.lower():
        raise DeviceMemoryError(
            f"{plan.path}: {plan.size_bytes} bytes of weights wanted, {device.free_bytes()} free of "
            f"{device.total_bytes} on {device.name} ({said}). {LOWER}"
        )
    problems = f" ({_problems(library, data)})" if hasattr(library.runtime, "get_engine_validity") else ""
    raise BackendError(
        f"{plan.path}: {library.name} {library.version} does not take this plan{problems}: {said}. {rebuild(plan)}."
    )


def _problems(library: Library, data: bytes) -> str:
    _, bits = library.runtime.get_engine_validity(data)
    names = library.module.EngineInvalidityDiagnostics.__members__
    return ", ".join(name for name, member in names.items() if int(member) & int(bits)) or "no known problem"


def rebuild(plan: Plan) -> str:
    """Return what to do about a plan that cannot be used, without a full stop."""
    bundle = plan.path.parents[2]
    return f"Build it again with `python export/build_engines.py --bundle {bundle} --precision {plan.key.precision}`"


def _logger(module: ModuleType, errors: deque[str]) -> Any:
    """Return a logger that feeds `logging`, and keeps what went wrong for the message of the exception."""
    severity_of = module.ILogger.Severity

    class Logger(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (severity_of.INTERNAL_ERROR, severity_of.ERROR):
                errors.append(message.strip())
            level = logging.DEBUG if severity in (severity_of.INFO, severity_of.VERBOSE) else logging.INFO
            _log.log(level, "%s: %s", module.__name__, message.strip())

    return Logger()
