"""From weighted sums to merged intensities with their half sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Merged, Reflections, ReflectionSums

F8 = NDArray[np.float64]

HELD = 0.01


def merge(
    reflections: Reflections, sums: ReflectionSums, scale_variance: F8 | None = None
) -> Merged:
    """Inverse-variance means ⟨I⟩ = Σ wJ / Σ w and σ² = 1/Σ w, of all and of both half sets.

    A half set with less than HELD of the weight of a reflection, which happens where observations
    are of very unequal worth, is without one: its mean would be noise.

    scale_variance : (n,) variance of each intensity that comes from the uncertainty of the
    scales, added to σ² of the whole set (half sets share their scales).
    """
    held = sums.weight >= HELD * sums.weight.sum(axis=0)
    half_intensity, half_sigma = _means(np.where(held, sums.weight, 0.0), sums.weighted)
    intensity, sigma = _means(sums.weight.sum(axis=0), sums.weighted.sum(axis=0))
    if scale_variance is not None:
        sigma = np.sqrt(sigma**2 + scale_variance)
    return Merged(
        replace(
            reflections,
            intensity=intensity,
            sigma=sigma,
            n_observations=sums.number.sum(axis=0).astype(np.int32),
        ),
        half_intensity,
        half_sigma,
        sums.number.astype(np.int32),
        sums.total,
        sums.deviation,
        scale_variance,
    )


def _means(weight: F8, weighted: F8) -> tuple[F8, F8]:
    """Means and their sigmas; NaN without weight."""
    mean, variance = np.full_like(weight, np.nan), np.full_like(weight, np.nan)
    np.divide(weighted, weight, out=mean, where=weight > 0)
    np.divide(1.0, weight, out=variance, where=weight > 0)
    return mean, np.sqrt(variance)
