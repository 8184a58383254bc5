"""Fixed chunks of crystals: the unit of ownership and of every sum.

Chunk borders depend on the data alone. A rank owns a run of neighbouring chunks, and what
belongs to reflections is summed over chunks along one binary tree (`kernels.tree`), whichever
rank or thread holds which leaf: results have the same bits at any rank and thread count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.tree import fold
from sfxproc.parallel.comm import Comm

F8 = NDArray[np.float64]

FEWEST, MOST = 4, 64
ROWS_PER_SHARED = 4  # rows a chunk should hold for each shared number it sums


@dataclass(frozen=True)
class Chunks:
    """Borders of all chunks in the global list of crystals, and this rank's run of them.

    bounds : (K + 1,) first crystal of each chunk, K a power of two; first, last : own chunks
    first … last − 1.
    """

    bounds: NDArray[np.int64]
    first: int
    last: int

    @property
    def crystals(self) -> slice:
        """This rank's crystals in the global list."""
        return slice(int(self.bounds[self.first]), int(self.bounds[self.last]))

    @property
    def local_bounds(self) -> NDArray[np.int64]:
        """Borders of this rank's chunks in its own list of crystals."""
        own: NDArray[np.int64] = self.bounds[self.first : self.last + 1]
        return np.asarray(own - own[0])


def owned(n_chunks: int, rank: int, size: int) -> tuple[int, int]:
    """The run of chunks that a rank owns."""
    return rank * n_chunks // size, (rank + 1) * n_chunks // size


def plan_chunks(rows_per_crystal: NDArray[Any], n_shared: int, comm: Comm) -> Chunks:
    """Cut the global list of crystals into chunks of about equal numbers of rows.

    rows_per_crystal : (n_crystals,) of the whole job, the same on every rank. The number of
    chunks balances the memory of partial sums (chunks × n_shared) against parallelism.
    """
    before = np.concatenate([[0], np.cumsum(rows_per_crystal, dtype=np.int64)])
    total = int(before[-1])
    wanted = total / (ROWS_PER_SHARED * max(n_shared, 1))
    n_chunks = min(max(1 << max(math.ceil(math.log2(max(wanted, 1.0))), 0), FEWEST), MOST)
    targets = np.arange(n_chunks + 1) * total / n_chunks
    bounds = np.searchsorted(before, targets, side="left").astype(np.int64)
    bounds[0], bounds[-1] = 0, len(rows_per_crystal)
    return Chunks(bounds, *owned(n_chunks, comm.rank, comm.size))


def subtrees(first: int, last: int) -> list[tuple[int, int]]:
    """The largest aligned subtrees (first leaf, number of leaves) that make up first … last−1."""
    out = []
    while first < last:
        count = first & -first or 1 << (last - 1).bit_length()
        while count > last - first:
            count //= 2
        out.append((first, count))
        first += count
    return out


def join(nodes: dict[tuple[int, int], NDArray[Any]], n_chunks: int) -> NDArray[Any]:
    """The root of the tree from the subtrees that cover all leaves."""
    count = 1
    while count < n_chunks:
        for first in range(0, n_chunks, 2 * count):
            if (first, count) in nodes:
                nodes[first, 2 * count] = nodes.pop((first, count)) + nodes.pop(
                    (first + count, count)
                )
        count *= 2
    return nodes[0, n_chunks]


def exact_sum(values: NDArray[Any]) -> float:
    """The exactly rounded sum; infinite or NaN where an addend is, or the sum overflows."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # too large, or +∞ and −∞
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.sum(values))


@dataclass(frozen=True)
class ChunkSums:
    """Totals over the chunks of all ranks, the same bits on any rank count."""

    comm: Comm
    chunks: Chunks

    def shared(self, partial: F8) -> F8:
        """Sum (own chunks, n) over all chunks, on every rank. Overwrites the partials."""
        n_chunks = len(self.chunks.bounds) - 1
        own = subtrees(self.chunks.first, self.chunks.last)
        for first, count in own:
            fold(partial, first - self.chunks.first, count)
        if self.comm.size == 1:
            return np.array(partial[0])
        rows = partial[[first - self.chunks.first for first, _ in own]]
        gathered = self.comm.gather_arrays(rows)
        total = np.empty(partial.shape[1], dtype=partial.dtype)
        if gathered is not None:
            nodes = {
                node: row
                for rank, part in enumerate(gathered)
                for node, row in zip(
                    subtrees(*owned(n_chunks, rank, self.comm.size)), part, strict=True
                )
            }
            total[:] = join(nodes, n_chunks)
        return self.comm.bcast_array(total)

    def scalars(self, partial: F8) -> F8:
        """Sum (own chunks, k) over all chunks, exactly rounded, on every rank."""
        everything = self.comm.allgather_rows(partial)
        return np.array([exact_sum(column) for column in everything.T])

    def agreed(self, value: float) -> float:
        """Rank 0's value."""
        return float(self.comm.bcast(value))

    def told(self, value: Any) -> Any:
        """Rank 0's value, whatever it is."""
        return self.comm.bcast(value)

    def gathered(self, rows: NDArray[Any]) -> NDArray[Any] | None:
        """Rows of all ranks end to end on rank 0."""
        parts = self.comm.gather_arrays(rows)
        return None if parts is None else np.concatenate(parts)

    def place(self, n: int) -> int:
        """How many the ranks before this one have."""
        return int(sum(self.comm.allgather(n)[: self.comm.rank]))
