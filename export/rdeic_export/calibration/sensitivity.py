"""Selects the layers that stay in floating point: each is quantised alone, and the graph's outputs are compared.

The noise of a layer depends little on that of the others, so noise powers add up. The worst layers are kept in floating
point until the noise of the others meets a budget; the reason is recorded with the numbers. At full size whole blocks
take the place of layers (`blocks_of`): one layer at a time takes hours.
"""

from __future__ import annotations

import logging
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rdeic_rt.errors import ExportError

from ..forms import quantize
from ..forms.ranges import FORMS, GraphRanges, Ranges
from ..onnx_view import GraphView
from .probe import Probe, Values, decoding_graphs, record_inputs, session

# Signal to noise ratio of a graph's outputs that all its 8-bit layers together must leave. The decoded images of the
# embedded model differ from the float32 ones by 40 dB when its graphs do by this much (calibration/README.md).
BUDGET_DB = 25.0
# Runs of each graph that are compared: the first photos, at every rate and step.
MOST_RUNS = 16
# ``unet.input_blocks.3.0.conv1`` is in the block ``unet.input_blocks.3``, ``up_blocks.1.resnets.0.conv1`` (as diffusers
# names it) in ``up_blocks.1.resnets.0``.
_NUMBERED_BLOCK = re.compile(r".*?\.\d+(?:\.(?:resnets|attentions|upsamplers|downsamplers)\.\d+)?(?=\.)")

logger = logging.getLogger("rdeic_export.sensitivity")


def measure(
    bundle: Path,
    ranges: Ranges,
    photos: Sequence[Path],
    *,
    method: str = quantize.DEFAULT_METHOD,
    budget_db: float = BUDGET_DB,
    forms: Sequence[str] = FORMS,
    graphs: Sequence[str] | None = None,
    by_block: bool = False,
    threads: int | None = None,
) -> Ranges:
    """Return the ranges with every layer's noise, and the layers to keep.

    Args:
        bundle: folder of the bundle they were measured on.
        ranges: of all its graphs.
        photos: one or two of them; every layer is run on all.
        method, budget_db: see `quantize.run` and `BUDGET_DB`.
        forms: those to measure; what ``ranges`` hold of others stays.
        graphs: ids of those to measure; None for all. What ``ranges`` hold of others stays.
        by_block: quantise a block of the network at a time, not a layer, and keep blocks.
        threads: CPU threads.

    Raises:
        ExportError: the ranges are of other weights, or the bundle decodes with no graph of such an id.
        RdeicError: the bundle or a photo cannot be read.
    """
    views = decoding_graphs(bundle)
    unknown = [name for name in graphs or () if name not in views]
    if unknown:
        raise ExportError(f"the bundle has no decoding graph {', '.join(unknown)}; it has {', '.join(views)}")
    runs = record_inputs(bundle, photos, threads=threads)
    for name in views if graphs is None else graphs:
        view, graph = views[name], ranges.graph(name)
        groups = blocks_of(view) if by_block else {layer.name: layer.name for layer in view.layers}
        snr_db, keep = dict(graph.snr_db), dict(graph.keep)
        for form in forms:
            snr_db[form] = of_layers(
                view.path,
                graph,
                _spread(runs[name]),
                form=form,
                method=method,
                group=groups.__getitem__,
                threads=threads,
            )
            keep[form] = choose(snr_db[form], budget_db, groups)
            logger.info("%s, %s: %s", name, form, _worst(snr_db[form], groups))
        ranges = ranges.with_graph(name, replace(graph, snr_db=snr_db, keep=keep))
    return ranges


def blocks_of(view: GraphView) -> dict[str, str]:
    """Return which block of the network each layer is in: its module's path, up to its number.

    The weights of linear layers have no path in an exported graph: these are in the block of the layer before.
    """
    blocks: dict[str, str] = {}
    block = "first"
    for layer in view.layers:
        path, dot, _ = layer.stored.removesuffix(".half").rpartition(".")
        if dot:
            numbered = _NUMBERED_BLOCK.match(f"{path}.")
            block = numbered[0] if numbered else path
        blocks[layer.name] = block
    return blocks


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
        group: layer -> name of what it is quantised together with.
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
            logger.debug("%s, %s: %s alone %.1f dB", source.name, form, part, noise[part])
    return {name: noise[group(name)] for name in names}


def choose(snr_db: Mapping[str, float], budget_db: float, groups: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the layers to keep in floating point, and why: the worst ones, until the others meet the budget.

    Args:
        snr_db: by layer, as `of_layers` returns it.
        budget_db: what all that are not kept may leave together.
        groups: layer -> what it was quantised together with; None if each was alone.
    """
    members: dict[str, list[str]] = {}
    for name in snr_db:
        members.setdefault(name if groups is None else groups[name], []).append(name)
    noise = {part: 10 ** (-snr_db[names[0]] / 10) for part, names in members.items()}
    left = sum(noise.values())
    kept = {}
    for part in sorted(noise, key=lambda part: (-noise[part], part)):
        if left <= 10 ** (-budget_db / 10):
            break
        for name in members[part]:
            alone = "alone" if part == name else f"with the rest of {part} alone"
            found = f"{alone} in 8 bits it leaves the graph's outputs {snr_db[name]:.1f} dB"
            kept[name] = f"{found}; all must leave {budget_db:g} dB"
        left -= noise[part]
    return kept


def _worst(snr_db: Mapping[str, float], groups: Mapping[str, str]) -> str:
    """Return in words which layer or block leaves least."""
    if not snr_db:
        return "no layer can be in 8 bits"
    layer = min(snr_db, key=lambda name: snr_db[name])
    return f"worst {'layer' if groups[layer] == layer else 'block'} {groups[layer]}, {snr_db[layer]:.1f} dB"


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
