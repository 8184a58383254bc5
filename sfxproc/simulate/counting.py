"""Counting noise, and what the best possible merge makes of the counts.

    total ~ Poisson(y + b),  b̂ ~ Poisson(ρ b)/ρ
    I_obs = g (total − b̂),   σ² = g² (max(total, 1) + b̂/ρ)

b: background under the peak; ρ: area of the background ring over that of the peak; g: gain; y:
expected counts of the reflection. σ² is what an integrating program would say, from the noisy
counts. The ideal merge knows f = y/I and the variance V = y + b (1 + 1/ρ) of I_obs/g:

    I = Σ f (I_obs/g)/V / Σ f²/V,    σ² = 1/Σ f²/V     (counts, as the true I)

the unbiased linear estimate of least variance (Aitken 1935, Proc. R. Soc. Edinb. 55, 42). Both
sums of several parts of a set can be added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, Mask
from sfxproc.simulate.settings import StillsSettings

OUTLIER_LOG10 = (0.5, 2.0)  # range of log10 of the counts an outlier adds, in units of `photons`


@dataclass(frozen=True, eq=False)
class Counted:
    """Measured intensities (n,), their reported variances and which of them are outliers."""

    intensity: NDArray[np.float32]
    variance: NDArray[np.float32]
    outlier: Mask


def counted(settings: StillsSettings, rng: np.random.Generator, y: Floats) -> Counted:
    """What is measured of y (n,) expected counts."""
    outlier = rng.random(len(y)) < settings.outlier_fraction
    foreign = settings.photons * 10.0 ** rng.uniform(*OUTLIER_LOG10, size=len(y))
    total = rng.poisson(y + settings.background_counts + np.where(outlier, foreign, 0.0))
    ratio = settings.background_pixels_ratio
    background = rng.poisson(settings.background_counts * ratio, size=len(y)) / ratio
    intensity = settings.gain * (total - background)
    variance = settings.gain**2 * (np.maximum(total, 1) + background / ratio)
    return Counted(intensity.astype(np.float32), variance.astype(np.float32), outlier)


def exchanged(measured: Counted, rng: np.random.Generator) -> Counted:
    """The same measurements, each recorded for another reflection."""
    order = rng.permutation(len(measured.intensity))
    return Counted(measured.intensity[order], measured.variance[order], measured.outlier[order])


def ideal_terms(
    settings: StillsSettings, measured: Counted, f: Floats, y: Floats
) -> tuple[Floats, Floats]:
    """f²/V and f (I_obs/g)/V (n,) of each measurement, 0 for outliers; f : (n,) y/I."""
    V = y + settings.background_counts * (1.0 + 1.0 / settings.background_pixels_ratio)
    f_over_V = np.where(measured.outlier | (V <= 0), 0.0, f) / np.where(V > 0, V, 1.0)
    return f_over_V * f, f_over_V * measured.intensity.astype(np.float64) / settings.gain
