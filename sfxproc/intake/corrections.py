"""Corrections of intensities as files are read, for inputs that were not corrected before.

Each reflection leaves the crystal along s1 = A h + s0, s0 = b/λ; hats are unit vectors, n is the
normal of the plane of polarisation (the electric vector of the polarised part lies along n × ŝ0)
and f the part of the beam that is polarised so (1: fully, 0.5: not at all):

    p = f (1 − ((n × ŝ0)·ŝ1)²) + (1 − f) (1 − (n·ŝ1)²)
    L = 1/sin 2θ = 1/|ŝ0 × ŝ1|

(Kabsch, J. Appl. Cryst. 21, 916, 1988, has the same p in other terms). I/(p L) takes the place of
I, σ²/(p L)² that of σ². L stands for how much of a reflection a still shows in the mean over
orientations: it has no place where partialities tell that of each.

What a file says it is corrected for (`Stills.corrected`), as DIALS tables with a column lp are and
unmerged MTZ, is not corrected for again. CrystFEL's streams are not corrected.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sfxproc.data import Correction, Crystals, Observations, Stills
from sfxproc.errors import DataError
from sfxproc.models.polarisation import directions, polarisation
from sfxproc.settings.sections import Corrections


def corrected(stills: Stills, settings: Corrections) -> Stills:
    """The stills with corrected intensities and variances, and a note that says so; of what they
    are corrected for already, a note says that it was left as it is.

    Raises DataError if a crystal with observations has no orientation or wavelength, ConfigError if
    the normal is that of no plane along a beam.
    """
    polarised = settings.polarisation_fraction is not None
    lorentz = settings.lorentz == "stills"
    asked = {Correction.POLARISATION: polarised, Correction.LORENTZ: lorentz}
    already = sorted(what for what, wanted in asked.items() if wanted and what in stills.corrected)
    if already:
        words = " and ".join(already)
        note = f"corrected for {words} already, which [corrections] asks for: left as it is"
        stills = replace(stills, notes=(*stills.notes, note))
    polarised &= Correction.POLARISATION not in stills.corrected
    lorentz &= Correction.LORENTZ not in stills.corrected
    if not (polarised or lorentz):
        return stills
    crystals, table = stills.crystals, stills.observations
    _require_geometry(crystals, table)
    s0, s1 = directions(crystals, table)
    factor = np.ones(len(table))
    said = []
    if polarised and settings.polarisation_fraction is not None:
        normal = np.array(settings.polarisation_normal, dtype=np.float64)
        factor *= polarisation(s0, s1, settings.polarisation_fraction, normal)
        said.append(
            f"polarisation (fraction {settings.polarisation_fraction:g}, normal "
            f"{' '.join(f'{v:g}' for v in normal)})"
        )
    if lorentz:
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
        corrected=stills.corrected.union(
            {Correction.POLARISATION} if polarised else (), {Correction.LORENTZ} if lorentz else ()
        ),
    )


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
