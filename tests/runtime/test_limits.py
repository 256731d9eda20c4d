"""Limits on sizes; what they do to a file is tested with the container."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from rdeic_rt import limits
from rdeic_rt.errors import LimitExceededError
from rdeic_rt.limits import DEFAULT_LIMITS, Limits, Size
from tests.conftest import REPOSITORY


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


def test_numbers_are_those_of_the_c_header() -> None:
    """But for what librdeic does not do: it reads no keys of TensorRT's plans, and gets no bundles."""
    header = (REPOSITORY / "runtime" / "cpp" / "src" / "input_limits.h").read_text(encoding="utf-8")
    fixed = re.findall(r"^inline constexpr [\w:]+ k(\w+) = ([^;]+);$", header, re.MULTILINE)
    in_c = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper(): c_number(text) for name, text in fixed}
    in_python = {name: value for name, value in vars(limits).items() if name.startswith("MAX_")}
    python_alone = {"MAX_PLAN_KEY_BYTES", "MAX_BUNDLE_BYTES", "MAX_CARD_BYTES"}
    python_alone |= {name for name in in_python if name.startswith("MAX_ARCHIVE_")}
    assert in_c == {name: value for name, value in in_python.items() if name not in python_alone}

    members = dict(re.findall(r"^  std::uint\d+_t (max_\w+) = ([^;]+);$", header, re.MULTILINE))
    # librdeic has no clock of its own: its `progress` can look at one.
    expected = {name: value for name, value in asdict(DEFAULT_LIMITS).items() if name != "max_seconds"}
    assert {name: c_number(text) for name, text in members.items()} == expected


def c_number(text: str) -> int:
    """Return the value of a constant expression of integers."""
    plain = re.sub(r"std::\w+\{(\d+)\}", r"\1", text).replace("'", "")
    assert re.fullmatch(r"[\d <()-]+", plain), text
    return int(eval(plain))
