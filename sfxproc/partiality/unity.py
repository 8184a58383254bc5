"""Every recorded reflection counts in full.

    P = 1    for |r_h| ≤ r_s, else 0

The derivatives vanish; the step at |r_h| = r_s has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def value(r_h: Floats, r_s: Floats) -> Floats:
    """P of excitation errors r_h and radii r_s (Å⁻¹, broadcast)."""
    return np.asarray(np.where(np.abs(r_h) <= r_s, 1.0, 0.0))


def derivatives(r_h: Floats, r_s: Floats) -> tuple[Floats, Floats]:
    """(∂P/∂r_h, ∂P/∂r_s): zeros."""
    zeros = np.zeros(np.broadcast(r_h, r_s).shape)
    return zeros, zeros
