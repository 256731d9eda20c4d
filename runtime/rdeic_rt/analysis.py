"""Image -> y and VQ indices; only the encoder needs it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends.base import Backend, Graph, output_of
from .bundle import LEVEL


def run(
    backend: Backend, graph: Graph, image: NDArray[np.uint8], level: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return what is to be coded of an image (RDEIC, section 3.1).

    Args:
        backend: where the graph runs.
        graph: the rate's ``analysis`` graph.
        image: uint8 [h, w, 3], RGB, sides padded to the bundle's multiple.
        level: float32 [1, D], the rate's row where rates share the graph.

    Returns:
        y, float32 [M, h/16, w/16]: the latent, not yet rounded.
        vq_indices, int32 [h/64, w/64]: the code vector nearest to each position of the hyper latent.

    Raises:
        As `run_batch`.
    """
    y, vq_indices = run_batch(backend, graph, image[None], level)
    return y[0], vq_indices[0].astype(np.int32)


def run_batch(
    backend: Backend, graph: Graph, images: NDArray[np.uint8], level: NDArray[np.float32] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return y, float32 [B, M, h/16, w/16], and vq_indices, int64 [B, h/64, w/64], for uint8 [B, h, w, 3].

    Raises:
        BackendError: the graph could not be run.
        BundleCorruptError: it returned arrays of other types or shapes.
    """
    inputs = {"image": backend.put(images)}
    if level is not None:
        inputs[LEVEL] = backend.put(level)
    outputs = graph.run(inputs)
    batch, height, width, _ = images.shape
    y = output_of(graph, outputs, "y", "float32", (batch, None, height // 16, width // 16))
    vq_indices = output_of(graph, outputs, "vq_indices", "int64", (batch, height // 64, width // 64))
    return backend.get(y), backend.get(vq_indices)
