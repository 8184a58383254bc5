"""Chunks of crystals and the sums over them."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sfxproc.lsq import Engine
from sfxproc.parallel.chunks import (
    FEWEST,
    MANY,
    MOST,
    ROWS_PER_CHUNK,
    ROWS_PER_SHARED,
    Chunks,
    ChunkSums,
    exact_sum,
    owned,
    owner,
    plan_chunks,
)
from sfxproc.parallel.comm import SerialComm
from tests.problems import on_ranks
from tests.twins.arrow import fold

COUNTS = [1, 4, 8, 64]
SIZES = [1, 2, 3, 4, 5, 7, 9, 19]

Work = Callable[[int], None]


def leaves(n_chunks: int, columns: int = 50) -> np.ndarray:
    """Numbers of both signs over many orders of magnitude: every change of order shows."""
    rng = np.random.default_rng(n_chunks)
    shape = (n_chunks, columns)
    return rng.normal(size=shape) * 10.0 ** rng.uniform(-8, 8, shape)


def in_order(work: Work, count: int) -> None:
    for chunk in range(count):
        work(chunk)


def shuffled(work: Work, count: int) -> None:
    for chunk in np.random.default_rng(count).permutation(count):
        work(int(chunk))


def threaded(work: Work, count: int) -> None:
    Engine(ChunkSums(SerialComm(), Chunks(np.arange(2), 0, 1)), threads=4).map(work, count)


def shared_sum(comm: Any, values: np.ndarray, spread: Any = in_order) -> np.ndarray:
    """The sum of the rows of `values`, one a chunk."""
    first, last = owned(len(values), comm.rank, comm.size)
    sums = ChunkSums(comm, Chunks(np.arange(len(values) + 1), first, last))

    def fill(chunk: int, out: np.ndarray) -> None:
        assert not out.any()
        out += values[first + chunk]

    found = [sums.shared(values.shape[1], fill, spread) for _ in range(2)]  # the memory used again
    np.testing.assert_array_equal(found[0], found[1])
    return found[0]


@pytest.mark.parametrize("n_chunks", COUNTS)
def test_ranks_own_all_chunks_once_in_order_and_about_equally(n_chunks: int) -> None:
    for size in range(1, n_chunks + 5):
        runs = [owned(n_chunks, rank, size) for rank in range(size)]
        owners = [(c, r) for r, (first, last) in enumerate(runs) for c in range(first, last)]
        assert owners == [(c, owner(c, n_chunks, size)) for c in range(n_chunks)]
        numbers = [last - first for first, last in runs]
        assert max(numbers) - min(numbers) <= 1
        assert runs[0][1] > 0  # the root of the tree is rank 0's


@pytest.mark.parametrize("spread", [in_order, shuffled, threaded])
@pytest.mark.parametrize("n_chunks", [*COUNTS, 1024])
def test_shared_sums_have_the_bits_of_the_tree_in_any_order(n_chunks: int, spread: Any) -> None:
    values = leaves(n_chunks)
    np.testing.assert_array_equal(shared_sum(SerialComm(), values, spread), fold(values))


@pytest.mark.parametrize("n_chunks", COUNTS)
@pytest.mark.parametrize("size", SIZES)
def test_shared_sums_have_the_same_bits_on_any_number_of_ranks(n_chunks: int, size: int) -> None:
    """Also on more ranks than chunks. No rank receives more than a path of the tree is long."""
    values = leaves(n_chunks)

    def work(comm: Any) -> tuple[np.ndarray, int]:
        return shared_sum(comm, values), getattr(comm, "received", 0)

    for total, received in on_ranks(size, work):
        np.testing.assert_array_equal(total, fold(values))
        assert received <= 2 * math.log2(n_chunks)  # of two sums


def test_the_leaves_tell_orders_apart() -> None:
    """Adding up from left to right is another sum: the tests above could fail."""
    values = leaves(64)
    assert np.any(fold(values) != np.cumsum(values, axis=0)[-1])


def test_shared_sums_of_no_columns() -> None:
    for total in on_ranks(3, lambda comm: shared_sum(comm, np.empty((8, 0)))):
        assert total.shape == (0,)


def test_partial_sums_do_not_grow_with_the_number_of_chunks() -> None:
    width, n_chunks = 4000, 1024
    sums = ChunkSums(SerialComm(), Chunks(np.arange(n_chunks + 1), 0, n_chunks))

    def fill(chunk: int, out: np.ndarray) -> None:
        out += chunk

    tracemalloc.start()
    for spread in (in_order, threaded):
        sums.shared(width, fill, spread)
    rows = tracemalloc.get_traced_memory()[1] / (8 * width)
    tracemalloc.stop()
    assert rows < 4 * (1 + math.log2(n_chunks)) + 5


def test_memory_is_kept_for_two_widths_only() -> None:
    sums = ChunkSums(SerialComm(), Chunks(np.arange(9), 0, 8))
    tracemalloc.start()
    for width in range(50_000, 50_020):
        sums.shared(width, lambda chunk, out: None, in_order)
    rows = tracemalloc.get_traced_memory()[0] / (8 * 50_000)
    tracemalloc.stop()
    assert rows < 10


@pytest.mark.parametrize("size", SIZES)
def test_joined_is_the_same_on_all_ranks(size: int) -> None:
    def add(into: np.ndarray, other: np.ndarray) -> None:
        into += other

    def larger(into: np.ndarray, other: np.ndarray) -> None:
        np.maximum(into, other, out=into)

    def work(comm: Any) -> tuple[np.ndarray, np.ndarray, int]:
        sums = ChunkSums(comm, Chunks(np.arange(9), *owned(8, comm.rank, comm.size)))
        numbers = np.arange(6, dtype=np.int32).reshape(2, 3) + comm.rank
        values = leaves(size)[comm.rank]
        return (
            sums.joined(numbers, add),
            sums.joined(values, larger),
            getattr(comm, "received", 0),
        )

    for added, largest, received in on_ranks(size, work):
        np.testing.assert_array_equal(
            added, size * np.arange(6).reshape(2, 3) + size * (size - 1) // 2
        )
        assert added.dtype == np.int32
        np.testing.assert_array_equal(largest, leaves(size).max(axis=0))
        assert received <= 2 * math.ceil(math.log2(size))


@pytest.mark.parametrize("n_chunks", [8, 64])
@pytest.mark.parametrize("size", SIZES)
def test_what_else_is_told_is_the_same_on_any_number_of_ranks(n_chunks: int, size: int) -> None:
    values = leaves(n_chunks)

    def work(comm: Any) -> tuple[Any, ...]:
        chunks = Chunks(np.arange(n_chunks + 1), *owned(n_chunks, comm.rank, comm.size))
        sums, own = ChunkSums(comm, chunks), slice(chunks.first, chunks.last)
        rows = np.arange(10 * chunks.first, 10 * chunks.last).reshape(-1, 2)
        return (
            sums.scalars(values[own, :3]),
            sums.agreed(float(comm.rank)),
            sums.told({"rank": comm.rank}),
            sums.gathered(rows),
            sums.place(len(rows)),
            5 * chunks.first,
        )

    for rank, found in enumerate(on_ranks(size, work)):
        scalars, agreed, told, gathered, place, expected_place = found
        np.testing.assert_array_equal(scalars, work(SerialComm())[0])
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
    assert len(per_chunk) == MANY


@pytest.mark.parametrize(
    ("rows", "n_shared", "expected"),
    [
        (10, 1000, FEWEST),
        (16 * ROWS_PER_SHARED * 1000, 1000, 16),
        (16 * ROWS_PER_SHARED * 1000 + 1, 1000, 32),
        (MANY * ROWS_PER_CHUNK, 1000, MANY),
        (MANY * ROWS_PER_CHUNK + 1, 1000, 2 * MANY),
        (10**9, 10**9 // (100 * ROWS_PER_SHARED), 128),
        (10**9, 1000, MOST),
        (10**10, 1000, MOST),
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
