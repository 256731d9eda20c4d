"""A graph as a TensorRT plan: contexts, shapes, scratch memory, addresses, enqueue; every return value checked.

A context belongs to one `device.Target`: what is recorded keeps contexts of its own, since changing one afterwards
would change what is replayed. All contexts share one piece of scratch memory, for one runs at a time.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from ...errors import BackendError, BundleCorruptError
from ...limits import Size
from ...manifest import GraphSpec
from ...tensor_spec import TensorSpec
from ..base import Buffer
from ..gpu.buffers import DeviceBuffer
from ..gpu.cuda import Stream, settle
from ..gpu.device import device_buffer
from ..gpu.memory import ALIGNMENT
from ..gpu.workspace import Target, Workspace
from .kernels import RuntimeCache
from .library import Library, deserialise, rebuild
from .plans import Plan


@dataclass(eq=False)
class Binding:
    """A context and how it was last set up.

    Attributes:
        context: the library's.
        shapes: of its inputs.
        outputs: shapes of its outputs.
        scratch_bytes: what it needs of scratch memory for them.
        scratch_address: of the piece it was given, 0 before.
        has_run: whether it has been run.
    """

    context: Any
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    scratch_bytes: int = 0
    scratch_address: int = 0
    has_run: bool = False


class TrtGraph:
    """A deserialised plan.

    Attributes:
        spec: names, types and shapes.
        plan: what it was read from.
    """

    def __init__(self, spec: GraphSpec, plan: Plan, library: Library, workspace: Workspace) -> None:
        self.spec = spec
        self.plan = plan
        self._library = library
        self._workspace = workspace
        memory = workspace.memory
        memory.check(plan.size_bytes)
        self._engine = deserialise(plan, library, workspace.device)
        weights = object()
        memory.elsewhere[weights] = plan.size_bytes
        weakref.finalize(self, memory.elsewhere.pop, weights, None).atexit = False
        self._check_io()
        self._ranges = {tensor.name: _range(self._engine, tensor) for tensor in spec.inputs}
        self._cache = RuntimeCache(plan, workspace.device)
        if memory.limit is None:
            workspace.scratch_wish = max(workspace.scratch_wish, int(self._engine.device_memory_size_v2))

    def run(self, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Return the outputs by name; errors as in `base.Graph.run`."""
        workspace, spec = self._workspace, self.spec
        if inputs.keys() != self._ranges.keys():
            raise KeyError(f"graph {spec.id!r} has the inputs {list(self._ranges)}, not {list(inputs)}")
        with workspace.entered() as target:
            binding = self._binding(target)
            given = {name: self._aligned(device_buffer(buffer)) for name, buffer in inputs.items()}
            reshaped = self._set_shapes(binding, {name: buffer.shape for name, buffer in given.items()})
            self._give_scratch(binding)
            outputs = {
                tensor.name: workspace.empty(binding.outputs[tensor.name], tensor.dtype) for tensor in spec.outputs
            }
            for name, buffer in chain(given.items(), outputs.items()):
                self._expect(binding.context.set_tensor_address(name, workspace.address(buffer)), "set_tensor_address")
            self._expect(binding.context.execute_async_v3(target.stream.handle), "execute_async_v3")
            if target.recorder is not None:
                self._check_recordable(binding, target, target.recorder)
            # Specialised kernels are compiled for each shape, general ones once.
            if reshaped and (target.specialised or not binding.has_run):
                self._cache.save()
            binding.has_run = True
            return dict(outputs)

    def needs(self, size: Size) -> tuple[int, int]:
        """Return the bytes of scratch memory, and of all inputs and outputs, for a padded image of this size."""
        largest = self.plan.key.profile.largest
        shapes = {}
        for name, (_, most) in self._ranges.items():
            shapes[name] = most
            if len(most) == 4:  # [B, C, h, w], in proportion to the image
                height, width = most[2] * size.height // largest.height, most[3] * size.width // largest.width
                shapes[name] = (*most[:2], height, width)
        with self._workspace.entered() as target:
            binding = self._binding(target)
            self._set_shapes(binding, shapes)
        tensors = [(shapes[tensor.name], tensor.dtype) for tensor in self.spec.inputs]
        tensors += [(binding.outputs[tensor.name], tensor.dtype) for tensor in self.spec.outputs]
        return binding.scratch_bytes, sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in tensors)

    def _binding(self, target: Target) -> Binding:
        binding: Binding | None = target.bound.get(self)
        if binding is None:
            binding = target.bound[self] = Binding(self._context(target))
            # A context must outlive what it has queued.
            weakref.finalize(binding, settle, self._workspace.stream).atexit = False
        return binding

    def _context(self, target: Target) -> Any:
        trt, engine = self._library.module, self._engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._library.name == "tensorrt-rtx":
            config = engine.create_runtime_config()
            self._expect(config is not None, "create_runtime_config")
            config.set_execution_context_allocation_strategy(strategy)
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the whole chain is recorded here
            kernels = trt.DynamicShapesKernelSpecializationStrategy
            # Kernels for one shape are compiled when it first runs, which takes seconds: only where it comes again.
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER if target.specialised else kernels.NONE
            self._cache.attach(config)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        self._expect(context is not None, "create_execution_context")
        return context

    def _set_shapes(self, binding: Binding, shapes: dict[str, tuple[int, ...]]) -> bool:
        """Tell the context the shapes of its inputs, and ask what follows from them; return whether they are new."""
        if binding.shapes == shapes:
            return False
        if self._workspace.target.kept is not None:
            raise BackendError(f"graph {self.spec.id!r} is run with two shapes in one recording")
        binding.shapes, binding.scratch_address = {}, 0
        for name, shape in shapes.items():
            least, most = self._ranges[name]
            if len(shape) != len(least) or not all(map(_between, least, shape, most)):
                raise BackendError(
                    f"graph {self.spec.id!r}: {name} is {list(shape)}, its plan was built for {list(least)} to "
                    f"{list(most)}. {rebuild(self.plan)} with sizes and batch that cover it."
                )
            self._expect(binding.context.set_input_shape(name, shape), "set_input_shape")
        try:
            missing = binding.context.infer_shapes()
        except RuntimeError:  # of which the log tells more
            missing = list(shapes)
        self._expect(not missing, "infer_shapes")
        binding.scratch_bytes = int(binding.context.update_device_memory_size_for_shapes())
        binding.outputs = {out.name: tuple(binding.context.get_tensor_shape(out.name)) for out in self.spec.outputs}
        binding.shapes = shapes
        return True

    def _give_scratch(self, binding: Binding) -> None:
        size_bytes = max(binding.scratch_bytes, ALIGNMENT)
        address = self._workspace.scratch(size_bytes).address
        if binding.scratch_address != address:
            binding.context.set_device_memory(address, size_bytes)
            binding.scratch_address = address

    def _aligned(self, buffer: DeviceBuffer) -> DeviceBuffer:
        """Return the buffer, or a copy at an address that TensorRT takes."""
        if buffer.address % ALIGNMENT == 0:
            return buffer
        copy = self._workspace.empty(buffer.shape, buffer.dtype)
        self._workspace.copy(copy.address, self._workspace.address(buffer), buffer.size_bytes)
        return copy

    def _check_io(self) -> None:
        trt, engine = self._library.module, self._engine
        types = {trt.float32: "float32", trt.float16: "float16", trt.uint8: "uint8", trt.int64: "int64"}
        there = {}
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            dtype = engine.get_tensor_dtype(name)
            there[name] = (is_input, types.get(dtype, str(dtype)))
        promised = {tensor.name: (True, tensor.dtype) for tensor in self.spec.inputs}
        promised |= {tensor.name: (False, tensor.dtype) for tensor in self.spec.outputs}
        if there != promised:
            differing = sorted({name for name, _ in there.items() ^ promised.items()})
            raise BundleCorruptError(
                f"{self.plan.path}: not a plan of graph {self.spec.id!r} as bundle.json describes it: "
                f"{', '.join(differing)} differ. {rebuild(self.plan)}."
            )

    def _check_recordable(self, binding: Binding, target: Target, recorder: Stream) -> None:
        # TensorRT has no such function, and can have every plan of these graphs recorded. Asked of a stream that is
        # idle: nothing says what the answer is for one that is being recorded.
        ask = getattr(binding.context, "is_stream_capturable", None)
        if ask is not None and not ask(recorder.handle):
            target.obstacles.append(f"graph {self.spec.id!r} cannot be recorded: {self._library.last_error()}")

    def _expect(self, worked: bool, name: str) -> None:
        """Raise BackendError unless a call of the library worked."""
        if not worked:
            library = self._library
            raise BackendError(
                f"{library.name} {library.version}, graph {self.spec.id!r}: {name}: {library.last_error()}"
            )


def _between(least: int, dim: int, most: int) -> bool:
    return least <= dim <= most


def _range(engine: Any, tensor: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the smallest and the largest shape of an input."""
    fixed = tuple(dim for dim in tensor.shape if isinstance(dim, int))
    if len(fixed) == len(tensor.shape):
        return fixed, fixed
    least, _, most = engine.get_tensor_profile_shape(tensor.name, 0)
    return tuple(least), tuple(most)
