"""What merging needs of the scaled observations, summed over the whole job.

J = I_obs / f with f = P·G·exp(−2 B s²) and weight w = ψ·f²/V(y), ψ the robust weight of its
residual: the merged intensity Σ wJ / Σ w is the solver's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import ReflectionSums
from sfxproc.kernels import scale as kernels
from sfxproc.lsq import Loss, Point
from sfxproc.lsq.engine import LOSSES
from sfxproc.lsq.problem import Array
from sfxproc.models.scale import ScaleModel

F8 = NDArray[np.float64]


def merge_sums(
    model: ScaleModel, point: Point, loss: Loss, half: NDArray[np.int8]
) -> tuple[ReflectionSums, F8]:
    """Sums over the whole job by reflection, and the agreement of each own crystal.

    half : (n_crystals,) 0 or 1; −1 leaves a crystal out. The second is (n_crystals,), the
    correlation of a crystal's J with the mean ⟨I⟩, NaN if undefined.
    """
    sums = weighted_sums(model, point, loss, half)
    (total, deviation), agreement = deviations(model, point, mean_intensity(sums), half)
    return ReflectionSums(sums[0:2], sums[2:4], sums[4:6], total, deviation), agreement


def weighted_sums(model: ScaleModel, point: Point, loss: Loss, half: NDArray[np.int8]) -> F8:
    """(6, n_shared): Σ w of both half sets, Σ wJ of both, numbers of J of both."""
    layout = model.layout

    def accumulate(c: int, out: Array) -> None:
        kernels.weighted_sums(
            model.arguments(point, layout.chunk[c], layout.chunk[c + 1]),
            half,
            LOSSES[loss.kind],
            loss.scale,
            out[0:2],
            out[2:4],
            out[4:6],
        )

    return model.engine.shared_sums(layout, 6, accumulate)


def mean_intensity(sums: F8) -> F8:
    """(n_shared,) ⟨I⟩ of both half sets together from their weighted sums, NaN without weight."""
    weight = sums[0:2].sum(axis=0)
    mean = np.full(len(weight), np.nan)
    np.divide(sums[2:4].sum(axis=0), weight, out=mean, where=weight > 0)
    return mean


def deviations(model: ScaleModel, point: Point, mean: F8, half: NDArray[np.int8]) -> tuple[F8, F8]:
    """(2, n_shared) Σ J and Σ |J − ⟨I⟩|, and each own crystal's correlation with the mean."""
    layout = model.layout
    moments = np.empty((layout.n_local, 6))

    def deviate(c: int, out: Array) -> None:
        kernels.deviations(
            model.arguments(point, layout.chunk[c], layout.chunk[c + 1]),
            mean,
            half,
            out[0],
            out[1],
            moments,
        )

    return model.engine.shared_sums(layout, 2, deviate), _correlations(moments)


def _correlations(moments: F8) -> F8:
    """(n,) Pearson correlations from n, Σx, Σy, Σx², Σy², Σxy; NaN where undefined."""
    n, x, y, xx, yy, xy = moments.T
    n = np.maximum(n, 1.0)
    product = (xx - x * x / n) * (yy - y * y / n)
    out = np.full(len(n), np.nan)
    np.divide(xy - x * y / n, np.sqrt(np.maximum(product, 0)), out=out, where=product > 0)
    return out
