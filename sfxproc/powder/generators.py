"""Where the search for a cell begins: generators of candidates, one line of `GENERATORS` each.

A generator draws parameters x (n, p) of a lattice for the lines given. "volumes" takes random
shapes with volumes from the prior of `optimise`; "zones" cells of which a zone explains low lines,
and more lines, since the lowest may all belong to it and tell nothing of the third axis.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from sfxproc.data import Floats
from sfxproc.powder.cells import random_cells, x_from_cells
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.optimise import Settings, volume_scaled
from sfxproc.powder.references import References
from sfxproc.powder.zones import PLANES, zone_cells

N_SHAPES = 4096


class Generator(NamedTuple):
    """draw : what draws cells.  n_lines : that they are searched with, as a multiple of usual."""

    draw: Callable[[References, Floats, int, Settings, np.random.Generator], Floats]
    n_lines: float = 1.0


@cache
def shapes(symbol: str) -> Floats:
    """x (N_SHAPES, p) of random cells of the lattice, of about 1 Å³."""
    lattice = LATTICES[symbol]
    rng = np.random.default_rng([2, list(LATTICES).index(symbol)])
    return x_from_cells(lattice, random_cells(lattice, N_SHAPES, rng))


def from_volumes(
    reference: References, q2: Floats, n: int, settings: Settings, rng: np.random.Generator
) -> Floats:
    """Random shapes with volumes from the prior."""
    lattice = reference.lattice
    chosen = shapes(lattice.symbol)[rng.integers(N_SHAPES, size=n)]
    return volume_scaled(reference.forms, lattice.basis, q2, chosen, settings, rng)


def from_zones(
    reference: References, q2: Floats, n: int, settings: Settings, rng: np.random.Generator
) -> Floats:
    """Cells with a zone that explains low lines, volumes from the prior; random shapes for lattices
    of one or two parameters."""
    x = from_volumes(reference, q2, n, settings, rng)
    lattice = reference.lattice
    return zone_cells(lattice, q2, x, rng) if lattice.symbol in PLANES else x


GENERATORS: dict[str, Generator] = {
    "volumes": Generator(from_volumes),
    "zones": Generator(from_zones, n_lines=2.0),
}
