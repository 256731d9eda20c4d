"""What a backend is: it loads graphs, binds buffers to their names and runs them.

    backend.put(array) ──▶ Buffer ──▶ graph.run({name: Buffer}) ──▶ {name: Buffer} ──▶ backend.get(buffer) ──▶ array

Between `put` and `get` no data leaves the backend's device. The rules for every backend:

- A buffer belongs to its holder; it is freed with its last reference. No call changes a buffer that it
  receives, and none returns a buffer that a later call overwrites.
- A buffer is used only with the backend that made it.
- Every method may be called from many threads at once, on the same objects.
- A wrong name or type is a caller's bug and raises whatever the underlying library raises. Anything that can happen to
  a correct program (no memory, a driver error, a graph that fails on the output of another) is a `BackendError`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..bundle_file import OwnFile
from ..entropy.evaluator import Evaluator, HostEvaluator
from ..errors import BackendUnavailableError, BundleCorruptError
from ..limits import Size
from ..manifest import AUTO, Bundle, GraphSpec
from ..tensor_spec import TensorSpec

_ANY_LATENT = ("batch", "channels", "height", "width")
# out = weights[0] x + weights[1] y, what `Backend.weighted_sum` computes, for backends that compute nothing but graphs.
WEIGHTED_SUM = GraphSpec(
    id="weighted_sum",
    form="fp32",
    file=OwnFile(Path(__file__).with_name("weighted_sum.onnx")),
    inputs=(
        TensorSpec("x", "float32", _ANY_LATENT),
        TensorSpec("y", "float32", _ANY_LATENT),
        TensorSpec("weights", "float32", (2,)),
    ),
    outputs=(TensorSpec("out", "float32", _ANY_LATENT),),
)


@dataclass(frozen=True)
class Options:
    """Options for opening a backend; each backend uses those that apply to it.

    Attributes:
        threads: CPU threads of one graph run; None for the backend's choice.
        bundle: bundle whose graphs it will run; None to find out whether the backend can run at all.
        precision: ``fp32``, ``fp16``, ``int8``, or ``auto`` for the fastest form that the bundle has.
        max_vram: limit of GPU memory in bytes; None for all memory.
        capture: record the work that `Backend.execute` queues, and replay it.
        stream: CUDA stream to use: its handle as an integer, or an object with ``__cuda_stream__``,
            ``cuda_stream`` (torch) or ``ptr`` (CuPy); None for the backend's own stream.
        every_rate: reject a bundle of which it can decode only some rates.
    """

    threads: int | None = None
    bundle: Bundle | None = None
    precision: str = AUTO
    max_vram: int | None = None
    capture: bool = True
    stream: object | None = None
    every_rate: bool = False


def run_checked(graph: Graph, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """Return the outputs of a graph's run, after checking their types and shapes against the graph's spec.

    Raises:
        BackendError: the run failed; DeviceMemoryError: for lack of memory.
        BundleCorruptError: an output has another type or shape than declared.
    """
    outputs = graph.run(inputs)
    sizes: dict[str, int] = {}
    for tensor in graph.spec.inputs:
        sizes |= tensor.sizes_in(inputs[tensor.name].shape)
    for tensor in graph.spec.outputs:
        output, shape = outputs[tensor.name], tensor.resolve(sizes)
        if output.dtype != tensor.dtype or tuple(output.shape) != shape:
            raise BundleCorruptError(
                f"graph {graph.spec.id!r} in {graph.spec.path} returned {tensor.name} as {output.dtype} "
                f"{list(output.shape)}, should return {tensor.dtype} {list(shape)}"
            )
    return outputs


@dataclass(frozen=True)
class Recordings:
    """What `Backend.execute` has recorded for replay.

    Attributes:
        kept: number of recordings.
        given_up: reasons of failed attempts to record, in order.
    """

    kept: int
    given_up: tuple[str, ...]


class BackendAbsentError(BackendUnavailableError):
    """The backend's library or its device is absent, which needs no warning."""


