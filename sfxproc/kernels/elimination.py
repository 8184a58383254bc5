"""Non-zeros of a Cholesky factor, counted without computing it.

Structure of a symmetric matrix: its strictly lower triangle, by column (begin, row) or, the same
entries, by row. The elimination tree has parent(j) = min { i > j : L_ij ≠ 0 } (Liu, SIAM J. Matrix
Anal. Appl. 11 (1990) 134); row i of L is a subtree of it, and the columns' counts follow from the
leaves of these subtrees in nearly the time it takes to read the matrix (Gilbert, Ng & Peyton,
SIAM J. Matrix Anal. Appl. 15 (1994) 1075).
"""

from __future__ import annotations

import numpy as np

from sfxproc.kernels.compiled import compiled


@compiled
def elimination_tree(begin, column):
    """parent (n,) of each column, −1 at a root. Row i of the strictly lower triangle has its
    entries in column[begin[i]:begin[i + 1]]."""
    n = len(begin) - 1
    parent = np.full(n, -1)
    ancestor = np.full(n, -1)
    for i in range(n):
        for k in range(begin[i], begin[i + 1]):
            j = column[k]
            while j != -1 and j < i:
                above = ancestor[j]
                ancestor[j] = i
                if above == -1:
                    parent[j] = i
                j = above
    return parent


@compiled
def postorder(parent):
    """The nodes of a forest, children before their parents and subtrees in one piece."""
    n = len(parent)
    child = np.full(n, -1)
    sibling = np.full(n, -1)
    for j in range(n - 1, -1, -1):
        if parent[j] != -1:
            sibling[j] = child[parent[j]]
            child[parent[j]] = j
    order = np.empty(n, np.int64)
    stack = np.empty(n, np.int64)
    done = 0
    for root in range(n):
        if parent[root] != -1:
            continue
        stack[0] = root
        height = 1
        while height > 0:
            j = stack[height - 1]
            next_child = child[j]
            if next_child == -1:
                order[done] = j
                done += 1
                height -= 1
            else:
                child[j] = sibling[next_child]
                stack[height] = next_child
                height += 1
    return order


@compiled
def column_counts(begin, row, parent, order):
    """(n,) non-zeros of each column of L below the diagonal. Column j of the strictly lower
    triangle has its entries in row[begin[j]:begin[j + 1]]; order is a postorder."""
    n = len(parent)
    first = np.full(n, -1)  # first descendant in postorder
    count = np.zeros(n, np.int64)
    for k in range(n):
        j = order[k]
        count[j] = 1 if first[j] == -1 else 0  # a leaf of the tree
        while j != -1 and first[j] == -1:
            first[j] = k
            j = parent[j]
    latest = np.full(n, -1)  # largest first[j] met in row i
    previous = np.full(n, -1)  # last leaf of row i's subtree
    ancestor = np.arange(n)
    for k in range(n):
        j = order[k]
        if parent[j] != -1:
            count[parent[j]] -= 1
        for at in range(begin[j], begin[j + 1]):
            i = row[at]
            if first[j] <= latest[i]:
                continue  # j is not a leaf of row i's subtree
            latest[i] = first[j]
            count[j] += 1
            leaf = previous[i]
            previous[i] = j
            if leaf == -1:
                continue
            top = leaf  # the least common ancestor of both leaves
            while top != ancestor[top]:
                top = ancestor[top]
            while leaf != top:
                above = ancestor[leaf]
                ancestor[leaf] = top
                leaf = above
            count[top] -= 1
        if parent[j] != -1:
            ancestor[j] = parent[j]
    for j in range(n):
        if parent[j] != -1:
            count[parent[j]] += count[j]
    return count - 1
