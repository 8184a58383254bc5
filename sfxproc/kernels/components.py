"""Connected components of local blocks and shared parameters, by union–find.

Two shared parameters are connected if a block holds both. Roots are the smallest members, so
that labels do not depend on the order of the unions.
"""

from __future__ import annotations

from sfxproc.kernels.compiled import compiled


@compiled
def find(parent, h):
    """The root of h, halving the path to it."""
    while parent[h] != h:
        parent[h] = parent[parent[h]]
        h = parent[h]
    return h


@compiled
def unite(parent, a, b):
    """Join the trees of a and b under the smaller root."""
    a = find(parent, a)
    b = find(parent, b)
    if a < b:
        parent[b] = a
    elif b < a:
        parent[a] = b


@compiled
def join_blocks(start, shared, parent):
    """Unite all shared parameters that a block holds, for every block."""
    for m in range(len(start) - 1):
        for i in range(start[m] + 1, start[m + 1]):
            unite(parent, shared[start[m]], shared[i])


@compiled
def join_labels(label, parent):
    """Unite each shared parameter with its label."""
    for h in range(len(label)):
        unite(parent, h, label[h])


@compiled
def flatten(parent):
    """Point every shared parameter straight at its root."""
    for h in range(len(parent)):
        parent[h] = find(parent, h)
