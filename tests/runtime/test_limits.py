"""Limits on sizes; what they do to a file is tested with the container."""

from __future__ import annotations

import pytest

from rdeic_rt.errors import LimitExceededError
from rdeic_rt.limits import DEFAULT_LIMITS, Limits, Size


@pytest.mark.parametrize("size", [Size(1, 1), Size(8192, 8192), Size(1, 65_535), Size(65_535, 1024)])
def test_check_size_within_limits_accepts(size: Size) -> None:
    DEFAULT_LIMITS.check_size(size)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (Size(65_536, 1), "1x65536 pixels: a side may have 65535"),
        (Size(1, 65_536), "65536x1 pixels: a side may have 65535"),
        (Size(8192, 8193), "8193x8192 is 67117056 pixels: 67108864 are allowed"),
    ],
)
def test_check_size_beyond_a_limit_raises(size: Size, message: str) -> None:
    with pytest.raises(LimitExceededError, match=message):
        DEFAULT_LIMITS.check_size(size)


def test_check_size_raised_limit_accepts() -> None:
    Limits(max_pixels=2**40, max_side_px=2**20).check_size(Size(2**20, 2**20))
