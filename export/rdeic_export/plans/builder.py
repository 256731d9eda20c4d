"""One ONNX graph -> one TensorRT plan, as a process of its own: a failed build leaves the library unusable in it.

    python -m rdeic_export.plans.builder request.json

The request holds the fields of `Request`. The plan is written to its ``output``, what the builder said of it to
``OUTPUT.report.json``; on failure the last line on standard error says why.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdeic_rt.backends.tensorrt.plans import MODULES

FAILED = 1
_SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")
# What the libraries report on every machine without a GPU, before building all the same.
_NOISE = ("CUDA driver version is insufficient", "catchCudaError", "cudaError")


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        library: ``tensorrt`` or ``tensorrt-rtx``.
        onnx, output: files to read and to write.
        shapes: input -> (smallest, typical, largest) shape; inputs without free dimensions are left out.
        capabilities: 80 for compute capability 8.0; used by TensorRT for RTX, which builds without a GPU.
        workspace_bytes: limit of the scratch memory, or None.
        tf32: whether float32 layers may run in TF32.
        timing_cache: file in which TensorRT keeps kernel timings from one build to the next; None for TensorRT for RTX,
            which times nothing while building.
    """

    library: str
    onnx: str
    output: str
    shapes: Mapping[str, Sequence[Sequence[int]]]
    capabilities: Sequence[int]
    workspace_bytes: int | None
    tf32: bool
    timing_cache: str | None


def main(path: str) -> int:
    """Build what the request in this file asks for; return the exit code."""
    request = Request(**json.loads(Path(path).read_text()))
    trt = importlib.import_module(MODULES[request.library])
    log = _log(trt)
    start = time.perf_counter()
    plan = _build(trt, log, request)
    if plan is None:
        print(log.errors[-1] if log.errors else f"{request.library} gave no reason", file=sys.stderr)
        return FAILED
    with Path(request.output).open("wb") as file:
        file.write(plan)
    report = {
        "build_seconds": round(time.perf_counter() - start, 1),
        "build_peak_bytes": _peak_bytes(),
        "scratch_bytes": max(log.scratch_bytes, default=None),
        "warnings": sorted(set(log.warnings)),
    }
    Path(f"{request.output}.report.json").write_text(json.dumps(report))
    return 0


def _build(trt: Any, log: Any, request: Request) -> Any | None:
    builder = trt.Builder(log)
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # always so in newer ones
    network = builder.create_network(1 << int(strongly_typed) if strongly_typed is not None else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request.onnx):
        log.errors.extend(parser.get_error(index).desc() for index in range(parser.num_errors))
        return None
    config = builder.create_builder_config()
    if not request.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # so that runs can be recorded as a CUDA graph
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if hasattr(config, "num_compute_capabilities"):
        # The default list makes some dynamic graphs fail with bad_alloc.
        config.num_compute_capabilities = len(request.capabilities)
        for index, capability in enumerate(request.capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)
    if request.shapes:
        profile = builder.create_optimization_profile()
        for name, shapes in request.shapes.items():
            profile.set_shape(name, *map(tuple, shapes))
        if config.add_optimization_profile(profile) < 0:
            log.errors.append(f"the library refuses the sizes {dict(request.shapes)}")
            return None
    if request.timing_cache is None:
        return builder.build_serialized_network(network, config)
    cache_file = Path(request.timing_cache)
    cache = config.create_timing_cache(cache_file.read_bytes() if cache_file.exists() else b"")
    if cache is not None:  # None for one of another version or device, which is then written anew
        config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is not None:
        _replace(cache_file, config.get_timing_cache().serialize())
    return plan


def _peak_bytes() -> int:
    """Return the most memory this process has held; what `resource` says is no less than its parent held."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].removesuffix("kB")) * 1024


def _replace(path: Path, data: Any) -> None:
    """Write a file in one step."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _log(trt: Any) -> Any:
    """Return a logger that keeps errors, warnings and the scratch memory, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.scratch_bytes: list[int] = []

        def log(self, severity: Any, message: str) -> None:
            if any(word in message for word in _NOISE):
                return
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(message)
            elif found := _SCRATCH.search(message):
                self.scratch_bytes.append(int(found[1]))

    return Log()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
