"""Which reflections a still shows: those whose excitation error is small.

    q = A h,   s1 = q + s0,   |s0| = 1/λ,   r_h = |s1| − 1/λ

A reflection is predicted if |r_h| ≤ r_s and |q| lies between the limits. It leaves the crystal
along s1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.compiled import compiled

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@compiled
def predict_still(
    A: Floats,
    s0: Floats,
    r_s: float,
    q_min: float,
    q_max: float,
    h_max: Ints,
    hkl: Ints,
    r_h: Floats,
    s1: Floats,
) -> int:
    """Search the box |h| ≤ h_max and return how many reflections are predicted.

    A (3, 3) columns a*, b*, c*, s0 (3,), r_s, q_min, q_max: Å⁻¹. h_max (3,). Results, in the
    order h, k, l: hkl (n, 3), r_h (n,), s1 (n, 3). What does not fit into them is counted only,
    so a caller with too small arrays can call again.
    """
    k0 = np.sqrt(s0[0] ** 2 + s0[1] ** 2 + s0[2] ** 2)
    low, high = max(k0 - r_s, 0.0) ** 2, (k0 + r_s) ** 2
    q2_min, q2_max = q_min**2, q_max**2
    # s1 = q + s0 grows by c* from one l to the next; q² = |s1|² − 2 s1·s0 + |s0|².
    n = 0
    for h in range(-h_max[0], h_max[0] + 1):
        for k in range(-h_max[1], h_max[1] + 1):
            x0 = s0[0] + A[0, 0] * h + A[0, 1] * k
            y0 = s0[1] + A[1, 0] * h + A[1, 1] * k
            z0 = s0[2] + A[2, 0] * h + A[2, 1] * k
            for el in range(-h_max[2], h_max[2] + 1):
                x, y, z = x0 + A[0, 2] * el, y0 + A[1, 2] * el, z0 + A[2, 2] * el
                square = x * x + y * y + z * z
                if square < low or square > high:
                    continue
                q2 = (x - s0[0]) ** 2 + (y - s0[1]) ** 2 + (z - s0[2]) ** 2
                if q2 < q2_min or q2 > q2_max or (h == 0 and k == 0 and el == 0):
                    continue
                if n < hkl.shape[0]:
                    hkl[n, 0], hkl[n, 1], hkl[n, 2] = h, k, el
                    r_h[n] = np.sqrt(square) - k0
                    s1[n, 0], s1[n, 1], s1[n, 2] = x, y, z
                n += 1
    return n


def excitation_errors(A: Floats, s0: Floats, hkl: Ints) -> Floats:
    """r_h (n,) in Å⁻¹ of hkl (n, 3)."""
    return np.asarray(np.linalg.norm(hkl @ A.T + s0, axis=1) - np.linalg.norm(s0))
