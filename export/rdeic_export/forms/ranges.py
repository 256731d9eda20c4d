"""Activation ranges of a model: what `calibrate` measures, a JSON file keeps and `quantize` reads.

    {"schema": 1, "model": "tiny-2", "photos": {"count", "sha256"},
     "graphs": {id: {"weights": sha256,
                     "layers": {"conv2d_5": [source, result]},
                     "tensors": {source: {"steps": {"ddpm-2/0": [low, high]},
                                          "signed": {method: limit}, "unsigned": {method: [low, high]},
                                          "channels": [[low, ...], [high, ...]] or null}},
                     "snr_db": {form: {layer: dB}}, "keep": {form: {layer: reason}}}}}

Every denoising step has its range, to show how they differ; a tensor has one scale, because all steps share the graph.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdeic_rt.errors import ExportError

SCHEMA = 1
FORMS = ("signed", "unsigned-cpu")
METHODS = ("max", "percentile", "mse", "entropy", "balanced")
# Of all elements, how many the method "percentile" leaves outside the range; half of them at each end.
OUTSIDE = 1e-4
BINS = 4096  # of a histogram, symmetric about zero: 8 bits have 256 levels, so a limit is found to 1/16 of one
CHANNEL_BINS = 512  # of one channel's histogram, between its least and its greatest value
_KL_BINS = 128  # levels of a signed 8-bit activation on one side

Interval = tuple[float, float]


@dataclass(frozen=True)
class TensorRange:
    """The values of one tensor over all photos.

    Attributes:
        steps: ``<schedule>/<step>`` -> least and greatest value there.
        signed: method -> the magnitude that 127 stands for.
        unsigned: method -> the values that 0 and 255 stand for; zero lies between.
        channels: the same for each channel of a convolution's output (by the method "mse"), all lows and all highs.
    """

    steps: Mapping[str, Interval]
    signed: Mapping[str, float]
    unsigned: Mapping[str, Interval]
    channels: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class GraphRanges:
    """The ranges of one graph.

    Attributes:
        weights: `layers.fingerprint` of the graph they were measured on.
        layers: layer name -> names of its source and result in ``tensors``.
        tensors: by name in the float32 graph.
        snr_db: form -> layer -> signal to noise ratio of the graph's outputs with this layer alone in 8 bits.
        keep: form -> layer -> why it stays in floating point.
    """

    weights: str
    layers: Mapping[str, tuple[str, str]]
    tensors: Mapping[str, TensorRange]
    snr_db: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    keep: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def source(self, layer: str) -> TensorRange:
        """Return the range of a layer's input."""
        return self.tensors[self.layers[layer][0]]

    def result(self, layer: str) -> TensorRange:
        """Return the range of a layer's output."""
        return self.tensors[self.layers[layer][1]]


