"""Stands in for `triton_python_backend_utils`, which there is only inside a Triton server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

from numpy.typing import NDArray


class TritonError:
    """An error of one request, as text and code."""

    INTERNAL, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, CANCELLED = range(5)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self.text, self.told = message, code

    def message(self) -> str:
        return self.text

    def code(self) -> int:
        return self.told


class Tensor:
    """A named array; text and bytes are objects in it."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        assert array.dtype.kind in "uO"
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


@dataclass
class InferenceRequest:
    """What a client sends; the batch is the first dimension of every tensor."""

    TYPES: ClassVar = (bool, int, float, str)
    inputs: list[Tensor]
    given: dict[str, bool | int | float | str] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    cancelled: bool = False

    def parameters(self) -> str:
        assert all(isinstance(value, self.TYPES) for value in self.given.values())
        return json.dumps(self.given)

    def requested_output_names(self) -> list[str]:
        return self.outputs

    def is_cancelled(self) -> bool:
        return self.cancelled


@dataclass
class InferenceResponse:
    """What a client gets: tensors, or an error."""

    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs if tensor.name() == name), None)
