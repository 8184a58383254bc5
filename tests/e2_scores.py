"""How well one merged set follows another whatever their scales, as real data are scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfxproc.data import Floats, Ints
from sfxproc.merging.compare import pearson


@dataclass(frozen=True)
class E2Score:
    """Correlation of E² and of ln I over n reflections; None where it cannot be computed."""

    n: int
    cc_e2: float | None
    cc_log: float | None


def score_e2(
    intensity_a: Floats,
    intensity_b: Floats,
    s2: Floats,
    n_observations_a: Ints,
    n_shells: int = 10,
    min_observations: int = 3,
    d_max_A: float = 6.0,
) -> E2Score:
    """How well set a follows set b whatever their scales and falloff.

    E² = I/⟨I⟩ with ⟨I⟩ the mean of a set in each of n_shells shells of equally many reflections,
    over the reflections with d < d_max_A, at least min_observations in set a and both intensities
    finite. All (n,), row by row the same reflection; s2 in Å⁻². The correlation of ln I is over
    the reflections positive in both sets and not normalised by shell.
    """
    keep = np.isfinite(intensity_a) & np.isfinite(intensity_b)
    keep &= (n_observations_a >= min_observations) & (4 * s2 * d_max_A**2 > 1)
    a, b = (np.asarray(v[keep], dtype=np.float64) for v in (intensity_a, intensity_b))
    # High resolution first, so that any shells holding one reflection more lie there.
    shell = np.empty(len(a), dtype=np.intp)
    for k, rows in enumerate(
        np.array_split(np.argsort(np.round(-s2[keep], 10), kind="stable"), n_shells)
    ):
        shell[rows] = k
    number = np.maximum(np.bincount(shell, minlength=n_shells), 1)
    means = [(np.bincount(shell, v, n_shells) / number)[shell] for v in (a, b)]
    usable = (means[0] > 0) & (means[1] > 0)
    positive = (a > 0) & (b > 0)
    return E2Score(
        len(a),
        pearson(a[usable] / means[0][usable], b[usable] / means[1][usable]),
        pearson(np.log(a[positive]), np.log(b[positive])),
    )
