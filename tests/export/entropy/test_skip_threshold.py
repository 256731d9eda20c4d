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
from rdeic_export.modules.vae import Vae
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


def z_c_of(network: RdeicModel) -> Callable[[Tensor, int], Tensor]:
    return lambda y_hat, number: network.codec.synthesise(y_hat)[0]


def estimates(network: RdeicModel, model: Hyperprior, samples: list[Sample], threshold: int) -> list[Tensor]:
    """Return z_c of each sample when symbols under the threshold are left out."""
    tried = replace(model, tables=replace(model.tables, skip_below=threshold))
    y_hats = [integer.encode(tried, sample).tensors["y_hat"] for sample in samples]
    with torch.no_grad():
        return [network.codec.synthesise(torch.from_numpy(y_hat))[0] for y_hat in y_hats]


def test_choose_exact_estimate_spoilt_by_any_skip_keeps_every_symbol(
    network: RdeicModel, model: Hyperprior, samples: list[Sample]
) -> None:
    exact = [target + 1e-3 for target in estimates(network, model, samples, 0)]
    assert skip_threshold.choose(z_c_of(network), model, samples, exact) == 0


def test_choose_estimate_that_no_symbol_helps_skips_the_most(
    network: RdeicModel, model: Hyperprior, samples: list[Sample]
) -> None:
    far = [target + 1e6 for target in estimates(network, model, samples, 0)]
    assert skip_threshold.choose(z_c_of(network), model, samples, far) == skip_threshold.HIGHEST


def test_choose_estimate_that_is_best_with_a_threshold_finds_it(
    network: RdeicModel, model: Hyperprior, samples: list[Sample]
) -> None:
    best = [target + 1e-3 for target in estimates(network, model, samples, 4)]
    assert skip_threshold.choose(z_c_of(network), model, samples, best) == 4


def test_target_of_an_image_is_the_mean_that_the_autoencoder_encodes_it_to(
    network: RdeicModel, photo: np.ndarray
) -> None:
    image = np.ascontiguousarray(photo[:64, :128])
    target = skip_threshold.target_of(network, image)
    vae = network.vae
    assert isinstance(vae, Vae)
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / 127.5 - 1).float()
    unshuffled = torch.nn.functional.pixel_unshuffle(pixels, vae.config.pixel_unshuffle)
    mean = vae.kl.encode(unshuffled).latent_dist.mean
    assert target.shape == (1, 4, 8, 16)
    torch.testing.assert_close(target, mean * vae.config.scale_factor)


def test_choose_without_samples_raises(network: RdeicModel, model: Hyperprior) -> None:
    with pytest.raises(ExportError, match="no samples"):
        skip_threshold.choose(z_c_of(network), model, [], [])
