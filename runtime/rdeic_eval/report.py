"""An evaluation as text for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .metrics import FAMILIES_OF_LOSS, FAULTS, METRICS, Metric
from .results import OURS, PREVIEW, Evaluation, Measurement, PhotoResult, Summary


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything but the images, in types that JSON has; docs/evaluation.md describes it."""
    return {
        "bundle": evaluation.bundle,
        "backend": dict(evaluation.backend),
        "rates": [asdict(rate) for rate in evaluation.rates],
        "codecs": dict(evaluation.settings),
        "left_out": dict(evaluation.left_out),
        "judges": {
            judge.key: {"network": judge.network, "family": judge.family, "of_loss_family": judge.of_loss_family}
            for judge in evaluation.judges
        },
        "metrics": {m.key: {"label": m.label, "higher_is_better": m.higher_is_better} for m in METRICS + FAULTS},
        "summary": [asdict(summary) for summary in evaluation.summaries],
        "bd_rate": [asdict(bd_rate) for bd_rate in evaluation.bd_rates],
        "curve": [asdict(point) for point in evaluation.curve],
        "photos": [_photo(photo) for photo in evaluation.photos],
        "complete": evaluation.stopped is None,
        "failures": [{"name": failure.name, "error": str(failure.error)} for failure in evaluation.failures],
    }


def as_text(evaluation: Evaluation) -> str:
    """Return the tables, in Markdown, with what is needed to read them."""
    n = len(evaluation.photos)
    backend = ", ".join(value if name == "name" else f"{name} {value}" for name, value in evaluation.backend.items())
    lines = [
        f"{n} {'photo' if n == 1 else 'photos'}, bundle {evaluation.bundle}, backend {backend}",
        f"bpp of whole files; lower distances are better: {_judges(evaluation, of_loss_family=False)}",
        f"* {_judges(evaluation, of_loss_family=True)} belong to the families of the networks in the training loss, "
        f"{' and '.join(FAMILIES_OF_LOSS)}: gains there count for less",
        *(f"{name}: {settings}" for name, settings in evaluation.settings.items()),
        *(f"{name} is left out: {reason}" for name, reason in evaluation.left_out.items()),
        "",
        *_comparison(evaluation),
        "",
        "Colour over large areas (MSE over R, G and B) and lattices in flat areas (1 is none; "
        f"of the photos themselves {_own_lattices(evaluation)}):",
        "",
        *_faults(evaluation),
    ]
    if evaluation.bd_rates:
        lines += ["", "BD-rate of ours (negative: smaller at equal quality):", "", *_bd_rates(evaluation)]
    notes = _missing(evaluation)
    previews = [line for s in evaluation.summaries if s.codec == PREVIEW and (line := _preview(s))]
    return "\n".join([*lines, *(["", *previews] if previews else []), *(["", *notes] if notes else [])]) + "\n"


def _comparison(evaluation: Evaluation) -> list[str]:
    columns = ["rate", "codec", "bpp", *(m.label for m in METRICS), "encode ms", "decode ms", "above our size"]
    rows = [_header(columns)]
    for s in evaluation.summaries:
        cells = _first_cells(s, evaluation, METRICS)
        cells += [_cell(s, "encode_ms", 0), _cell(s, "decode_ms", 0)]
        cells.append("" if s.codec in (OURS, PREVIEW) else f"{s.n_above} of {s.means['bpp'].n}")
        rows.append(_row(cells))
    return rows


def _faults(evaluation: Evaluation) -> list[str]:
    rows = [_header(["rate", "codec", "bpp", *(fault.label for fault in FAULTS)])]
    return rows + [_row(_first_cells(s, evaluation, FAULTS)) for s in evaluation.summaries]


def _first_cells(summary: Summary, evaluation: Evaluation, metrics: Sequence[Metric]) -> list[str]:
    """Return rate, codec, bpp, and the means of metrics; the rate only where it is new."""
    labels = {rate.index: f"{rate.index}, L = {rate.steps}" for rate in evaluation.rates}
    name = labels[summary.rate] if summary.codec == OURS else ""
    bpp = f"{summary.means['bpp'].value:.4f}"
    return [name, summary.codec, bpp, *(_cell(summary, metric.key, metric.digits) for metric in metrics)]


def _judges(evaluation: Evaluation, *, of_loss_family: bool) -> str:
    return " and ".join(judge.network for judge in evaluation.judges if judge.of_loss_family == of_loss_family)


def _own_lattices(evaluation: Evaluation) -> str:
    """Return the means of the photos' own lattices, in the order of the table's columns."""
    means = []
    for fault in FAULTS:
        if fault.key.startswith("lattice"):
            found = [value for photo in evaluation.photos if (value := photo.own.get(fault.key)) is not None]
            means.append(f"{sum(found) / len(found):.{fault.digits}f}" if found else "-")
    return ", ".join(means)


def _bd_rates(evaluation: Evaluation) -> list[str]:
    names = list(dict.fromkeys(bd_rate.codec for bd_rate in evaluation.bd_rates))
    rows = [_header(["metric", *names])]
    for metric in METRICS:
        found = {bd_rate.codec: bd_rate for bd_rate in evaluation.bd_rates if bd_rate.metric == metric.key}
        cells = [
            f"- ({found[name].reason})" if (percent := found[name].percent) is None else f"{percent:+.1f} %"
            for name in names
        ]
        rows.append(_row([metric.label, *cells]))
    return rows


def _preview(summary: Summary) -> str:
    shares = [
        f"{100 * summary.ours[metric.key].share_better:.0f} % in {metric.label.removesuffix(' dB')}"
        for metric in METRICS
        if metric.key in summary.ours
    ]
    text = ", ".join(shares)
    return f"rate {summary.rate}: the full decode is better than the preview on {text}" if shares else ""


def _missing(evaluation: Evaluation) -> list[str]:
    """Return how many photos each metric could not be taken of: those too small for it, or with no flat area."""
    by_count: dict[int, list[str]] = {}
    for metric in METRICS + FAULTS:
        lacking = sum(
            any(m.scores[metric.key] is None for m in photo.measurements if m.codec == OURS)
            for photo in evaluation.photos
        )
        if lacking:
            by_count.setdefault(lacking, []).append(metric.label)
    return [f"missing for {n} of {len(evaluation.photos)} photos: {'; '.join(names)}" for n, names in by_count.items()]


def _cell(summary: Summary, key: str, digits: int) -> str:
    mean = summary.means.get(key)
    return "-" if mean is None else f"{mean.value:.{digits}f}"


def _header(cells: Sequence[str]) -> str:
    return f"{_row(cells)}\n|{'---|' * len(cells)}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _photo(photo: PhotoResult) -> dict[str, Any]:
    return {
        "name": photo.name,
        "width": photo.size.width,
        "height": photo.size.height,
        "files": [_measurement(m) for m in photo.measurements],
        "sweep": [_measurement(m) for m in photo.sweep],
        "own": dict(photo.own),
    }


def _measurement(measured: Measurement) -> dict[str, Any]:
    return {
        "codec": measured.codec,
        "rate": measured.rate,
        "quality": measured.quality,
        "scale": measured.scale,
        "bytes": measured.size_bytes,
        "bpp": measured.bpp,
        "encode_ms": measured.encode_ms,
        "decode_ms": measured.decode_ms,
        **measured.scores,
    }
