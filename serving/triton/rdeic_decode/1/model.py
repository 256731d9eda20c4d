"""A model of Triton's Python backend that decodes .rdc files (docs/triton.md)."""

from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from rdeic_rt.serve import triton


class TritonPythonModel:
    """The class that Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the codec that the parameters in ``config.pbtxt`` describe."""
        self._codec = triton.load(args)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response for each request, which may be an error."""
        return triton.decode(self._codec, requests, pb_utils)
