"""Which parts of a problem hang together: each part that does not has a gauge of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.components import flatten, join_blocks, join_labels
from sfxproc.lsq.engine import Engine

Labels = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Components:
    """Connected components, the largest (by local blocks) first.

    local : (n_local,) of this process's blocks, −1 for a block without rows. shared : (n_shared,).
    sizes : (n_components,) local blocks of the whole job in each.
    """

    local: Labels
    shared: Labels
    sizes: NDArray[np.int64]


def components(
    engine: Engine, start: NDArray[np.int64], shared: Labels, n_shared: int
) -> Components:
    """Components of the whole job; local blocks without rows belong to none."""
    parent = np.arange(n_shared, dtype=np.int32)
    join_blocks(start, shared, parent)
    flatten(parent)
    parent = engine.sums.joined(parent, merge_labels)

    holds = np.diff(start) > 0
    roots, of_shared = np.unique(parent, return_inverse=True)
    local = np.full(len(start) - 1, -1, dtype=np.int64)
    local[holds] = of_shared[shared[start[:-1][holds]]]
    counts = engine.sums.joined(np.bincount(local[holds], minlength=len(roots)), add_to)
    order = np.argsort(-counts, kind="stable")
    order = order[: np.count_nonzero(counts)]
    number = np.full(len(roots), -1, dtype=np.int32)
    number[order] = np.arange(len(order))
    by_block = np.where(holds, number[np.maximum(local, 0)] if len(roots) else -1, -1)
    return Components(by_block.astype(np.int32), number[of_shared], counts[order])


def merge_labels(label: Labels, other: Labels) -> None:
    """Join the components that two labellings tell: what either connects is connected.

    Labels are the smallest members before and after, so they do not depend on what is merged
    first.
    """
    join_labels(other, label)
    flatten(label)


def add_to(total: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """total += other; exact, hence the same in any order."""
    total += other
