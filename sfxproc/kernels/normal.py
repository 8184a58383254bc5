"""Compiled loops for normal matrices over all parameters: filling them, and counting a factor.

Letters as in `kernels.arrow`: row i of local block m couples its p local parameters with the
shared parameter h = shared[i] by eᵢ = w a c. That, C_m and D_h are all a row adds: (p+1)(p+2)/2
numbers, whatever the size of the matrix.

The factor is counted without being worked out: elimination tree after Liu (SIAM J. Matrix Anal.
Appl. 11 (1990) 134), column counts after Gilbert, Ng & Peyton (ibid. 15 (1994) 1075), in time
about proportional to the non-zeros of the matrix.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def add_couplings_dense(start, shared, e, H):  # type: ignore[no-untyped-def]
    """H[(m, s), h] and H[h, (m, s)] += eᵢ[s]; H (n, n) holds the local parameters first."""
    p = e.shape[1]
    n_local = (len(start) - 1) * p
    for m in range(len(start) - 1):
        for i in range(start[m], start[m + 1]):
            column = n_local + shared[i]
            for s in range(p):
                H[m * p + s, column] += e[i, s]
                H[column, m * p + s] += e[i, s]


@njit(cache=True, nogil=True)
def add_couplings_sparse(start, place, e, free, values):  # type: ignore[no-untyped-def]
    """values[place[i] + s] += eᵢ[s] for the free parameters s of the row's block."""
    for m in range(len(start) - 1):
        for i in range(start[m], start[m + 1]):
            for s in range(e.shape[1]):
                if free[m, s]:
                    values[place[i] + s] += e[i, s]


@njit(cache=True, nogil=True)
def elimination_tree(begin, row):  # type: ignore[no-untyped-def]
    """(n,) parent of each column of a symmetric matrix, −1 for a root.

    begin, row : its columns, both triangles; rows on and below the diagonal are passed over.
    """
    n = len(begin) - 1
    parent = np.full(n, -1, dtype=np.int64)
    ancestor = np.full(n, -1, dtype=np.int64)
    for k in range(n):
        for at in range(begin[k], begin[k + 1]):
            i = np.int64(row[at])
            while i != -1 and i < k:
                above = ancestor[i]
                ancestor[i] = k
                if above == -1:
                    parent[i] = k
                i = above
    return parent


@njit(cache=True, nogil=True)
def postorder(parent):  # type: ignore[no-untyped-def]
    """(n,) columns of the tree such that children come before their parents, subtrees together."""
    n = len(parent)
    child = np.full(n, -1, dtype=np.int64)
    sibling = np.full(n, -1, dtype=np.int64)
    for j in range(n - 1, -1, -1):
        if parent[j] != -1:
            sibling[j] = child[parent[j]]
            child[parent[j]] = j
    out = np.empty(n, dtype=np.int64)
    stack = np.empty(n, dtype=np.int64)
    count = 0
    for root in range(n):
        if parent[root] != -1:
            continue
        stack[0] = root
        top = 0
        while top >= 0:
            j = stack[top]
            if child[j] == -1:
                out[count] = j
                count += 1
                top -= 1
            else:
                top += 1
                stack[top] = child[j]
                child[j] = sibling[child[j]]
    return out


@njit(cache=True, nogil=True)
def column_counts(begin, row):  # type: ignore[no-untyped-def]
    """(n,) non-zeros of each column of the Cholesky factor, the diagonal counted.

    begin, row : columns of the matrix, both triangles.
    """
    n = len(begin) - 1
    parent = elimination_tree(begin, row)
    order = postorder(parent)
    first = np.full(n, -1, dtype=np.int64)  # first descendant, in postorder
    count = np.zeros(n, dtype=np.int64)
    for k in range(n):
        j = order[k]
        count[j] = 1 if first[j] == -1 else 0
        while j != -1 and first[j] == -1:
            first[j] = k
            j = parent[j]
    last_first = np.full(n, -1, dtype=np.int64)
    last_leaf = np.full(n, -1, dtype=np.int64)
    ancestor = np.arange(n)
    for k in range(n):
        j = order[k]
        if parent[j] != -1:
            count[parent[j]] -= 1
        for at in range(begin[j], begin[j + 1]):
            i = row[at]
            if i <= j or first[j] <= last_first[i]:
                continue
            count[j] += 1  # j is a leaf of the row subtree of i
            last_first[i] = first[j]
            previous = last_leaf[i]
            last_leaf[i] = j
            if previous == -1:
                continue
            common = previous
            while common != ancestor[common]:
                common = ancestor[common]
            while previous != common:
                above = ancestor[previous]
                ancestor[previous] = common
                previous = above
            count[common] -= 1  # counted by both leaves
        if parent[j] != -1:
            ancestor[j] = parent[j]
    for j in range(n):
        if parent[j] != -1:
            count[parent[j]] += count[j]
    return count
