"""Amplitudes from intensities (French & Wilson 1978, Acta Cryst. A34, 517).

The true intensity J ≥ 0 of a reflection measured as I ± σ has, with Wilson's distribution as the
prior and its mean ε Σ(s²), see `wilson.expected_intensity`, the posterior density

    p(J) ∝ exp(−(J − I)²/(2σ²)) · exp(−J/εΣ)             acentric
    p(J) ∝ exp(−(J − I)²/(2σ²)) · exp(−J/(2εΣ)) / √J     centric

In units of σ, t = √(J/σ), both depend on one number only,

    p(t) ∝ tᵃ exp(−(t² − h)²/2),   h = I/σ − σ/εΣ, a = 1   or   h = I/σ − σ/(2εΣ), a = 0,

and F = √J has mean √σ ⟨t⟩ and variance σ (⟨t²⟩ − ⟨t⟩²), J has mean σ ⟨t²⟩ and variance
σ² (⟨t⁴⟩ − ⟨t²⟩²). The means are found by Gauss–Legendre quadrature over the range of t that holds
all but exp(−40) of the density, which needs no table and knows no limits of I/σ: reflections of
large negative I get what their prior and σ leave room for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfxproc.data import Floats, Mask

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
REACH = 40.0
"""The density is left out where its exponent is this much below its largest value."""
LARGE = 1e6
"""Beyond this h the prior is not felt: F = √J with a relative error below h⁻²."""
ROWS = 1 << 13


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior means and standard deviations, each (n,) float64, NaN where nothing is known."""

    intensity: Floats
    sigma_intensity: Floats
    amplitude: Floats
    sigma_amplitude: Floats


def french_wilson(intensity: Floats, sigma: Floats, expected: Floats, centric: Mask) -> Posterior:
    """Posterior of J and F = √J given I ± σ.

    intensity, sigma, expected : (n,), the last the prior mean εΣ; centric : (n,) bool. A row that
    is not finite, or whose σ or prior mean is not positive, gives NaN.
    """
    columns = (intensity, sigma, expected)
    I, sd, prior = (np.asarray(c, dtype=np.float64) for c in columns)
    good = np.isfinite(I) & np.isfinite(sd) & (sd > 0) & np.isfinite(prior) & (prior > 0)
    out = np.full((4, len(I)), np.nan)
    known = np.flatnonzero(good)
    for start in range(0, len(known), ROWS):
        rows = known[start : start + ROWS]
        slope = np.where(centric[rows], 0.5, 1.0) * sd[rows] / prior[rows]
        mean_x, sd_x, mean_t, sd_t = _moments(I[rows] / sd[rows] - slope, centric[rows])
        root = np.sqrt(sd[rows])
        out[:, rows] = mean_x * sd[rows], sd_x * sd[rows], mean_t * root, sd_t * root
    return Posterior(*out)


def _moments(h: Floats, centric: Mask) -> tuple[Floats, Floats, Floats, Floats]:
    """Means and standard deviations of t² and of t, where p(t) ∝ tᵃ exp(−(t² − h)²/2)."""
    beyond = np.maximum(h / LARGE, 1.0)
    h = np.minimum(h, LARGE)[:, None]
    low = np.sqrt(np.maximum(h - np.sqrt(2 * REACH), 0.0))
    # the positive root x of x²/2 − h x = REACH, without a difference of large numbers
    down = np.maximum(-h, 0.0)
    high = np.sqrt(np.maximum(h, 0.0) + 2 * REACH / (np.hypot(down, np.sqrt(2 * REACH)) + down))
    half = 0.5 * (high - low)
    t = 0.5 * (high + low) + half * NODES
    x = t * t
    exponent = np.where(h < 0, x * (h - 0.5 * x), -0.5 * (x - h) ** 2)
    density = WEIGHTS * np.exp(exponent) * np.where(centric[:, None], 1.0, t)
    density /= density.sum(axis=1, keepdims=True)

    def mean(values: Floats) -> Floats:
        return np.asarray(np.sum(density * values, axis=1))

    mean_x, mean_t = mean(x), mean(t)
    sd_x, sd_t = (np.sqrt(mean((v - m[:, None]) ** 2)) for v, m in ((x, mean_x), (t, mean_t)))
    return mean_x * beyond, sd_x, mean_t * np.sqrt(beyond), sd_t / np.sqrt(beyond)
