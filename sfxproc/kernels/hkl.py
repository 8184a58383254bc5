"""Loops over Miller indices.

4 s² = hᵀ G* h                with G* = BᵀB the reciprocal metric
h' = h R                      (row vector times the matrix of a space-group rotation)
h is I(+)  if h R = h_asu for some R, I(−) otherwise; centric if h R = −h for some R
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.compiled import compiled

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@compiled
def s_squared(hkl: Ints, metric: Floats, out: Floats) -> None:
    """Write s² of every row of hkl (n, 3) into out (n,); metric (3, 3) is G* in Å⁻²."""
    g00, g11, g22 = metric[0, 0], metric[1, 1], metric[2, 2]
    g01, g02, g12 = metric[0, 1], metric[0, 2], metric[1, 2]
    for i in range(hkl.shape[0]):
        h, k, el = float(hkl[i, 0]), float(hkl[i, 1]), float(hkl[i, 2])
        squares = h * h * g00 + k * k * g11 + el * el * g22
        out[i] = 0.25 * (squares + 2.0 * (h * k * g01 + h * el * g02 + k * el * g12))


@compiled
def friedel_codes(hkl: Ints, asu: Ints, rotations: Ints, out: Ints) -> None:
    """Write 0 (centric), 1 (I(+)) or 2 (I(−)) for every row of hkl (n, 3) into out (n,).

    asu (n, 3) is the equivalent of hkl in the asymmetric unit, Friedel's law included;
    rotations (m, 3, 3) are those of the space group, the identity among them.
    """
    for i in range(hkl.shape[0]):
        h, k, el = np.int64(hkl[i, 0]), np.int64(hkl[i, 1]), np.int64(hkl[i, 2])
        ah, ak, al = np.int64(asu[i, 0]), np.int64(asu[i, 1]), np.int64(asu[i, 2])
        plus = False
        minus = False
        for m in range(rotations.shape[0]):
            r = rotations[m]
            x = h * r[0, 0] + k * r[1, 0] + el * r[2, 0]
            y = h * r[0, 1] + k * r[1, 1] + el * r[2, 1]
            z = h * r[0, 2] + k * r[1, 2] + el * r[2, 2]
            plus |= x == ah and y == ak and z == al
            minus |= x == -ah and y == -ak and z == -al
        # Both h_asu and its mate are reached by rotations alone: the reflection is centric.
        out[i] = 0 if plus and minus else (1 if plus else 2)
