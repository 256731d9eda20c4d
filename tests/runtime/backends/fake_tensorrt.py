"""A TensorRT whose engines are ONNX Runtime sessions over addresses, on `fake_cuda`; for tests without a GPU.

A plan is JSON with the ONNX file in it. A context refuses what the real one leaves undefined: memory that is not there,
scratch memory that is too small, a first run after a change of shapes while it is recorded, and a replay after the
context has been given other shapes or is gone. Kernels for one shape round otherwise than general ones, a stream that
is being recorded counts as one that cannot be, and the module counts what costs: contexts, and what is made of caches.
What this cannot show is whether the real library does the same.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from rdeic_rt import bundle as bundles
from rdeic_rt.backends.base import WEIGHTED_SUM
from rdeic_rt.backends.tensorrt import plans
from rdeic_rt.backends.tensorrt.plans import PlanKey, Profile
from rdeic_rt.limits import Size
from rdeic_rt.manifest import Bundle, GraphSpec
from rdeic_rt.tensor_spec import TensorSpec

from .fake_cuda import FakeCuda

VERSION = "1.7.0"
PROFILE = Profile(Size(64, 64), Size(128, 192), Size(256, 320), max_batch=2)
_MAGIC = "fake plan"
_TYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32", "tensor(float16)": "float16"}


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def __init__(self) -> None: ...

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class Diagnostics(IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    MALFORMED_ENGINE = 32


def library(cuda: FakeCuda, *, version: str = VERSION) -> Any:
    """Return what stands for the module ``tensorrt_rtx``."""
    module = SimpleNamespace(
        __name__="tensorrt_rtx",
        __version__=version,
        ILogger=ILogger,
        float32="float32",
        float16="float16",
        uint8="uint8",
        int64="int64",
        TensorIOMode=SimpleNamespace(INPUT=1, OUTPUT=2),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=2),
        CudaGraphStrategy=SimpleNamespace(DISABLED=0),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(LAZY=0, EAGER=1, NONE=2),
        EngineInvalidityDiagnostics=Diagnostics,
        ComputeCapability=SimpleNamespace(SM75=75, SM80=80, SM86=86, SM89=89, SM120=120, SM121=121),
        failing=set(),
        counts=Counter(),
    )
    module.Runtime = lambda logger: Runtime(module, cuda, logger)
    return module


class Runtime:
    def __init__(self, module: Any, cuda: FakeCuda, logger: ILogger) -> None:
        if "runtime" in module.failing:
            logger.log(Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._module, self._cuda, self._logger = module, cuda, logger

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        self._logger.log(Severity.INFO, f"Loaded engine size: {len(data)}")
        if "deserialize" in self._module.failing or self.get_engine_validity(data)[1]:
            self._logger.log(Severity.ERROR, "Serialization assertion failed")
            return None
        return Engine(self._module, self._cuda, self._logger, json.loads(data))

    def get_engine_validity(self, data: bytes) -> tuple[int, int]:
        try:
            plan = json.loads(data)
        except ValueError:
            return 2, int(Diagnostics.MALFORMED_ENGINE)
        return 0, 0 if plan["version"] == self._module.__version__ else int(Diagnostics.VERSION_MISMATCH)


class Cache:
    """A runtime cache: one byte for each set of shapes that was compiled for."""

    def __init__(self, version: str, module: Any, cuda: FakeCuda) -> None:
        self._version = version.encode()
        self._counts, self._cuda = module.counts, cuda
        self.compiled = b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(self._version) or not self._cuda.has_context:
            return False
        self.compiled = blob[len(self._version) :]
        return True

    def serialize(self) -> bytes:
        self._counts["serialize"] += 1
        return self._version + self.compiled


class Config:
    def __init__(self, version: str, module: Any, cuda: FakeCuda) -> None:
        self._version, self._module, self._cuda = version, module, cuda
        self.cache: Cache | None = None
        self.cuda_graph_strategy = 1
        self.dynamic_shapes_kernel_specialization_strategy = 0
        self.strategy = 0

    def set_execution_context_allocation_strategy(self, strategy: int) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Cache:
        return Cache(self._version, self._module, self._cuda)

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.cache = cache
        return True


class Engine:
    def __init__(self, module: Any, cuda: FakeCuda, logger: ILogger, plan: Mapping[str, Any]) -> None:
        self.module, self.cuda, self.logger, self.plan = module, cuda, logger, plan
        self.session = _session(plan["onnx"])
        self.inputs = {node.name: _TYPES[node.type] for node in self.session.get_inputs()}
        self.outputs = {node.name: _TYPES[node.type] for node in self.session.get_outputs()}
        self.known_shapes: dict[Any, dict[str, tuple[int, ...]]] = {}

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    @property
    def device_memory_size_v2(self) -> int:
        largest = [most for _, _, most in self.plan["profile"].values()]
        return int(self.plan["scratch"] * max(np.prod(shape) for shape in largest))

    def get_tensor_name(self, index: int) -> str:
        return str([*self.inputs, *self.outputs][index])

    def get_tensor_mode(self, name: str) -> int:
        return 1 if name in self.inputs else 2

    def get_tensor_dtype(self, name: str) -> str:
        return {**self.inputs, **self.outputs}[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.plan["profile"][name]]

    def create_runtime_config(self) -> Config:
        return Config(self.plan["version"], self.module, self.cuda)

    def create_execution_context(self, how: Config) -> Context | None:
        if "create_execution_context" in self.module.failing:
            self.logger.log(Severity.ERROR, "context refused")
            return None
        assert how.strategy == self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        assert how.cuda_graph_strategy == self.module.CudaGraphStrategy.DISABLED
        self.module.counts["create_execution_context"] += 1
        return Context(self, how)


@lru_cache(maxsize=16)
def _session(onnx: str) -> ort.InferenceSession:
    return ort.InferenceSession(base64.b64decode(onnx), providers=["CPUExecutionProvider"])


class Context:
    def __init__(self, engine: Engine, config: Config) -> None:
        self._engine, self._config = engine, config
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._has_run: Any = None
        self._state = SimpleNamespace(is_gone=False, shapes=self._shapes)

    def __del__(self) -> None:
        self._state.is_gone = True

    def _refused(self, call: str) -> bool:
        if call in self._engine.module.failing:
            self._engine.logger.log(Severity.ERROR, f"{call} refused")
            return True
        return False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.plan["profile"][name]
        assert all(low <= dim <= high for low, dim, high in zip(least, shape, most, strict=True))
        self._shapes[name] = tuple(shape)
        return not self._refused("set_input_shape")

    def infer_shapes(self) -> list[str]:
        if self._refused("infer_shapes"):
            raise RuntimeError("infer_shapes refused")
        return [name for name in self._engine.inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        key = tuple(sorted(self._shapes.items()))
        known = self._engine.known_shapes
        if key not in known:
            zeros = {x: np.zeros(self._shapes[x], dtype) for x, dtype in self._engine.inputs.items()}
            results = self._engine.session.run(list(self._engine.outputs), zeros)
            known[key] = {x: result.shape for x, result in zip(self._engine.outputs, results, strict=True)}
        return known[key][name]

    def update_device_memory_size_for_shapes(self) -> int:
        return int(self._engine.plan["scratch"] * max(np.prod(shape) for shape in self._shapes.values()))

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        self._engine.cuda.view(address, size)
        self._scratch = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0
        self._addresses[name] = address
        return not self._refused("set_tensor_address")

    def is_stream_capturable(self, stream: int) -> bool:
        return not (self._engine.cuda.is_recording(stream) or self._refused("is_stream_capturable"))

    def execute_async_v3(self, stream: int) -> bool:
        cuda, engine = self._engine.cuda, self._engine
        if self._refused("execute_async_v3"):
            return False
        shapes, addresses, (scratch, scratch_size) = dict(self._shapes), dict(self._addresses), self._scratch
        assert addresses.keys() == {*engine.inputs, *engine.outputs}
        assert scratch_size >= max(self.update_device_memory_size_for_shapes(), 1)
        is_recorded = cuda.is_recording(stream)
        if is_recorded:
            assert self._has_run == shapes, "recorded before it has run with these shapes"
            assert self._config.dynamic_shapes_kernel_specialization_strategy == 1
        elif self._has_run != shapes:
            self._has_run = shapes
            if self._config.dynamic_shapes_kernel_specialization_strategy == 1 and self._config.cache is not None:
                self._config.cache.compiled += b"k"
        state, is_specialised = self._state, self._config.dynamic_shapes_kernel_specialization_strategy == 1

        def work() -> None:
            assert not state.is_gone, "its context is gone"
            assert not is_recorded or state.shapes == shapes, "its context has other shapes by now"
            cuda.view(scratch, scratch_size)[:] = 0x77
            given = {x: _read(cuda, addresses[x], shapes[x], dtype) for x, dtype in engine.inputs.items()}
            results = engine.session.run(list(engine.outputs), given)
            for name, result in zip(engine.outputs, results, strict=True):
                if is_specialised and result.dtype.kind == "f":
                    result = np.nextafter(result, result.dtype.type(np.inf))
                cuda.view(addresses[name], result.nbytes)[:] = np.ascontiguousarray(result).reshape(-1).view(np.uint8)

        cuda.submit(stream, work)
        return True


def _read(cuda: FakeCuda, address: int, shape: Sequence[int], dtype: str) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return cuda.view(address, size).view(dtype).reshape(shape).copy()


def write_plans(
    folder: Path,
    *,
    library: str = "tensorrt-rtx",
    version: str = VERSION,
    capabilities: tuple[int, ...] = (80, 86, 89),
    precision: str = "fp16",
    profile: Profile = PROFILE,
    scratch: int = 2,
    rates: slice = slice(None),
) -> None:
    """Write plans of every graph that decoding needs beside a bundle, as the exporter does."""
    bundle = bundles.load(folder)
    ids = {
        graph_id
        for rate in bundle.rates[rates]
        for role, graph_id in rate.graphs.items()
        if role in bundle.decoding_roles
    }
    for spec in [*(bundle.reference(graph_id) for graph_id in sorted(ids)), WEIGHTED_SUM]:
        key = PlanKey(
            graph=spec.id,
            onnx_sha256=plans.onnx_digest(spec),
            derived_sha256="0" * 64,
            library=library,
            version=version,
            target=plans.target_of(capabilities),
            precision=precision,
            profile=profile if _is_guided(spec) else replace(profile, max_batch=1),
            options={},
        )
        plan = {
            "magic": _MAGIC,
            "version": version,
            "onnx": base64.b64encode(spec.path.read_bytes()).decode(),
            "profile": {tensor.name: _shapes(bundle, tensor, key.profile) for tensor in spec.inputs},
            "scratch": scratch,
        }
        path = folder / plans.FOLDER / key.folder / f"{spec.id}.plan"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plan))
        plans.write_key(path, key, {})


def _is_guided(spec: GraphSpec) -> bool:
    return any(tensor.name.startswith("residual_") for tensor in spec.inputs)


def _shapes(bundle: Bundle, tensor: TensorSpec, profile: Profile) -> list[list[int]]:
    """Return the smallest, typical and largest shape of an input."""
    last = bundle.reference(bundle.rates[0].graphs[bundle.decoding_roles[-1]])
    shape = last.inputs[0] if "channels" in tensor.shape else tensor  # `base.WEIGHTED_SUM` runs on latents
    units = bundle.size_multiple_px
    return [
        list(shape.resolve({"batch": batch, "hz": size.height // units, "wz": size.width // units}))
        for size, batch in ((profile.smallest, 1), (profile.typical, 1), (profile.largest, profile.max_batch))
    ]
