"""Noise: against the generator as docs/format.md writes it down, and what is built on it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdeic_rt import noise

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"
MASK = 2**64 - 1
seeds = st.integers(0, MASK)


def philox_block(counter: int, key: int) -> list[int]:
    """Four raw 64-bit numbers of Philox 4x64 with ten rounds."""
    c = [counter >> 64 * i & MASK for i in range(4)]
    k = [key & MASK, key >> 64]
    for _ in range(10):
        product_0, product_1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [product_1 >> 64 ^ c[1] ^ k[0], product_1 & MASK, product_0 >> 64 ^ c[3] ^ k[1], product_0 & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def reference(count: int, seed: int, draw: int) -> list[float]:
    raw: list[int] = []
    while len(raw) < count + 1:
        raw += philox_block(len(raw) // 4 + 1, seed + (draw << 64))
    values = []
    for i in range(0, count, 2):
        radius = math.sqrt(-2 * math.log(((raw[i] >> 11) + 1) * 2**-53))
        angle = 2 * math.pi * ((raw[i + 1] >> 11) * 2**-53)
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return values[:count]


@given(seeds, seeds, st.integers(0, 33))
def test_gaussian_any_seed_and_draw_equals_the_written_specification(seed: int, draw: int, count: int) -> None:
    np.testing.assert_allclose(noise.gaussian((count,), seed, draw), reference(count, seed, draw), rtol=0, atol=1e-6)


def test_gaussian_vectors_of_the_format_page_are_reproduced() -> None:
    rows = re.findall(
        r"^\| (\w+), (\d+) \| ([`0-9a-f ]+) \| ([-0-9., ]+) \|$", FORMAT_PAGE.read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) == 3
    for seed_text, draw_text, raw_text, values_text in rows:
        seed, draw = int(seed_text, 0), int(draw_text)
        raw = [int(number, 16) for number in re.findall(r"[0-9a-f]{16}", raw_text)]
        assert len(raw) == 6
        assert (philox_block(1, seed + (draw << 64)) + philox_block(2, seed + (draw << 64)))[:6] == raw
        assert np.random.Philox(key=seed + (draw << 64)).random_raw(6).tolist() == raw
        expected = [float(value) for value in values_text.split(",")]
        np.testing.assert_allclose(noise.gaussian((6,), seed, draw), expected, rtol=0, atol=1e-6)


def test_gaussian_shape_is_filled_in_c_order() -> None:
    flat = noise.gaussian((2 * 3 * 5,), 7, 2)
    shaped = noise.gaussian((1, 2, 3, 5), 7, 2)
    assert shaped.dtype == np.float32
    np.testing.assert_array_equal(shaped.ravel(), flat)
    np.testing.assert_array_equal(noise.gaussian((29,), 7, 2), flat[:29])


def test_gaussian_latent_of_a_photo_is_standard_normal() -> None:
    values = noise.gaussian((1, 8, 64, 96), 0xC0FFEE, 0).astype(np.float64)
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert abs((np.abs(values) > 1.96).mean() - 0.05) < 0.005
    assert np.isfinite(values).all()


def test_gaussian_draws_and_seeds_differ_from_each_other() -> None:
    made = [noise.gaussian((64,), seed, draw) for seed in (0, 1, 2**64 - 1) for draw in (0, 1, 2)]
    for i, a in enumerate(made):
        for b in made[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.6


@pytest.mark.parametrize(("seed", "draw"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**64)])
def test_gaussian_seed_or_draw_out_of_range_raises_value_error(seed: int, draw: int) -> None:
    with pytest.raises(ValueError, match=r"must be from 0 to 2\*\*64 - 1"):
        noise.gaussian((4,), seed, draw)
