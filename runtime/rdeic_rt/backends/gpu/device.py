"""What the backends on a GPU share: everything of `base.Backend` but loading graphs, over one workspace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from numpy.typing import NDArray

from ...entropy.evaluator import Evaluator, HostEvaluator
from ...limits import Size
from ...manifest import GraphSpec
from ..base import WEIGHTED_SUM, Buffer, Graph, Recordings, Result
from .buffers import DeviceBuffer
from .cuda import call
from .entropy_nets import GpuEvaluator
from .workspace import Workspace


class DeviceBackend(ABC):
    """A backend on a GPU, but for its name, the forms it runs and how it loads graphs."""

    name: str
    forms: frozenset[str]
    runs_plans = False

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._evaluators: list[GpuEvaluator] = []

    @abstractmethod
    def description(self) -> dict[str, str]:
        """Return versions and device, by name."""

    @abstractmethod
    def load(self, spec: GraphSpec) -> Graph:
        """Return the graph, ready to run; errors as in `base.Backend.load`."""

    def put(self, array: NDArray[Any]) -> DeviceBuffer:
        """Return a buffer with the content of a host array."""
        with self.workspace.entered():
            return self.workspace.upload({"": array})[""]

    def get(self, buffer: Buffer) -> NDArray[Any]:
        """Return the content of a buffer as a new host array; waits for it."""
        return self.workspace.download(device_buffer(buffer))

    def stack(self, buffers: Sequence[Buffer]) -> DeviceBuffer:
        """Return the buffers joined along the batch axis."""
        parts = [device_buffer(buffer) for buffer in buffers]
        with self.workspace.entered():
            result = self.workspace.empty((sum(part.shape[0] for part in parts), *parts[0].shape[1:]), parts[0].dtype)
            address = result.address
            for part in parts:
                self.workspace.copy(address, self.workspace.address(part), part.size_bytes)
                address += part.size_bytes
        return result

    def zeros_like(self, buffer: Buffer) -> DeviceBuffer:
        """Return zeros of the same type and shape."""
        like = device_buffer(buffer)
        with self.workspace.entered() as target:
            result = self.workspace.empty(like.shape, like.dtype)
            call("cudaMemsetAsync", result.address, 0, result.size_bytes, target.stream.handle)
        return result

    def weighted_sum(self, x: Buffer, y: Buffer, weights: Buffer) -> Buffer:
        """Return weights[0] x + weights[1] y, by the graph `base.WEIGHTED_SUM`."""
        return self._weighted_sum.run({"x": x, "y": y, "weights": weights})["out"]

    def split(self, buffer: Buffer) -> tuple[DeviceBuffer, ...]:
        """Return the batch items, each [1, ...], in the same memory."""
        return device_buffer(buffer).items()

    def crop(self, buffer: Buffer, size: Size) -> DeviceBuffer:
        """Return the top left corner of an image, [H, W, 3], in the same memory."""
        return device_buffer(buffer).corner(size)

    def synchronize(self) -> None:
        """Wait for everything queued so far."""
        self.workspace.synchronize()

    def peak_bytes(self) -> int:
        """Return the most device memory that was in use at a time."""
        return self.workspace.memory.peak

    def recordings(self) -> Recordings | None:
        """Return None: it records nothing."""
        return None

    def evaluator(self, host: HostEvaluator) -> Evaluator:
        """Return an evaluator on the device, which leaves to ``host`` what it cannot do."""
        self._evaluators.append(GpuEvaluator(host, self.workspace))
        return self._evaluators[-1]

    def device_description(self) -> dict[str, str]:
        """Return what `description` says of the device, and where entropy networks run that are loaded."""
        places = ", ".join(sorted({evaluator.place for evaluator in self._evaluators}))
        return {**self.workspace.device.description(), **({"entropy networks": places} if places else {})}

    def trim(self) -> None:
        """Give back to the device what is kept for work to come."""
        for evaluator in self._evaluators:
            evaluator.trim()
        self.workspace.trim()

    def largest_size(self, graphs: Sequence[Graph]) -> Size | None:
        """Return None: any size, as far as memory goes."""
        return None

    def execute(
        self, key: Hashable, function: Callable[[Mapping[str, Buffer]], Result], inputs: Mapping[str, NDArray[Any]]
    ) -> Result:
        """Return function(buffers), queued at once."""
        with self.workspace.entered():
            return function(self.workspace.upload(inputs))

    @cached_property
    def _weighted_sum(self) -> Graph:
        return self.load(WEIGHTED_SUM)


def device_buffer(buffer: Buffer) -> DeviceBuffer:
    """Return what a buffer of these backends is."""
    return cast(DeviceBuffer, buffer)
