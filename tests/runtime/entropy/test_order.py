from __future__ import annotations

import numpy as np
import pytest

from rdeic_rt.entropy import order


def test_slices_of_widths_are_contiguous() -> None:
    slices = order.slices_of((8, 8, 16))
    assert [(s.index, s.start, s.stop, s.width) for s in slices] == [(0, 0, 8, 8), (1, 8, 16, 8), (2, 16, 32, 16)]


def test_squeeze_anchors_takes_positions_with_odd_sum_in_row_order() -> None:
    rows, columns = np.indices((4, 6))
    grid = np.stack([rows, columns], axis=-1)
    for anchors in (True, False):
        taken = order.squeeze(grid, anchors=anchors)
        assert taken.shape == (4, 3, 2)
        expected = [(r, c) for r in range(4) for c in range(6) if (r + c) % 2 == anchors]
        assert [tuple(p) for p in taken.reshape(-1, 2).tolist()] == expected


def test_scatter_after_squeeze_restores_the_grid() -> None:
    grid = np.arange(6 * 8 * 3).reshape(6, 8, 3)
    out = np.full_like(grid, -1)
    for anchors in (True, False):
        order.scatter(out, order.squeeze(grid, anchors=anchors), anchors=anchors)
    assert np.array_equal(out, grid)


def test_groups_rise_by_scale_and_keep_order_within_one() -> None:
    index = np.array([9, 5, 3, 9, 5, 63, 4, 9], np.uint8)
    found = [(k, numbers.tolist()) for k, numbers in order.groups(index, skip_below=4)]
    assert found == [(4, [6]), (5, [1, 4]), (9, [0, 3, 7]), (63, [5])]


@pytest.mark.parametrize(("skip_below", "groups"), [(64, 0), (63, 1), (0, 3)])
def test_groups_at_the_ends_of_skip_below(skip_below: int, groups: int) -> None:
    assert len(list(order.groups(np.array([0, 63, 1, 0], np.uint8), skip_below))) == groups
