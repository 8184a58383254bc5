"""Overlapping blocks and their segments."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sfxproc.parallel.blocks import plan_blocks

SHAPES = [
    (size, overlap) for size in (1, 2, 5, 8) for overlap in range(size)
]  # every overlap there is


@pytest.mark.parametrize(("size", "overlap"), SHAPES)
def test_blocks_cover_all_are_full_and_none_is_within_another(size: int, overlap: int) -> None:
    for n in range(1, 40):
        plan = plan_blocks(n, size, overlap, seed=1)
        bounds = plan.bounds
        assert sorted(plan.order) == list(range(n))
        assert (bounds[0, 0], bounds[-1, 1]) == (0, n)
        assert np.all(np.diff(bounds, axis=1) == min(size, n))
        for (a, b), (c, d) in pairwise(bounds):
            assert a < c
            assert b < d
            assert b - c >= overlap
        for a, b in bounds[:-1]:
            assert a % (size - overlap) == 0
            assert b == a + size


@pytest.mark.parametrize(("size", "overlap"), SHAPES)
def test_segments_are_cut_at_every_border_and_nowhere_else(size: int, overlap: int) -> None:
    for n in range(1, 40):
        plan = plan_blocks(n, size, overlap, seed=1)
        assert set(plan.segments) == set(plan.bounds.ravel())
        assert np.all(np.diff(plan.segments) > 0)
        for (first, last), (a, b) in zip(plan.blocks, plan.bounds, strict=True):
            assert (plan.segments[first], plan.segments[last]) == (a, b)


def test_an_example() -> None:
    plan = plan_blocks(11, 4, 2, seed=0)
    assert plan.bounds.tolist() == [[0, 4], [2, 6], [4, 8], [6, 10], [7, 11]]
    assert plan.segments.tolist() == [0, 2, 4, 6, 7, 8, 10, 11]
    assert plan.blocks.tolist() == [[0, 2], [1, 3], [2, 5], [3, 6], [4, 7]]


def test_few_crystals_are_one_block() -> None:
    for n in (1, 3, 5):
        plan = plan_blocks(n, 5, 2, seed=0)
        assert plan.blocks.tolist() == [[0, 1]]
        assert plan.segments.tolist() == [0, n]


def test_the_order_depends_on_the_seed_alone() -> None:
    order = plan_blocks(1000, 100, 50, seed=4).order
    assert np.array_equal(order, plan_blocks(1000, 200, 10, seed=4).order)
    assert not np.array_equal(order, plan_blocks(1000, 100, 50, seed=5).order)
    assert not np.array_equal(order, np.arange(1000))
    assert not np.array_equal(order, np.random.default_rng(4).permutation(1000))
    assert order.dtype == np.int64
    plan_blocks(1000, 100, 50, seed=-1)


@pytest.mark.parametrize(("n", "size", "overlap"), [(5, 3, 3), (5, 3, -1), (5, 0, 0), (0, 3, 1)])
def test_what_cannot_be_is_refused(n: int, size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="no blocks of"):
        plan_blocks(n, size, overlap, seed=0)
