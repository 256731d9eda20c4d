"""The linear transforms that training starts from: principal components of blocks of photos."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rdeic_export.modules.linear_vae import LinearVae
from rdeic_export.modules.model import RdeicModel

from . import common, data

SAMPLE = 3000  # squares that the components are computed from
CODING_ERROR = 0.018
"""Mean squared error of a decoded image in [-1, 1] at the middle rate (about 24.5 dB). Coefficients of z_0 are scaled
so that what coding changes of each is about one: by this error, or by all of the coefficient where that is less."""


def start_from_linear(model: RdeicModel, squares: NDArray[np.uint8], steps: list[float]) -> None:
    """Set E, D, g_a and g_s of a model to principal components and their inverses.

    Args:
        model: with a ``LinearVae`` and a ``GainedCompressionModel``.
        squares: uint8 [N, side, side, 3], of photos.
        steps: quantisation step of each rate, for images in [-1, 1].
    """
    if not isinstance(model.vae, LinearVae):
        raise TypeError(f"the VAE is a {type(model.vae).__name__}, no LinearVae")
    chosen = np.random.default_rng(0).choice(len(squares), min(SAMPLE, len(squares)), replace=False)
    images = data.to_tensor(squares[np.sort(chosen)])
    fine = F.pixel_unshuffle(images[:, :, : images.shape[2] // 16 * 16, : images.shape[3] // 16 * 16], 8)
    small = fine.permute(0, 2, 3, 1).flatten(0, 2)
    n, c, h, w = fine.shape
    large = fine.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4 * c)

    vectors, variances, mean = principal_components(small, model.config.vae.latent_channels)
    model.vae.set_transform(vectors, variances.clamp(max=CODING_ERROR).rsqrt(), mean)
    vectors, _, large_mean = principal_components(large, model.config.compression.latent_channels)
    common.codec_of(model).set_transform(vectors, large_mean, torch.tensor(steps), model.vae.basis, model.vae.mean)


def principal_components(samples: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first components, float [count, D], their variances [count], and the mean [D], of samples [N, D]."""
    mean = samples.mean(0)
    centred = (samples - mean).double()
    values, vectors = torch.linalg.eigh(centred.t() @ centred / len(centred))
    order = values.argsort(descending=True)[:count]
    return vectors[:, order].t().float(), values[order].float(), mean
