"""In which of its possible settings a merged set agrees best with another one.

Settings of a set: as it is; reindexed by an operator of the lattice that the Laue group lacks
(merohedral and pseudo-merohedral); with its axes in another order, where the group stays what it
is. Only those whose cell comes out like the other set's count. A setting other than that of the
file is taken if its correlation is higher by more than chance: Fisher's z = artanh CC has the
variance 1/(n − 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, ReferenceSet
from sfxproc.merging.compare import pearson
from sfxproc.symmetry import (
    Reindexing,
    SpaceGroup,
    cell_fits,
    reindexed_cells,
    reindexed_hkl,
    twin_operators,
    unique_keys,
)

LENGTHS_percent, ANGLES_deg = 5.0, 3.0
"""Cells that differ by more are of another crystal form."""
OBLIQUITY_deg = 3.0
SIGMAS = 3.0

Key = tuple[float, ...]  # a matrix as something that can be looked up

SAME = Reindexing("h,k,l", np.eye(3))


@dataclass(frozen=True)
class InSetting:
    """A set in one of its settings, the operator that led there, and its correlation with the other
    set over n common reflections."""

    data: ReferenceSet
    operator: Reindexing
    cc: float
    n: int


def settings_of(a: ReferenceSet, b: ReferenceSet, group: SpaceGroup) -> tuple[InSetting, ...]:
    """Set b in each setting in which its cell fits that of set a, the one to take first.

    Empty if the cells differ by more than 5 % or 3° in every setting.
    """
    found = []
    for operator in (SAME, *_operators(group, b)):
        _, cell = reindexed_cells(np.full((1, 3, 3), np.nan), b.cell[None], operator)
        if cell_fits(cell, a.cell, LENGTHS_percent, ANGLES_deg)[0]:
            table = replace(b.reflections, hkl=reindexed_hkl(b.reflections.hkl, operator))
            moved = replace(b, cell=cell[0], reflections=table)
            cc, n = _correlation(a, moved, group)
            found.append(InSetting(moved, operator, cc, n))
    if not found:
        return ()
    first = found[0]
    best = max(found, key=lambda s: s.cc)
    gain = _z(best) - _z(first)
    sigma = np.sqrt(1.0 / max(best.n - 3, 1) + 1.0 / max(first.n - 3, 1))
    take = best if gain > SIGMAS * sigma else first
    return (take, *(s for s in found if s is not take))


def _operators(group: SpaceGroup, data: ReferenceSet) -> list[Reindexing]:
    """All but the identity, none twice."""
    elements = _elements(group)
    operators: list[Reindexing] = []
    known = set(elements)
    for operator in (*twin_operators(group, data.cell, OBLIQUITY_deg), *_orders(group, elements)):
        if _key(operator.matrix) not in known:
            operators.append(operator)
            known |= {_key(operator.matrix @ np.reshape(element, (3, 3))) for element in elements}
    return operators


def _orders(group: SpaceGroup, elements: set[Key]) -> Iterator[Reindexing]:
    """The axes in other orders and directions, right-handed, where group and centring stay."""
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[order, (0, 1, 2)] = signs
        face = "ABC".find(group.centring)
        if (
            np.linalg.det(matrix) < 0
            or group.centring == "R"
            or (face >= 0 and order[face] != face)
        ):
            continue
        turned = {_key(matrix.T @ np.reshape(element, (3, 3)) @ matrix) for element in elements}
        if turned == elements:
            yield Reindexing(_triplet(order, signs), matrix)


def _elements(group: SpaceGroup) -> set[Key]:
    """The proper and improper rotations of the Laue group."""
    return {_key(sign * r) for r in group.rotations for sign in (1.0, -1.0)}


def _key(matrix: NDArray[np.floating[Any]]) -> Key:
    return tuple((np.round(matrix, 6) + 0.0).ravel().tolist())


def _triplet(order: tuple[int, ...], signs: tuple[int, ...]) -> str:
    """h' = h R in words: column j of R takes index order[j]."""
    words = ("hkl"[i] if sign > 0 else f"-{'hkl'[i]}" for i, sign in zip(order, signs, strict=True))
    return ",".join(words)


def _correlation(a: ReferenceSet, b: ReferenceSet, group: SpaceGroup) -> tuple[float, int]:
    """Of the intensities of equal reflections, and how many there are; −1 where undefined."""
    keys, values = zip(*(_by_key(data, group) for data in (a, b)), strict=True)
    _, i, j = np.intersect1d(keys[0], keys[1], return_indices=True)
    cc = pearson(values[0][i], values[1][j])
    return (-1.0 if cc is None else cc), len(i)


def _by_key(data: ReferenceSet, group: SpaceGroup) -> tuple[NDArray[np.int64], Floats]:
    """Sorted keys of unique reflections and their intensities, of equivalents the first."""
    table = data.reflections
    assert table.intensity is not None  # a reference has them
    keys, first = np.unique(unique_keys(group, table.hkl, False), return_index=True)
    return keys, table.intensity[first]


def _z(setting: InSetting) -> float:
    return float(np.arctanh(np.clip(setting.cc, -0.999999, 0.999999)))
