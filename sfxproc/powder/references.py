"""Lists of reference lines: the Miller indices that the first lines of a pattern can have.

A reference line is one value of the linear form H(h) (`lattices`): Miller indices that share it
share q² in every cell of the lattice, whether symmetry makes them equal (hkl, −h−k−l) or numbers
do (333, 511). The list of a lattice holds the lines most often among the first RANKS of cells of
many shapes in standard setting, allowed by the centring, those of low mean rank first. Shapes are
drawn with a fixed seed: axes log-normal, mostly within a factor of two of each other with a tail
of flat and long cells, angles uniform between 60 and 120°, then made to obey the lattice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, Ints
from sfxproc.kernels import powder_cells as kernels
from sfxproc.powder.cells import random_cells, volumes, x_from_cells
from sfxproc.powder.lattices import LATTICES, Lattice

N_LINES = {1: 100, 2: 500, 3: 700, 4: 900, 6: 1000}  # by number of parameters
N_SHAPES = {1: 1, 2: 80, 3: 250, 4: 300, 6: 300}
RANKS = 250  # the 60th observed line is seldom later among all lines
MAX_INDEX = 40
# odd numbers: their sums of products with the rows of H tell rows apart
MIX = np.array(
    [
        0x9E3779B97F4A7C15,
        0xBF58476D1CE4E5B9,
        0x94D049BB133111EB,
        0xD6E8FEB86659FD93,
        0xA0761D6478BD642F,
        0xE7037ED1A0B428DB,
    ],
    dtype=np.uint64,
)


@dataclass(frozen=True, eq=False)
class References:
    """Reference lines of a lattice: hkl (n, 3) one each, forms (n, p) of `Lattice.forms`,
    multiplicity (n,) how many hkl share the line."""

    lattice: Lattice
    hkl: Ints
    forms: Floats
    multiplicity: Ints


@cache
def references(symbol: str, n_lines: int | None = None) -> References:
    """The list of the lattice with this symbol, of n_lines lines at most (None: N_LINES)."""
    lattice = LATTICES[symbol]
    ranked = _ranked(symbol)
    kept = np.argsort(-ranked.weight, kind="stable")[: n_lines or N_LINES[lattice.n_parameters]]
    kept = np.sort(kept)
    kept = kept[np.argsort(ranked.mean_rank[kept], kind="stable")]
    hkl = ranked.hkl[kept]
    return References(lattice, hkl, lattice.forms(hkl), ranked.multiplicity[kept])


@dataclass(frozen=True, eq=False)
class _Ranked:
    """All lines among the first of some shape: how much each is asked for, and its mean rank."""

    hkl: Ints
    multiplicity: Ints
    weight: Floats
    mean_rank: Floats


@cache
def _ranked(symbol: str) -> _Ranked:
    lattice = LATTICES[symbol]
    rng = np.random.default_rng([1, list(LATTICES).index(symbol)])
    x = x_from_cells(lattice, random_cells(lattice, N_SHAPES[lattice.n_parameters], rng))
    lines = [_first_lines(lattice, row, RANKS) for row in x]
    keys = np.concatenate([line.keys for line in lines])
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    ranks = np.concatenate([line.ranks for line in lines])
    return _Ranked(
        hkl=np.concatenate([line.hkl for line in lines])[first],
        multiplicity=np.concatenate([line.multiplicity for line in lines])[first],
        # a line that is always late is asked for less often than one that can be early
        weight=np.bincount(place, weights=1.0 / (10.0 + ranks)).astype(np.float64),
        mean_rank=np.bincount(place, ranks) / np.bincount(place),
    )


def lines_of_cell(lattice: Lattice, x: Floats, q2_max: float) -> tuple[Ints, Floats]:
    """All lines up to q2_max Å⁻² of the cell x (p,), ascending: one hkl each (n, 3), and their
    forms (n, p)."""
    found = _within(lattice, x, float(np.sqrt(q2_max)))
    rising = found.rising(x)
    return found.hkl[rising], found.forms[rising]


@dataclass(frozen=True, eq=False)
class _Lines:
    keys: NDArray[np.uint64]
    hkl: Ints
    multiplicity: Ints
    ranks: Ints


def _first_lines(lattice: Lattice, x: Floats, n: int) -> _Lines:
    """The first n lines of the cell x (p,): packed forms, one hkl, multiplicity and rank each."""
    per_line = len(lattice.rotations) * lattice.points_per_cell / 2.0
    q = (3.0 * n * per_line / (4.0 * np.pi * float(volumes(lattice, x)))) ** (1 / 3)
    for _ in range(20):
        found = _within(lattice, x, q)
        if len(found.keys) >= n:
            break
        q *= 1.2
    order = found.rising(x)[:n]
    return _Lines(
        found.keys[order], found.hkl[order], found.multiplicity[order], np.arange(len(order))
    )


class _Found(NamedTuple):
    """Lines of a cell: one hkl each (m, 3), of mostly positive numbers; forms (m, p), and packed
    into keys (m,); multiplicity (m,) how many hkl share each line."""

    hkl: Ints
    forms: Floats
    keys: NDArray[np.uint64]
    multiplicity: Ints

    def rising(self, x: Floats) -> Ints:
        """(m,) their order in the cell x (p,); lines that coincide go by their keys."""
        order = np.argsort(self.keys)
        return order[np.argsort(self.forms[order] @ x, kind="stable")]


def _within(lattice: Lattice, x: Floats, q: float) -> _Found:
    """The lines up to |q| of q Å⁻¹ of the cell x (p,), without 000, in no order."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    sixths = np.rint(6.0 * lattice.primitive).astype(np.int64)
    found = kernels.lines_within(lattice.basis, sixths, x, q, MAX_INDEX, MIX[: len(x)])
    return _Found(*found)
