"""A context model of indices becomes integers that choose the same classes, and tables that follow what was counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from rdeic_export.entropy import index_context, priors
from rdeic_export.modules.diffo.config import DIFFO_TINY
from rdeic_export.modules.diffo.index_context import IndexContext
from rdeic_export.weights import diffo_recipe
from rdeic_export.weights.diffo_recipe import DiffoRate
from rdeic_rt.entropy.index_context import masses_of
from rdeic_rt.entropy.static_prior import StaticPrior
from rdeic_rt.errors import ExportError

CODES, CLASSES = 12, 7


@pytest.fixture(scope="module")
def context() -> IndexContext:
    torch.manual_seed(0)
    return IndexContext(torch.randn(CODES, 5), CLASSES).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def maps() -> list[NDArray[np.int64]]:
    """Stripes of codes: what comes next is next to what came before."""
    rng = np.random.default_rng(0)
    return [
        (np.arange(size)[:, None] + np.arange(13)[None] + rng.integers(CODES)) // 2 % CODES for size in (16, 9, 12, 1)
    ]


def test_integer_networks_choose_the_classes_of_the_float_ones(
    context: IndexContext, maps: list[NDArray[np.int64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_context, "_TABLE_WORTH", 0.1)  # tables are what is counted: the context is not trained
    prior = {
        "version": np.array([2], np.int32),
        "index_px": np.array([16], np.int32),
        **priors.prior_arrays(maps, CODES, 0.5),
    }
    model = StaticPrior.load(index_context.convert(context, maps, prior))
    assert model.indices.context is not None
    same, total = 0, 0
    for one in maps[:3]:
        for number, (scores, _) in enumerate(context.scores(torch.from_numpy(one)[None]), 1):
            found = model.indices.context.classes(number, one.astype(np.int32)).ravel()
            same += int((found == scores.argmax(1).numpy()).sum())
            total += found.size
    assert same > 0.98 * total
    grids = [one.astype(np.int32) for one in maps]
    alone, beside = (sum(len(m.indices.range_coded(grid)) for grid in grids) for m in (StaticPrior.load(prior), model))
    assert beside < alone


def test_byte_weights_keep_shares_within_a_sixteenth() -> None:
    shares = np.exp(np.random.default_rng(0).normal(0, 3, (4, 300)))
    weights = priors.byte_weights(shares)
    assert (weights.max(1) == 255).all()
    for row, weighed in zip(shares, weights, strict=True):
        ratio = masses_of(weighed) / (1 << 24) / (row / row.sum())
        likely = row > row.sum() / 5000
        assert np.abs(ratio[likely] - 1).max() < 0.08
    assert priors.byte_weights(np.array([[1.0, 1e-30]])).tolist() == [[255, 0]]


def test_context_file_of_other_weights_is_refused(context: IndexContext, tmp_path: Path) -> None:
    codes = context.scores.get_buffer("codes")[:, :-1]
    state = context.state_dict()
    rate = DiffoRate("one", DIFFO_TINY, context=tmp_path / "context.safetensors")
    assert diffo_recipe.build_context(DiffoRate("one", DIFFO_TINY), codes) is None
    save_file(state, tmp_path / "context.safetensors")
    built = diffo_recipe.build_context(rate, codes)
    assert built is not None and torch.equal(built.tables, context.tables)
    save_file({key: value for key, value in state.items() if key != "tables"}, tmp_path / "context.safetensors")
    with pytest.raises(ExportError, match="missing: tables"):
        diffo_recipe.build_context(rate, codes)
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "context.safetensors")
    with pytest.raises(ExportError, match="more"):
        diffo_recipe.build_context(rate, codes)
