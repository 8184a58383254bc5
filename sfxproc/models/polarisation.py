"""How polarisation weakens a reflection, and the directions that this depends on.

Each reflection leaves the crystal along s1 = A h + s0, s0 = b/λ; hats are unit vectors, n is the
normal of the plane of polarisation (the electric vector of the polarised part lies along n × ŝ0)
and f the part of the beam that is polarised so (1: fully, 0.5: not at all):

    p = f (1 − ((n × ŝ0)·ŝ1)²) + (1 − f) (1 − (n·ŝ1)²)

(Kabsch, J. Appl. Cryst. 21, 916, 1988, has the same p in other terms).
"""

from __future__ import annotations

import numpy as np

from sfxproc.data import Crystals, Floats, Observations
from sfxproc.errors import ConfigError

LEAST_SINE = 1e-3  # of the angle between normal and beam


def directions(crystals: Crystals, table: Observations) -> tuple[Floats, Floats]:
    """Unit vectors (n, 3) ŝ0 of the beam and ŝ1 of the reflection, for each observation."""
    beam = np.asarray(crystals.beam, dtype=np.float64)[table.crystal]
    q = np.einsum("nij,nj->ni", crystals.A[table.crystal], table.hkl.astype(np.float64))
    s1 = q + beam / np.asarray(crystals.wavelength_A, dtype=np.float64)[table.crystal, None]
    return beam, s1 / np.linalg.norm(s1, axis=1, keepdims=True)


def polarisation(s0: Floats, s1: Floats, fraction: float, normal: Floats) -> Floats:
    """p (n,) for unit vectors ŝ0, ŝ1 (n, 3); the normal (3,) is made normal to each beam.

    Raises ConfigError if it is along a beam, or zero.
    """
    length = float(np.linalg.norm(normal))
    across = normal - (s0 @ normal)[:, None] * s0
    size = np.linalg.norm(across, axis=1, keepdims=True)
    if length == 0.0 or np.any(size < LEAST_SINE * length):
        raise ConfigError(
            f"corrections.polarisation_normal = {normal.tolist()} is along the beam, or zero, so "
            "there is no plane that it is normal to. Give a vector across the beam: [0, 1, 0] for "
            "a beam along z with its electric vector along x."
        )
    n = across / size
    electric = np.einsum("ni,ni->n", np.cross(n, s0), s1)
    other = np.einsum("ni,ni->n", n, s1)
    return np.asarray(fraction * (1.0 - electric**2) + (1.0 - fraction) * (1.0 - other**2))
