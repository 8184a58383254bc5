"""Parameters of a crystal that change the three numbers a partiality model takes, beside its
orientation, size, cell and wavelength.

    P = f(r + Δ, R exp(a), w exp(b))

A change is a compiled function(values, q, normal, by) -> (Δ, a, b). values : the parameters. q :
the reciprocal-lattice point, Å⁻¹, and normal : the unit vector to it from the centre of the Ewald
sphere, both as recorded and in the crystal's own axes: x along a*, z along c. by : (n_values, 3),
to be filled with the derivatives of Δ (Å⁻¹), a and b by each value; what is never written is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from sfxproc.kernels.compiled import compiled

Change = Callable[[Any, Any, Any, Any], tuple[float, float, float]]
_F8: Any = types.float64
_ROW: Any = _F8[::1]
_THREE: Any = types.Tuple([_F8] * 3)  # type: ignore[no-untyped-call]
CHANGE_TYPE: Any = types.FunctionType(_THREE(_ROW, _ROW, _ROW, _F8[:, ::1]))
"""A change as an argument of loops."""


@cache
def combined(changes: tuple[Change, ...], numbers: tuple[int, ...]) -> Change | None:
    """All changes one after the other, which take so many values each; None of none. Of more than
    one the whole is compiled anew in every process, as numba's cache does not know functions made
    in functions."""
    if len(changes) < 2:
        return changes[0] if changes else None
    first, n = changes[0], numbers[0]
    rest = combined(changes[1:], numbers[1:])
    assert rest is not None

    @njit(nogil=True)
    def change(values, q, normal, by):
        one = first(values[:n], q, normal, by[:n])
        more = rest(values[n:], q, normal, by[n:])
        return one[0] + more[0], one[1] + more[1], one[2] + more[2]

    made: Change = change
    return made


@compiled
def own_axes(A, axes):
    """axes (3, 3), rows of unit vectors: x along a*, y in the plane of a* and b*, z along c."""
    for j in range(3):
        for i in range(3):
            axes[j, i] = A[i, j]
        for before in range(j):
            along = np.dot(axes[j], axes[before])
            for i in range(3):
                axes[j, i] -= along * axes[before, i]
        length = np.sqrt(np.dot(axes[j], axes[j]))
        for i in range(3):
            axes[j, i] /= length


@compiled
def as_recorded(h, A, beam, k, axes, q, normal):
    """q (3,) of hkl (3,) and the normal (3,) of the Ewald sphere there, in the crystal's axes."""
    length = 0.0
    for i in range(3):
        q[i], normal[i] = 0.0, 0.0
    for i in range(3):
        lab = A[i, 0] * h[0] + A[i, 1] * h[1] + A[i, 2] * h[2]
        out = lab + k * beam[i]
        length += out * out
        for j in range(3):
            q[j] += axes[j, i] * lab
            normal[j] += axes[j, i] * out
    length = np.sqrt(length)
    for j in range(3):
        normal[j] /= length
