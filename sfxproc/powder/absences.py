"""Space groups of an indexed pattern, from the reflections that are systematically absent.

Groups whose absences cannot be told apart in a powder, because they are the same for all reflections
of one q², form a class. Each class of the cell's Bravais lattice says which calculated lines can be
observed. Lines nearer to each other than SEPARATION σ are one place; a place of m lines that the
class allows is observed with the probability

    P = 1 − Π (1 − (1 − w) exp(−t)),    t = exp(α + β q²/q²_n)

exp(−t) is the share of intensities above a threshold t times their mean (Wilson, Acta Cryst. 2
(1949) 318), which rises with q² as intensities fall; w a share of lines without intensity for other
reasons. If m = 0, P is the chance that a false line is there. The logarithm of the likelihood of
what is observed and what is not is averaged over a grid of α and β and added to that of the share
of the class among known structures: the score in nats. So a class is ruled out by lines that it
forbids, and others fall behind it as what they allow is not seen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from sfxproc.data import Floats, Ints, Mask
from sfxproc.powder.lattices import LATTICES, Lattice
from sfxproc.powder.ranking import Cell, Lines, assessed, nearest
from sfxproc.reduction import bravais_symbol
from sfxproc.symmetry import SpaceGroup, absent, possible, tabulated_groups

SEPARATION = 3.0  # σ
WEAK = 0.05  # w
FALSE = (1e-3, 0.1)  # limits of the chance of a false line
LOG_THRESHOLDS = np.arange(-4.0, 1.1, 0.5)  # α
SLOPES = np.arange(-1.0, 4.1, 1.0)  # β
OTHERS = 0.1
COMMON = {14: 34.3, 2: 25.0, 15: 8.3, 19: 7.2, 4: 5.1, 61: 3.3, 33: 1.4, 9: 1.1, 62: 1.1, 1: 1.0,
          60: 0.9, 5: 0.9, 29: 0.7, 11: 0.5, 12: 0.5, 148: 0.5, 18: 0.4, 56: 0.4}  # fmt: skip
MOST_INDEX = 6  # absences of all groups differ among indices up to this


@dataclass(frozen=True)
class ExtinctionClass:
    """Groups with the same absent lines, the most frequent first; share : of the class among the
    known structures of its lattice."""

    groups: tuple[SpaceGroup, ...]
    share: float


@dataclass(frozen=True)
class Candidate:
    """Space groups that the pattern does not tell apart, the most frequent first.

    score : in nats, of use in comparison only.  n_violations : observed lines that only absent
    reflections explain.  n_absent_tested : places that the groups leave empty, violated or not.
    """

    groups: tuple[SpaceGroup, ...]
    score: float
    n_violations: int
    n_absent_tested: int


def candidates(cell: Cell, lines: Lines) -> list[Candidate]:
    """All classes of the cell's lattice, best first; the more lines the better, more than the
    cell was found with if there are. Empty if the cell is too large for the lines."""
    refined = assessed(cell.lattice, cell.x, lines)
    if refined is None:
        return []
    places = _places(refined, lines)
    found = []
    for each in extinction_classes(cell.lattice.symbol):
        allowed = np.bincount(places.place, ~_extinguished(each.groups[0], places.orbits))
        empty = allowed == 0
        found.append(
            Candidate(
                groups=each.groups,
                score=_log_likelihood(places, allowed) + float(np.log(each.share)),
                n_violations=int((empty & places.observed).sum()),
                n_absent_tested=int(empty.sum()),
            )
        )
    return sorted(found, key=lambda c: (-c.score, c.groups[0].number))


# ---- the classes ---------------------------------------------------------------------------


@cache
def extinction_classes(symbol: str) -> tuple[ExtinctionClass, ...]:
    """The classes of a Bravais lattice ("mP"), all settings of groups told apart that its cells
    can be in."""
    lattice = LATTICES[symbol]
    orbits = _orbits(lattice, _small_indices(lattice))
    members: dict[bytes, dict[int, SpaceGroup]] = {}
    for group in tabulated_groups():
        if _fits(group, lattice):
            pattern = np.packbits(_extinguished(group, orbits)).tobytes()
            members.setdefault(pattern, {}).setdefault(group.number, group)
    settings = Counter(number for groups in members.values() for number in groups)
    weight = {number: COMMON.get(number, OTHERS) / n for number, n in settings.items()}
    total = sum(COMMON.get(number, OTHERS) for number in settings)
    return tuple(
        ExtinctionClass(
            groups=tuple(sorted(groups.values(), key=lambda g: (-weight[g.number], g.number))),
            share=sum(weight[number] for number in groups) / total,
        )
        for groups in members.values()
    )


def _fits(group: SpaceGroup, lattice: Lattice) -> bool:
    """Whether the group, in its setting, has the axes and centring of the lattice."""
    if bravais_symbol(group) != lattice.symbol or group.centring != lattice.centring:
        return False
    turns = {rotation.tobytes() for rotation in lattice.rotations}
    return all(rotation.tobytes() in turns for rotation in group.rotations)


def _small_indices(lattice: Lattice) -> Ints:
    """Allowed hkl (n, 3) of h, k ≥ 0; no lattice but aP, which has no absences, needs more."""
    upward = range(MOST_INDEX + 1)
    hkl = np.array(list(product(upward, upward, range(-MOST_INDEX, MOST_INDEX + 1))))[1:]
    return np.asarray(hkl[lattice.allowed(hkl) & (hkl != 0).any(axis=1)])


def _orbits(lattice: Lattice, hkl: Ints) -> Ints:
    """(n, m, 3) all that the lattice's rotations make of hkl (n, 3): they share q²."""
    turns = np.unique(lattice.rotations * _sign(lattice)[:, None, None], axis=0)
    return np.einsum("ni,mij->nmj", hkl.astype(np.int64), turns.astype(np.int64))