class Buffer(Protocol):
    """An array on the backend's device; on the CPU, a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its element type."""


Result = TypeVar("Result", bound="Buffer | tuple[Buffer, ...]")
"""What a function that a backend executes returns."""


class Graph(Protocol):
    """A loaded graph."""

    @property
    def spec(self) -> GraphSpec:
        """Names, types and shapes of its inputs and outputs."""

    def run(self, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Return the outputs by name for inputs bound by name; all of them must be given.

        Raises:
            BackendError: the run failed; DeviceMemoryError: for lack of memory.
        """


class Backend(Protocol):
    """A place to run graphs, opened by `select.open_backend`."""

    @property
    def name(self) -> str:
        """``cpu``, ... as given to `rdeic_rt.load`."""

    @property
    def forms(self) -> frozenset[str]:
        """The forms of a graph that it can run."""

    @property
    def runs_plans(self) -> bool:
        """Whether it runs plans, which are built from a graph's reference form in any precision."""

    def description(self) -> dict[str, str]:
        """Return versions, device and threads for `doctor`, benchmarks and the log, by name."""

    def load(self, spec: GraphSpec) -> Graph:
        """Return the graph, ready to run. It is created from `graph_file.read`, without opening a file.

        Raises:
            BundleCorruptError: the file is not this graph, or refers to files outside the bundle.
            BackendError: the backend cannot run it.
        """

    def evaluator(self, host: HostEvaluator) -> Evaluator:
        """Return an evaluator of an entropy model's networks on this backend's device, or ``host``.

        It gives the same integers as ``host``, which runs on the CPU.
        """

    def put(self, array: NDArray[Any]) -> Buffer:
        """Return a buffer with the content of a host array; the caller must not change the array afterwards."""

    def get(self, buffer: Buffer) -> NDArray[Any]:
        """Return the content of a buffer as a C-contiguous host array, which the caller must not change."""

    def stack(self, buffers: Sequence[Buffer]) -> Buffer:
        """Return buffers of equal type and shape [B, ...] joined along the batch axis."""

    def zeros_like(self, buffer: Buffer) -> Buffer:
        """Return zeros of the same type and shape."""

    def weighted_sum(self, x: Buffer, y: Buffer, weights: Buffer) -> Buffer:
        """Return weights[0] x + weights[1] y, float32, for x and y of one shape and weights float32 [2]."""

    def split(self, buffer: Buffer) -> tuple[Buffer, ...]:
        """Return the batch items of a buffer [B, ...], each [1, ...]."""

    def crop(self, buffer: Buffer, size: Size) -> Any:
        """Return the top left corner of an image, uint8 [1, h, w, 3], as [H, W, 3] on the same device.

        The result has ``__dlpack__``, and ``__cuda_array_interface__`` on a GPU.
        """

    def synchronize(self) -> None:
        """Wait for all queued work; needed only for timing, because every other call waits for what it needs."""

    def peak_bytes(self) -> int | None:
        """Return the peak device memory, including weights; None if it works in host memory."""

    def trim(self) -> None:
        """Free what it keeps for future work: memory and recordings."""

    def recordings(self) -> Recordings | None:
        """Return what has been recorded; None if it records nothing."""

    def largest_size(self, graphs: Sequence[Graph]) -> Size | None:
        """Return the largest padded image that all these graphs of this backend accept; None for any size.

        It depends on a plan's profile and the device memory. Larger images are processed in tiles
        (`placement`) of at most this height and width.
        """

    def execute(
        self, key: Hashable, function: Callable[[Mapping[str, Buffer]], Result], inputs: Mapping[str, NDArray[Any]]
    ) -> Result:
        """Return function(buffers), one buffer or several, for buffers with the content of the host arrays.

        Args:
            key: identifies what the function does, apart from the shapes of its inputs. A backend may record the work
                that the function queues, and replay it for the same key and shapes without calling it again.
            function: uses only this backend's graphs and methods; must not call `put` or `get`.
            inputs: host arrays by name.

        Raises:
            BackendError: as the calls inside the function do.
        """
