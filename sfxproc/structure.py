"""Crystal structures: atoms, their symmetry images, scattering factors, structure factors.

    F(h) = Σ_j o_j f_j(s) exp(−B s²) exp(2πi h·x_j)      over all atoms of the cell
    f(s) = Σ_k a_k exp(−b_k s²) + c                       (International Tables C, 6.1.1.4, 1992)

gemmi is not seen outside this module, `symmetry`, `reduction` and the formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import gemmi
import numpy as np

from sfxproc.data import Floats, Ints
from sfxproc.errors import DataError
from sfxproc.symmetry import SpaceGroup

UNKNOWN = "X"  # an element that the file does not name
SAME_SITE = 5e-3  # fractional: images of one atom in a special position
CHUNK = 1 << 21

# percent of known structures, by number of the space group; any other counts OTHERS
COMMON = {
    14: 34.3,
    2: 25.0,
    15: 8.3,
    19: 7.2,
    4: 5.1,
    61: 3.3,
    33: 1.4,
    9: 1.1,
    62: 1.1,
    1: 1.0,
    60: 0.9,
    5: 0.9,
    29: 0.7,
    11: 0.5,
    12: 0.5,
    148: 0.5,
    18: 0.4,
    56: 0.4,
}
OTHERS = 0.1


def frequency(number: int) -> float:
    """Percent of known structures with the space group of this number, roughly."""
    return COMMON.get(number, OTHERS)


@dataclass(frozen=True, eq=False)
class Structure:
    """A crystal structure. cell : (6,) Å and degrees.  elements : n symbols.  sites : (n, 3)
    fractional coordinates of the symmetrically unique atoms.  occupancies : (n,)."""

    name: str
    space_group: SpaceGroup
    cell: Floats
    elements: tuple[str, ...]
    sites: Floats
    occupancies: Floats


@cache
def operations(group: SpaceGroup) -> tuple[Floats, Floats]:
    """Rotations (n, 3, 3) and translations (n, 3), centring included: x' = R x + t."""
    found = list(gemmi.find_spacegroup_by_name(group.hm).operations())
    scale = float(gemmi.Op.DEN)
    return np.array([op.rot for op in found]) / scale, np.array([op.tran for op in found]) / scale


def is_element(symbol: str) -> bool:
    """Whether there is an element of that name ("Fe") whose scattering factor is known."""
    element = gemmi.Element(symbol)
    return element.name != UNKNOWN and element.it92 is not None


def images(group: SpaceGroup, site: Floats) -> Floats:
    """The distinct images (m, 3), within 0 to 1, of a site (3,)."""
    rotations, translations = operations(group)
    found = (rotations @ site + translations) % 1.0
    off = found[:, None] - found[None]
    same = np.abs(off - np.rint(off)).max(axis=-1) < SAME_SITE
    return np.asarray(found[np.argmax(same, axis=1) == np.arange(len(found))])


def form_factors(elements: Sequence[str], s2: Floats) -> Floats:
    """f (n_elements, n) in electrons at (sinθ/λ)² s2 (n,) in Å⁻²."""
    rows = []
    for element in elements:
        coefficients = np.array(gemmi.Element(element).it92.get_coefs())
        a, b, c = coefficients[:4], coefficients[4:8], coefficients[8]
        rows.append(np.exp(-np.multiply.outer(s2, b)) @ a + c)
    return np.array(rows)


def squared_structure_factors(structure: Structure, hkl: Ints, s2: Floats, B_A2: float) -> Floats:
    """|F|² (n,) in electrons² of hkl (n, 3) at s2 (n,); one B in Å² for all atoms.

    Raises DataError if the structure has atoms of unknown element.
    """
    if UNKNOWN in structure.elements:
        raise DataError(
            f"The structure '{structure.name}' does not name all of its elements, so its "
            "intensities cannot be calculated. Put a line of their symbols above the counts of its "
            "POSCAR."
        )
    orbits = [images(structure.space_group, site) for site in structure.sites]
    atoms = np.concatenate(orbits)
    owner = np.repeat(np.arange(len(orbits)), [len(orbit) for orbit in orbits])
    kinds, kind = np.unique(structure.elements, return_inverse=True)
    factors = form_factors(kinds.tolist(), s2)
    out = np.empty(len(hkl))
    step = max(1, CHUNK // len(atoms))
    for start in range(0, len(hkl), step):
        part = slice(start, start + step)
        phase = np.exp(2j * np.pi * (hkl[part].astype(np.float64) @ atoms.T))
        weights = factors[:, part][kind[owner]] * structure.occupancies[owner, None]
        out[part] = np.abs(np.einsum("ha,ah->h", phase, weights)) ** 2
    return np.asarray(out * np.exp(-2.0 * B_A2 * s2))
