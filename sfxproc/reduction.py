"""Reduction of lattices: the Niggli cell and the integer bases that lie near a reduced one.

A lattice has one Niggli cell (Křivý & Gruber, Acta Cryst. A32, 297, 1976), but measured cells
near a boundary of its conditions jump between very different ones. Reduced bases of nearly equal
lattices are, however, related by unimodular matrices with elements −1, 0 and 1; comparing over all
3480 of them (`NEAR_BASES`) knows no boundaries (the idea of Andrews & Bernstein, Acta Cryst. A44,
1009, 1988).
"""

from __future__ import annotations

from itertools import product

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfxproc.data import Floats
from sfxproc.symmetry import SpaceGroup

FAMILY = {
    "triclinic": "a",
    "monoclinic": "m",
    "orthorhombic": "o",
    "tetragonal": "t",
    "trigonal": "h",
    "hexagonal": "h",
    "cubic": "c",
}


def _near_bases() -> NDArray[np.int8]:
    elements = np.array(list(product((-1, 0, 1), repeat=9)), dtype=np.int8)
    matrices = elements.reshape(-1, 3, 3)
    rows = matrices.astype(np.int64)
    determinant = np.einsum("ni,ni->n", rows[:, 0], np.cross(rows[:, 1], rows[:, 2]))
    return np.asarray(matrices[determinant == 1])


NEAR_BASES: NDArray[np.int8] = _near_bases()
"""(3480, 3, 3): matrices of determinant 1; columns are the new axes in terms of the old ones."""


def niggli_cell(cell: ArrayLike, centring: str = "P") -> Floats:
    """The Niggli cell (6,), Å and degrees, of the lattice of a cell with the centring P…R."""
    values = (float(v) for v in np.asarray(cell, dtype=np.float64))
    vector = gemmi.GruberVector(gemmi.UnitCell(*values), centring)
    vector.niggli_reduce()
    return np.array(vector.cell_parameters())


def bravais_symbol(group: SpaceGroup) -> str:
    """Symbol of the group's Bravais lattice, such as "mC" or "hR".

    One-face centrings, and all centrings of monoclinic groups, are called C.
    """
    centring = group.centring
    if group.hm.endswith(":R"):
        centring = "R"
    elif centring in "AB" or (group.crystal_system == "monoclinic" and centring != "P"):
        centring = "C"
    return FAMILY[group.crystal_system] + centring
