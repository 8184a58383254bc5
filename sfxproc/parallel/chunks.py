"""Fixed chunks of crystals: the unit of ownership and of every sum.

Chunk borders depend on the data alone. A rank owns a run of neighbouring chunks, and what
belongs to reflections is summed over chunks along one binary tree, whichever rank or thread holds
which leaf: results have the same bits at any rank and thread count.

Leaves of the tree are chunks 0 … K−1, K a power of two. A node (first, count) is the sum of the
chunks first … first+count−1, count a power of two that divides first; its sibling is
(first ^ count, count). Siblings are added as soon as both are there, so that little more than a
row a thread is ever held. A node belongs to the rank of its first leaf.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.parallel.comm import Comm

F8 = NDArray[np.float64]
Nodes = dict[tuple[int, int], F8]

FEWEST, MANY, MOST = 4, 64, 16384
ROWS_PER_SHARED = 4  # rows a chunk should hold for each shared number it sums
ROWS_PER_CHUNK = 32768  # beyond MANY chunks, so that what a chunk costs does not show
KEPT_WIDTHS = 2  # of partial sums whose memory is kept from call to call


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
    """The run of chunks that a rank owns; none where there are more ranks than chunks."""
    return -(-rank * n_chunks // size), -(-(rank + 1) * n_chunks // size)


def owner(chunk: int, n_chunks: int, size: int) -> int:
    """The rank that owns a chunk."""
    return chunk * size // n_chunks


def plan_chunks(rows_per_crystal: NDArray[Any], n_shared: int, comm: Comm) -> Chunks:
    """Cut the global list of crystals into chunks of about equal numbers of rows.

    rows_per_crystal : (n_crystals,) of the whole job, the same on every rank. The number of
    chunks balances the cost of adding up partial sums (chunks × n_shared) against parallelism.
    """
    before = np.concatenate([[0], np.cumsum(rows_per_crystal, dtype=np.int64)])
    total = int(before[-1])
    wanted = total / (ROWS_PER_SHARED * max(n_shared, 1))
    wanted = min(max(wanted, FEWEST), max(total / ROWS_PER_CHUNK, MANY), MOST)
    # whole numbers, not a logarithm, whose last bit could be another on another rank's processor
    n_chunks = 1 << (math.ceil(wanted) - 1).bit_length()
    targets = np.arange(n_chunks + 1) * total / n_chunks
    bounds = np.searchsorted(before, targets, side="left").astype(np.int64)
    bounds[0], bounds[-1] = 0, len(rows_per_crystal)
    return Chunks(bounds, *owned(n_chunks, comm.rank, comm.size))


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
    _free: dict[int, list[F8]] = field(default_factory=dict, repr=False, compare=False)

    def shared(
        self,
        width: int,
        fill: Callable[[int, F8], None],
        spread: Callable[[Callable[[int], None], int], object],
    ) -> F8:
        """(width,) what fill(chunk, out) adds to a zeroed `out` of that length, summed over all
        chunks, on every rank.

        fill : for this rank's chunks, counted from its first. spread(work, count) calls work(0) …
        work(count − 1), about in this order, on any threads.
        """
        n_chunks, size = len(self.chunks.bounds) - 1, self.comm.size
        free = self._rows(width)
        nodes: Nodes = {}
        lock = threading.Lock()

        def row() -> F8:
            with lock:
                return free.pop() if free else np.empty(width)

        def settle(first: int, count: int, total: F8) -> None:
            """Add a node to its sibling, and the sum to its own, as long as there is one."""
            while True:
                with lock:
                    sibling = nodes.pop((first ^ count, count), None)
                    if sibling is None:
                        nodes[first, count] = total
                        return
                total += sibling
                with lock:
                    free.append(sibling)
                first, count = first & ~count, 2 * count

        def leaf(chunk: int) -> None:
            out = row()
            out[:] = 0.0
            fill(chunk, out)
            settle(self.chunks.first + chunk, 1, out)

        spread(leaf, self.chunks.last - self.chunks.first)
        # what is left has its siblings on other ranks. All ranks go through the nodes of the tree
        # in one order, so that none waits for one that waits for it
        count = 1
        while count < n_chunks:
            for first in sorted(f for f, c in nodes if c == count):
                other = owner(first ^ count, n_chunks, size)
                if first & count:
                    total = nodes.pop((first, count))
                    self.comm.send_array(total, other)
                    free.append(total)
                else:
                    settle(first ^ count, count, self.comm.receive_array(row(), other))
            count *= 2
        return self.comm.bcast_array(nodes[0, n_chunks] if nodes else row())

    def _rows(self, width: int) -> list[F8]:
        """Rows of this width to use again."""
        if width not in self._free and len(self._free) == KEPT_WIDTHS:
            self._free.clear()
        return self._free.setdefault(width, [])

    def joined(
        self, array: NDArray[Any], join: Callable[[NDArray[Any], NDArray[Any]], object]
    ) -> NDArray[Any]:
        """The arrays of all ranks joined by join(into, other), on every rank; overwrites them.

        join : must not depend on order or grouping, which follow the number of ranks. array : of
        one shape and dtype, contiguous.
        """
        rank, size = self.comm.rank, self.comm.size
        step = 1
        while step < size and rank % step == 0:
            if rank & step:
                self.comm.send_array(array, rank - step)
            elif rank + step < size:
                join(array, self.comm.receive_array(np.empty_like(array), rank + step))
            step *= 2
        return self.comm.bcast_array(array)

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
