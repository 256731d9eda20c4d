"""z_0 -> uint8 pixels; scaling, rounding and layout are inside the graph."""

from __future__ import annotations

from .backends.base import Buffer, Graph


def decode(graph: Graph, z_0: Buffer) -> Buffer:
    """Return the padded image, uint8 [1, h, w, 3], RGB.

    Args:
        graph: the rate's ``vae_decoder`` graph.
        z_0: float32 [1, C, h/8, w/8], from `denoise.run`.

    Raises:
        BackendError: the graph could not be run.
    """
    return graph.run({"z_0": z_0})["image"]
