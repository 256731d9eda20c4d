"""What a backend is: it loads graphs, binds buffers to their names and runs them.

    backend.put(array) ──▶ Buffer ──▶ graph.run({name: Buffer}) ──▶ {name: Buffer} ──▶ backend.get(buffer) ──▶ array

Between `put` and `get` nothing leaves the place where the backend computes. The rules, for every backend:

- A buffer belongs to whoever holds it; it is freed when the last reference goes. No call changes a buffer that it was
  given, and none hands out a buffer that a later call will overwrite.
- A buffer is used only with the backend that made it.
- Every method may be called from many threads at once, on the same objects.
- A wrong name or type is a caller's bug and raises whatever the library below raises. Anything that can happen to a
  correct program (no memory, a driver error, a graph that fails on what other graphs made) is a `BackendError`.
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
    """What a backend is asked for when it is opened; each takes what means something to it.

    Attributes:
        threads: CPU threads of one graph run; None leaves it to the backend.
        bundle: whose graphs it is to run; None to find out whether it can run anything.
        precision: ``fp32``, ``fp16``, ``int8``, or ``auto`` for what it runs best of what the bundle has.
        max_vram: bytes of GPU memory it may take; None for all there is.
        capture: record what `Backend.execute` queues and replay it.
        stream: CUDA stream to work on: its handle as an integer, or an object with ``__cuda_stream__``,
            ``cuda_stream`` (torch) or ``ptr`` (CuPy); None for one of its own.
        every_rate: refuse a bundle of which it can decode only some rates.
    """

    threads: int | None = None
    bundle: Bundle | None = None
    precision: str = AUTO
    max_vram: int | None = None
    capture: bool = True
    stream: object | None = None
    every_rate: bool = False


def run_checked(graph: Graph, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """Return the outputs of a graph's run, of the types and shapes that its spec promises for these inputs.

    Raises:
        BackendError: the run failed; DeviceMemoryError: for lack of memory.
        BundleCorruptError: an output is of another type or shape, as a graph may make what it likes.
    """
    outputs = graph.run(inputs)
    sizes: dict[str, int] = {}
    for tensor in graph.spec.inputs:
        sizes |= tensor.sizes_in(inputs[tensor.name].shape)
    for tensor in graph.spec.outputs:
        output, shape = outputs[tensor.name], tensor.resolve(sizes)
        if output.dtype != tensor.dtype or tuple(output.shape) != shape:
            raise BundleCorruptError(
                f"graph {graph.spec.id!r} in {graph.spec.path} made {tensor.name} as {output.dtype} "
                f"{list(output.shape)}, should make {tensor.dtype} {list(shape)}"
            )
    return outputs


@dataclass(frozen=True)
class Recordings:
    """What `Backend.execute` has recorded to be replayed.

    Attributes:
        kept: how many are there.
        given_up: why what was tried could not be recorded, in order.
    """

    kept: int
    given_up: tuple[str, ...]


class BackendAbsentError(BackendUnavailableError):
    """The backend's library or its device is not there, which is nothing to warn of."""


class Buffer(Protocol):
    """An array where the backend computes; on the CPU a numpy array is one."""

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
        """Whether it runs plans that were built from a graph's reference form, in whatever precision they are."""

    def description(self) -> dict[str, str]:
        """Return versions, device and threads for `doctor`, benchmarks and the log, by name."""

    def load(self, spec: GraphSpec) -> Graph:
        """Return the graph, ready to run: made of what `graph_file.read` returns, without opening a file.

        Raises:
            BundleCorruptError: the file is not this graph, or reaches outside of the bundle.
            BackendError: the backend cannot run it.
        """

    def evaluator(self, host: HostEvaluator) -> Evaluator:
        """Return what evaluates an entropy model's networks where this backend computes: itself, or ``host``.

        It gives the same integers as ``host``, which evaluates on the CPU.
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
        """Return the top left corner of an image, uint8 [1, h, w, 3], as [H, W, 3] where it is.

        What is returned has ``__dlpack__``, and ``__cuda_array_interface__`` on a GPU.
        """

    def synchronize(self) -> None:
        """Wait for everything queued so far; for timing, as every other call waits for what it needs."""

    def peak_bytes(self) -> int | None:
        """Return the most device memory that it has had in use, with weights; None if it works in the host's."""

    def trim(self) -> None:
        """Give back what it keeps for work to come: memory, and what is recorded."""

    def recordings(self) -> Recordings | None:
        """Return what has been recorded; None if it records nothing."""

    def largest_size(self, graphs: Sequence[Graph]) -> Size | None:
        """Return the largest padded image that all these graphs, of this backend, take at once; None for any size.

        What a plan's profile and the memory of the device allow. A larger image is worked on in tiles
        (`placement`), which are at most this high and this wide.
        """

    def execute(
        self, key: Hashable, function: Callable[[Mapping[str, Buffer]], Result], inputs: Mapping[str, NDArray[Any]]
    ) -> Result:
        """Return function(buffers), one buffer or several, for buffers with the content of the host arrays.

        Args:
            key: names what the function does, apart from the shapes of its inputs. A backend may record the work the
                function queues, and replay it for the same key and shapes without calling the function again.
            function: works with this backend's graphs and methods alone; must not call `put` or `get`.
            inputs: host arrays by name.

        Raises:
            BackendError: as the calls inside the function do.
        """
