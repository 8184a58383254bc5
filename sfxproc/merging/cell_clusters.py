"""Clusters of unit cells: are all crystals of one form?

Cells are compared in the parameters that the space group leaves free (ln of lengths, angles in rad,
made symmetric first, so that noise in what symmetry fixes does not count), each in units of its
spread within a cluster. The density at a cell follows from the distance c to its k-th neighbour, as
c^−D in D dimensions. Two cells are at the reach max(c, c′, distance) of each other; in the tree of
single linkage by reach two branches are two clusters if the density of both at their densest
exceeds that where they meet by more than its counting error,

    D ln(c_meet/c_densest) > SIGNIFICANT √(2/k)

and are one otherwise (Hartigan, J. Am. Stat. Assoc. 76 (1981) 388; Campello, Moulavi & Sander,
PAKDD 2013, 160). One broad or heavy-tailed peak is thus one cluster, whatever its shape. A large k
tells clusters of few hundred cells apart, a small one sees small clusters: of several k that counts
which finds most, the largest of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from sfxproc.data import Floats
from sfxproc.symmetry import SpaceGroup, median_cell, symmetrised_cell

F8 = NDArray[np.float64]

MOST_LINKED = 3000  # cells; the rest go to the nearest of these
FEWEST, LEAST_PART = 5, 0.02  # crystals of a cluster, and part of all
NEIGHBOURS = (0.1, 0.04, 0.01)  # k, as parts of all cells, at least FEWEST − 1
SIGNIFICANT = 5.0
FAR = 6.0  # spreads of a cluster, beyond which a cell is in none
FEWEST_FOR_SPREAD = 20  # crystals that tell it
CORE_PART = 0.1  # of the cells, in the narrowest interval that holds so many
CORE_WIDTH = 0.2513  # of this interval for a normal distribution, in standard deviations
SMALLEST_SPREAD = 1e-6
MAD_TO_SIGMA = 1.4826
UNASSIGNED = -1


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of cells, the largest first.

    label : (n,) int32 of each crystal, UNASSIGNED (−1) for those in none. size : (m,) crystals.
    median, spread : (m, 6) Å and degrees; spread is 1.4826 times the median deviation.
    """

    label: NDArray[np.int32]
    size: NDArray[np.int64]
    median: F8
    spread: F8


def cell_clusters(cells: Floats, group: SpaceGroup | None = None) -> Clusters:
    """Clusters of cells (n, 6) in Å and degrees; those that are not finite are in none.

    group : whose constraints the cells obey but for noise; without one all six parameters count.
    The same for the same cells in the same order.
    """
    values: F8 = np.array(cells, dtype=np.float64)
    label = np.full(len(values), UNASSIGNED, dtype=np.int32)
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    if len(finite):
        label[finite] = _labels(_free_parameters(values[finite], group))
    size = np.bincount(label[label >= 0])
    order = np.argsort(-size, kind="stable")
    order = order[size[order] >= max(min(FEWEST, len(finite)), LEAST_PART * len(finite))]
    new = np.full(len(size) + 1, UNASSIGNED, dtype=np.int32)  # the last one is for UNASSIGNED
    new[order] = np.arange(len(order))
    label = new[label]
    median, spread = np.empty((2, len(order), 6))
    for number in range(len(order)):
        own = values[label == number]
        middle = np.median(own, axis=0)
        median[number] = middle if group is None else median_cell(group, own)
        spread[number] = MAD_TO_SIGMA * np.median(np.abs(own - middle), axis=0)
    return Clusters(label, size[order], median, spread)


def _free_parameters(cells: F8, group: SpaceGroup | None) -> F8:
    """(n, D) parameters that are free, relative or in rad, in units of their spread."""
    middle = np.median(cells, axis=0)
    unit = np.concatenate([middle[:3], np.full(3, np.degrees(1.0))])
    x = (cells - middle) / unit
    if group is not None:
        x = x @ _symmetric(group, middle, unit).T
    out = []
    for column in x.T:
        ordered = np.sort(column)
        held = int(np.ceil(CORE_PART * len(ordered))) + 1
        width = np.min(ordered[held - 1 :] - ordered[: len(ordered) - held + 1], initial=np.inf)
        out.append(column / max(width / CORE_WIDTH, SMALLEST_SPREAD))
    return np.stack(out, axis=1)


