"""Every recorded reflection counts in full.

    P = 1    for |r| ≤ R, else 0

The derivatives vanish; the step at |r| = R has none.
"""

from __future__ import annotations

from typing import Any

from sfxproc.kernels.compiled import compiled
from sfxproc.partiality.base import Partiality


@compiled
def profile(r, R, w):
    """(P, ∂P/∂r, ∂P/∂R, ∂P/∂w) of numbers in Å⁻¹."""
    return (1.0 if abs(r) <= R else 0.0), 0.0, 0.0, 0.0


def reach(R: Any, w: Any) -> Any:
    """|r| in Å⁻¹ beyond which nothing is recorded."""
    return R


PARTIALITY = Partiality("unity", profile, reach)
