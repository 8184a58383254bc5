"""Chunks of crystals and the sums over them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sfxproc.kernels.tree import fold
from sfxproc.parallel.chunks import (
    FEWEST,
    MOST,
    ROWS_PER_SHARED,
    Chunks,
    ChunkSums,
    exact_sum,
    join,
    owned,
    plan_chunks,
    subtrees,
)
from sfxproc.parallel.comm import SerialComm
from tests.problems import on_ranks

COUNTS = [8, 16, 32, 64]


def leaves(n_chunks: int, columns: int = 50) -> np.ndarray:
    """Numbers of both signs over many orders of magnitude: every change of order shows."""
    rng = np.random.default_rng(n_chunks)
    shape = (n_chunks, columns)
    return rng.normal(size=shape) * 10.0 ** rng.uniform(-8, 8, shape)


@pytest.mark.parametrize("n_chunks", COUNTS)
def test_ranks_own_all_chunks_once_in_order_and_about_equally(n_chunks: int) -> None:
    for size in range(1, n_chunks + 5):
        runs = [owned(n_chunks, rank, size) for rank in range(size)]
        assert [c for first, last in runs for c in range(first, last)] == list(range(n_chunks))
        numbers = [last - first for first, last in runs]
        assert max(numbers) - min(numbers) <= 1


@pytest.mark.parametrize("n_chunks", COUNTS)
def test_subtrees_are_aligned_and_cover_their_run(n_chunks: int) -> None:
    for first in range(n_chunks + 1):
        for last in range(first, n_chunks + 1):
            nodes = subtrees(first, last)
            assert [c for a, n in nodes for c in range(a, a + n)] == list(range(first, last))
            for a, n in nodes:
                assert n & (n - 1) == 0
                assert a % n == 0
            for (a, n), (_, m) in pairwise(nodes):
                # no two of them are the halves of one larger subtree
                assert not (n == m and a % (2 * n) == 0)


@pytest.mark.parametrize("n_chunks", COUNTS)
def test_subtrees_of_all_ranks_join_to_the_bits_of_one(n_chunks: int) -> None:
    """For every number of ranks, also more than there are chunks."""
    values = leaves(n_chunks)
    root = values.copy()
    fold(root, 0, n_chunks)
    for size in range(1, n_chunks + 3):
        partial, nodes = values.copy(), {}
        for rank in range(size):
            for first, count in subtrees(*owned(n_chunks, rank, size)):
                fold(partial, first, count)
                nodes[first, count] = partial[first].copy()
        np.testing.assert_array_equal(join(nodes, n_chunks), root[0])


@pytest.mark.parametrize("n_chunks", [8, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_chunk_sums_have_the_same_bits_on_any_number_of_ranks(n_chunks: int, size: int) -> None:
    values = leaves(n_chunks)
    root = values.copy()
    fold(root, 0, n_chunks)
    bounds = np.arange(n_chunks + 1)

    def work(comm: Any) -> tuple[Any, ...]:
        chunks = Chunks(bounds, *owned(n_chunks, comm.rank, comm.size))
        sums, own = ChunkSums(comm, chunks), slice(chunks.first, chunks.last)
        rows = np.arange(10 * chunks.first, 10 * chunks.last).reshape(-1, 2)
        return (
            sums.shared(values[own].copy()),
            sums.scalars(values[own, :3]),
            sums.agreed(float(comm.rank)),
            sums.told({"rank": comm.rank}),
            sums.gathered(rows),
            sums.place(len(rows)),
            5 * chunks.first,
        )

    for rank, found in enumerate(on_ranks(size, work)):
        shared, scalars, agreed, told, gathered, place, expected_place = found
        np.testing.assert_array_equal(shared, root[0])
        np.testing.assert_array_equal(scalars, work(SerialComm())[1])
        np.testing.assert_allclose(scalars, values[:, :3].sum(axis=0), rtol=1e-9, atol=1e-6)
        assert (agreed, told) == (0.0, {"rank": 0})
        assert place == expected_place
        if rank == 0:
            np.testing.assert_array_equal(gathered, np.arange(10 * n_chunks).reshape(-1, 2))
        else:
            assert gathered is None


def test_scalars_are_rounded_once() -> None:
    """1 + 8 × 2⁻⁵⁴ added up in order would be 1."""
    sums = ChunkSums(SerialComm(), Chunks(np.arange(9), 0, 8))
    many = np.vstack([[[1.0]], np.full((8, 1), 2.0**-54)])
    assert sums.scalars(many)[0] == 1.0 + 2.0**-51
    assert np.cumsum(many)[-1] == 1.0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_plan_depends_on_the_data_alone(size: int) -> None:
    rows = np.random.default_rng(1).integers(0, 2000, 777)
    serial = plan_chunks(rows, 20_000, SerialComm())
    plans = on_ranks(size, lambda comm: plan_chunks(rows, 20_000, comm))
    for plan in plans:
        np.testing.assert_array_equal(plan.bounds, serial.bounds)
    crystals = [c for p in plans for c in range(p.crystals.start, p.crystals.stop)]
    assert crystals == list(range(777))
    for plan in plans:
        own = plan.crystals
        bounds = plan.local_bounds
        assert bounds[0] == 0
        assert bounds[-1] == own.stop - own.start
        assert len(bounds) == plan.last - plan.first + 1


def test_chunks_hold_about_equal_numbers_of_rows() -> None:
    rows = np.random.default_rng(1).integers(0, 200, 5000)
    chunks = plan_chunks(rows, 3000, SerialComm())
    per_chunk = np.add.reduceat(rows, chunks.bounds[:-1])
    assert np.abs(per_chunk - per_chunk.mean()).max() <= 200
    assert len(per_chunk) == MOST


@pytest.mark.parametrize(
    ("rows", "n_shared", "expected"),
    [
        (10, 1000, FEWEST),
        (16 * ROWS_PER_SHARED * 1000, 1000, 16),
        (16 * ROWS_PER_SHARED * 1000 + 1, 1000, 32),
        (10**9, 1000, MOST),
        (0, 1000, FEWEST),
        (10, 0, FEWEST),
    ],
)
def test_number_of_chunks(rows: int, n_shared: int, expected: int) -> None:
    chunks = plan_chunks(np.array([rows]), n_shared, SerialComm())
    assert len(chunks.bounds) - 1 == expected


@pytest.mark.parametrize("rows", [[], [0, 0, 0], [0, 0, 5, 0, 0], [7], [10**6, 1, 1, 1], [1] * 3])
def test_every_crystal_is_in_a_chunk(rows: list[int]) -> None:
    """Also those without rows, and with fewer crystals than chunks."""
    chunks = plan_chunks(np.array(rows, dtype=np.int64), 10, SerialComm())
    assert chunks.bounds[0] == 0
    assert chunks.bounds[-1] == len(rows)
    assert np.all(np.diff(chunks.bounds) >= 0)


def test_sums_that_overflow_are_not_finite() -> None:
    assert exact_sum(np.array([1e308, 1e308])) == np.inf
    assert np.isnan(exact_sum(np.array([np.inf, -np.inf, 1.0])))
    assert exact_sum(np.array([1e16, 1.0, -1e16])) == 1.0
