"""A merge of simulated data against the true intensities, and the best that was possible.

With T the true intensities, I the merge and σ its standard uncertainty, brought onto T by a scale
and a B, and I₁, I₂ its half sets:

    R = Σ |I − T| / Σ T,   of the merge and of the ideal merge of the same observations
    z = (I − T)/σ,         r.m.s. 1 if σ is right
    CC(I, T),              what CC* = √(2 CC½/(1 + CC½)) estimates without T
                           (Karplus & Diederichs 2012, Science 336, 1030)

The standard error of CC(I, T) − CC* is that of a delete-a-group jackknife (Kott 2001, J. Off. Stat.
17, 521), since both share noise that grows with intensity: for m groups with the difference D_g
without group g, σ² = (m − 1)/m Σ (D_g − ⟨D⟩)².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, Mask, Reflections
from sfxproc.merging.compare import (
    RelativeScale,
    cc_star,
    falloff,
    fit_scale,
    match,
    pearson,
    r_factor,
)
from sfxproc.merging.shells import assign, d_of, shell_edges

GROUPS = 40
"""Of the jackknife, dealt out in the order of the indices; two reflections a group at least."""


@dataclass(frozen=True)
class TruthAgreement:
    """A merge against the truth between two resolutions; None where it cannot be computed.

    cc, r : of the merge and the truth. r_ideal, r_ratio : of the ideal merge on the same
    reflections, and r/r_ideal. rms_z, rms_z_strong : of all reflections, and of those whose true
    intensity is in the highest quarter. cc_star : from half sets. sigma_cc : standard error of
    cc − cc_star.
    """

    d_max_A: float
    d_min_A: float
    n_common: int
    cc: float | None
    r: float | None
    r_ideal: float | None
    r_ratio: float | None
    rms_z: float | None
    rms_z_strong: float | None
    cc_star: float | None
    sigma_cc: float | None


@dataclass(frozen=True)
class TruthComparison:
    """A merge against the truth, overall and by shell (low resolution first)."""

    scale: RelativeScale | None
    overall: TruthAgreement
    shells: tuple[TruthAgreement, ...]


def compare_with_truth(
    merged: Reflections,
    true: Reflections,
    ideal: Reflections,
    halves: Sequence[Reflections],
    n_shells: int = 10,
) -> TruthComparison:
    """Agreement of a merge with true intensities, beside that of the ideal merge.

    Counted are the reflections that all three tables hold with a finite intensity, and with σ below
    the mean true intensity in the ideal merge; merge and ideal
    are brought onto the truth by a scale and a B each. halves : two tables, or none, brought onto
    the truth as the merge is. Each reflection is expected once in a table. Shells as in
    `compare_sets`. Raises ValueError where a table has no intensities or the three have no
    reflection in common.
    """
    im, it = match(merged, true)
    I, sigma, ideal_I, ideal_sigma = np.full((4, len(true)), np.nan)
    I[it], sigma[it] = _measured(merged)[:, im]
    ii, it = match(ideal, true)
    ideal_I[it], ideal_sigma[it] = _measured(ideal)[:, ii]
    half = np.full((2, len(true)), np.nan)
    for k, table in enumerate(halves):
        ih, it = match(table, true)
        half[k, it] = _measured(table)[0, ih]
    T, s2 = _measured(true)[0], true.s2
    # what was seen as next to nothing only would be all that R tells of
    with np.errstate(invalid="ignore"):
        ideal_I[~(ideal_sigma < np.mean(T))] = np.nan
    keep = np.isfinite(I) & np.isfinite(ideal_I) & np.isfinite(T)
    if not keep.any():
        raise ValueError("merge, ideal and truth have no reflection in common")
    T, s2, I, sigma, ideal_I, ideal_sigma = (
        c[keep] for c in (T, s2, I, sigma, ideal_I, ideal_sigma)
    )
    half = half[:, keep]
    scale = fit_scale(T, None, I, sigma, s2)
    if scale is not None:
        g = falloff(scale, s2)
        I, sigma, half = g * I, g * sigma, g * half
    ideal_scale = fit_scale(T, None, ideal_I, ideal_sigma, s2)
    if ideal_scale is not None:
        ideal_I = falloff(ideal_scale, s2) * ideal_I
    edges = shell_edges(s2, n_shells)
    shell = assign(s2, edges)

    def agreement(rows: Mask, low: float, high: float) -> TruthAgreement:
        t, z = T[rows], (I[rows] - T[rows]) / sigma[rows]
        r = None if scale is None else r_factor(t, I[rows])
        r_ideal = None if ideal_scale is None else r_factor(t, ideal_I[rows])
        strong = t >= np.quantile(t, 0.75) if len(t) else np.zeros(0, dtype=bool)
        cc, star, sigma_cc = _correlations(I[rows], t, half[:, rows])
        return TruthAgreement(
            d_of(low),
            d_of(high),
            int(rows.sum()),
            cc,
            r,
            r_ideal,
            r / r_ideal if r is not None and r_ideal else None,
            _rms(z),
            _rms(z[strong]),
            star,
            sigma_cc,
        )

    return TruthComparison(
        scale,
        agreement(shell >= 0, float(edges[0]), float(edges[-1])),
        tuple(agreement(shell == k, float(edges[k]), float(edges[k + 1])) for k in range(n_shells)),
    )


def _measured(table: Reflections) -> NDArray[np.float64]:
    """(2, n) intensities and σ, NaN where σ is not positive or not known."""
    if table.intensity is None:
        raise ValueError("a table to compare has no merged intensities")
    sigma = np.full(len(table), np.nan) if table.sigma is None else table.sigma
    return np.stack([table.intensity, np.where(sigma > 0, sigma, np.nan)]).astype(np.float64)


def _rms(z: Floats) -> float | None:
    known = z[np.isfinite(z)]
    return float(np.sqrt(np.mean(known**2))) if len(known) else None


def _correlations(
    I: Floats, T: Floats, half: Floats
) -> tuple[float | None, float | None, float | None]:
    """CC(I, T), CC* of the half sets (2, n), and the standard error of their difference."""
    cc, star = pearson(I, T), _star(half)
    group = np.arange(len(T)) % GROUPS
    if cc is None or star is None or len(T) < 2 * GROUPS:
        return cc, star, None
    differences = []
    for g in range(GROUPS):
        rest = group != g
        without = pearson(I[rest], T[rest]), _star(half[:, rest])
        if without[0] is None or without[1] is None:
            return cc, star, None
        differences.append(without[0] - without[1])
    return cc, star, float(np.sqrt((GROUPS - 1) * np.var(differences)))


def _star(half: Floats) -> float | None:
    """CC* of half sets (2, n)."""
    both = np.isfinite(half).all(axis=0)
    return cc_star(pearson(half[0, both], half[1, both]))