def _sign(lattice: Lattice) -> Ints:
    """±1 (n,): with it the rotations are proper, for Friedel mates are absent together."""
    return np.rint(np.linalg.det(lattice.rotations.astype(np.float64))).astype(np.int64)


def _extinguished(group: SpaceGroup, orbits: Ints) -> Mask:
    """(n,) whether all hkl of each of the orbits (n, m, 3) are absent."""
    return np.asarray(absent(group, orbits.reshape(-1, 3)).reshape(orbits.shape[:2]).all(axis=1))


# ---- what is observed ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Places:
    """Calculated lines: orbits (n, m, 3) and the number of the place (n,) each is at.
    Of the places: observed (k,), q2 (k,) relative to the last line's, false (k,) the chance that
    a false line is there."""

    orbits: Ints
    place: Ints
    observed: Mask
    q2: Floats
    false: Floats


def _places(cell: Cell, lines: Lines) -> _Places:
    lattice = cell.lattice
    sigma = SEPARATION * max(cell.scale, 1.0) * lines.sigma
    explained = lattice.forms(cell.hkl[cell.explained]) @ cell.x
    last = float(explained.max(initial=lines.q2[-1])) * (1.0 + 1e-9)  # a list may end anywhere
    table = possible(lattice.holohedry, cell.conventional, last**-0.5, None, False)
    q2 = lattice.forms(table.hkl) @ cell.x
    order = np.argsort(q2, kind="stable")
    q2 = q2[order]
    reach = np.interp(q2, lines.q2, sigma)
    place = np.concatenate([[0], np.cumsum(np.diff(q2) > reach[1:])])
    at, _ = nearest(q2, explained)
    observed = np.zeros(place[-1] + 1, dtype=bool)
    observed[place[at]] = True
    _, first = np.unique(place, return_index=True)
    false = (np.count_nonzero(~cell.explained) + 0.5) / last * 2.0 * reach[first]
    return _Places(
        orbits=_orbits(lattice, table.hkl[order]),
        place=place,
        observed=observed,
        q2=q2[first] / last,
        false=false.clip(*FALSE),
    )


def _log_likelihood(places: _Places, allowed: Floats) -> float:
    """Of what is observed and what is not if `allowed` (k,) lines at each place are allowed."""
    alpha, beta = (g.reshape(-1, 1) for g in np.meshgrid(LOG_THRESHOLDS, SLOPES))
    one = (1.0 - WEAK) * np.exp(-np.exp(alpha + beta * places.q2))
    hidden = (1.0 - one) ** allowed * (1.0 - places.false)
    terms = np.where(places.observed, np.log(1.0 - hidden), np.log(hidden)).sum(axis=1)
    return float(np.logaddexp.reduce(terms) - np.log(len(terms)))
