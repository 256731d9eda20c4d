"""z_0 -> uint8 pixels; scaling, rounding and layout are inside the graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .backends.base import Backend, Buffer, Graph


def decode(backend: Backend, graph: Graph, z_0: Buffer) -> NDArray[np.uint8]:
    """Return the padded image, uint8 [h, w, 3], RGB.

    Args:
        backend: where the graph runs.
        graph: the rate's ``vae_decoder`` graph.
        z_0: float32 [1, C, h/8, w/8], from `denoise.run`.

    Raises:
        BackendError: the graph could not be run.
    """
    image: NDArray[np.uint8] = backend.get(graph.run({"z_0": z_0})["image"])[0]
    return image
