"""A solid sphere cut by the Ewald sphere: area of the section over the greatest section.

    P = 1 − (r_h / r_s)²    for |r_h| < r_s, else 0
    ∂P/∂r_h = −2 r_h / r_s²,   ∂P/∂r_s = 2 r_h² / r_s³

The plane at distance r_h from the centre cuts a disc of area π (r_s² − r_h²).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def value(r_h: Floats, r_s: Floats) -> Floats:
    """P of excitation errors r_h and radii r_s (Å⁻¹, broadcast)."""
    return np.asarray(np.maximum(1.0 - (r_h / r_s) ** 2, 0.0))


def derivatives(r_h: Floats, r_s: Floats) -> tuple[Floats, Floats]:
    """(∂P/∂r_h, ∂P/∂r_s) in Å, zero outside the sphere."""
    ratio = np.where(np.abs(r_h) < r_s, r_h / r_s, 0.0)
    return -2.0 * ratio / r_s, 2.0 * ratio**2 / r_s
