"""From measurements to means, confidence intervals, curves and Bjontegaard delta rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .metrics import FAULTS, METRICS, Metric
from .results import (
    OURS,
    PREVIEW,
    SAME_SIZE,
    BdRate,
    Comparison,
    CurvePoint,
    Mean,
    Measurement,
    PhotoResult,
    Summary,
)

_RESAMPLES = 2000
_CONFIDENCE = 0.95
# Of our curve that another must cover before their BD-rate says something about ours.
_LEAST_COVERED = 0.5


def bootstrap_mean(values: Sequence[float]) -> Mean:
    """Return the mean of at least one value and its 95 % interval, by resampling with a fixed seed."""
    array = np.asarray(values, np.float64)
    picks = np.random.default_rng(0).integers(len(array), size=(_RESAMPLES, len(array)), dtype=np.int32)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(array[picks].mean(axis=1), (tail, 1 - tail))
    return Mean(float(array.mean()), float(low), float(high), len(array))


def summarise(photos: Sequence[PhotoResult], rates: Sequence[int]) -> tuple[Summary, ...]:
    """Return a summary for each rate and codec, ours first, the others in the order they were measured in."""
    names: dict[str, None] = dict.fromkeys((OURS, PREVIEW))
    for photo in photos:
        names.update(dict.fromkeys(m.codec for m in photo.measurements))
    # A variant, as "JPEG, downscaled", goes after what it is a variant of.
    order = sorted(names, key=lambda name: list(names).index(name.partition(",")[0]))
    found = []
    for rate in rates if photos else ():
        used = {m.codec for photo in photos for m in photo.measurements if m.rate == rate}
        found += [_summary(photos, rate, name) for name in order if name in used]
    return tuple(found)


def _summary(photos: Sequence[PhotoResult], rate: int, codec: str) -> Summary:
    pairs = [(_found(photo, OURS, rate), _found(photo, codec, rate)) for photo in photos]
    theirs = [other for _, other in pairs]
    columns: dict[str, Callable[[Measurement], float | None]] = {
        "bpp": lambda m: m.bpp,
        "encode_ms": lambda m: m.encode_ms,
        "decode_ms": lambda m: m.decode_ms,
    }
    columns |= {metric.key: _score_of(metric) for metric in METRICS + FAULTS}
    means, compared = {}, {}
    for key, value_of in columns.items():
        values = [value for m in theirs if (value := value_of(m)) is not None]
        if values:
            means[key] = bootstrap_mean(values)
    for metric in METRICS + FAULTS if codec != OURS else ():
        scores = [(own.scores[metric.key], other.scores[metric.key]) for own, other in pairs]
        gains = [metric.gain(a, b) for a, b in scores if a is not None and b is not None]
        if gains:
            compared[metric.key] = Comparison(bootstrap_mean(gains), float(np.mean(np.asarray(gains) > 0)))
    return Summary(
        rate=rate,
        codec=codec,
        n_above=sum(other.size_bytes > SAME_SIZE * own.size_bytes for own, other in pairs),
        n_downscaled=sum(other.scale != 1.0 for other in theirs),
        means=means,
        ours=compared,
    )


def curve(photos: Sequence[PhotoResult], rates: Sequence[int]) -> tuple[CurvePoint, ...]:
    """Return the mean of each codec at each quality of its sweep, and of ours at each rate, smallest files first."""
    groups: dict[tuple[str, int], list[Measurement]] = {}
    for photo in photos:
        for rate in rates:
            groups.setdefault((OURS, rate), []).append(_found(photo, OURS, rate))
        for point in photo.sweep:
            if point.quality is not None:
                groups.setdefault((point.codec, point.quality), []).append(point)
    points = [_point(codec, setting, group) for (codec, setting), group in groups.items()]
    names = list(dict.fromkeys(codec for codec, _ in groups))
    return tuple(sorted(points, key=lambda point: (names.index(point.codec), point.bpp)))


def _point(codec: str, setting: int, group: Sequence[Measurement]) -> CurvePoint:
    means = {}
    for metric in METRICS + FAULTS:
        values = [value for m in group if (value := m.scores[metric.key]) is not None]
        if values:
            means[metric.key] = float(np.mean(values))
    return CurvePoint(codec, setting, float(np.mean([m.bpp for m in group])), means)


def bd_rates(points: Sequence[CurvePoint]) -> tuple[BdRate, ...]:
    """Return the BD-rate of our mean curve against each other's, by metric; left out rather than extrapolated."""
    names = list(dict.fromkeys(point.codec for point in points))
    by_codec = {name: [point for point in points if point.codec == name] for name in names}
    ours = by_codec.pop(OURS, [])
    return tuple(_bd_rate(metric, name, ours, theirs) for metric in METRICS for name, theirs in by_codec.items())


def _bd_rate(metric: Metric, codec: str, ours: Sequence[CurvePoint], theirs: Sequence[CurvePoint]) -> BdRate:
    curves = []
    for points in (theirs, ours):
        found = [(point.bpp, point.means[metric.key]) for point in points if metric.key in point.means]
        rates, values = np.array(found, np.float64).reshape(-1, 2).T
        # Less is better of some metrics: turned over, every one grows with the rate.
        curves.append((rates, values if metric.higher_is_better else -values))
    for name, (rates, values) in zip((codec, OURS), curves, strict=True):
        if len(rates) < 2:
            return BdRate(metric.key, codec, None, 0.0, f"{name} has {len(rates)} points of it, and 2 are needed")
        if (np.diff(values) <= 0).any() or (np.diff(rates) <= 0).any():
            return BdRate(metric.key, codec, None, 0.0, f"it does not grow with the size of {name}'s files")
    (their_rates, their_values), (our_rates, our_values) = curves
    shared = min(their_values[-1], our_values[-1]) - max(their_values[0], our_values[0])
    covered = float(max(shared, 0.0) / (our_values[-1] - our_values[0]))
    if covered < _LEAST_COVERED:
        return BdRate(metric.key, codec, None, covered, f"its curve covers only {100 * covered:.0f} % of our range")
    import bjontegaard

    percent = bjontegaard.bd_rate(
        their_rates, their_values, our_rates, our_values, "pchip", require_matching_points=False, min_overlap=0
    )
    return BdRate(metric.key, codec, float(percent), covered, None)


def _found(photo: PhotoResult, codec: str, rate: int) -> Measurement:
    found = photo.find(codec, rate)
    if found is None:
        raise LookupError(f"{photo.name} was not measured with {codec} at rate {rate}")
    return found


def _score_of(metric: Metric) -> Callable[[Measurement], float | None]:
    return lambda measured: measured.scores[metric.key]
