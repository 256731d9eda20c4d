"""Tables of an evaluation find their way into pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.bench.write_results import TABLES, filled

from rdeic_eval.metrics import FAULTS, METRICS
from rdeic_eval.results import OURS, PREVIEW


def summary(codec: str, value: float) -> dict[str, Any]:
    mean = {"value": value, "low": value - 0.125, "high": value + 0.125, "n": 9}
    keys = [metric.key for metric in METRICS + FAULTS]
    ours = {} if codec == OURS else {key: {"gain": mean, "share_better": 0.75} for key in keys}
    return {"rate": 0, "codec": codec, "means": {key: mean for key in ["bpp", *keys]}, "ours": ours}


@pytest.fixture
def evaluation() -> Mapping[str, Any]:
    return {
        "rates": [{"index": 0, "steps": 1}],
        "summary": [
            summary(OURS, 0.5),
            summary(PREVIEW, 0.25),
            summary("JPEG", 0.375),
            summary("JPEG, downscaled", 0.75),
            summary("AVIF", 1.5),
        ],
    }


def test_filled_replaces_what_is_between_markers_and_nothing_else(evaluation: Mapping[str, Any]) -> None:
    page = "before\n<!-- table: means -->\n| old |\n<!-- /table -->\nafter\n"
    made = filled(page, evaluation)
    assert made.startswith("before\n<!-- table: means -->\n| rate | codec | bpp | PSNR dB |")
    assert made.endswith("|\n<!-- /table -->\nafter\n")
    assert "old" not in made
    assert filled(made, evaluation) == made


def test_means_show_each_codec_at_our_size(evaluation: Mapping[str, Any]) -> None:
    rows = TABLES["means"](evaluation).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == [OURS, "JPEG, downscaled", "AVIF"]
    assert rows[0].startswith("| 0, L = 1 | rdeic-rt | 0.5000 | 0.50 | ")


def test_gains_have_signs_and_intervals(evaluation: Mapping[str, Any]) -> None:
    rows = TABLES["gains"](evaluation).splitlines()[2:]
    assert len(rows) == 4
    assert rows[-1].startswith("| 0 | AVIF | 1.5000 | +1.50 (+1.38 to +1.62) | ")


def test_previews_show_shares(evaluation: Mapping[str, Any]) -> None:
    assert TABLES["previews"](evaluation).splitlines()[2].startswith("| 0 | 75 % | 75 % | ")


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_as_many_cells_in_each_row(evaluation: Mapping[str, Any], name: str) -> None:
    rows = TABLES[name](evaluation).splitlines()
    assert len({row.count("|") for row in rows}) == 1
