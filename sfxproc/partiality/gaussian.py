"""A Gaussian in the excitation error.

    P = exp(−2 ln2 x²)    x = r/R
    ∂P/∂r = −4 ln2 x P/R,   ∂P/∂R = 4 ln2 x² P/R

The half maximum is at |r| = R/√2, like that of the Lorentzian.
"""

from __future__ import annotations

import math
from typing import Any

from sfxproc.kernels.compiled import compiled
from sfxproc.partiality.base import NEGLIGIBLE, Partiality

SHARPNESS = 2.0 * math.log(2.0)
REACH = math.sqrt(-math.log(NEGLIGIBLE) / SHARPNESS)


@compiled(error_model="numpy")
def profile(r, R, w):
    """(P, ∂P/∂r, ∂P/∂R, ∂P/∂w) of numbers in Å⁻¹."""
    x = r / R
    p = math.exp(-SHARPNESS * x * x)
    by_r = -2.0 * SHARPNESS * x * p / R
    return p, by_r, -x * by_r, 0.0


def reach(R: Any, w: Any) -> Any:
    """|r| in Å⁻¹ beyond which P < NEGLIGIBLE."""
    return REACH * R


PARTIALITY = Partiality("gaussian", profile, reach)
