"""The border's part of the normal equations, added up row by row (letters of `kernels.border`).

Rows are worked through batch by batch; within a batch those of one pattern are added as a w × w
block. What a local block has in common with the border is held for the columns it touches, so
that memory grows with rows × w and with k², never with rows × k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.border import border_kernels, touched
from sfxproc.lsq.problem import F8, Border, Layout, Rows


class Part(NamedTuple):
    """Couplings of the local blocks of a chunk with the border.

    The n-th block touches the columns column[begin[n]:begin[n + 1]], with the rows of
    F (…, p) there.
    """

    begin: NDArray[np.int64]
    column: NDArray[np.int32]
    F: F8


@dataclass(frozen=True, eq=False)
class BorderBlocks:
    """The border's blocks of the normal equations.

    H : (k (k + 1)/2,) packed, q : (k,), both summed over all processes, priors included. parts :
    of this process's chunks. G : (n_rows, w) w c f of each row of this process, its couplings with
    its shared parameter; empty where there are none.
    """

    H: F8
    q: F8
    parts: tuple[Part, ...]
    G: F8

    @property
    def diagonal(self) -> F8:
        """(k,) of H."""
        i = np.arange(len(self.q))
        return np.asarray(self.H[i * (i + 3) // 2])


def packed_size(k: int) -> int:
    """Numbers in the lower triangle of a (k, k) matrix, which every chunk sums. `plan_chunks`
    balances the number of chunks against that, if given it for n_shared."""
    return k * (k + 1) // 2


def part_of(layout: Layout, border: Border, chunk: int) -> Part:
    """The columns that blocks of a chunk touch, with couplings yet to be added up."""
    first, last = int(layout.chunk[chunk]), int(layout.chunk[chunk + 1])
    p = len(layout.parameters)
    begin = np.zeros(last - first + 1, dtype=np.int64)
    column = np.empty(0, dtype=np.int32)
    for _ in range(2 if p else 0):  # count, then note
        seen = np.full(len(border.columns), -1, dtype=np.int32)
        met = np.full(len(border), -1, dtype=np.int32)
        touched(
            layout.start,
            border.pattern,
            border.columns,
            border.free,
            first,
            last,
            seen,
            met,
            begin,
            column,
        )
        if not len(column):
            column = np.empty(begin[-1], dtype=np.int32)
    return Part(begin, column, np.zeros((len(column), p)))


class Accumulator:
    """Adds the rows of a chunk to the normal equations; one a chunk, used by one thread.

    loss : kind and scale, as kernels take it.
    """

    def __init__(self, layout: Layout, border: Border, loss: tuple[int, float], chunk: int) -> None:
        self._layout, self._border, self._loss = layout, border, loss
        self._first = int(layout.chunk[chunk])
        self.part = part_of(layout, border, chunk)
        self._place = np.full(len(border), -1, dtype=np.int64)
        self._kernels = border_kernels(len(layout.parameters), border.columns.shape[1])

    def add(
        self, first: int, last: int, rows: Rows, C: F8, g: F8, G: F8, out: F8
    ) -> tuple[float, float]:
        """Add blocks first … last−1 to `out` (packed H, then q); writes their C, g and, unless it
        is empty, G. Returns Σ ρ and Σ r²."""
        layout, border, k = self._layout, self._border, len(self._border)
        at = slice(int(layout.start[first]), int(layout.start[last]))
        weight = np.empty(len(rows.r))
        found = self._kernels.accumulate(
            layout.start,
            border.pattern,
            border.columns,
            first,
            last,
            rows.r,
            rows.d if len(rows.d) else rows.r,
            rows.a,
            rows.f,
            *self._loss,
            self._first,
            self.part.begin,
            self.part.column,
            self._place,
            C,
            g,
            self.part.F,
            weight,
        )
        pattern = border.pattern[at]
        order = np.argsort(pattern, kind="stable")
        self._kernels.add_patterns(
            order,
            pattern,
            border.columns,
            weight,
            rows.r,
            rows.f,
            out[: packed_size(k)],
            out[packed_size(k) :],
        )
        if len(G):
            G[at] = (weight * rows.c)[:, None] * rows.f
        return found[0], found[1]


def with_priors(border: Border, H: F8, q: F8, at: F8) -> float:
    """Add the border's priors to H and q, at a point; returns ½ of their sum."""
    pull = at - border.prior_centre
    i = np.arange(len(border))
    H[i * (i + 3) // 2] += border.prior_weight
    q += border.prior_weight * pull
    return border_prior(border, at)


def border_prior(border: Border | None, at: F8) -> float:
    """½ Σ weight (value − centre)²."""
    if border is None:
        return 0.0
    return 0.5 * float(np.sum(border.prior_weight * (at - border.prior_centre) ** 2))
