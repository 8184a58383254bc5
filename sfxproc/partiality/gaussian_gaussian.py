"""A Gaussian reciprocal-lattice point met by a Gaussian spectrum, normalised to 1 at r = 0.

    P = exp(−r²/2V)    V = R²/(4 ln2) + w²
    ∂P/∂r = −(r/V) P,   ∂P/∂R = (r/V)² R P/(4 ln2),   ∂P/∂w = (r/V)² w P

The point's density over that at its centre is exp(−2 ln2 (r/R)²), to which P comes down for
w = 0; averaged over a spectrum that spreads r by w it stays a Gaussian, of variance V. The
average at r = 0, R/√(4 ln2 V), is divided out, as for xsphere. (As "ggpm" of CrystFEL.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sfxproc.kernels.compiled import compiled
from sfxproc.partiality.base import NEGLIGIBLE, Partiality

SHARE = 1.0 / (4.0 * math.log(2.0))  # of R² in the variance
REACH = math.sqrt(-2.0 * math.log(NEGLIGIBLE))


@compiled(error_model="numpy")
def profile(r, R, w):
    """(P, ∂P/∂r, ∂P/∂R, ∂P/∂w) of numbers in Å⁻¹."""
    slope = r / (SHARE * R * R + w * w)
    p = math.exp(-0.5 * r * slope)
    return p, -slope * p, slope * slope * SHARE * R * p, slope * slope * w * p


def reach(R: Any, w: Any) -> Any:
    """|r| in Å⁻¹ beyond which P < NEGLIGIBLE."""
    return REACH * np.sqrt(SHARE * R * R + w * w)


PARTIALITY = Partiality("gaussian_gaussian", profile, reach, uses_bandwidth=True)
