"""Where the beam meets the detector, from the sharpness of the rings of spots.

The number of pairs of spots in one bin of q, Σ n_i (n_i − 1)/2, is largest where rings are
sharpest. Shifts are tried on grids that become finer, with bins as fine as the grid; a shift is
believed if on one of them it gives so many more pairs that chance does not explain it.
"""

from __future__ import annotations

import numpy as np

from sfxproc.data import Floats
from sfxproc.spots import Spots, q_of

FIRST_GRID, HALVINGS = 3, 6  # ± grid points of the first grid; finer ones have ±1
MOST_SPOTS = 100_000
BELIEVED = 6.0  # standard deviations of the number of pairs


def beam_centre(spots: Spots, q_max: float, reach_mm: float) -> Floats:
    """The centre (2,) in mm, not further than about reach_mm from (0, 0); that if no other one
    makes the rings clearly sharper. q_max : Å⁻¹, of the spots that count."""
    spots = spots.take(np.flatnonzero(q_of(spots) < q_max))
    spots = spots.take(slice(None, None, max(1, len(spots) // MOST_SPOTS)))
    if len(spots) < 2:
        return np.zeros(2)
    per_mm = 1.0 / float(np.median(spots.position_mm[:, 2]) * np.median(spots.wavelength_A))
    step = reach_mm / FIRST_GRID
    centre, recorded, grid, gain = np.zeros(2), np.zeros(2), FIRST_GRID, 0.0
    for _ in range(HALVINGS):
        axis = step * np.arange(-grid, grid + 1)
        tried = centre + np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        pairs = [_pairs(spots, shift, step * per_mm) for shift in tried]
        centre, most = tried[int(np.argmax(pairs))], max(pairs)
        more = most - _pairs(spots, recorded, step * per_mm)
        gain = max(gain, more / np.sqrt(max(most, 1.0)))
        step, grid = 0.5 * step, 1
    return centre if gain > BELIEVED else recorded


def _pairs(spots: Spots, centre_mm: Floats, width: float) -> float:
    """Mean number of pairs of spots in bins of q of that width, over two sets of bins."""
    place = q_of(spots, centre_mm) / width
    counts = [np.bincount((place + offset).astype(np.int64)) for offset in (0.0, 0.5)]
    return float(np.mean([np.sum(n * (n - 1.0)) / 2.0 for n in counts]))
