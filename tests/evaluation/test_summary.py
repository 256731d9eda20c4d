from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rdeic_eval import summary
from rdeic_eval.metrics import FAULTS, METRICS
from rdeic_eval.results import OURS, PREVIEW, BdRate, CurvePoint, Measurement, PhotoResult, downscaled
from rdeic_rt.limits import Size


def measurement(codec: str, size_bytes: int, psnr: float, distance: float, scale: float = 1.0) -> Measurement:
    scores = {m.key: distance if m.key.startswith("distance") else None for m in METRICS + FAULTS} | {"psnr_db": psnr}
    return Measurement(codec, 0, None, scale, size_bytes, size_bytes / 100, 1.0, 2.0, scores)


def photo(*measurements: Measurement) -> PhotoResult:
    return PhotoResult("photo", Size(height=10, width=80), measurements, ())


def curve(codec: str, key: str, points: Sequence[tuple[float, float]]) -> list[CurvePoint]:
    return [CurvePoint(codec, i, bpp, {key: value}) for i, (bpp, value) in enumerate(points)]


def bd_rate(key: str, ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> BdRate:
    found = summary.bd_rates([*curve(OURS, key, ours), *curve("JPEG", key, theirs)])
    return next(one for one in found if one.metric == key)


def test_bootstrap_interval_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = summary.bootstrap_mean(list(values))
    half = 1.96 * values.std() / 20

    assert found.value == pytest.approx(values.mean())
    assert found.n == 400
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.15 * half)
    assert summary.bootstrap_mean(list(values)) == found


def test_bootstrap_of_one_value_is_that_value() -> None:
    found = summary.bootstrap_mean([0.5])
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 1)


def test_summary_counts_compares_and_pairs() -> None:
    photos = [
        photo(
            measurement(OURS, 100, 20, 0.50),
            measurement(PREVIEW, 100, 21, 0.60),
            measurement("JPEG", 110, 22, 0.70),
        ),
        photo(
            measurement(OURS, 200, 24, 0.40),
            measurement(PREVIEW, 200, 23, 0.30),
            measurement("JPEG", 300, 23, 0.45),
            measurement(downscaled("JPEG"), 210, 19, 0.80, scale=0.5),
        ),
    ]
    ours, preview, jpeg, smaller = summary.summarise(photos, [0])

    assert [s.codec for s in (ours, preview, jpeg, smaller)] == [OURS, PREVIEW, "JPEG", "JPEG, downscaled"]
    assert ours.ours == {}
    assert ours.means["bpp"].value == 1.5
    assert (jpeg.n_above, jpeg.n_downscaled) == (1, 0)
    # Where the whole picture was small enough, that is what counts.
    assert (smaller.n_above, smaller.n_downscaled) == (0, 1)
    assert smaller.means["bpp"].value == pytest.approx((1.10 + 2.10) / 2)
    assert smaller.means["psnr_db"].value == (22 + 19) / 2
    assert "ms_ssim" not in jpeg.means
    # Better is more of PSNR, and less of a distance.
    assert jpeg.ours["psnr_db"].gain.value == pytest.approx((-2 + 1) / 2)
    assert jpeg.ours["psnr_db"].share_better == 0.5
    assert jpeg.ours["distance_lite1"].gain.value == pytest.approx((0.20 + 0.05) / 2)
    assert jpeg.ours["distance_lite1"].share_better == 1.0
    assert preview.ours["distance_lite1"].share_better == 0.5


def test_summary_of_no_photos_is_empty() -> None:
    assert summary.summarise([], [0]) == ()
    assert summary.curve([], [0]) == ()
    assert summary.bd_rates([]) == ()


@pytest.mark.parametrize(("key", "sign"), [("psnr_db", 1), ("distance_lite2", -1)])
def test_bd_rate_of_half_the_bits_is_minus_fifty_percent(key: str, sign: int) -> None:
    theirs = [(0.1 * 2**i, sign * (20 + 3 * i)) for i in range(5)]
    ours = [(bpp / 2, value) for bpp, value in theirs[1:4]]
    found = bd_rate(key, ours, theirs)

    assert found.percent == pytest.approx(-50, abs=1e-6)
    assert found.covered == 1.0
    assert found.reason is None


@pytest.mark.parametrize(
    ("ours", "theirs", "covered", "reason"),
    [
        ([(0.1, 20), (0.2, 22)], [(0.1, 23), (0.2, 26)], 0.0, "covers only 0 % of our range"),
        ([(0.1, 20), (0.2, 24)], [(0.1, 23), (0.2, 26)], 0.25, "covers only 25 % of our range"),
        ([(0.1, 20), (0.2, 19)], [(0.1, 18), (0.2, 26)], 0.0, "does not grow with the size of rdeic-rt's files"),
        ([(0.1, 20), (0.2, 22)], [(0.1, 18), (0.2, 26), (0.3, 25)], 0.0, "does not grow with the size of JPEG's"),
        ([(0.1, 20)], [(0.1, 18), (0.2, 26)], 0.0, "rdeic-rt has 1 points"),
    ],
)
def test_bd_rate_is_left_out_with_its_reason_rather_than_extrapolated(
    ours: list[tuple[float, float]], theirs: list[tuple[float, float]], covered: float, reason: str
) -> None:
    found = bd_rate("psnr_db", ours, theirs)
    assert found.percent is None
    assert found.covered == pytest.approx(covered)
    assert found.reason is not None
    assert reason in found.reason
