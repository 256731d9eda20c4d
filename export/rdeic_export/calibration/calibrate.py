"""Photos -> activation ranges: real encodes and decodes, with graphs that also output their activations.

    photo ── Codec.encode ── Codec.decode ─┬─ range pass        least and greatest value of every tensor and step
     every rate, its own schedule;         └─ histogram passes  what lies between, as many tensors at a time as fit
     now and then guided, or other steps

The graphs run in ONNX Runtime as they do for a user, but are loaded with more outputs (`probe`): for the range pass
three numbers a tensor, for the others the tensors themselves, so that memory has a bound whatever the model's size.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt.errors import ExportError

from ..forms.ranges import (
    BINS,
    CHANNEL_BINS,
    GraphRanges,
    Interval,
    Ranges,
    TensorRange,
    names_digest,
    select,
    select_channels,
)
from ..onnx_view import GraphView, fingerprint
from .probe import Probe, Values, decodes, decoding_graphs

# Tensors handed out of one graph run in a histogram pass; the run itself needs about as much again.
PASS_BYTES = 1 << 30

logger = logging.getLogger("rdeic_export.calibrate")


def collect(
    bundle: Path, photos: Sequence[Path], *, threads: int | None = None, pass_bytes: int = PASS_BYTES
) -> Ranges:
    """Return the activation ranges of a bundle's graphs over photos.

    Args:
        bundle: folder of a bundle with float32 graphs.
        photos: image files; a few dozen.
        threads: CPU threads; None for one per physical core.
        pass_bytes: how much of a graph's activations may be held at a time.

    Raises:
        ExportError: no photos, or a graph with two layers of one name.
        RdeicError: the bundle or a photo cannot be read.
    """
    if not photos:
        raise ExportError("no photos to measure activation ranges on; give some with --photos")
    views = decoding_graphs(bundle)
    statistics = {name: {tensor: _Statistics() for tensor in _tensors(view)} for name, view in views.items()}
    whole = {name: Probe(_tensors(view), _by_channel(view)) for name, view in views.items()}

    def observe(graph_id: str, step: str, inputs: Values, values: Values) -> None:
        for tensor, found in statistics[graph_id].items():
            if f"{tensor}/size" in values:
                found.widen(step, *(values[f"{tensor}/{x}"] for x in ("least", "greatest", "size")))
            elif tensor in values:
                found.count(values[tensor])

    for done, _ in enumerate(decodes(bundle, photos, observe, whole, threads=threads), 1):
        logger.info("range pass: %d of %d photos", done, len(photos))
    passes = _passes(statistics, pass_bytes)
    for index, chosen in enumerate(passes, 1):
        for done, _ in enumerate(decodes(bundle, photos, observe, chosen, threads=threads), 1):
            logger.info("histogram pass %d of %d: %d of %d photos", index, len(passes), done, len(photos))
    graphs = {
        name: GraphRanges(
            fingerprint(view),
            {layer.name: (layer.source, layer.result) for layer in view.layers},
            {tensor: found.range() for tensor, found in statistics[name].items()},
        )
        for name, view in views.items()
    }
    return Ranges(rdeic_rt.load(bundle, backend="cpu").bundle.name, len(photos), names_digest(photos), graphs)


@dataclass
class _Statistics:
    """What is known of one tensor: first its limits, then the histograms between them."""

    steps: dict[str, Interval] = field(default_factory=dict)
    low: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    high: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    size: int = 0
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    channels: NDArray[np.int64] | None = None

    def widen(self, step: str, least: NDArray[Any], greatest: NDArray[Any], size: NDArray[Any]) -> None:
        """Take in the limits of one run; of all values, or of each channel's."""
        low, high = self.steps.get(step, (float("inf"), -float("inf")))
        self.steps[step] = (min(low, float(least.min())), max(high, float(greatest.max())))
        self.low, self.high = np.minimum(self.low, least), np.maximum(self.high, greatest)
        self.size = max(self.size, int(size))

    def count(self, value: NDArray[np.float32]) -> None:
        """Take in the values of one run; the limits must be known."""
        self.histogram += _counts(value.reshape(1, -1), np.full(1, -self.magnitude), np.full(1, self.magnitude), BINS)[
            0
        ]
        if self.low.ndim:
            rows = np.moveaxis(value, 1, 0).reshape(len(self.low), -1)
            counted = _counts(rows, self.low, self.high, CHANNEL_BINS)
            self.channels = counted if self.channels is None else self.channels + counted

    @property
    def magnitude(self) -> float:
        """The greatest magnitude, at least the smallest normal half-precision number."""
        return max(-float(self.low.min()), float(self.high.max()), float(np.finfo(np.float16).tiny))

    def range(self) -> TensorRange:
        """Return what was found."""
        signed, unsigned = select(self.histogram, self.magnitude, float(self.low.min()), float(self.high.max()))
        channels = None
        if self.channels is not None:
            low, high = select_channels(self.channels, self.low, self.high)
            channels = (low.tolist(), high.tolist())
        return TensorRange(self.steps, signed, unsigned, channels)


def _counts(
    rows: NDArray[np.float32], low: NDArray[np.float64], high: NDArray[np.float64], n_bins: int
) -> NDArray[np.int64]:
    """Return the histogram of each row between its limits, int64 [rows, n_bins]."""
    # A row of one value has no width; its factor must still be a float32.
    widths = np.maximum(high - low, n_bins * float(np.finfo(np.float32).tiny))
    factors = (n_bins / widths).astype(np.float32)
    bins = ((rows - low.astype(np.float32)[:, None]) * factors[:, None]).astype(np.int32)
    np.clip(bins, 0, n_bins - 1, out=bins)
    bins += np.arange(len(rows), dtype=np.int32)[:, None] * n_bins
    return np.bincount(bins.reshape(-1), minlength=len(rows) * n_bins).reshape(len(rows), n_bins)


def _tensors(view: GraphView) -> tuple[str, ...]:
    return tuple(dict.fromkeys(end for layer in view.layers for end in (layer.source, layer.result)))


def _by_channel(view: GraphView) -> frozenset[str]:
    """Return the outputs of convolutions that go on as they are."""
    ends = {node.name: node.output[0] for node in view.model.graph.node}
    return frozenset(
        layer.result
        for layer in view.layers
        if layer.kind == "Conv" and len(layer.shape) == 4 and ends[layer.node] == layer.result
    )


def _passes(statistics: Mapping[str, Mapping[str, _Statistics]], pass_bytes: int) -> list[dict[str, Probe]]:
    """Return which tensors of which graph are looked at together: in each graph at most pass_bytes, or one tensor."""
    parts: dict[str, list[list[str]]] = {}
    for name, tensors in statistics.items():
        used = pass_bytes
        for tensor, found in tensors.items():
            if used + 4 * found.size > pass_bytes:
                parts.setdefault(name, []).append([])
                used = 0
            parts[name][-1].append(tensor)
            used += 4 * found.size
    count = max(map(len, parts.values()), default=0)
    return [
        {name: Probe(tuple(part[index]), whole=True) for name, part in parts.items() if index < len(part)}
        for index in range(count)
    ]
