"""Which symbols are not worth their bits: the scale index under which none is coded, and what a bit is worth.

    y ─ coder, skipping under t ─┬─ bits R(t)
                                 └─ y_hat ─ g_s ─ z_c ─ squared distance to z_0, D(t)

A symbol of a narrow distribution is 0 nearly always. Not coding it saves little rate, adds little error, and spares
time on both sides; how far that pays depends on how well the networks predict. Of those that are coded, an encoder may
take a smaller one than the nearest where that saves more than it costs (``bit_worth`` of an `entropy.EntropyModel`).
Both are chosen on photos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdeic_rt.entropy.hyperprior import Hyperprior
from rdeic_rt.errors import ExportError

from .integer import Sample, encode
from .modules.model import RdeicModel

HIGHEST = 4
"""Symbols of scales over 0.17, of which a Gaussian rounds one in 300 to other than 0, are always coded. Leaving out
those up to 0.22 as well halves the smallest files of the embedded bundle, but adds as much perceptual distance as a
rate of half the size."""
EXCHANGE_DB = 2.0
"""What e times the rate is worth: the PSNR of z_c, decoded, between the smallest and the largest rate of the embedded
bundle, 20.41 dB at 0.0359 bpp and 23.32 dB at 0.1498 (43 calibration photos)."""
BIT_WORTHS = (0.0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18)
"""Squared steps of y that a bit may be worth. A quantiser of step 1 at high rates gives up 2 ln 2 / 12 = 0.12 a bit."""


@torch.no_grad()
def target_of(model: RdeicModel, image: NDArray[np.uint8]) -> Tensor:
    """Return z_0, float [1, C, H/8, W/8], what z_c is an estimate of, for a padded uint8 image [H, W, 3]."""
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
    return model.vae.latents(pixels)


@torch.no_grad()
def choose(
    synthesise: Callable[[Tensor, int], Tensor],
    model: Hyperprior,
    samples: Sequence[Sample],
    targets: Sequence[Tensor],
) -> int:
    """Return the threshold, 0 to `HIGHEST`, that minimises 10 log10 D(t) + EXCHANGE_DB ln R(t); of equals the lowest.

    That is: symbols are left out as long as what this adds to the error is less than what saving the same share of the
    rate with another rate of the bundle adds.

    Args:
        synthesise: (y_hat, number of the sample) -> z_c, the float network.
        model: integer networks and tables; its own threshold does not matter.
        samples: (y, VQ indices) of photos, as for `integer.convert`.
        targets: z_0 of the same photos, see `target_of`.

    Raises:
        ExportError: there are no samples.
    """
    if not samples:
        raise ExportError("skip threshold: no samples to choose it with; give at least one photo")
    costs = [
        _cost(synthesise, replace(model, tables=replace(model.tables, skip_below=threshold)), samples, targets, 0.0)
        for threshold in range(HIGHEST + 1)
    ]
    return costs.index(min(costs))


@torch.no_grad()
def choose_bit_worth(
    synthesise: Callable[[Tensor, int], Tensor],
    model: Hyperprior,
    samples: Sequence[Sample],
    targets: Sequence[Tensor],
) -> float:
    """Return which of `BIT_WORTHS` minimises the same; arguments as for `choose`, the model with its threshold."""
    costs = [_cost(synthesise, model, samples, targets, worth) for worth in BIT_WORTHS]
    return BIT_WORTHS[costs.index(min(costs))]


def _cost(
    synthesise: Callable[[Tensor, int], Tensor],
    model: Hyperprior,
    samples: Sequence[Sample],
    targets: Sequence[Tensor],
    bit_worth: float,
) -> float:
    n_bytes, squares, n_values = 0, 0.0, 0
    for number, (sample, target) in enumerate(zip(samples, targets, strict=True)):
        coded = encode(model, sample, bit_worth)
        z_c = synthesise(torch.from_numpy(coded.tensors["y_hat"]), number)
        n_bytes += len(coded.y) + len(coded.z)
        squares += float((z_c - target).double().square().sum())
        n_values += target.numel()
    return 10 * math.log10(squares / n_values) + EXCHANGE_DB * math.log(n_bytes)
