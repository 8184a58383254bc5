"""Space groups of an indexed pattern, from the reflections that are systematically absent.

Groups whose absences cannot be told apart in a powder, because they are the same for all
reflections of one q², form a class. Calculated lines nearer to each other than SEPARATION σ are one
place; a place of m > 0 lines that a class allows is observed with the probability

    P = 1 − (1 − exp(−t))ᵐ,    t = exp(α + β q²/q²_n)

exp(−t) is the share of intensities above t times their mean (Wilson, Acta Cryst. 2 (1949) 318),
which falls with q² as form factors do. If m = 0, P is the chance that a false line is there. L is
the logarithm of the likelihood of what is observed and what is not, averaged over a grid of α
and β. So a class falls by lines that it forbids, and by lines that it allows but nobody sees.

Heavy atoms in special positions may make a structure of class C look like one of a class D of more
absences. Its likelihood is therefore the mixture

    (1 − PSEUDO) exp(L_C) + PSEUDO ⟨exp(L_CD)⟩_D

with L_CD as L_D, but what D forbids and C allows is observed with the probability FAINT. The score
is the logarithm of that and of the share of the class among known structures, in nats.
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
from sfxproc.structure import frequency
from sfxproc.symmetry import SpaceGroup, absent, possible, tabulated_groups

SEPARATION = 3.0  # σ
PSEUDO = 0.2
FAINT = 0.2
FALSE = (1e-3, 0.1)  # limits of the chance of a false line
LOG_THRESHOLDS = np.arange(-4.0, 1.1, 0.5)  # α
SLOPES = np.arange(-1.0, 4.1, 1.0)  # β
MOST_INDEX = 6  # absences of all groups differ among indices up to this


@dataclass(frozen=True)
class ExtinctionClass:
    """Groups with the same absent lines, the most frequent first; share : of the class among the
    known structures of its lattice."""

    groups: tuple[SpaceGroup, ...]
    share: float


@dataclass(frozen=True)
class Candidate:
    """Space groups that the pattern does not tell apart, the most frequent first, in the setting
    of the cell.

    score : in nats, to compare with that of others.  n_violations : places observed that the
    groups leave empty.  n_absent_tested : places that they leave empty, observed or not.
    """

    groups: tuple[SpaceGroup, ...]
    score: float
    n_violations: int
    n_absent_tested: int


def candidates(cell: Cell, lines: Lines) -> list[Candidate]:
    """All classes of the cell's lattice, best first; none if the cell cannot explain the lines.

    The more lines the better, also more than the cell was found with: it is refined against them.
    """
    refined = assessed(cell.lattice, cell.x, lines)
    if refined is None or not refined.explained.any():
        return []
    places = _places(refined, lines)
    classes = extinction_classes(cell.lattice.symbol)
    present = (~_extinguished(each.groups[0], places.orbits) for each in classes)
    allowed = np.array([np.bincount(places.place, mask) for mask in present])
    scores = _log_likelihoods(places, allowed) + np.log([each.share for each in classes])
    empty = allowed == 0
    violated = (empty & places.observed).sum(axis=1)
    rows = zip(classes, scores, violated, empty.sum(axis=1), strict=True)
    found = [Candidate(c.groups, float(score), int(v), int(n)) for c, score, v, n in rows]
    return sorted(found, key=lambda c: -c.score)


# ---- the classes ---------------------------------------------------------------------------


@cache
def extinction_classes(symbol: str) -> tuple[ExtinctionClass, ...]:
    """The classes of a Bravais lattice ("mP"). Settings of a group that cells of the lattice can
    be in, such as P 1 21/c 1 and P 1 21/n 1, are classes of their own."""
    lattice = LATTICES[symbol]
    orbits = _orbits(lattice, _small_indices(lattice))
    members: dict[bytes, dict[int, SpaceGroup]] = {}
    for group in tabulated_groups():
        if _fits(group, lattice):
            pattern = _extinguished(group, orbits).tobytes()
            members.setdefault(pattern, {}).setdefault(group.number, group)
    n_settings = Counter(number for groups in members.values() for number in groups)
    weight = {number: frequency(number) / n for number, n in n_settings.items()}
    total = sum(weight[number] * n for number, n in n_settings.items())
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
    """Allowed hkl (n, 3) of h, k ≥ 0: only aP, which has no absences, would need more."""
    upward = range(MOST_INDEX + 1)
    hkl = np.array(list(product(upward, upward, range(-MOST_INDEX, MOST_INDEX + 1))))
    return np.asarray(hkl[lattice.allowed(hkl) & (hkl != 0).any(axis=1)])


def _orbits(lattice: Lattice, hkl: Ints) -> Ints:
    """(n, m, 3) what the lattice's proper rotations make of hkl (n, 3); all share q², and the
    Friedel mates left out are absent with them."""
    turns = lattice.rotations.astype(np.int64)
    turns = turns[np.linalg.det(turns) > 0]
    return np.asarray(np.einsum("ni,mij->nmj", hkl.astype(np.int64), turns))


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
    explained = lattice.forms(cell.hkl[cell.explained]) @ cell.x
    last = float(explained.max(initial=lines.q2[-1])) * (1.0 + 1e-9)
    table = possible(lattice.holohedry, cell.conventional, last**-0.5, None, False)
    q2 = lattice.forms(table.hkl) @ cell.x
    order = np.argsort(q2, kind="stable")
    q2 = q2[order]
    reach = np.interp(q2, lines.q2, SEPARATION * max(cell.scale, 1.0) * lines.sigma)
    place = np.concatenate([[0], np.cumsum(np.diff(q2) > reach[1:])])
    at, _ = nearest(q2, explained)
    observed = np.zeros(place[-1] + 1, dtype=bool)
    observed[place[at]] = True
    _, first = np.unique(place, return_index=True)
    false_lines = np.count_nonzero(~cell.explained) + 0.5
    return _Places(
        orbits=_orbits(lattice, table.hkl[order]),
        place=place,
        observed=observed,
        q2=q2[first] / last,
        false=(false_lines / last * 2.0 * reach[first]).clip(*FALSE),
    )


def _log_likelihoods(places: _Places, allowed: Floats) -> Floats:
    """(c,) of classes that allow so many lines (c, k) at each place."""
    own = np.array([_log_likelihood(places, row) for row in allowed])
    seen, false = places.observed, places.false
    # by how much a faint line is likelier than none
    faint = np.log(np.where(seen, FAINT / false, (1.0 - FAINT) / (1.0 - false)))
    mixed = np.asarray(own + np.log1p(-PSEUDO))
    for number, row in enumerate(allowed):
        imitated = (allowed <= row).all(axis=1) & (allowed < row).any(axis=1)
        if imitated.any():
            hidden = (allowed[imitated] == 0) & (row > 0)
            terms = own[imitated] + (hidden * faint).sum(axis=1)
            imitation = np.logaddexp.reduce(terms) + np.log(PSEUDO / len(terms))
            mixed[number] = np.logaddexp(mixed[number], imitation)
    return mixed


def _log_likelihood(places: _Places, allowed: Floats) -> float:
    """L of the module's equations; allowed (k,) is m."""
    alpha, beta = (g.reshape(-1, 1) for g in np.meshgrid(LOG_THRESHOLDS, SLOPES))
    weak = -np.expm1(-np.exp(alpha + beta * places.q2))
    hidden = weak**allowed * np.where(allowed == 0, 1.0 - places.false, 1.0)
    hidden = hidden.clip(1e-12, 1.0 - 1e-12)
    terms = np.where(places.observed, np.log(1.0 - hidden), np.log(hidden)).sum(axis=1)
    return float(np.logaddexp.reduce(terms) - np.log(len(terms)))
