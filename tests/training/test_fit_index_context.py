"""A context model of indices is fitted to maps of them, and saves bits where neighbours tell something."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from training import fit_index_context


def test_fit_finds_what_neighbours_tell(caplog: pytest.LogCaptureFixture) -> None:
    """Codes that are equal in squares of four by four: the prior of 8 says nothing, the neighbours most."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randint(8, (4, 5), generator=generator).repeat_interleave(4, 0).repeat_interleave(4, 1) for _ in range(6)
    ]
    with caplog.at_level(logging.INFO):
        context = fit_index_context.fit(torch.eye(8), maps, maps[:2], classes=12, steps=60)
    assert context.tables.shape == (12, 8)
    found = re.search(r"prior ([\d.]+), .* classes ([\d.]+)", caplog.text)
    assert found is not None
    by_prior, by_classes = map(float, found.groups())
    assert by_prior == pytest.approx(3, abs=0.1)
    assert by_classes < 0.8 * by_prior


def test_maps_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="no photo has 12 indices"):
        fit_index_context.Windows([torch.zeros(30, 11, dtype=torch.long)], 0)
