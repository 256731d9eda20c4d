"""y_hat -> (z_c, hint): the compressed features that denoising starts from and is guided by."""

from __future__ import annotations

from .backends.base import Buffer, Graph


def run(graph: Graph, y_hat: Buffer) -> tuple[Buffer, Buffer]:
    """Return what the decoder knows of the image (RDEIC, section 3.1).

    Args:
        graph: the rate's ``synthesis`` graph.
        y_hat: float32 [1, M, h/16, w/16], exact, from the entropy decoder.

    Returns:
        z_c, float32 [1, C, h/8, w/8]: an estimate of the latent z_0.
        hint, float32 [1, K, h/8, w/8]: the features that the control net sees at every step.

    Raises:
        BackendError: the graph could not be run.
    """
    outputs = graph.run({"y_hat": y_hat})
    return outputs["z_c"], outputs["hint"]
