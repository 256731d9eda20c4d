"""Rate-distortion curves: a panel for each metric, ours with confidence intervals."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from rdeic_rt import files

from .metrics import METRICS, Metric
from .results import OURS, Evaluation

_INCHES = (11.0, 11.0)
_COLUMNS = 2
# Beyond this many times our largest bpp the curves of others are cut off.
_SHOWN_FACTOR = 6


def write(path: str | Path, evaluation: Evaluation) -> None:
    """Write the curves of an evaluation to a .png, .svg or .pdf file, atomically.

    Raises:
        ValueError: the evaluation has no curves, or the suffix is another.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"{path}: the suffix must be .png, .svg or .pdf")
    if not evaluation.curve:
        raise ValueError("there are no curves: they were not asked for, or no photo could be measured")
    figure = Figure(figsize=_INCHES, layout="constrained")
    rows = -(-len(METRICS) // _COLUMNS)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for unused in panels[len(METRICS) :]:
        unused.set_axis_off()
    names = list(dict.fromkeys(point.codec for point in evaluation.curve))
    limit = _SHOWN_FACTOR * max(point.bpp for point in evaluation.curve if point.codec == OURS)
    for axes, metric in zip(panels, METRICS, strict=False):
        for name in names:
            bpp, values, errors = _line(evaluation, name, metric, limit)
            if name == OURS:
                axes.errorbar(bpp, values, errors, marker="o", capsize=3, linewidth=2, color="black", label=name)
            else:
                axes.plot(bpp, values, marker=".", label=name)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if tick <= limit])
        axes.set_xlabel("bits per pixel, whole files")
        axes.set_ylabel(metric.label + ("" if metric.higher_is_better else " (lower is better)"))
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    title = f"{evaluation.bundle}, means of {len(evaluation.photos)} photos, 95 % intervals"
    figure.suptitle(f"{title}\n* of the family of the network in the training loss", fontsize=11)

    def save(file: BinaryIO) -> None:
        figure.savefig(file, format=kind, dpi=120)

    files.atomic_write(path, save)


def _line(
    evaluation: Evaluation, codec: str, metric: Metric, limit: float
) -> tuple[list[float], list[float], list[list[float]]]:
    """Return bpp, means, and for ours how far each mean's interval reaches down and up."""
    intervals = {s.rate: s.means[metric.key] for s in evaluation.summaries if s.codec == OURS and metric.key in s.means}
    points = [p for p in evaluation.curve if p.codec == codec and metric.key in p.means and p.bpp <= limit]
    bpp, values = [p.bpp for p in points], [p.means[metric.key] for p in points]
    if codec != OURS:
        return bpp, values, []
    means = [intervals[p.setting] for p in points]
    return bpp, values, [[m.value - m.low for m in means], [m.high - m.value for m in means]]
