"""The skip threshold follows from what is gained and lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rdeic_export.entropy import integer, skip_threshold
from rdeic_export.entropy.integer import Sample
from rdeic_export.modules.model import RdeicModel
from rdeic_rt.entropy.hyperprior import Hyperprior
from rdeic_rt.errors import ExportError
from tests.micro import make_micro

from .test_integer import drawn


@pytest.fixture(scope="module")
def network() -> RdeicModel:
    return make_micro.model()


@pytest.fixture(scope="module")
def samples(network: RdeicModel) -> list[Sample]:
    return [drawn(network.codec, (4, 6), seed) for seed in range(2)]


@pytest.fixture(scope="module")
def model(network: RdeicModel, samples: list[Sample]) -> Hyperprior:
    """Integer networks whose symbols mostly have a scale index of 0 to 8, so that a threshold matters."""
    arrays = integer.convert(network.codec, samples)
    return Hyperprior.load({**arrays, "scale_thresholds": 4 * arrays["scale_thresholds"].astype(np.int32)})


def preview_of(network: RdeicModel) -> Callable[[Tensor, int], Tensor]:
    """Return what makes the preview of y_hat: its z_c, which is as good as an image here."""
    return lambda y_hat, number: network.codec.synthesise(y_hat)[0]


def photos_like(
    network: RdeicModel, model: Hyperprior, samples: list[Sample], threshold: int, distance: float
) -> list[np.ndarray]:
    """Return the previews of all samples, symbols under the threshold left out, so far away."""
    tried = replace(model, tables=replace(model.tables, skip_below=threshold))
    y_hats = [integer.encode(tried, sample).tensors["y_hat"] for sample in samples]
    with torch.no_grad():
        return [(network.codec.synthesise(torch.from_numpy(y_hat))[0] + distance).numpy() for y_hat in y_hats]


def test_choose_exact_estimate_spoilt_by_any_skip_keeps_every_symbol(
    network: RdeicModel, model: Hyperprior, samples: list[Sample]
) -> None:
    exact = photos_like(network, model, samples, 0, 1e-3)
    assert skip_threshold.choose(preview_of(network), model, samples, exact) == 0


def test_choose_estimate_that_no_symbol_helps_skips_the_most(
    network: RdeicModel, model: Hyperprior, samples: list[Sample]
) -> None:
    far = photos_like(network, model, samples, 0, 1e6)
    assert skip_threshold.choose(preview_of(network), model, samples, far) == skip_threshold.HIGHEST


def test_choose_estimate_that_is_best_with_a_threshold_finds_it(
    network: RdeicModel, model: Hyperprior, samples: list[Sample]
) -> None:
    best = photos_like(network, model, samples, 4, 1e-3)
    assert skip_threshold.choose(preview_of(network), model, samples, best) == 4


def test_choose_bit_worth_of_photos_that_nearest_symbols_reach_is_0(
    network: RdeicModel, model: Hyperprior, samples: list[Sample]
) -> None:
    exact = photos_like(network, model, samples, 0, 1e-3)
    assert skip_threshold.choose_bit_worth(preview_of(network), model, samples, exact) == 0


def test_choose_bit_worth_of_photos_that_no_symbol_helps_is_the_highest(
    network: RdeicModel, model: Hyperprior, samples: list[Sample]
) -> None:
    far = photos_like(network, model, samples, 0, 1e6)
    assert skip_threshold.choose_bit_worth(preview_of(network), model, samples, far) == max(skip_threshold.BIT_WORTHS)


def test_choose_without_samples_raises(network: RdeicModel, model: Hyperprior) -> None:
    with pytest.raises(ExportError, match="no samples"):
        skip_threshold.choose(preview_of(network), model, [], [])
