"""Which of several settings each crystal was indexed in.

Where the lattice has more symmetry than the crystal, indexing picks one of several settings at
random. That shows in the intensities (Brehm & Diederichs, Acta Cryst. D70, 101, 2014), which for
raw stills are of any scale, B and partiality. Instead of them their ranks z are compared, among
some GROUP observations of one crystal and about one resolution. Of simulated partial stills ranks
separate the settings better than intensities, clipped or not, their logarithms, square roots or
normal scores do, and weak data lose least; weights from σ gain next to nothing beside them.

    m_h = Σz_h/(n_h + SHRINKAGE)      merge of the other crystals, each in its setting
    f_s = Σᵢ zᵢ m_h(i, s)             how well a crystal agrees with it in setting s

`resolve` finds settings without a reference: each crystal in turn takes the one with the largest
f_s until none changes, from several random starts, of which the one with the largest Σf counts. Σf
is in essence the sum of the correlations of all pairs, each weighted by what the two have in
common, but costs no pairs. `decide` compares crystals with a merge that is known.

What noise does: without a reference crystals are moved to agree, so that of pure noise the median
margin is 1.0 to 1.4 standard errors; with one it is 0.7. `trusted` asks for more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, Ints, Table
from sfxproc.kernels import ambiguity as kernels

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

GROUP = 50  # observations of one crystal that are ranked together, at least
SHRINKAGE = 3.0  # keeps reflections that few crystals show from counting as much as others
STARTS, SWEEPS = 8, 100
SIGNIFICANT = 3.0
"""Margin in standard errors below which a crystal's setting is uncertain."""


@dataclass(frozen=True, eq=False)
class RankSums:
    """A merge of ranks: total and number (n_reflections,) of what went into it."""

    total: F8
    number: F8


@dataclass(frozen=True, eq=False)
class Choice(Table):
    """The settings of crystals, a row each.

    setting : (n,) int8, 0 as indexed. cc, cc_next : (n,) correlation with the merge of the others
    in this and in the next best setting. margin : (n,) how much better it is than that one, in
    standard errors.
    """

    setting: NDArray[np.int8]
    cc: F8
    cc_next: F8
    margin: F8


def ranks(start: I8, s2: Floats, intensity: Floats) -> F8:
    """z (n,) in (−1, 1) of intensities (n,) in place of these, mean 0 for each crystal.

    start : (n_crystals + 1,) first observation of each crystal. s2 : (n,) Å⁻².
    """
    crystal = np.repeat(np.arange(len(start) - 1), np.diff(start))
    z = np.array(intensity, dtype=np.float64)
    kernels.group_ranks(start, np.lexsort((s2, crystal)), GROUP, z)
    return z


def merged_ranks(s2: Floats, intensity: Floats) -> RankSums:
    """A merged set (n_reflections,) to compare crystals with."""
    start = np.array([0, len(s2)], dtype=np.int64)
    return RankSums(ranks(start, s2, intensity), np.ones(len(s2)))


def resolve(
    start: I8, row: Ints, z: F8, n_reflections: int, relative: Ints
) -> tuple[Choice, RankSums]:
    """Settings of crystals relative to each other, and their merge.

    start : (n_crystals + 1,) first observation of each crystal. row : (n, k) the reflection that
    each observation is one of in each setting. z : (n,) ranks. relative : (k, k) of
    `symmetry.relative_settings`. Setting 0 is that of most crystals, where the group allows it.
    """
    best, found = -np.inf, np.zeros(len(start) - 1, dtype=np.int64)
    rng = np.random.default_rng(0)
    for _ in range(STARTS):
        setting = rng.integers(0, row.shape[1], len(start) - 1)
        sums = _sums(start, row, z, setting, n_reflections)
        for _ in range(SWEEPS):
            moved, objective = kernels.settle(
                start, row, z, SHRINKAGE, setting, sums.total, sums.number
            )
            if not moved:
                break
        if objective > best:
            best, found = objective, setting
    counts = np.where(relative[0] >= 0, np.bincount(found, minlength=row.shape[1]), -1)
    found = relative[found, int(np.argmax(counts))].astype(np.int64)
    sums = _sums(start, row, z, found, n_reflections)
    return decide(start, row, z, sums, found), sums


def decide(start: I8, row: Ints, z: F8, merge: RankSums, own: Ints | None = None) -> Choice:
    """The setting in which each crystal agrees best with a merge; arguments as of `resolve`, but a
    reflection that the merge does not know is −1.

    own : (n_crystals,) the setting in which each crystal is itself in the merge, which is then
    that of the others; None if it is not.
    """
    n = len(start) - 1
    setting, cc, margin = np.empty(n, dtype=np.int8), np.empty((n, 2)), np.empty(n)
    kernels.agreements(
        start,
        row,
        z,
        SHRINKAGE,
        np.full(n, -1) if own is None else own,
        merge.total.copy(),
        merge.number.copy(),
        setting,
        cc,
        margin,
    )
    return Choice(setting, cc[:, 0], cc[:, 1], margin)


def trusted(margin: F8, reference: bool) -> bool:
    """Whether settings with these margins (n_crystals,) are more than noise.

    reference : whether crystals were compared with a set that they are not part of.
    """
    least = (1.0 if reference else 2.0) + 2.0 / np.sqrt(max(len(margin), 1))
    return bool(len(margin) and np.median(margin) >= least)


def _sums(start: I8, row: Ints, z: F8, setting: Ints, n_reflections: int) -> RankSums:
    h = row[np.arange(len(row)), np.repeat(setting, np.diff(start))]
    number = np.bincount(h, minlength=n_reflections).astype(np.float64)
    return RankSums(np.bincount(h, z, n_reflections).astype(np.float64), number)
