"""How intensities fall off with resolution: Wilson plot, expected intensities, second moment.

    ⟨I/ε⟩ = Σ(s²) ≈ k exp(−2 B s²)           (Wilson 1942, Nature 150, 152)
    ⟨Z²⟩ = ⟨I²⟩/⟨I⟩², 2 for acentric reflections, 1.5 for those of a perfect merohedral twin
                                              (Stanley 1972, J. Appl. Cryst. 5, 191)

Means are over shells of equally many reflections. They are plain ones: σ follows I, so weights by
1/σ² would make them too small. k is in the units of the data, whose absolute scale is unknown.

The straight line is fitted not to ln⟨I/ε⟩, which has no value where noise makes a mean negative,
but to the means m themselves: with μ = k exp(−2 B s²) and the variance of a mean V = (μ² + ⟨σ²⟩)/n
(Wilson's distribution and noise), ln k and B are the root of

    Σ ψ(r) (m − μ)/V · μ (1, −2 s²) = 0,    r = (m − μ)/√V,  ψ(r) = min(1, c/|r|)

by reweighted least squares; c is Huber's in units of the robust scatter of r. Shells of d > 4 Å
do not take part, since there solvent and packing bend the curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, Reflections
from sfxproc.merging.shells import s2_of

PER_SHELL = 100
MAX_SHELLS = 60
NOISY = 5.0
"""A σ this many times larger than what is usual in its shell does not count: σ and I of such
reflections would make up the mean of all."""
D_MAX_LINE_A = 4.0
MIN_SHELLS = 5
HUBER = 2.0
MAX_ITERATIONS = 50
MIN_FOR_MOMENT = 100


@dataclass(frozen=True, eq=False)
class IntensityShells:
    """Mean intensities by resolution, low resolution first, one row a shell.

    s2 : (k,) mean s², Å⁻².  mean : (k,) ⟨I/ε⟩, which noise may make negative.  mean_variance :
    (k,) ⟨(σ/ε)²⟩.  n : (k,) number of reflections.
    """

    s2: Floats
    mean: Floats
    mean_variance: Floats
    n: NDArray[np.int64]

    @property
    def error(self) -> Floats:
        """Standard error of each mean, by Wilson's distribution and the noise."""
        return np.asarray(np.sqrt((np.maximum(self.mean, 0.0) ** 2 + self.mean_variance) / self.n))


@dataclass(frozen=True)
class WilsonLine:
    """Σ ≈ k exp(−2 B s²) with standard errors; B in Å², k in the units of the data."""

    B_A2: float
    sigma_B_A2: float
    ln_k: float
    sigma_ln_k: float


