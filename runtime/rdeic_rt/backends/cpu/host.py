"""What backends on the CPU share: buffers are numpy arrays, and everything but graphs is numpy."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...entropy.evaluator import Evaluator, HostEvaluator
from ...errors import BundleCorruptError
from ...limits import Size
from ...manifest import GraphSpec
from ...tensor_spec import TensorSpec
from ..base import Buffer, Graph, Result


class HostArrays:
    """The members of `base.Backend` that need no inference library."""

    runs_plans = False

    def evaluator(self, host: HostEvaluator) -> Evaluator:
        """Return the one on the CPU."""
        return host

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array itself, made C-contiguous."""
        return np.ascontiguousarray(array)

    def get(self, buffer: Buffer) -> NDArray[Any]:
        """Return the buffer itself, made C-contiguous."""
        return np.ascontiguousarray(_array(buffer))

    def stack(self, buffers: Sequence[Buffer]) -> NDArray[Any]:
        """Return the buffers joined along the batch axis."""
        return np.concatenate([_array(buffer) for buffer in buffers])

    def zeros_like(self, buffer: Buffer) -> NDArray[Any]:
        """Return zeros of the same type and shape."""
        return np.zeros_like(_array(buffer))

    def weighted_sum(self, x: Buffer, y: Buffer, weights: Buffer) -> NDArray[np.float32]:
        """Return weights[0] x + weights[1] y."""
        first, second = _array(weights)
        result: NDArray[np.float32] = first * _array(x) + second * _array(y)
        return result

    def split(self, buffer: Buffer) -> tuple[NDArray[Any], ...]:
        """Return the batch items, each [1, ...], as views."""
        array = _array(buffer)
        return tuple(array[item : item + 1] for item in range(len(array)))

    def crop(self, buffer: Buffer, size: Size) -> NDArray[Any]:
        """Return the top left corner of an image, C-contiguous."""
        return np.ascontiguousarray(_array(buffer)[0, : size.height, : size.width])

    def synchronize(self) -> None:
        """Return at once: every call has done its work when it returns."""

    def peak_bytes(self) -> None:
        """Return None: it works in the host's memory."""

    def trim(self) -> None:
        """Return at once: it keeps nothing."""

    def recordings(self) -> None:
        """Return None: it records nothing."""

    def largest_size(self, graphs: Sequence[Graph]) -> None:
        """Return None: any size, as far as memory goes."""

    def execute(
        self, key: Hashable, function: Callable[[Mapping[str, Buffer]], Result], inputs: Mapping[str, NDArray[Any]]
    ) -> Result:
        """Return function(inputs); nothing is recorded."""
        return function({name: self.put(array) for name, array in inputs.items()})


def check_tensors(
    spec: GraphSpec, inputs: Mapping[str, tuple[str, int]], outputs: Mapping[str, tuple[str, int]]
) -> None:
    """Raise BundleCorruptError unless a graph has the names, types and ranks that ``bundle.json`` promises.

    Args:
        spec: the promise.
        inputs, outputs: name -> (type, rank), as found in the file.
    """
    for side, promised, found in (("inputs", spec.inputs, inputs), ("outputs", spec.outputs, outputs)):
        wanted = {tensor.name: (tensor.dtype, len(tensor.shape)) for tensor in promised}
        if dict(found) != wanted:
            raise BundleCorruptError(
                f"{spec.path}: bundle.json gives graph {spec.id!r} the {side} {_listed(promised)}; the file has {found}"
            )


def _listed(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in tensors)


def _array(buffer: Buffer) -> NDArray[Any]:
    return cast("NDArray[Any]", buffer)
