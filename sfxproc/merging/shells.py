"""Resolution shells of equal volume in reciprocal space.

The number of possible reflections below s = sinθ/λ grows as s³, so with

    s_k³ = s_min³ + (k/n) (s_max³ − s_min³),   k = 0 … n

every shell holds about the same number of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats

ROUNDING = 1e-7
"""Relative play of the outermost edges, so that a reflection on the limit itself is inside."""


def shell_edges(s2: Floats, n_shells: int) -> NDArray[np.float64]:
    """Edges (n_shells + 1,) in s² (Å⁻²), ascending, of shells of equal volume.

    s2 : any array spanning the range: (sinθ/λ)² of the possible reflections, or of the two
    resolution limits, see `s2_of`. Raises ValueError where it is empty or n_shells < 1.
    """
    if n_shells < 1 or np.size(s2) == 0:
        raise ValueError("shell_edges needs at least one shell and one reflection")
    low, high = float(np.min(s2)) ** 1.5, float(np.max(s2)) ** 1.5
    edges = np.linspace(low, high, n_shells + 1) ** (2 / 3)
    edges[[0, -1]] = np.min(s2), np.max(s2)  # exactly, without the rounding of the powers
    return np.asarray(edges, dtype=np.float64)


def s2_of(*d_A: float) -> NDArray[np.float64]:
    """(sinθ/λ)² = 1/(4d²) of resolutions in Å; infinity gives 0."""
    return np.asarray(0.25 / np.square(np.asarray(d_A, dtype=np.float64)))


def d_of(s2: float) -> float:
    """Resolution d = 1/(2s) in Å of (sinθ/λ)²; infinity for 0."""
    return 0.5 / s2**0.5 if s2 > 0 else float("inf")


def assign(s2: Floats, edges: Floats) -> NDArray[np.int32]:
    """Shell (n,) int32 of each reflection, 0 at low resolution; −1 outside all shells."""
    s2 = np.asarray(s2)
    shell = np.searchsorted(edges[1:-1], s2, side="right").astype(np.int32)
    shell[~((s2 >= edges[0] * (1 - ROUNDING)) & (s2 <= edges[-1] * (1 + ROUNDING)))] = -1
    return shell