def intensity_shells(table: Reflections) -> IntensityShells:
    """Mean intensities of a merged set in up to 60 shells of equally many reflections.

    Reflections that were not measured do not count. There is one shell where there are fewer than
    200, none without any. Raises ValueError where the table has no intensities.
    """
    z, sigma = _normalised(table)
    known = np.flatnonzero(np.isfinite(z) & np.isfinite(sigma) & (sigma > 0))
    if len(known) == 0:
        none = np.zeros(0)
        return IntensityShells(none, none, none, none.astype(np.int64))
    order = known[np.argsort(table.s2[known], kind="stable")]
    shells = np.array_split(order, int(np.clip(len(order) // PER_SHELL, 1, MAX_SHELLS)))
    usual = [np.median(np.hypot(z[rows], sigma[rows])) for rows in shells]
    kept = [rows[sigma[rows] <= NOISY * u] for rows, u in zip(shells, usual, strict=True)]
    return IntensityShells(
        s2=np.array([np.mean(table.s2[rows]) for rows in kept]),
        mean=np.array([np.mean(z[rows]) for rows in kept]),
        mean_variance=np.array([np.mean(sigma[rows] ** 2) for rows in kept]),
        n=np.array([len(rows) for rows in kept], dtype=np.int64),
    )


def expected_intensity(shells: IntensityShells, s2: Floats) -> Floats:
    """Σ(s²) > 0 at each s² (n,) in Å⁻²: the smoothed logarithm of the shell means, in between by
    straight lines, beyond the outermost ones constant; NaN without shells.

    A mean smaller than its standard error counts as that error, since the data say no more than
    that it is not larger. The falloff is taken to be the same in all directions.
    """
    if len(shells.n) == 0:
        return np.full(len(s2), np.nan)
    level = np.log(np.maximum(shells.mean, shells.error))
    smooth = level.copy()
    smooth[1:-1] = 0.25 * level[:-2] + 0.5 * level[1:-1] + 0.25 * level[2:]
    return np.asarray(np.exp(np.interp(s2, shells.s2, smooth)))


def wilson_line(shells: IntensityShells) -> WilsonLine | None:
    """B and ln k of the shells with d < 4 Å, see the head of this module.

    Errors are those of the fit, enlarged to the scatter of the shells about the line; that the
    curve of a real structure is none bends B by more. None with fewer than 5 shells or where no
    more than 2 of them have a mean well above its error.
    """
    use = shells.s2 >= s2_of(D_MAX_LINE_A)
    m, noise, n, x = (v[use] for v in (shells.mean, shells.mean_variance, shells.n, shells.s2))
    clear = m > 3.0 * shells.error[use]
    if len(m) < MIN_SHELLS or clear.sum() < 3:
        return None
    slope, intercept = np.polyfit(x[clear], np.log(m[clear]), 1)
    design, p = np.stack([np.ones(len(x)), -2.0 * x]), np.array([intercept, -0.5 * slope])
    for _ in range(MAX_ITERATIONS):
        mu = np.exp(np.clip(p @ design, -600.0, 600.0))
        error = np.sqrt((mu**2 + noise) / n)
        r = (m - mu) / error
        scatter = max(1.0, 1.4826 * float(np.median(np.abs(r))))
        robust = np.minimum(1.0, HUBER * scatter / np.maximum(np.abs(r), 1e-300))
        gradient = design @ (robust * r * mu / error)
        normal = (design * (robust * (mu / error) ** 2)) @ design.T
        step = np.linalg.solve(normal, gradient)
        # no step may change the falloff over the range of the data by more than e
        p = p + step / max(1.0, float(np.abs(step @ design).max()))
        if np.all(np.abs(step) < 1e-9 * (1.0 + np.abs(p))):
            sigma = scatter * np.sqrt(np.diag(np.linalg.inv(normal)))
            return WilsonLine(float(p[1]), float(sigma[1]), float(p[0]), float(sigma[0]))
    return None


def second_moment(table: Reflections, shells: IntensityShells) -> float | None:
    """⟨I²⟩/⟨I⟩² of the acentric reflections, normalised by resolution, without what noise adds.

    With Z = I/εΣ: (⟨Z²⟩ − ⟨σ²(Z)⟩)/⟨Z⟩², over the shells where the r.m.s. σ is less than half the
    mean. 2 is expected, 1.5 of a perfect twin. None with fewer than 100 reflections.
    """
    z, sigma = _normalised(table)
    strong = (shells.mean > 0) & (4.0 * shells.mean_variance < shells.mean**2)
    if not strong.any():
        return None
    nearest = np.searchsorted(0.5 * (shells.s2[1:] + shells.s2[:-1]), table.s2)
    prior = expected_intensity(shells, table.s2)
    z, sigma = z / prior, sigma / prior
    use = strong[nearest] & ~table.centric & np.isfinite(z) & (sigma > 0) & (sigma < NOISY)
    if use.sum() < MIN_FOR_MOMENT:
        return None
    return float((np.mean(z[use] ** 2) - np.mean(sigma[use] ** 2)) / np.mean(z[use]) ** 2)


def _normalised(table: Reflections) -> tuple[Floats, Floats]:
    """I/ε and σ/ε, each (n,)."""
    if table.intensity is None or table.sigma is None:
        raise ValueError("the reflections carry no merged intensities")
    return table.intensity / table.epsilon, table.sigma / table.epsilon
