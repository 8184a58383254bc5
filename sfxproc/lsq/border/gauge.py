"""Which combinations of parameters the data do not tell apart, in words.

A basis of the combinations is brought to reduced row echelon form, so that each names as few
parameters as it can; then parameters that move alike are named together.
"""

from __future__ import annotations

import numpy as np

from sfxproc.lsq.problem import F8

SAME = 1e-3  # relative difference of moves that are told as one
NAMED = 3  # parameters of a group that are named one by one


def echelon(basis: F8) -> F8:
    """(k, n) another basis of the same space with as many zeros as elimination makes, each
    combination's largest element 1."""
    rows = basis.T.copy()
    pivots: list[int] = []
    for i in range(len(rows)):
        size = np.abs(rows[i:])
        j = int(np.argmax(size.max(axis=0)))
        best = i + int(np.argmax(size[:, j]))
        rows[[i, best]] = rows[[best, i]]
        rows[i] /= rows[i, j]
        for other in range(len(rows)):
            if other != i:
                rows[other] -= rows[other, j] * rows[i]
        pivots.append(j)
    rows = rows[np.argsort(pivots)]
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=1e-300)
    return np.asarray((rows / largest).T)


def named(names: tuple[str, ...], moves: F8, weight: F8) -> list[str]:
    """Words for how parameters move together: those that move alike in one phrase, the largest
    group first. weight : of each, the curvature by which what hardly counts is left out."""
    counts = np.sqrt(weight) * np.abs(moves)
    left = [int(i) for i in np.flatnonzero(counts > SAME * counts.max(initial=0.0))]
    groups: list[list[int]] = []
    while left:
        alike = [i for i in left if abs(moves[i] - moves[left[0]]) <= SAME * abs(moves[left[0]])]
        groups.append(alike)
        left = [i for i in left if i not in alike]
    groups.sort(key=lambda group: (-len(group), group[0]))
    return [f"{_list([names[i] for i in group])} by {moves[group].mean():+.4g}" for group in groups]


def _list(names: list[str]) -> str:
    """The first names, and how many more there are."""
    if len(names) <= NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def sentence(common: list[str], others: list[str]) -> str:
    """What a gauge is, and what becomes of it."""
    moves = "; ".join([*common, *others])
    return (
        f"Nothing that is measured changes if these move together: {moves}. This combination is "
        "held."
    )


def of_many(of: str, what: str, mean: float, spread: float) -> str:
    """Words for how parameters move of which there is one in each of many."""
    if spread <= SAME * abs(mean):
        return f"{of} all {what} by {mean:+.4g}".strip()
    return f"{of} {what} by {mean:+.4g} on the average (± {spread:.2g})".strip()
