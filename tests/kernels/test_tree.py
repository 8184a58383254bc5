"""Sums over chunks: the tree's root, bit for bit, whoever climbs it."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.kernels import arrow_numpy
from sfxproc.kernels.tree import COLUMNS, fold


def leaves(count: int, columns: int, seed: int = 1) -> np.ndarray:
    """Numbers of both signs over many orders of magnitude: every change of order shows."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, columns)) * 10.0 ** rng.uniform(-8, 8, (count, columns))


@pytest.mark.parametrize("count", [1, 2, 8, 64])
@pytest.mark.parametrize("columns", [1, 5, COLUMNS, COLUMNS + 1])
def test_fold_is_its_numpy_twin_to_the_bit(count: int, columns: int) -> None:
    partial = leaves(count, columns)
    expected = arrow_numpy.fold(partial)
    fold(partial, 0, count)
    np.testing.assert_array_equal(partial[0], expected)


def test_fold_touches_only_its_own_rows() -> None:
    partial = leaves(8, 3)
    before = partial.copy()
    fold(partial, 2, 2)
    np.testing.assert_array_equal(partial[2], before[2] + before[3])
    rest = [0, 1, 4, 5, 6, 7]
    np.testing.assert_array_equal(partial[rest], before[rest])


def test_subtrees_first_and_then_the_rest_gives_the_same_bits() -> None:
    whole, parts = leaves(16, 100), leaves(16, 100)
    fold(whole, 0, 16)
    for first in range(0, 16, 4):
        fold(parts, first, 4)
    top = parts[::4].copy()
    fold(top, 0, 4)
    np.testing.assert_array_equal(whole[0], top[0])


def test_the_leaves_tell_orders_apart() -> None:
    """Adding up from left to right is another sum: the tests above could fail."""
    partial = leaves(64, 100)
    assert np.any(arrow_numpy.fold(partial) != np.cumsum(partial, axis=0)[-1])


def test_fold_of_no_columns() -> None:
    fold(np.empty((8, 0)), 0, 8)