@dataclass(frozen=True)
class Ranges:
    """The ranges of all graphs of a model, and what they were measured on.

    Attributes:
        model: the bundle's name.
        photos: how many there were.
        photos_sha256: `names_digest` of them.
        graphs: by graph id.
    """

    model: str
    photos: int
    photos_sha256: str
    graphs: Mapping[str, GraphRanges]

    def graph(self, graph_id: str) -> GraphRanges:
        """Return the ranges of one graph; ExportError if there are none."""
        if graph_id not in self.graphs:
            raise ExportError(
                f"the activation ranges of {self.model!r} have no graph {graph_id!r} (they have "
                f"{', '.join(sorted(self.graphs))}). Measure them again with `python calibration/collect_ranges.py`."
            )
        return self.graphs[graph_id]

    def with_graph(self, graph_id: str, graph: GraphRanges) -> Ranges:
        """Return the same with one graph replaced."""
        return replace(self, graphs={**self.graphs, graph_id: graph})

    def save(self, path: Path) -> None:
        """Write the JSON file: sorted, one line a tensor or table, six significant digits."""
        document = {
            "schema": SCHEMA,
            "model": self.model,
            "photos": {"count": self.photos, "sha256": self.photos_sha256},
            "graphs": {name: asdict(graph) for name, graph in self.graphs.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_dump(_rounded(document), depth=4) + "\n")


def load(path: Path) -> Ranges:
    """Return the ranges that a JSON file holds.

    Raises:
        ExportError: it is not such a file, or of another schema.
        OSError: it cannot be read.
    """
    try:
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise ExportError(
                f"{path}: activation ranges of schema {document['schema']}, this version reads schema {SCHEMA}. "
                "Measure them again with `python calibration/collect_ranges.py`."
            )
        graphs = {name: _graph(entry) for name, entry in document["graphs"].items()}
        photos = document["photos"]
        return Ranges(document["model"], photos["count"], photos["sha256"], graphs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{path}: not a file of activation ranges ({type(error).__name__}: {error}). "
            "Measure them again with `python calibration/collect_ranges.py`."
        ) from None


def names_digest(paths: Sequence[Path]) -> str:
    """Return a SHA-256 over the names and contents of photos, in the order of their names."""
    lines = sorted(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def select(histogram: NDArray[np.int64], limit: float, low: float, high: float) -> tuple[dict[str, float], Any]:
    """Return the range of a tensor by every method, signed and unsigned.

    Args:
        histogram: int64 [`BINS`], counts over -limit .. limit.
        limit: > 0, the greatest magnitude.
        low, high: the least and greatest value; zero lies between.

    Returns:
        method -> magnitude, and method -> (low, high).
    """
    centres = np.asarray((np.arange(BINS) + 0.5) * (2 * limit / BINS) - limit, np.float64)
    magnitudes = histogram[BINS // 2 :] + histogram[: BINS // 2][::-1]
    tail = _quantile(magnitudes, 1 - OUTSIDE) * limit
    entropy = _entropy_limit(magnitudes) * limit
    below = limit - 2 * limit * _quantile(histogram[::-1], 1 - OUTSIDE / 2)
    above = -limit + 2 * limit * _quantile(histogram, 1 - OUTSIDE / 2)
    signed = {"max": limit, "percentile": tail, "mse": _signed_mse(histogram, centres, limit), "entropy": entropy}
    unsigned = {
        "max": (low, high),
        "percentile": (max(low, min(below, 0.0)), min(high, max(above, 0.0))),
        "mse": _unsigned_mse(histogram, centres, low, high),
        "entropy": (max(low, -entropy), min(high, entropy)),
    }
    # Least error over all photos clips the few that reach further; their extremes cost the others precision.
    signed["balanced"] = _between(signed["mse"], signed["max"])
    lows, highs = zip(unsigned["mse"], unsigned["max"], strict=True)
    unsigned["balanced"] = (-_between(*(-x for x in lows)), _between(*highs))
    return signed, unsigned


def select_channels(
    histograms: NDArray[np.int64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for each channel the range with the least squared error of 8 bits: what is clipped, and rounding noise.

    Args:
        histograms: int64 [C, `CHANNEL_BINS`], counts over low .. high.
        low, high: float64 [C], the least and greatest values; zero lies between.
    """
    centres = low[:, None] + (np.arange(CHANNEL_BINS) + 0.5) * ((high - low)[:, None] / CHANNEL_BINS)
    counts = histograms.sum(1)

    def error(lowest: NDArray[np.float64], highest: NDArray[np.float64]) -> NDArray[np.float64]:
        outside = centres - np.clip(centres, lowest[:, None], highest[:, None])
        noise: NDArray[np.float64] = (histograms * outside**2).sum(1) + counts * ((highest - lowest) / 255) ** 2 / 12
        return noise

    shares = np.linspace(0.2, 1.0, 33)
    best_high = high * shares[np.argmin([error(low, high * s) for s in shares], 0)]
    best_low = low * shares[np.argmin([error(low * s, best_high) for s in shares], 0)]
    return best_low, best_high


def _between(least: float, greatest: float) -> float:
    """Return the geometric mean of two numbers >= 0."""
    return float(np.sqrt(least * greatest))


def _quantile(counts: NDArray[np.int64], fraction: float) -> float:
    """Return the share of the axis, 0..1, below which a fraction of the counts lies."""
    cumulative = np.cumsum(counts)
    return float(np.searchsorted(cumulative, fraction * cumulative[-1]) + 1) / len(counts)


def _signed_mse(histogram: NDArray[np.int64], centres: NDArray[np.float64], limit: float) -> float:
    limits = limit * np.linspace(0.1, 1.0, 91)
    errors = [_squared_error(histogram, centres, -x * 128 / 127, x, x / 127) for x in limits]
    return float(limits[int(np.argmin(errors))])


def _unsigned_mse(histogram: NDArray[np.int64], centres: NDArray[np.float64], low: float, high: float) -> Interval:
    shares = np.linspace(0.2, 1.0, 33)
    used = histogram > 0
    counts, values = histogram[used], centres[used]
    best_high = high * shares[int(np.argmin([_unsigned_error(counts, values, low, high * s) for s in shares]))]
    best_low = low * shares[int(np.argmin([_unsigned_error(counts, values, low * s, best_high) for s in shares]))]
    return float(best_low), float(best_high)


def _unsigned_error(counts: NDArray[np.int64], values: NDArray[np.float64], low: float, high: float) -> float:
    return _squared_error(counts, values, low, high, (high - low) / 255) if high > low else float("inf")


def _squared_error(
    counts: NDArray[np.int64], values: NDArray[np.float64], low: float, high: float, scale: float
) -> float:
    """Return the squared error of rounding to multiples of scale within low .. high, summed over a histogram."""
    clipped = np.clip(values, low, high)
    return float(np.dot(counts, (np.rint(clipped / scale) * scale - values) ** 2))


def _entropy_limit(magnitudes: NDArray[np.int64]) -> float:
    """Return the share of the axis whose 8-bit version tells least from the original (Kullback-Leibler divergence)."""
    counts = magnitudes.astype(np.float64)
    best, best_divergence = len(counts), float("inf")
    for end in range(_KL_BINS, len(counts) + 1, _KL_BINS // 4):
        reference = counts[:end].copy()
        reference[-1] += counts[end:].sum()
        groups = np.arange(end) * _KL_BINS // end
        filled = counts[:end] > 0
        totals = np.bincount(groups, counts[:end], _KL_BINS)
        members = np.bincount(groups, filled, _KL_BINS)
        coarse = np.where(filled, (totals / np.maximum(members, 1))[groups], 0.0)
        if not coarse.sum():
            continue
        p, q = reference / reference.sum(), coarse / coarse.sum()
        where = p > 0
        divergence = float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], 1e-12))))
        if divergence < best_divergence:
            best, best_divergence = end, divergence
    return best / len(counts)


def _graph(entry: Mapping[str, Any]) -> GraphRanges:
    def pair(values: Sequence[Any]) -> tuple[Any, Any]:
        first, second = values
        return first, second

    tensors = {
        name: TensorRange(
            {step: pair(v) for step, v in tensor["steps"].items()},
            dict(tensor["signed"]),
            {method: pair(v) for method, v in tensor["unsigned"].items()},
            None if tensor["channels"] is None else pair(tensor["channels"]),
        )
        for name, tensor in entry["tensors"].items()
    }
    layers = {name: pair(ends) for name, ends in entry["layers"].items()}
    unknown = {end for ends in layers.values() for end in ends} - tensors.keys()
    if unknown:
        raise ValueError(f"no range for {', '.join(sorted(unknown))}")
    return GraphRanges(entry["weights"], layers, tensors, entry["snr_db"], entry["keep"])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _dump(value: Any, depth: int) -> str:
    """Return JSON with sorted keys, objects opened over several lines down to a depth."""
    if depth == 0 or not isinstance(value, Mapping) or not value:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    items = [f"{json.dumps(key)}: {_dump(value[key], depth - 1)}" for key in sorted(value)]
    return "{\n" + ",\n".join(items) + "\n}"
