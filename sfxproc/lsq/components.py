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
    gathered = engine.sums.gathered(parent)
    if gathered is not None:
        parent = np.arange(n_shared, dtype=np.int32)
        for label in gathered.reshape(-1, n_shared):
            join_labels(label, parent)
        flatten(parent)
    parent = engine.sums.told(parent)

    holds = np.diff(start) > 0
    root = np.full(len(start) - 1, -1, dtype=np.int64)
    root[holds] = parent[shared[start[:-1][holds]]]
    counts = np.bincount(root[holds], minlength=n_shared).astype(np.float64)
    counts = engine.sums.scalars(counts[None, :]) if n_shared else counts
    held = np.flatnonzero(counts)
    order = held[np.argsort(-counts[held], kind="stable")]
    number = np.full(n_shared, -1, dtype=np.int32)
    number[order] = np.arange(len(order))
    local = np.where(root >= 0, number[np.maximum(root, 0)], -1).astype(np.int32)
    return Components(local, number[parent], counts[order].astype(np.int64))
