"""Sums over chunks in the order of a fixed binary tree.

Leaves are chunks 0 … K−1, K a power of two; node (l, j) is the sum of its children (l−1, 2j) and
(l−1, 2j+1). Whoever adds up a subtree adds it in this order, so the bits of the root do not
depend on how the leaves are spread.
"""

from __future__ import annotations

from numba import njit

COLUMNS = 2048  # of a block that stays in cache while its tree is climbed


@njit(cache=True, nogil=True)
def fold(partial, first, count):  # type: ignore[no-untyped-def]
    """Sum rows first … first+count−1 (count a power of two) of partial (n, m) into row first."""
    m = partial.shape[1]
    for begin in range(0, m, COLUMNS):
        end = min(begin + COLUMNS, m)
        step = 1
        while step < count:
            for i in range(first, first + count, 2 * step):
                for j in range(begin, end):
                    partial[i, j] += partial[i + step, j]
            step *= 2
