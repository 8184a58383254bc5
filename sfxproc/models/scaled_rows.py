"""The scaled observations themselves, for programs that merge on their own.

J = I_obs/f and σ(J) = √V(y)/f with f = P·G·exp(−2 B s²); `models.scale_merge` has the sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Table
from sfxproc.kernels import scaled_rows as kernels
from sfxproc.lsq import Loss, Point
from sfxproc.lsq.engine import LOSSES
from sfxproc.models.scale import ScaleModel

F4 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ScaledRows(Table):
    """Some of this process's observations, scaled, in their order.

    row : (n,) int64 among the model's rows. crystal : (n,) int64, counted from this process's
    first. All others (n,) float32: intensity J, sigma σ(J), scale 1/(G·exp(−2 B s²)), partiality P,
    weight ψ of the robust loss (1 without).
    """

    row: NDArray[np.int64]
    crystal: NDArray[np.int64]
    intensity: F4
    sigma: F4
    scale: F4
    partiality: F4
    weight: F4


def scaled_rows(
    model: ScaleModel,
    point: Point,
    loss: Loss,
    kept: NDArray[np.bool_],
    least_partiality: float = 0.1,
) -> ScaledRows:
    """The observations of the crystals `kept` (n_crystals,) that show at least that part of their
    reflection: divided by next to nothing, the others would be noise."""
    layout = model.layout
    found = np.empty((4, layout.n_rows))

    def scale(c: int) -> None:
        kernels.scaled_rows(
            model.arguments(point, layout.chunk[c], layout.chunk[c + 1]),
            LOSSES[loss.kind],
            loss.scale,
            found,
        )

    model.engine.map(scale, len(layout.chunk) - 1)
    crystal = np.repeat(np.arange(layout.n_local), np.diff(layout.start))
    partiality = model.partiality if len(model.partiality) else np.ones(layout.n_rows)
    row = np.flatnonzero(kept[crystal] & (partiality >= least_partiality))
    intensity, sigma, scale_of, weight = found[:, row].astype(np.float32)
    shown = partiality[row].astype(np.float32)
    return ScaledRows(row, crystal[row], intensity, sigma, scale_of, shown, weight)
