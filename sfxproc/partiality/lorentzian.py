"""A soft sphere: a Lorentzian in the excitation error.

    P = R²/(2r² + R²) = 1/(1 + 2x²)    x = r/R
    ∂P/∂r = −4x P²/R,   ∂P/∂R = 4x² P²/R

The half maximum is at |r| = R/√2. (Default of prime: Uervirojnangkoorn et al., eLife 4, e05421,
2015; "rs" of cctbx.xfel.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sfxproc.kernels.compiled import compiled
from sfxproc.partiality.base import NEGLIGIBLE, Partiality

REACH = float(np.sqrt(0.5 * (1.0 / NEGLIGIBLE - 1.0)))


@compiled(error_model="numpy")
def profile(r, R, w):
    """(P, ∂P/∂r, ∂P/∂R, ∂P/∂w) of numbers in Å⁻¹."""
    x = r / R
    p = 1.0 / (1.0 + 2.0 * x * x)
    by_r = -4.0 * x * p * p / R
    return p, by_r, -x * by_r, 0.0


def reach(R: Any, w: Any) -> Any:
    """|r| in Å⁻¹ beyond which P < NEGLIGIBLE: some 22 R, as the tails are long."""
    return REACH * R


PARTIALITY = Partiality("lorentzian", profile, reach)