def _symmetric(group: SpaceGroup, cell: F8, unit: F8) -> F8:
    """(D, 6) how the free parameters of the cell made symmetric follow from all six, in units."""
    step = 1e-4 * unit
    columns = []
    for change in np.diag(step):
        ends = symmetrised_cell(group, cell + change) - symmetrised_cell(group, cell - change)
        columns.append(ends / (2.0 * 1e-4) / unit)
    rows = np.stack(columns, axis=1)
    kept: list[F8] = []
    for row in rows:
        if np.linalg.matrix_rank(np.array([*kept, row]), tol=1e-3) > len(kept):
            kept.append(row)
    return np.array(kept)


def _labels(x: F8) -> NDArray[np.int32]:
    """(n,) cluster of each point (n, D), in no order; −1 far from all."""
    some = np.arange(len(x))
    if len(x) > MOST_LINKED:
        some = np.sort(np.random.default_rng(0).permutation(len(x))[:MOST_LINKED])
    label = _linked(x[some])
    known = label >= 0
    nearest = cKDTree(x[some[known]]).query(x)[1]
    out: NDArray[np.int32] = label[known][nearest]
    for number in range(label.max() + 1):
        own = np.flatnonzero(out == number)
        if len(own) < FEWEST_FOR_SPREAD:
            continue
        off = np.abs(x[own] - np.median(x[own], axis=0))
        scale = np.maximum(MAD_TO_SIGMA * np.median(off, axis=0), SMALLEST_SPREAD)
        out[own[(off > FAR * scale).any(axis=1)]] = UNASSIGNED
    return out


def _linked(x: F8) -> NDArray[np.int32]:
    """(n,) cluster of each point, −1 for those between clusters."""
    n = len(x)
    fewest = max(FEWEST, int(np.ceil(LEAST_PART * n)))
    if n < 2 * fewest:
        return np.zeros(n, dtype=np.int32)
    distance, tree = pdist(x), cKDTree(x)
    best: list[list[int]] = []
    for part in NEIGHBOURS:
        k = max(int(part * n), FEWEST - 1)
        core = np.maximum(tree.query(x, k + 1)[0][:, -1], SMALLEST_SPREAD)
        limit = float(np.exp(SIGNIFICANT * np.sqrt(2.0 / k) / x.shape[1]))
        found = _parted(distance, core, limit, fewest)
        if len(found) > len(best):
            best = found
    label = np.full(n, UNASSIGNED, dtype=np.int32)
    for number, own in enumerate(best):
        label[own] = number
    return label


def _parted(distance: F8, core: F8, limit: float, fewest: int) -> list[list[int]]:
    """Members of each cluster: branches of at least `fewest` that meet others farther than `limit`
    times their smallest core distance.

    distance : condensed, of all pairs. core : (n,) to the k-th neighbour.
    """
    n = len(core)
    i, j = np.triu_indices(n, 1)
    reach = np.maximum(distance, np.maximum(core[i], core[j]))
    loose: list[list[int]] = [[m] for m in range(n)]  # of each branch, in none of its clusters
    clusters: list[list[list[int]]] = [[] for _ in range(n)]
    densest = list(core)
    for left, right, height, _ in linkage(reach, "single"):
        pair = int(left), int(right)
        parts = [
            clusters[c] or (len(loose[c]) >= fewest and height > limit * densest[c]) for c in pair
        ]
        if all(parts):
            new = [loose[c] for c in pair if not clusters[c]]
            rest = [m for c in pair if clusters[c] for m in loose[c]]
        else:
            new, rest = [], [m for c in pair for m in loose[c]]
        clusters.append([*(own for c in pair for own in clusters[c]), *new])
        loose.append(rest)
        densest.append(min(densest[c] for c in pair))
    return clusters[-1] or [loose[-1]]
