"""Connected parts of a problem, against scipy's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sfxproc.lsq import Engine
from sfxproc.lsq.components import Components, components, merge_labels
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from tests.problems import on_ranks

N_SHARED = 60


def blocks(seed: int, count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of 0 … 3 rows: few enough to leave islands. Some reflections belong to none."""
    rng = np.random.default_rng(seed)
    number = rng.integers(0, 4, count)
    shared = rng.integers(0, N_SHARED - 5, number.sum()).astype(np.int32)
    return np.concatenate([[0], np.cumsum(number)]), shared


def found_on(size: int, start: np.ndarray, shared: np.ndarray) -> list[Components]:
    def work(comm: Any) -> Components:
        chunks = plan_chunks(np.diff(start), N_SHARED, comm)
        own = chunks.crystals
        rows = slice(start[own.start], start[own.stop])
        engine = Engine(ChunkSums(comm, chunks))
        local_start = start[own.start : own.stop + 1] - start[own.start]
        return components(engine, local_start, shared[rows], N_SHARED)

    return on_ranks(size, work)


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_the_graph(seed: int) -> None:
    start, shared = blocks(seed)
    (found,) = found_on(1, start, shared)
    n = len(start) - 1
    m = np.repeat(np.arange(n), np.diff(start))
    graph = coo_array((np.ones(len(m)), (m, n + shared)), shape=(n + N_SHARED, n + N_SHARED))
    _, label = connected_components(graph, directed=False)
    held = np.diff(start) > 0
    for a in np.flatnonzero(held):
        same = (label[:n] == label[a]) & held
        np.testing.assert_array_equal((found.local == found.local[a]), same)
        np.testing.assert_array_equal(found.shared == found.local[a], label[n:] == label[a])
    assert np.all(found.local[~held] == -1)
    np.testing.assert_array_equal(found.sizes, np.bincount(found.local[held]))
    assert np.all(np.diff(found.sizes) <= 0)
    assert len(found.sizes) > 2


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 9])
def test_components_are_the_same_on_any_number_of_ranks(size: int) -> None:
    start, shared = blocks(1)
    (serial,), parts = found_on(1, start, shared), found_on(size, start, shared)
    np.testing.assert_array_equal(np.concatenate([p.local for p in parts]), serial.local)
    for part in parts:
        np.testing.assert_array_equal(part.shared, serial.shared)
        np.testing.assert_array_equal(part.sizes, serial.sizes)


def test_labels_do_not_depend_on_what_is_merged_first() -> None:
    """Five labellings in every order, and by pairs; none of them is what all tell together."""
    start, shared = blocks(3, 40)
    labels = []
    for first in range(0, 40, 8):
        ((one,),) = (found_on(1, start[first : first + 9] - start[first], shared[start[first] :]),)
        number, at = np.unique(one.shared, return_index=True)
        label = np.arange(N_SHARED, dtype=np.int32)
        held = one.shared >= 0
        label[held] = at[np.searchsorted(number, one.shared[held])]
        labels.append(label)

    def merged(order: Sequence[np.ndarray]) -> np.ndarray:
        total = order[0].copy()
        for other in order[1:]:
            merge_labels(total, other)
        return total

    expected = merged(labels)
    assert all(np.any(expected != label) for label in labels)
    assert np.all(expected[expected] == expected)
    assert np.all(expected <= np.arange(N_SHARED))
    for order in permutations(labels):
        np.testing.assert_array_equal(merged(order), expected)
    pairs = [merged(labels[:2]), merged(labels[2:4]), labels[4]]
    np.testing.assert_array_equal(merged([pairs[2], merged(pairs[:2])]), expected)
