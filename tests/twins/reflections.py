"""NumPy twins of `kernels.hkl` and `kernels.predict`: what a kernel writes is returned."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.predict import excitation_errors

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def s_squared(hkl: Ints, metric: Floats) -> Floats:
    """s² (n,) of hkl (n, 3)."""
    h = hkl.astype(np.float64)
    return np.asarray(0.25 * np.einsum("ni,ij,nj->n", h, metric, h))


def friedel_codes(hkl: Ints, asu: Ints, rotations: Ints) -> Ints:
    """0, 1 or 2 of hkl (n, 3)."""
    images = np.einsum("ni,mij->nmj", hkl.astype(np.int64), rotations.astype(np.int64))
    plus = (images == asu[:, None, :]).all(axis=2).any(axis=1)
    minus = (images == -asu[:, None, :].astype(np.int64)).all(axis=2).any(axis=1)
    return np.where(plus & minus, 0, np.where(plus, 1, 2))


def predict_still(
    A: Floats, s0: Floats, r_s: float, q_min: float, q_max: float, h_max: Ints
) -> tuple[Ints, Floats, Floats]:
    """(hkl, r_h, s1) of the reflections in the box."""
    axes = [np.arange(-n, n + 1) for n in h_max]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    q = hkl @ A.T
    length = np.linalg.norm(q, axis=1)
    r_h = excitation_errors(A, s0, hkl)
    keep = (np.abs(r_h) <= r_s) & (length >= q_min) & (length <= q_max) & hkl.any(axis=1)
    return hkl[keep], r_h[keep], q[keep] + s0
