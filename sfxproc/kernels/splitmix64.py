"""Numbers that look random and follow from others: splitmix64 (Steele, Lea & Flood, OOPSLA 2014).

A stream of random numbers is mixed(s + GOLDEN), mixed(s + 2 GOLDEN), … modulo 2⁶⁴. The start s is
made of whatever the numbers are to depend on, so that no result depends on an order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)


@register_jitable
def mixed(z: Any) -> Any:
    """64 bits of 64 bits, uint64: a number in compiled code, an array elsewhere."""
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return z ^ (z >> np.uint64(31))
