"""Float entropy networks -> integer networks, calibrated after training, and their rate overhead.

    h_s of the samples' VQ indices ─ fit ─▶ hyper.*
    y_hat of the float networks ─ fit ─▶ for each slice: y.*, channel.*, local.*, anchor.*, nonanchor.*

Contexts are those of the float networks' own y_hat, so the slices can be fitted one after another (integer_nets.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rdeic_rt.entropy import Encoded, EntropyModel
from rdeic_rt.entropy.hyperprior import VERSION, Hyperprior
from rdeic_rt.entropy.layers import matmul_of_onnxruntime
from rdeic_rt.errors import ExportError

from ..modules.compression import LIKELIHOOD_FLOOR, SCALE_BOUND, EntropyNetworks
from . import integer_nets, priors
from .integer_layers import Arrays

Sample = tuple[Any, Any]
"""(y, float [1, M, hy, wy]; VQ indices, int [1, hz, wz]): torch tensors or arrays."""

SKIP_BELOW = 4
"""Symbols of scales under 0.17 are not coded. For a Gaussian of that scale, one in 400 rounds to other than 0. The
value is the result of `skip_threshold.choose` for the embedded bundle's larger rate."""
SMOOTHING = 0.5  # Krichevsky-Trofimov estimator: half an occurrence is added for every code vector


@torch.no_grad()
def convert(codec: EntropyNetworks, samples: Sequence[Sample], *, skip_below: int = SKIP_BELOW) -> Arrays:
    """Return the arrays of an entropy model (docs/format.md, "Arrays of the entropy model").

    Args:
        codec: trained float networks, in evaluation mode on the CPU.
        samples: latents of calibration photos, as returned by the analysis graph; one is enough to run, about 20
            photos are needed for ranges and priors that generalise.
        skip_below: symbols of a smaller scale index are not coded.

    Raises:
        ExportError: there are no samples, or they do not fit the model.
    """
    latents = [_checked(codec, sample) for sample in samples]
    if not latents:
        raise ExportError("integer networks: no samples to calibrate with; give at least one photo")
    matmul = matmul_of_onnxruntime()
    indices = [i[0].numpy() for _, i in latents]
    arrays: Arrays = {
        "version": np.array([VERSION], np.int32),
        "slices": np.array(codec.config.slices, np.int32),
        **priors.scale_arrays(skip_below),
        **priors.prior_arrays(indices, codec.config.codebook_size, SMOOTHING),
    }
    hyper, hyper_float = integer_nets.fit_hyper(codec, indices, matmul, arrays)
    integer_nets.fit_slices(codec, [y for y, _ in latents], hyper, hyper_float, matmul, arrays)
    return {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}


@torch.no_grad()
def rate_overhead(codec: EntropyNetworks, model: Hyperprior, samples: Sequence[Sample]) -> dict[str, float]:
    """Return the overhead of the integer networks and the real coder over the float networks and an ideal coder.

    Returns:
        Sums over the samples: ``y_bits_float``, the ideal code length of y under the float networks; ``y_bits_actual``,
        8 times the bytes of the y sections; ``z_bits_plain`` and ``z_bits_actual``, VQ indices without and with the
        prior; ``bits_float`` and ``bits_actual``, y of either kind and the same ``z_bits_actual``; ``overhead``, the
        fraction by which the second is longer. ``mse_float``, ``mse_actual``: mean squared error of y_hat, which
        skipping symbols increases.
    """
    total = dict.fromkeys(("y_bits_float", "y_bits_actual", "z_bits_plain", "z_bits_actual"), 0.0)
    squares = np.zeros(2)
    n_values = 0
    for sample in samples:
        y, indices = _checked(codec, sample)
        hyper = codec.hyper_dec(codec.quantize.lookup(indices))
        predictions = list(codec.predict(y, hyper))
        y_float = torch.cat([p.y_hat for p in predictions], dim=1)
        total["y_bits_float"] += sum(gaussian_bits(p.y_hat - p.means, p.scales) for p in predictions)
        coded = encode(model, sample)
        total["y_bits_actual"] += 8 * len(coded.y)
        total["z_bits_plain"] += indices.numel() * model.tables.indices.plain_bits
        total["z_bits_actual"] += 8 * len(coded.z)
        squares += [float(((x - y).double() ** 2).sum()) for x in (y_float, torch.from_numpy(coded.tensors["y_hat"]))]
        n_values += y.numel()
    bits_float, bits_actual = (total[y] + total["z_bits_actual"] for y in ("y_bits_float", "y_bits_actual"))
    return {
        **total,
        "bits_float": bits_float,
        "bits_actual": bits_actual,
        "overhead": bits_actual / bits_float - 1,
        "mse_float": float(squares[0] / n_values),
        "mse_actual": float(squares[1] / n_values),
    }


def encode(model: EntropyModel, sample: Sample, bit_worth: float = 0.0) -> Encoded:
    """Return the sections of a sample, and y_hat."""
    y, indices = (np.asarray(values) for values in sample)
    return model.encode({"y": y, "vq_indices": indices}, bit_worth=bit_worth)


def gaussian_bits(symbols: Tensor, scales: Tensor) -> float:
    """Return the code length of integer symbols under a Gaussian of mean 0 and max(scale, 0.11), in bits."""
    root2 = 2**0.5
    sigma = scales.double().clamp(min=SCALE_BOUND)
    magnitude = symbols.double().round().abs()
    near, far = (magnitude - 0.5) / (sigma * root2), (magnitude + 0.5) / (sigma * root2)
    likelihood = (torch.special.erfc(near) - torch.special.erfc(far)) / 2
    return float(-likelihood.clamp(min=LIKELIHOOD_FLOOR).log2().sum())


def _checked(codec: EntropyNetworks, sample: Sample) -> tuple[Tensor, Tensor]:
    y, indices = torch.as_tensor(sample[0]).float(), torch.as_tensor(sample[1]).long()
    expected = (1, codec.config.latent_channels, *(4 * n for n in indices.shape[1:]))
    if indices.dim() != 3 or y.shape != expected:
        raise ExportError(
            f"integer networks: y of a sample is {list(y.shape)}, should be {list(expected)} for its VQ indices"
        )
    return y, indices
