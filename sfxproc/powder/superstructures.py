"""Superstructures: cells most of whose lines are those of a smaller cell.

Where atoms nearly repeat at a fraction of the cell, few lines are seen outside the sublattice S,
of index m, of the reciprocal lattice that the repeat allows. With g the share of such lines, one is

    r_k = (1 − g) r_k(S) + g r_k(not S)

times likelier than anywhere (`merit`), from the calculated lines of S and from all others. The
evidence is averaged over g, and each S has before any line is known the probability

    P/(m n_m Σ 1/m),   n_m the sublattices of its index that the lattice's symmetry leaves alone.

Without this a cell of m times the volume is weighed as if all its lines were alike: it loses
n ln m to the smaller cell, though that leaves some lines out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from sfxproc.data import Floats, Ints, Mask
from sfxproc.powder.cells import hermite_forms, is_whole
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.merit import ratios

INDICES = (2, 3, 4, 5, 6, 7, 8)
USUAL = 0.2  # P, of superstructures
TRIED = 3  # sublattices, at most
SHARES = np.array([0.02, 0.05, 0.1, 0.2, 0.4])  # g


class Sublattices(NamedTuple):
    """Those of a lattice's reciprocal lattice that its symmetry leaves alone. test (m, 3, 3): hkl
    belongs to one if hkl @ test is whole; indices, log_prior (m,)."""

    test: Floats
    indices: Ints
    log_prior: Floats

    def members(self, hkl: Ints, rows: Ints | slice = slice(None)) -> Mask:
        """(m, n) which of hkl (n, 3) belong to each, or to those in these rows."""
        return is_whole(np.asarray(hkl, dtype=np.float64) @ self.test[rows])


@cache
def sublattices(symbol: str) -> Sublattices:
    """Those of a Bravais lattice, of INDICES."""
    lattice = LATTICES[symbol]
    turns = lattice.primitive_rotations
    test, index = [], []
    for m in INDICES:
        for form in hermite_forms(m).astype(np.float64):
            axes = form.T  # rows: hkl on primitive axes
            if is_whole(axes @ turns @ np.linalg.inv(axes)).all():
                test.append(lattice.primitive @ np.linalg.inv(axes))
                index.append(m)
    alike = Counter(index)
    usual = USUAL / sum(1.0 / m for m in INDICES)
    prior = np.array([usual / (m * alike[m]) for m in index])
    return Sublattices(np.array(test), np.array(index), np.log(prior))


class Likely(NamedTuple):
    """A sublattice that most lines belong to: which of the calculated lines are its `member`s (m,),
    its index, and its log prior."""

    member: Mask
    of_index: int
    log_prior: float


def likely_sublattices(symbol: str, hkl: Ints, inside: Mask, seen: Ints) -> Iterator[Likely]:
    """The sublattices, TRIED at most, that most of the lines seen belong to, the likeliest first.

    hkl (m, 3) : calculated lines.  inside (m,) : which could have been seen.  seen (k,) : rows of
    hkl.  Those are left out that lines belong to no more than they do anyway, and those that all
    of them do, as nothing tells of the others then.
    """
    if len(seen) == 0:
        return
    every = sublattices(symbol)
    off = (~every.members(hkl[seen])).mean(axis=1)
    worth = _worth(off, 1.0 - 1.0 / every.indices, len(seen), every.log_prior)
    for row in np.argsort(-worth, kind="stable")[:TRIED, None]:
        if worth[row] <= 0.0:
            break
        member = every.members(hkl, row)[0]
        share = np.array([1.0 - member[inside].mean()])
        if _worth(off[row], share, len(seen), every.log_prior[row]) > 0.0:
            yield Likely(member, int(every.indices[row[0]]), float(every.log_prior[row[0]]))


def _worth(off: Floats, share: Floats, n: int, log_prior: Floats) -> Floats:
    """How much likelier (m,), in nats, it is that such a share of n lines is `off` a sublattice if
    lines off it are seldom seen than if they are as any: then it is `share`."""
    usable = (off > 0.0) & (off < share) & (share < 1.0)
    p, q = np.where(usable, off, 0.5), np.where(usable, share, 0.5)
    gain = p * np.log(p / q) + (1.0 - p) * np.log((1.0 - p) / (1.0 - q))
    return np.where(usable, n * gain + log_prior, -np.inf)


def ratios_of_two(calculated: Floats, member: Mask, q2: Floats, sigma: Floats) -> Floats:
    """r (g · s, n), for each of SHARES all of sigma (s, n): as `merit.ratios` from calculated lines
    (m,), in any order, those of the sublattice (`member`) and the others each by themselves."""
    within, beyond = (ratios(np.sort(calculated[m]), q2, sigma) for m in (member, ~member))
    g = SHARES[:, None, None]
    return np.asarray(((1.0 - g) * within + g * beyond).reshape(-1, len(q2)))
