"""Which symbols are not worth their bits: the scale index under which none is coded, and what a bit is worth.

    y ─ coder, skipping under t ─┬─ bits R(t)
                                 └─ y_hat ─ g_s ─ z_c ─ D ─ squared distance to the photo, D(t)

A symbol of a narrow distribution is 0 nearly always. Not coding it saves little rate, adds little error, and spares
time on both sides; how far that pays depends on how well the networks predict. Of those that are coded, an encoder may
take a smaller one than the nearest where that saves more than it costs (``bit_worth`` of an `entropy.EntropyModel`).
Both are chosen on photos, by the error of their pixels: in a latent space whose channels are whitened, most of the
error is in channels that no rate codes, and what a choice adds to the error is hardly seen.
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

HIGHEST = 4
"""Symbols of scales over 0.17, of which a Gaussian rounds one in 300 to other than 0, are always coded."""
EXCHANGE_DB = 1.85
"""What e times the rate is worth: the PSNR of z_c, decoded, between the smallest and the largest rate of the embedded
bundle, 23.17 dB at 0.0324 bpp and 25.93 dB at 0.1437 (6 validation photos)."""
BIT_WORTHS = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.12)
"""Squared steps of y that a bit may be worth. A quantiser of step 1 at high rates gives up 2 ln 2 / 12 = 0.12 a bit."""


@torch.no_grad()
def choose(
    reconstruct: Callable[[Tensor, int], Tensor],
    model: Hyperprior,
    samples: Sequence[Sample],
    photos: Sequence[NDArray[np.uint8]],
) -> int:
    """Return the threshold, 0 to `HIGHEST`, that minimises 10 log10 D(t) + EXCHANGE_DB ln R(t); of equals the lowest.

    It is the mean over all samples. Symbols are left out as long as what this adds to the error is less than what
    saving the same share of the rate with another rate of the bundle adds.

    Args:
        reconstruct: (y_hat, number of the sample) -> the preview, [1, H, W, 3] in levels of 0 to 255, by the float
            networks.
        model: integer networks and tables; its own threshold does not matter.
        samples: (y, VQ indices) of photos, as for `integer.convert`.
        photos: of each sample, padded, uint8 [H, W, 3].

    Raises:
        ExportError: there are no samples.
    """
    if not samples:
        raise ExportError("skip threshold: no samples to choose it with; give at least one photo")
    costs = [
        _cost(reconstruct, replace(model, tables=replace(model.tables, skip_below=threshold)), samples, photos, 0.0)
        for threshold in range(HIGHEST + 1)
    ]
    return costs.index(min(costs))


@torch.no_grad()
def choose_bit_worth(
    reconstruct: Callable[[Tensor, int], Tensor],
    model: Hyperprior,
    samples: Sequence[Sample],
    photos: Sequence[NDArray[np.uint8]],
) -> float:
    """Return which of `BIT_WORTHS` minimises the same; arguments as for `choose`, the model with its threshold."""
    costs = [_cost(reconstruct, model, samples, photos, worth) for worth in BIT_WORTHS]
    return BIT_WORTHS[costs.index(min(costs))]


def _cost(
    reconstruct: Callable[[Tensor, int], Tensor],
    model: Hyperprior,
    samples: Sequence[Sample],
    photos: Sequence[NDArray[np.uint8]],
    bit_worth: float,
) -> float:
    cost = 0.0
    for number, (sample, photo) in enumerate(zip(samples, photos, strict=True)):
        coded = encode(model, sample, bit_worth)
        preview = reconstruct(torch.from_numpy(coded.tensors["y_hat"]), number)
        squares = float((preview - torch.from_numpy(photo)).double().square().mean())
        cost += 10 * math.log10(max(squares, 1e-9)) + EXCHANGE_DB * math.log(len(coded.y) + len(coded.z))
    return cost / len(samples)
