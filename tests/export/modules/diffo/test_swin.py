"""Masks and window attention against loops over tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rdeic_export.modules.diffo import swin
from rdeic_export.modules.diffo.config import Mask, SwinUNetConfig
from tests.micro.make_micro import randomise, seeded

from . import specification

SIZES = [(8, 8, 4, 2), (4, 12, 4, 2), (12, 4, 4, 2), (2, 2, 2, 1), (6, 4, 2, 1), (4, 4, 4, 2)]
CONFIG = SwinUNetConfig(swin_dim=8, head_dim=4, norm_groups=4)


def specified(mask: Mask, height: int, width: int, window: int, shift: int) -> np.ndarray:
    make = specification.released_mask if mask == "released" else specification.textbook_mask
    return make(height, width, window, shift)


@pytest.mark.parametrize("mask", ["released", "textbook"])
@pytest.mark.parametrize(("height", "width", "window", "shift"), SIZES)
def test_regions_part_the_specified_tokens(mask: Mask, height: int, width: int, window: int, shift: int) -> None:
    labels = swin.windows_of(swin.regions(height, width, window, shift, mask)[None, None], window)[0, :, :, 0]
    parted = (labels[:, :, None] != labels[:, None, :]).numpy()
    assert np.array_equal(parted, specified(mask, height, width, window, shift) != 0)


def test_released_mask_is_not_the_textbook_one() -> None:
    assert not np.array_equal(specified("released", 8, 8, 4, 2), specified("textbook", 8, 8, 4, 2))


@pytest.mark.parametrize("mask", ["released", "textbook"])
@pytest.mark.parametrize(("height", "width", "window", "shift"), SIZES)
@torch.no_grad()
def test_attention_equals_loops_over_tokens(mask: Mask, height: int, width: int, window: int, shift: int) -> None:
    attention = swin.WindowAttention(replace(CONFIG, mask=mask), window, shift)
    randomise(attention, seed=0)
    x = seeded((2, 8, height, width), "x")
    weights = {key: value.numpy().astype(np.float64) for key, value in attention.state_dict().items()}
    added = specified(mask, height, width, window, shift)
    expected = [specification.window_attention(one.numpy(), weights, window, shift, added) for one in x]
    np.testing.assert_allclose(attention(x).numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_attention_without_shift_masks_nothing() -> None:
    attention = swin.WindowAttention(CONFIG, 4, 0)
    randomise(attention, seed=0)
    x = seeded((1, 8, 8, 4), "x")
    weights = {key: value.numpy().astype(np.float64) for key, value in attention.state_dict().items()}
    expected = specification.window_attention(x[0].numpy(), weights, 4, 0, None)
    np.testing.assert_allclose(attention(x)[0].numpy(), expected, atol=1e-5)


def test_windows_of_map_of_are_inverse() -> None:
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    windows = swin.windows_of(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    assert windows[0, 1, :, 0].tolist() == [2, 3, 8, 9]  # second window of the first row
    assert torch.equal(swin.map_of(windows, 2, 4, 6), x)


@torch.no_grad()
def test_layer_has_no_skip_around_it() -> None:
    layer = swin.SwinLayer(CONFIG, 16, 2)
    layer.unembed.weight.zero_()
    assert layer.unembed.bias is not None
    layer.unembed.bias.fill_(1.0)
    assert torch.equal(layer(seeded((1, 16, 4, 4), "x")), torch.ones(1, 16, 4, 4))
