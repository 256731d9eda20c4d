"""Image -> y and VQ indices; only the encoder needs it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends.base import Backend, Graph


def run(backend: Backend, graph: Graph, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return what is to be coded of an image (RDEIC, section 3.1).

    Args:
        backend: where the graph runs.
        graph: the rate's ``analysis`` graph.
        image: uint8 [h, w, 3], RGB, sides padded to the bundle's multiple.

    Returns:
        y, float32 [M, h/16, w/16]: the latent, not yet rounded.
        vq_indices, int32 [h/64, w/64]: the code vector nearest to each position of the hyper latent.

    Raises:
        BackendError: the graph could not be run.
    """
    outputs = graph.run({"image": backend.put(image[None])})
    y: NDArray[Any] = backend.get(outputs["y"])
    vq_indices: NDArray[Any] = backend.get(outputs["vq_indices"])
    return y[0], vq_indices[0].astype(np.int32)
