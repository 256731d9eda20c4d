"""y_hat -> (z_c, hint): the compressed features that denoising starts from and is guided by."""

from __future__ import annotations

from .backends.base import Buffer, Graph, output_of
from .bundle import LEVEL


def run(graph: Graph, y_hat: Buffer, level: Buffer | None = None) -> tuple[Buffer, Buffer]:
    """Return what the decoder knows of the image (RDEIC, section 3.1).

    Args:
        graph: the rate's ``synthesis`` graph.
        y_hat: float32 [1, M, h/16, w/16], exact, from the entropy decoder.
        level: float32 [1, D], the rate's row where rates share the graph.

    Returns:
        z_c, float32 [1, C, h/8, w/8]: an estimate of the latent z_0.
        hint, float32 [1, K, h/8, w/8]: the features that the control net sees at every step.

    Raises:
        BackendError: the graph could not be run.
        BundleCorruptError: it returned arrays of other types or shapes.
    """
    outputs = graph.run({"y_hat": y_hat} if level is None else {"y_hat": y_hat, LEVEL: level})
    batch, _, height, width = y_hat.shape
    shape = (batch, None, 2 * height, 2 * width)
    return output_of(graph, outputs, "z_c", "float32", shape), output_of(graph, outputs, "hint", "float32", shape)
