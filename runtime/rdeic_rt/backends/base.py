"""What a backend is: it loads graphs, binds buffers to their names and runs them.

    backend.put(array) ──▶ Buffer ──▶ graph.run({name: Buffer}) ──▶ {name: Buffer} ──▶ backend.get(buffer) ──▶ array

Between `put` and `get` nothing leaves the place where the backend computes. The rules, for every backend:

- A buffer belongs to whoever holds it; it is freed when the last reference goes. No call changes a buffer that it was
  given, and none hands out a buffer that a later call will overwrite.
- A buffer is used only with the backend that made it.
- Every method may be called from many threads at once, on the same objects.
- A wrong name, type or rank is a caller's bug and raises whatever the library below raises. Anything that can happen to
  a correct program (no memory, a driver error) is a `BackendError`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from ..bundle import GraphSpec


class Buffer(Protocol):
    """An array where the backend computes; on the CPU a numpy array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""


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
    def forms(self) -> Mapping[str, tuple[str, ...]]:
        """Precision, or ``auto`` -> the forms of a graph that it runs as such, the one it runs best first."""

    def facts(self) -> dict[str, str]:
        """Return versions, device and threads for `doctor`, benchmarks and the log, by name."""

    def load(self, spec: GraphSpec) -> Graph:
        """Return the graph, ready to run.

        Raises:
            BundleCorruptError: the file is not this graph.
            BackendError: the backend cannot run it.
        """

    def put(self, array: NDArray[Any]) -> Buffer:
        """Return a buffer with the content of a host array; the caller must not change the array afterwards."""

    def get(self, buffer: Buffer) -> NDArray[Any]:
        """Return the content of a buffer as a C-contiguous host array, which the caller must not change."""

    def stack(self, buffers: Sequence[Buffer]) -> Buffer:
        """Return buffers of equal type and shape [B, ...] joined along the batch axis."""

    def zeros_like(self, buffer: Buffer) -> Buffer:
        """Return zeros of the same type and shape."""

    def combine(self, x: Buffer, y: Buffer, weights: Buffer) -> Buffer:
        """Return weights[0] x + weights[1] y, float32, for x and y of one shape and weights float32 [2]."""

    def split(self, buffer: Buffer) -> tuple[Buffer, ...]:
        """Return the batch items of a buffer [B, ...], each [1, ...]."""

    def execute(
        self, key: Hashable, function: Callable[[Mapping[str, Buffer]], Buffer], inputs: Mapping[str, NDArray[Any]]
    ) -> Buffer:
        """Return function(buffers), for buffers with the content of the host arrays.

        Args:
            key: names what the function does, apart from the shapes of its inputs. A backend may record the work the
                function queues, and replay it for the same key and shapes without calling the function again.
            function: works with this backend's graphs and methods alone; must not call `put` or `get`.
            inputs: host arrays by name.

        Raises:
            BackendError: as the calls inside the function do.
        """
