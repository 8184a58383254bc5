"""The 14 Bravais lattices as one table.

q² = 1/d² is linear in the reciprocal metric tensor G* = (aᵢ*·aⱼ*):

    q²(h) = hᵀ G* h = H(h) x,    G* = Σᵢ xᵢ Bᵢ,    Hᵢ(h) = hᵀ Bᵢ h

The Bᵢ span the tensors that the rotations of the lattice leave alone, G* = R G* Rᵀ (rows of Miller
indices turn as h' = h R). They come from the rotations: the mean of R E Rᵀ over the group, for
each of the unit tensors E of hh, kk, ll, hk, hl, kl in this order, without zeros and repetitions,
scaled to integer Hᵢ. So x is (x_hh, x_kk, x_ll, x_hk, x_hl, x_kl) for aP, (x_hh, x_kk, x_ll, x_hl)
for mP and mC, and so on down to a*² for the cubic lattices.

Settings: monoclinic b unique, centred as C; hR in hexagonal axes, obverse. The frequencies count
the unique entries of the large structure databases, in thousands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, Ints, Mask
from sfxproc.symmetry import SpaceGroup, space_group

UNIT_TENSORS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))

# columns: the axes of a primitive cell in terms of the conventional ones
_H, _T, _S = 1 / 2, 1 / 3, 2 / 3
PRIMITIVE_AXES: dict[str, list[list[float]]] = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "C": [[_H, _H, 0], [-_H, _H, 0], [0, 0, 1]],
    "I": [[-_H, _H, _H], [_H, -_H, _H], [_H, _H, -_H]],
    "F": [[0, _H, _H], [_H, 0, _H], [_H, _H, 0]],
    "R": [[_S, -_T, -_T], [_T, _T, -_S], [_T, _T, _T]],
}

# symbol: lattice system, space group whose only elements are those of the lattice, frequency,
# spread
_TABLE: dict[str, tuple[str, str, float, float]] = {
    "aP": ("triclinic", "P -1", 171.5, 0.87),
    "mP": ("monoclinic", "P 1 2/m 1", 216.7, 1.17),
    "mC": ("monoclinic", "C 1 2/m 1", 86.7, 1.49),
    "oP": ("orthorhombic", "P m m m", 95.7, 1.06),
    "oC": ("orthorhombic", "C m m m", 9.5, 1.55),
    "oF": ("orthorhombic", "F m m m", 4.1, 1.07),
    "oI": ("orthorhombic", "I m m m", 3.0, 1.07),
    "tP": ("tetragonal", "P 4/m m m", 14.3, 1.47),
    "tI": ("tetragonal", "I 4/m m m", 11.0, 1.47),
    "hP": ("hexagonal", "P 6/m m m", 16.2, 1.63),
    "hR": ("rhombohedral", "R -3 m:H", 11.8, 1.61),
    "cP": ("cubic", "P m -3 m", 4.2, 0.78),
    "cF": ("cubic", "F m -3 m", 4.0, 0.78),
    "cI": ("cubic", "I m -3 m", 2.2, 0.78),
}


@dataclass(frozen=True)
class Lattice:
    """A Bravais lattice in its conventional setting. Lattices are equal if their `symbol` is.

    system : one of the seven lattice systems.  holohedry : the symmorphic group of the lattice's
    own symmetry; it knows centring, crystal system and rotations.  frequency : thousands of
    entries.  spread : of x before any line is known, in units of V^(−2/3): e to the power of the
    entropy per parameter of random cells of which 0.9 to 4 times as many lines (cubic: 12) are
    calculated as observed; the search looks beyond where that costs little.  basis : (p, 3, 3) the
    tensors Bᵢ.  primitive : (3, 3), columns the axes of a primitive cell in terms of the
    conventional ones (of hR: the rhombohedral axes).
    """

    symbol: str
    system: str = field(compare=False)
    holohedry: SpaceGroup = field(compare=False, repr=False)
    frequency: float = field(compare=False, repr=False)
    spread: float = field(compare=False, repr=False)
    basis: Floats = field(compare=False, repr=False)
    primitive: Floats = field(compare=False, repr=False)

    @property
    def n_parameters(self) -> int:
        """How many numbers describe a cell of the lattice: 1 to 6."""
        return len(self.basis)

    @property
    def centring(self) -> str:
        """P, C, I, F or R."""
        return self.holohedry.centring

    @property
    def rotations(self) -> NDArray[np.int8]:
        """(n, 3, 3) the holohedral rotations, proper and improper; h' = h R."""
        return self.holohedry.rotations

    @cached_property
    def primitive_rotations(self) -> Ints:
        """(n, 3, 3) the same on the axes of the primitive cell, whole numbers."""
        turned = np.linalg.inv(self.primitive) @ self.rotations.astype(np.float64) @ self.primitive
        return np.rint(turned).astype(np.int64)

    @cached_property
    def prior(self) -> float:
        """The share of this lattice among known structures."""
        return self.frequency / sum(row[2] for row in _TABLE.values())

    @cached_property
    def points_per_cell(self) -> int:
        """Lattice points in the conventional cell: 1 to 4."""
        return round(1.0 / float(np.linalg.det(self.primitive)))

    def forms(self, hkl: Ints) -> Floats:
        """H (n, p), whole numbers, of Miller indices hkl (n, 3): q² = H x in Å⁻²."""
        values = np.asarray(hkl, dtype=np.float64)
        return np.asarray(np.round(np.einsum("ni,pij,nj->np", values, self.basis, values)))

    def allowed(self, hkl: Ints) -> Mask:
        """(n,) whether the centring lets hkl (n, 3) reflect: whole indices on primitive axes."""
        sixths = np.rint(6.0 * self.primitive).astype(np.int64)
        return np.asarray(((np.asarray(hkl, dtype=np.int64) @ sixths) % 6 == 0).all(axis=1))


def _invariant_tensors(rotations: NDArray[np.int8]) -> Floats:
    """(p, 3, 3) the tensors Bᵢ of the module's equations."""
    turns = rotations.astype(np.float64)
    found: list[Floats] = []
    for i, j in UNIT_TENSORS:
        unit = np.zeros((3, 3))
        unit[i, j] = unit[j, i] = 1.0
        mean = np.einsum("nij,jk,nlk->il", turns, unit, turns) / len(turns)
        column = np.array([mean[k, m] * (1.0 if k == m else 2.0) for k, m in UNIT_TENSORS])
        filled = column[np.abs(column) > 1e-9]
        if len(filled) == 0:
            continue
        ratios = [Fraction(v / filled[0]).limit_denominator(12) for v in filled]
        mean *= float(np.lcm.reduce([r.denominator for r in ratios])) / filled[0]
        if not any(np.allclose(mean, tensor) for tensor in found):
            found.append(mean)
    return np.array(found)


def _lattice(symbol: str, system: str, group: str, frequency: float, spread: float) -> Lattice:
    holohedry = space_group(group)
    return Lattice(
        symbol=symbol,
        system=system,
        holohedry=holohedry,
        frequency=frequency,
        spread=spread,
        basis=_invariant_tensors(holohedry.rotations),
        primitive=np.array(PRIMITIVE_AXES[holohedry.centring], dtype=np.float64),
    )


LATTICES: dict[str, Lattice] = {symbol: _lattice(symbol, *row) for symbol, row in _TABLE.items()}
