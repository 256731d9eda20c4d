"""Configurations: sizes that follow from them, and those that do not fit together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rdeic_export.modules.diffo.config import DIFFO, DIFFO_TINY, AutoencoderConfig, SwinUNetConfig
from rdeic_export.modules.diffo.model import DiffoModel


def test_image_multiple_makes_windows_of_every_level_whole() -> None:
    assert DIFFO.image_multiple_px == 256
    assert DIFFO_TINY.image_multiple_px == 32


@pytest.mark.parametrize(
    ("part", "millions"),
    [("unet", 119.54), ("codec", 52.25), ("vqgan", 71.88)],  # without VQGAN's codebook, 4.19
)
def test_full_size_has_the_released_number_of_weights(part: str, millions: float) -> None:
    with torch.device("meta"):
        network = getattr(DiffoModel(DIFFO), part)
    assert sum(value.numel() for value in network.state_dict().values()) / 1e6 == pytest.approx(millions, abs=0.01)


@torch.no_grad()
def test_tiny_codes_an_image_of_the_smallest_size() -> None:
    torch.manual_seed(0)
    tiny = DiffoModel(DIFFO_TINY).eval()
    indices = tiny.analyse(torch.zeros(1, 3, 64, 64))
    assert indices.shape == (1, 4, 4)
    z_y, base = tiny.codec.synthesise(indices)
    z_0 = tiny.predict(base, z_y, torch.tensor([1]), base)
    assert tiny.vqgan.decode(z_0).shape == (1, 3, 64, 64)


def test_config_widths_that_differ_raise() -> None:
    with pytest.raises(ValueError, match="they must be equal"):
        replace(DIFFO, latent=replace(DIFFO.latent, embed_dim=128))


def test_config_codes_at_an_eighth_raise() -> None:
    with pytest.raises(ValueError, match="codes at 1/8 of the latent"):
        replace(DIFFO, latent=replace(DIFFO.latent, channels=(512,) * 4, attention_levels=(True, False, False, False)))


def test_config_levels_of_different_number_raise() -> None:
    with pytest.raises(ValueError, match="1 attention levels for 2 levels"):
        AutoencoderConfig(3, 8, (8, 8), (True,), 8, 8)
    with pytest.raises(ValueError, match="each needs one entry a level"):
        SwinUNetConfig(windows=(4, 2))
