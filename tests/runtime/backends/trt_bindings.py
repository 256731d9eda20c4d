"""What the code uses of TensorRT's Python bindings, and what a binding says of itself.

`python -m tests.runtime.backends.trt_bindings MODULE` imports a binding and prints what `described` returns, as JSON:
for bindings that want other libraries in the process.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from typing import Any

# Function -> the names of its arguments, as they are given; of one with overloads, those of the one that is called.
CALLS = {
    "Runtime.deserialize_cuda_engine": ("serialized_engine",),
    "ICudaEngine.get_tensor_name": ("index",),
    "ICudaEngine.get_tensor_mode": ("name",),
    "ICudaEngine.get_tensor_dtype": ("name",),
    "ICudaEngine.get_tensor_profile_shape": ("name", "profile_index"),
    "IExecutionContext.set_input_shape": ("name", "shape"),
    "IExecutionContext.infer_shapes": (),
    "IExecutionContext.get_tensor_shape": ("name",),
    "IExecutionContext.update_device_memory_size_for_shapes": (),
    "IExecutionContext.set_device_memory": ("memory", "size"),
    "IExecutionContext.set_tensor_address": ("name", "memory"),
    "IExecutionContext.execute_async_v3": ("stream_handle",),
    "Builder.create_network": ("flags",),
    "Builder.create_builder_config": (),
    "Builder.create_optimization_profile": (),
    "Builder.build_serialized_network": ("network", "config"),
    "OnnxParser.parse_from_file": ("model",),
    "OnnxParser.get_error": ("index",),
    "IBuilderConfig.clear_flag": ("flag",),
    "IBuilderConfig.set_flag": ("flag",),
    "IBuilderConfig.set_memory_pool_limit": ("pool", "pool_size"),
    "IBuilderConfig.add_optimization_profile": ("profile",),
    "IBuilderConfig.create_timing_cache": ("serialized_timing_cache",),
    "IBuilderConfig.set_timing_cache": ("cache", "ignore_mismatch"),
    "IBuilderConfig.get_timing_cache": (),
    "IOptimizationProfile.set_shape": ("input", "min", "opt", "max"),
    "ITimingCache.serialize": (),
}
CLASSIC_CALLS = {"ICudaEngine.create_execution_context": ("strategy",)}
RTX_CALLS = {
    "ICudaEngine.create_execution_context": ("runtime_config",),
    "ICudaEngine.create_runtime_config": (),
    "Runtime.get_engine_validity": ("buffer",),
    "IExecutionContext.is_stream_capturable": ("stream",),
    "IRuntimeConfig.set_execution_context_allocation_strategy": ("strategy",),
    "IRuntimeConfig.create_runtime_cache": (),
    "IRuntimeConfig.set_runtime_cache": ("cache",),
    "IRuntimeCache.serialize": (),
    "IRuntimeCache.deserialize": ("blob",),
    "IBuilderConfig.set_compute_capability": ("compute_capability", "index"),
}
NAMES = (
    "__version__",
    "float32",
    "float16",
    "uint8",
    "int64",
    "ILogger.Severity.INTERNAL_ERROR",
    "ILogger.Severity.ERROR",
    "ILogger.Severity.WARNING",
    "ILogger.Severity.INFO",
    "ILogger.Severity.VERBOSE",
    "TensorIOMode.INPUT",
    "ExecutionContextAllocationStrategy.USER_MANAGED",
    "ICudaEngine.num_io_tensors",
    "ICudaEngine.device_memory_size_v2",
    "OnnxParser.num_errors",
    "BuilderFlag.TF32",
    "MemoryPoolType.WORKSPACE",
)
RTX_NAMES = (
    "EngineInvalidityDiagnostics.__members__",
    "CudaGraphStrategy.DISABLED",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "DynamicShapesKernelSpecializationStrategy.NONE",
    "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IBuilderConfig.num_compute_capabilities",
    "ComputeCapability.SM89",
)
# What the code asks for before it uses it, as only TensorRT for RTX has it.
GUARDED = (
    "Runtime.get_engine_validity",
    "IExecutionContext.is_stream_capturable",
    "IBuilderConfig.num_compute_capabilities",
    "BuilderFlag.REQUIRE_USER_ALLOCATION",
)

_SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((.*)\) -> ", re.MULTILINE)
_ARGUMENT = re.compile(r"(?:^|, )(\w+): ")


def described(trt: Any) -> dict[str, Any]:
    """Return which names a binding has, the arguments of each overload of its functions, and how it fails to start."""
    calls = {**CALLS, **CLASSIC_CALLS, **RTX_CALLS}
    found = {name: _of(trt, name) for name in (*NAMES, *RTX_NAMES, *GUARDED, *calls)}
    try:
        trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
        start = ""
    except TypeError as error:
        start = str(error)
    return {
        "names": [name for name, value in found.items() if value is not None],
        "arguments": {name: _arguments(found[name]) for name in calls if found[name] is not None},
        "start": start,
    }


def problems(found: dict[str, Any], names: tuple[str, ...], calls: dict[str, tuple[str, ...]]) -> list[str]:
    """Return what a binding lacks of names, and of functions with these arguments."""
    missing = [name for name in (*names, *calls) if name not in found["names"]]
    differing = [
        f"{name}{given} is not among {found['arguments'][name]}"
        for name, given in calls.items()
        if name in found["arguments"] and list(given) not in found["arguments"][name]
    ]
    return missing + differing


def _of(trt: Any, name: str) -> Any:
    value = trt
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def _arguments(function: Any) -> list[list[str]]:
    """Return the names of the arguments of each overload, without self, as pybind11 documents them."""
    overloads = [_ARGUMENT.findall(line) for line in _SIGNATURE.findall(function.__doc__ or "")]
    return [[name for name in names if name != "self"] for names in overloads]


if __name__ == "__main__":
    json.dump(described(import_module(sys.argv[1])), sys.stdout)
