"""The sampler's update z_(n-1) = a z_n + b eps + c noise moves inside the UNet's graph, with its scalars as inputs."""

from __future__ import annotations

from torch import Tensor, nn

from ..modules.unet import UNet


class UnetStep(nn.Module):
    """One denoising step of a UNet whose text context and time embedding are folded."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, z_n: Tensor, step: Tensor, coefficients: Tensor, noise: Tensor, residuals: list[Tensor]
    ) -> Tensor:
        """Return z_(n-1), float [B, C, h, w].

        Args:
            z_n: float [B, C, h, w].
            step: float [1, D], a row of the step table.
            coefficients: float [3], (a, b, c) of the step.
            noise: float [B, C, h, w].
            residuals: the control net's outputs; zeros give eps_sd, the plain estimator.
        """
        a, b, c = coefficients[0], coefficients[1], coefficients[2]
        z_prev: Tensor = a * z_n + b * self.unet(z_n, step, None, residuals) + c * noise
        return z_prev
