"""How much of a reflection a still records: one model a file, one line of the table each.

A model is a function of the excitation error r_h = |q + s0| − 1/λ and the size r_s of the
reciprocal-lattice point, both in Å⁻¹, as arrays that broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfxproc.partiality import sphere, unity

Floats = NDArray[np.floating[Any]]


class Partiality(NamedTuple):
    """value(r_h, r_s) -> P in [0, 1]; derivatives(r_h, r_s) -> (∂P/∂r_h, ∂P/∂r_s) in Å."""

    value: Callable[[Floats, Floats], Floats]
    derivatives: Callable[[Floats, Floats], tuple[Floats, Floats]]


PARTIALITIES = {
    "sphere": Partiality(sphere.value, sphere.derivatives),
    "unity": Partiality(unity.value, unity.derivatives),
}
