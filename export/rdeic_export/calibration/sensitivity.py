"""Selects the layers that stay in floating point: each is quantised alone, and the graph's outputs are compared.

The noise of a layer depends little on that of the others, so noise powers add up. The worst layers are kept in floating
point until the noise of the others meets a budget; the reason is recorded with the numbers.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..forms import quantize
from ..forms.ranges import FORMS, GraphRanges, Ranges
from ..onnx_view import GraphView
from .probe import Probe, Values, decoding_graphs, record_inputs, session

# Signal to noise ratio of a graph's outputs that all its 8-bit layers together must leave. The decoded images of the
# embedded model differ from the float32 ones by 40 dB when its graphs do by this much (calibration/README.md).
BUDGET_DB = 25.0
# Runs of each graph that are compared: the first photos, at every rate and step.
MOST_RUNS = 16

logger = logging.getLogger("rdeic_export.sensitivity")


def measure(
    bundle: Path,
    ranges: Ranges,
    photos: Sequence[Path],
    *,
    method: str = quantize.DEFAULT_METHOD,
    budget_db: float = BUDGET_DB,
    threads: int | None = None,
) -> Ranges:
    """Return the ranges with every layer's noise, and the layers to keep, for both forms.

    Args:
        bundle: folder of the bundle they were measured on.
        ranges: of all its graphs.
        photos: one or two of them; every layer is run on all.
        method, budget_db: see `quantize.run` and `BUDGET_DB`.
        threads: CPU threads.

    Raises:
        ExportError: the ranges are of other weights.
        RdeicError: the bundle or a photo cannot be read.
    """
    views = decoding_graphs(bundle)
    runs = record_inputs(bundle, photos, threads=threads)
    for name, view in views.items():
        graph = ranges.graph(name)
        snr_db = {}
        for form in FORMS:
            snr_db[form] = of_layers(view.path, graph, _spread(runs[name]), form=form, method=method, threads=threads)
            logger.info("%s, %s: worst layer %.1f dB", name, form, min(snr_db[form].values(), default=math.inf))
        keep = {form: choose(snr_db[form], budget_db) for form in FORMS}
        ranges = ranges.with_graph(name, replace(graph, snr_db=snr_db, keep=keep))
    return ranges


def of_layers(
    source: Path,
    ranges: GraphRanges,
    runs: Sequence[Values],
    *,
    form: str,
    method: str = quantize.DEFAULT_METHOD,
    group: Callable[[str], str] = str,
    threads: int | None = None,
) -> dict[str, float]:
    """Return the signal to noise ratio of a graph's outputs in dB with each layer alone in 8 bits.

    Args:
        source: the float32 graph.
        ranges: its activation ranges.
        runs: inputs by name, of one or more runs.
        form, method: see `quantize.run`.
        group: layer -> name of what it is quantised together with; at full size one layer at a time takes hours.
        threads: CPU threads.

    Returns:
        by layer; those of a group have the same number. Infinite where nothing changed.
    """
    names = [layer.name for layer in GraphView(source).layers if min(layer.channels) >= quantize.LEAST_CHANNELS[form]]
    wanted = _outputs(source, runs, threads)
    noise: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "layer.onnx"
        for part in dict.fromkeys(map(group, names)):
            alone = {layer: "measured alone" for layer in ranges.layers if layer not in names or group(layer) != part}
            quantize.run(source, target, ranges, form=form, method=method, keep=alone)
            noise[part] = _snr_db(wanted, _outputs(target, runs, threads))
    return {name: noise[group(name)] for name in names}


def choose(snr_db: Mapping[str, float], budget_db: float) -> dict[str, str]:
    """Return the layers to keep in floating point, and why: the worst ones, until the others meet the budget."""
    noise = {name: 10 ** (-ratio / 10) for name, ratio in snr_db.items()}
    left = sum(noise.values())
    kept = {}
    for name in sorted(noise, key=lambda name: (-noise[name], name)):
        if left <= 10 ** (-budget_db / 10):
            break
        kept[name] = (
            f"alone in 8 bits it leaves the graph's outputs {snr_db[name]:.1f} dB; all must leave {budget_db:g} dB"
        )
        left -= noise[name]
    return kept


def _spread(runs: Sequence[Values]) -> list[Values]:
    """Return at most `MOST_RUNS` runs, evenly from first to last."""
    count = min(len(runs), MOST_RUNS)
    return [runs[index * len(runs) // count] for index in range(count)]


def _outputs(path: Path, runs: Sequence[Values], threads: int | None) -> list[list[np.ndarray]]:
    graph = session(path, Probe(), threads)
    return [graph.run(None, run) for run in runs]


def _snr_db(wanted: Sequence[Sequence[np.ndarray]], found: Sequence[Sequence[np.ndarray]]) -> float:
    """Return the mean over the outputs of noise power by signal power, as a ratio in dB; each over all runs."""
    shares = []
    for want, got in zip(zip(*wanted, strict=True), zip(*found, strict=True), strict=True):
        pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(want, got, strict=True)]
        signal, noise = sum(float((a**2).sum()) for a, _ in pairs), sum(float(((a - b) ** 2).sum()) for a, b in pairs)
        shares.append(noise / signal if signal else float(noise > 0))
    mean = float(np.mean(shares))
    return -10 * math.log10(mean) if mean else math.inf
