"""Random crystal structures of plausible density in every space group.

The group is drawn among those of the Bravais lattice, the common ones as often as among known
structures. The cell has a log-normal volume, typical of the crystal family, and a random shape.
Atoms are put in one after another, in general and special positions, MIN_DISTANCE_A from all
others, until the cell holds one per VOLUME_PER_ATOM_A3 (Kempster & Lipson, Acta Cryst. B28, 3674,
1972: 18 Å³ an atom, hydrogen not counted). They are no molecules, but their intensities vary as
widely, special positions and absences included.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats
from sfxproc.errors import ConfigError
from sfxproc.reduction import bravais_symbol
from sfxproc.structure import Structure, frequency, images, operations
from sfxproc.symmetry import SpaceGroup, reciprocal_matrix, space_group, symmetrised_cell

VOLUME_PER_ATOM_A3 = 18.0
MIN_DISTANCE_A = 1.2
BATCHES = 12
TRIED_SITES = 64

# of the primitive cell: median of V in Å³, σ of ln V, share of structures of C, N, O alone
FAMILIES: dict[str, tuple[float, float, float]] = {
    "a": (1000.0, 0.6, 0.8),
    "m": (1500.0, 0.6, 0.8),
    "o": (1500.0, 0.7, 0.6),
    "t": (900.0, 0.9, 0.3),
    "h": (600.0, 0.9, 0.3),
    "c": (500.0, 1.0, 0.1),
}
VOLUME_LIMITS_A3 = (40.0, 8000.0)

LIGHT, LIGHT_SHARES = ("C", "N", "O"), (0.78, 0.08, 0.14)
ANY = (
    "Li",
    "B",
    "O",
    "F",
    "Na",
    "Mg",
    "Al",
    "Si",
    "P",
    "S",
    "Cl",
    "K",
    "Ca",
    "Ti",
    "Mn",
    "Fe",
    "Co",
    "Ni",
    "Cu",
    "Zn",
    "Br",
    "Sr",
    "Ag",
    "Sn",
    "I",
    "Ba",
    "Pb",
)
FIXED_COORDINATES = (0.0, 0.5, 0.25, 0.75, 0.125, 1 / 3, 2 / 3)


@cache
def groups_of(lattice: str) -> tuple[tuple[SpaceGroup, ...], Floats]:
    """The space groups of a Bravais lattice ("mP") and how often each is drawn (n,).

    Raises ConfigError if there is no such lattice.
    """
    groups = [g for g in (space_group(n) for n in range(1, 231)) if bravais_symbol(g) == lattice]
    if not groups:
        raise ConfigError(
            f"There is no Bravais lattice '{lattice}'. Give one of aP mP mC oP oC oF oI tP tI hP "
            "hR cP cF cI."
        )
    weight = np.array([frequency(group.number) for group in groups])
    return tuple(groups), weight / weight.sum()


def random_structure(lattice: str, name: str, rng: np.random.Generator) -> Structure:
    """A random structure of the lattice. Raises ConfigError if there is no such lattice."""
    groups, weight = groups_of(lattice)
    group = groups[int(rng.choice(len(groups), p=weight))]
    median, spread, light_share = FAMILIES[lattice[0]]
    points = len(operations(group)[0]) / len(group.rotations)
    volume = points * float(
        np.clip(median * np.exp(spread * rng.standard_normal()), *VOLUME_LIMITS_A3)
    )
    cell = _random_cell(group, volume, rng)
    light = rng.random() < light_share
    kinds = np.array(LIGHT) if light else rng.choice(ANY, 3, replace=False)
    shares = np.array(LIGHT_SHARES) if light else rng.dirichlet(np.ones(3))
    sites = _packed_sites(group, cell, max(1, round(volume / VOLUME_PER_ATOM_A3)), rng)
    return Structure(
        name=name,
        space_group=group,
        cell=cell,
        elements=tuple(str(kind) for kind in rng.choice(kinds, len(sites), p=shares)),
        sites=sites,
        occupancies=np.ones(len(sites)),
    )


def _random_cell(group: SpaceGroup, volume: float, rng: np.random.Generator) -> Floats:
    """A cell (6,) of the group with the volume in Å³; axes log-normal, angles normal about 90°."""
    lengths = np.exp(0.4 * rng.standard_normal(3))
    angles = np.clip(90.0 + 12.0 * rng.standard_normal(3), 62.0, 118.0)
    if angles.sum() > 350.0:
        angles = 180.0 - angles  # all far from 90° on the side where cells are flat
    cell = symmetrised_cell(group, np.concatenate([lengths, angles]))
    cell[:3] *= (volume * np.linalg.det(reciprocal_matrix(cell))) ** (1 / 3)
    return np.asarray(np.round(cell, 6))


def _packed_sites(
    group: SpaceGroup, cell: Floats, n_atoms: int, rng: np.random.Generator
) -> Floats:
    """Unique sites (m, 3) whose images number about n_atoms in the cell."""
    real = np.linalg.inv(reciprocal_matrix(cell)).T  # columns a, b, c
    atoms = np.empty((0, 3))
    sites: list[Floats] = []
    for _ in range(BATCHES):
        for site in _trial_sites(rng):
            if len(atoms) + _orbit_size(group, site) > n_atoms:
                continue
            orbit = images(group, site)
            others = np.concatenate([atoms, orbit[1:]])
            off = others - orbit[0]
            if (_lengths(real, off - np.rint(off)) < MIN_DISTANCE_A).any():
                continue
            sites.append(orbit[0])
            atoms = np.concatenate([atoms, orbit])
        if len(atoms) >= 0.9 * n_atoms:
            break
    if not sites:  # a cell too small for any of them: the smallest orbit there is
        tried = _trial_sites(rng)
        sites = [tried[np.argmin([_orbit_size(group, site) for site in tried])]]
    return np.array(sites)


def _lengths(real: Floats, off: Floats) -> Floats:
    return np.asarray(np.sqrt(((off @ real.T) ** 2).sum(axis=-1)))


def _trial_sites(rng: np.random.Generator) -> Floats:
    """Sites (n, 3): half in general positions, half such as x x x, x 2x ¼ or 0 ½ z."""
    general = rng.random((TRIED_SITES // 2, 3))
    pools = np.empty((TRIED_SITES // 2, 4 + len(FIXED_COORDINATES)))
    u = rng.random((TRIED_SITES // 2, 2))
    pools[:, :4] = np.column_stack([u[:, 0], -u[:, 0], 2.0 * u[:, 0], u[:, 1]])
    pools[:, 4:] = FIXED_COORDINATES
    pick: NDArray[np.int64] = rng.integers(0, pools.shape[1], (TRIED_SITES // 2, 3))
    return np.concatenate([general, np.take_along_axis(pools, pick, axis=1)]) % 1.0


def _orbit_size(group: SpaceGroup, site: Floats) -> int:
    rotations, translations = operations(group)
    off = rotations @ site + translations - site
    return len(rotations) // max(1, int((np.abs(off - np.rint(off)).max(axis=1) < 1e-6).sum()))
