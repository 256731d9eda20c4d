"""Write the tables of an evaluation into the pages that show them, between their markers.

    rdeic-rt eval PHOTOS --codecs jpeg,webp,avif --json all.json
    python -m tests.bench.write_results all.json README.md docs/results.md engines/tiny-2/README.md

A page has `<!-- table: NAME -->` before a table and `<!-- /table -->` after it. NAME is one of `TABLES`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rdeic_eval.metrics import FAULTS, METRICS, Metric
from rdeic_eval.results import OURS, PREVIEW, downscaled

Json = Mapping[str, Any]
SHORT = ("psnr_db", "ms_ssim", "distance_st_lpips")  # measures that people know
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def main() -> None:
    """Rewrite the pages."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("evaluation", type=Path, help="what `rdeic-rt eval --json` wrote")
    p.add_argument("pages", type=Path, nargs="+", help="Markdown files")
    args = p.parse_args()
    evaluation = json.loads(args.evaluation.read_text())
    for page in args.pages:
        page.write_text(filled(page.read_text(), evaluation))


def filled(page: str, evaluation: Json) -> str:
    """Return a page with the tables of an evaluation; KeyError for a name that is none of `TABLES`."""
    return _MARKED.sub(lambda found: found[1] + TABLES[found[2]](evaluation) + found[3], page)


def means(evaluation: Json) -> str:
    """Return ours and each codec at our size, downscaled where it had to be, without intervals."""
    rows = [
        [*_names(summary, evaluation), *(_mean(summary, metric) for metric in METRICS)]
        for summary in _at_our_size(evaluation)
        if summary["codec"] != PREVIEW
    ]
    return _table(["rate", "codec", "bpp", *(metric.label for metric in METRICS)], rows)


def short(evaluation: Json) -> str:
    """Return of `means` the second and the last rate, in three measures."""
    rates = [rate["index"] for rate in evaluation["rates"]]
    shown = [metric for metric in METRICS if metric.key in SHORT]
    rows = [
        [*_names(summary, evaluation)[1:], *(_mean(summary, metric) for metric in shown)]
        for summary in _at_our_size(evaluation)
        if summary["codec"] != PREVIEW and summary["rate"] in (rates[min(1, len(rates) - 1)], rates[-1])
    ]
    return _table(["codec", "bpp", *(metric.label for metric in shown)], rows)


def intervals(evaluation: Json) -> str:
    """Return ours with confidence intervals."""
    rows = [
        [str(rate["index"]), str(rate["steps"]), *(_interval(summary, key, n) for key, n in _columns())]
        for rate in evaluation["rates"]
        for summary in [_rows(evaluation)[OURS, rate["index"]]]
    ]
    return _table(["rate", "L", "bpp", *(metric.label for metric in METRICS)], rows)


def gains(evaluation: Json) -> str:
    """Return by how much ours is better than each, with confidence intervals."""
    rows = []
    for summary in evaluation["summary"]:
        if summary["codec"] == OURS:
            continue
        cells = [_gain(summary, metric) for metric in METRICS]
        rows.append([str(summary["rate"]), summary["codec"], f"{summary['means']['bpp']['value']:.4f}", *cells])
    return _table(["rate", "codec", "bpp", *(metric.label for metric in METRICS)], rows)


def faults(evaluation: Json) -> str:
    """Return errors over large areas and lattices."""
    rows = [
        [*_names(summary, evaluation), *(_mean(summary, fault) for fault in FAULTS)]
        for summary in _at_our_size(evaluation)
    ]
    return _table(["rate", "codec", "bpp", *(fault.label for fault in FAULTS)], rows)


def previews(evaluation: Json) -> str:
    """Return on what share of photos the full decode is better than the preview."""
    rows = [
        [str(rate["index"]), *(_share(_rows(evaluation)[PREVIEW, rate["index"]], metric) for metric in METRICS)]
        for rate in evaluation["rates"]
    ]
    return _table(["rate", *(metric.label.removesuffix(" dB") for metric in METRICS)], rows)


TABLES: Mapping[str, Callable[[Json], str]] = MappingProxyType(
    {"short": short, "means": means, "intervals": intervals, "gains": gains, "faults": faults, "previews": previews}
)


def _rows(evaluation: Json) -> dict[tuple[str, int], Json]:
    return {(summary["codec"], summary["rate"]): summary for summary in evaluation["summary"]}


def _at_our_size(evaluation: Json) -> list[Json]:
    """Return what each codec did at our size: downscaled, where it had to be."""
    rows = _rows(evaluation)
    return [summary for (codec, rate), summary in rows.items() if (downscaled(codec), rate) not in rows]


def _names(summary: Json, evaluation: Json) -> list[str]:
    """Return rate, codec and bpp; the rate where it is new."""
    steps = {rate["index"]: rate["steps"] for rate in evaluation["rates"]}
    rate = f"{summary['rate']}, L = {steps[summary['rate']]}" if summary["codec"] == OURS else ""
    return [rate, summary["codec"], f"{summary['means']['bpp']['value']:.4f}"]


def _columns() -> list[tuple[str, int]]:
    return [("bpp", 4), *((metric.key, metric.digits) for metric in METRICS)]


def _mean(summary: Json, metric: Metric) -> str:
    mean = summary["means"].get(metric.key)
    return "-" if mean is None else f"{mean['value']:.{metric.digits}f}"


def _interval(summary: Json, key: str, digits: int) -> str:
    mean = summary["means"][key]
    return f"{mean['value']:.{digits}f} ({mean['low']:.{digits}f} to {mean['high']:.{digits}f})"


def _gain(summary: Json, metric: Metric) -> str:
    if metric.key not in summary["ours"]:
        return "-"
    gain, digits = summary["ours"][metric.key]["gain"], metric.digits
    return f"{gain['value']:+.{digits}f} ({gain['low']:+.{digits}f} to {gain['high']:+.{digits}f})"


def _share(summary: Json, metric: Metric) -> str:
    found = summary["ours"].get(metric.key)
    return "-" if found is None else f"{100 * found['share_better']:.0f} %"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = [columns, ["---"] * len(columns)]
    return "".join(f"| {' | '.join(cells).replace('*', chr(92) + '*')} |\n" for cells in [*head, *rows])


if __name__ == "__main__":
    main()
