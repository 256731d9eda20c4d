"""The bar chart of `rdeic-rt bench --plot`; needs matplotlib, which the extra ``plot`` installs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .. import files
from .outputs import UsageError

if TYPE_CHECKING:
    from .measure import Spread

_SUFFIXES = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
_INCHES = (8.0, 3.2)


def check(path: str) -> None:
    """Raise UsageError where a chart could not be written: before anything is measured."""
    if Path(path).suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--plot {path}: the suffix must be one of {', '.join(_SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--plot needs matplotlib, which cannot be imported ({error}). "
            "Install it with `pip install 'rdeic-rt[plot]'`"
        ) from None


def write(path: str, stages: dict[str, Spread], total: Spread, title: str) -> None:
    """Write a bar for each stage and for the whole decode: the median, with a line from the fastest to the slowest.

    Args:
        path: .png, .svg or .pdf.
        stages: those of decoding, in running order; of a stage with others inside, these are drawn in its place.
        total: of the whole decode.
        title: over the chart.
    """
    from matplotlib.figure import Figure

    outer = {name.partition(".")[0] for name in stages if "." in name}
    bars = {name: spread for name, spread in stages.items() if name not in outer} | {"whole decode": total}
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    medians = [spread.median for spread in bars.values()]
    around = [[s.median - s.min for s in bars.values()], [s.max - s.median for s in bars.values()]]
    colours = [*["#4878a8"] * (len(bars) - 1), "#888888"]
    drawn = axes.barh(list(bars), medians, xerr=around, color=colours, capsize=2)
    axes.bar_label(drawn, labels=[f"{median:.1f}" for median in medians], padding=6, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("ms, median and range")
    axes.set_title(title, fontsize=9)

    def save(file: BinaryIO) -> None:
        figure.savefig(file, format=_SUFFIXES[Path(path).suffix.lower()], dpi=150)

    files.atomic_write(path, save)
