"""Corrections of intensities as files are read, for inputs that were not corrected before.

Each reflection leaves the crystal along s1 = A h + s0, s0 = b/λ; hats are unit vectors, n is the
normal of the plane of polarisation (the electric vector of the polarised part lies along n × ŝ0)
and f the part of the beam that is polarised so (1: fully, 0.5: not at all):

    p = f (1 − ((n × ŝ0)·ŝ1)²) + (1 − f) (1 − (n·ŝ1)²)
    L = 1/sin 2θ = 1/|ŝ0 × ŝ1|

(Kabsch, J. Appl. Cryst. 21, 916, 1988, has the same p in other terms). I/(p L) takes the place of
I, σ²/(p L)² that of σ². L stands for how much of a reflection a still shows in the mean over
orientations: it has no place where partialities tell that of each.

DIALS and XDS correct for polarisation when they integrate; CrystFEL's streams are not corrected.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from sfxproc.config import Fraction
from sfxproc.data import Crystals, Floats, Observations, Stills
from sfxproc.errors import ConfigError, DataError
from sfxproc.jobs.settings import Section

LEAST_SINE = 1e-3  # of the angle between normal and beam


class Corrections(Section, frozen=True):
    """What intensities are corrected for as they are read. polarisation_normal : n, of any length,
    in the laboratory frame of the files; 0 1 0 is a beam polarised horizontally, along x."""

    polarisation_fraction: Fraction | None = None
    polarisation_normal: tuple[float, float, float] = (0.0, 1.0, 0.0)
    lorentz: Literal["none", "stills"] = "none"

    @property
    def wanted(self) -> bool:
        """Whether there is anything to correct for."""
        return self.polarisation_fraction is not None or self.lorentz != "none"


def corrected(stills: Stills, settings: Corrections) -> Stills:
    """The stills with corrected intensities and variances, and a note that says so.

    Raises DataError if a crystal with observations has no orientation or wavelength, ConfigError if
    the normal is that of no plane along a beam.
    """
    if not settings.wanted:
        return stills
    crystals, table = stills.crystals, stills.observations
    _require_geometry(crystals, table)
    s0, s1 = directions(crystals, table)
    factor = np.ones(len(table))
    said = []
    if settings.polarisation_fraction is not None:
        normal = np.array(settings.polarisation_normal, dtype=np.float64)
        factor *= polarisation(s0, s1, settings.polarisation_fraction, normal)
        said.append(
            f"polarisation (fraction {settings.polarisation_fraction:g}, normal "
            f"{' '.join(f'{v:g}' for v in normal)})"
        )
    if settings.lorentz == "stills":
        factor /= np.linalg.norm(np.cross(s0, s1), axis=1)
        said.append("the Lorentz factor of stills")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        intensity = (table.intensity / factor).astype(np.float32)
        variance = (table.variance / factor**2).astype(np.float32)
    note = f"intensities were corrected for {' and '.join(said)}"
    return replace(
        stills,
        observations=replace(table, intensity=intensity, variance=variance),
        notes=(*stills.notes, note),
    )


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


def _require_geometry(crystals: Crystals, table: Observations) -> None:
    known = np.isfinite(crystals.A).all(axis=(1, 2)) & np.isfinite(crystals.beam).all(axis=1)
    known &= np.isfinite(crystals.wavelength_A)
    lost = np.unique(table.crystal[~known[table.crystal]])
    if len(lost):
        raise DataError(
            f"{len(lost):,} of {len(crystals):,} crystals, for example "
            f"'{crystals.identity[lost[0]]}', have no orientation or no wavelength recorded, "
            "without which intensities cannot be corrected. Leave out the table [corrections], or "
            "give the files that the indexing program wrote."
        )
