"""Unmerged MTZ of scaled observations, for programs that merge on their own.

    I = I_obs · SCALEUSED/FRACTIONCALC,   SCALEUSED = 1/(G·exp(−2 B s²))

I is that of the whole reflection, on the scale of the merge: it is not to be divided by
FRACTIONCALC again. WEIGHT is that of the robust loss, near 0 for outliers: I merges to
Σ WEIGHT·I/SIGI² over Σ WEIGHT/SIGI².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfxproc.data import Crystals, Floats, Ints, Table
from sfxproc.formats.mtz import (
    add_batches,
    asymmetric_unit,
    fill,
    median_wavelength_A,
    new_mtz,
    save,
)


@dataclass(frozen=True, eq=False)
class ScaledObservations(Table):
    """One scaled observation a row.

    crystal : (n,) row of `Crystals`. hkl : (n, 3) as indexed. intensity, sigma : (n,) scaled.
    scale, partiality, weight : (n,) SCALEUSED, FRACTIONCALC, WEIGHT. x_px, y_px : (n,) position.
    """

    crystal: Ints
    hkl: Ints
    intensity: Floats
    sigma: Floats
    scale: Floats
    partiality: Floats
    weight: Floats
    x_px: Floats | None = None
    y_px: Floats | None = None


def write_scaled(
    path: Path,
    table: ScaledObservations,
    crystals: Crystals,
    space_group: str,
    cell: Floats,
    history: Sequence[str] = (),
) -> None:
    """Write scaled observations in the group's asymmetric unit, sorted, atomically.

    One batch a crystal that has any, numbered by its row + 1, whose header has orientation, cell
    and wavelength. cell : (6,) of the whole, Å and degrees. Raises OutputError.
    """
    title = "scaled observations"
    mtz = new_mtz(title, space_group, cell, median_wavelength_A(crystals), history)
    hkl, isym = asymmetric_unit(mtz.spacegroup, table.hkl)
    columns: dict[str, Any] = {
        "M/ISYM:Y": isym,
        "BATCH:B": table.crystal + 1,
        "I:J": table.intensity,
        "SIGI:Q": table.sigma,
        "SCALEUSED:R": table.scale,
        "FRACTIONCALC:R": table.partiality,
        "WEIGHT:W": table.weight,
    }
    if table.x_px is not None and table.y_px is not None:
        columns |= {"XDET:R": table.x_px, "YDET:R": table.y_px}
    fill(mtz, hkl, columns)
    mtz.sort(5)  # by h, k, l, M/ISYM and batch, as CCP4's programs want it
    add_batches(path, mtz, crystals, np.unique(table.crystal))
    save(path, mtz)
