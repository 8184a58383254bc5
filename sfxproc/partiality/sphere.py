"""A solid sphere cut by the Ewald sphere: area of the section over the greatest section.

    P = 1 − x²    x = r/R,  |x| < 1, else 0
    ∂P/∂r = −2x/R,   ∂P/∂R = 2x²/R

The plane at distance r from the centre cuts a disc of area π (R² − r²).
"""

from __future__ import annotations

from typing import Any

from sfxproc.kernels.compiled import compiled
from sfxproc.partiality.base import Partiality


@compiled(error_model="numpy")
def profile(r, R, w):
    """(P, ∂P/∂r, ∂P/∂R, ∂P/∂w) of numbers in Å⁻¹; all zero from the surface on."""
    x = r / R
    if abs(x) >= 1.0:
        return 0.0, 0.0, 0.0, 0.0
    return 1.0 - x * x, -2.0 * x / R, 2.0 * x * x / R, 0.0


def reach(R: Any, w: Any) -> Any:
    """|r| in Å⁻¹ beyond which P is 0."""
    return R


PARTIALITY = Partiality("sphere", profile, reach)
