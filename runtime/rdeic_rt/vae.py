"""z_0 -> uint8 pixels; scaling, rounding and layout are inside the graph."""

from __future__ import annotations

import numpy as np

from .backends.base import Buffer, Graph, output_of
from .errors import BundleCorruptError


def decode(graph: Graph, z_0: Buffer) -> Buffer:
    """Return the padded image, uint8 [1, h, w, 3], RGB.

    Args:
        graph: the rate's ``vae_decoder`` graph.
        z_0: float32 [1, C, h/8, w/8], from `denoise.run`.

    Raises:
        BackendError: the graph could not be run.
        BundleCorruptError: it returned an array of another type or shape, or z_0 has values that are not finite.
    """
    check_finite(z_0)
    batch, _, height, width = z_0.shape
    return output_of(graph, graph.run({"z_0": z_0}), "image", "uint8", (batch, 8 * height, 8 * width, 3))


def check_finite(z_0: Buffer) -> None:
    """Raise BundleCorruptError for infinities and NaN, of which the graph would make a picture as of anything else.

    Latents on a GPU are not looked at: the host would have to wait for them.
    """
    if isinstance(z_0, np.ndarray) and not np.isfinite(z_0).all():
        raise BundleCorruptError(
            "denoising gave values that are not finite: the bundle's weights or its schedule are of no use, "
            "or the sharpness that was asked for is out of all proportion"
        )
