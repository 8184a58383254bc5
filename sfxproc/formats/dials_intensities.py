"""Which intensity of a DIALS table a row has, and the corrections still to be applied to it.

DIALS leaves the columns `lp` (polarisation, of sweeps with the Lorentz factor) and `qe` (quantum
efficiency of the detector) to the program that exports or scales:

    I = value · lp/qe,    σ² = variance · (lp/qe)²

Of a still, lp is 1/p with p the polarisation factor. Profile-fitted and summed values are both of
the whole spot, so that one can stand in for the other; where strong rows that have both say
otherwise, one kind is taken throughout.

Source: DIALS 3.12, util/filter_reflections.py and algorithms/integration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Correction, Ints, Mask
from sfxproc.errors import InputError
from sfxproc.formats.dials_refl import Flag, ReflectionTable

STRONG_SIGMAS, FEWEST_STRONG = 5.0, 20
SAME_SCALE = 0.1  # largest relative difference of profile-fitted and summed intensities

F8 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Intensities:
    """Of every row of a table: value, variance (n,), both corrected; has (n,) whether there is one;
    damaged (n,) where a correction is no positive number. corrected : what for. notes : sentences.
    """

    value: F8
    variance: F8
    has: Mask
    damaged: Mask
    corrected: frozenset[Correction]
    notes: tuple[str, ...]


def intensities_of(table: ReflectionTable, flags: Ints, sweeps: bool) -> Intensities:
    """The corrected intensities of a table. sweeps : lp holds the Lorentz factor, too.

    Raises InputError for a table without intensities.
    """
    value, variance, has, note = _chosen(table, flags)
    factor, corrected = _factor(table, sweeps)
    damaged = np.zeros(table.n_rows, dtype=bool)
    notes = [note]
    if factor is not None:
        with np.errstate(invalid="ignore", over="ignore"):
            damaged = ~(np.isfinite(factor) & (factor > 0.0))
            value, variance = value * factor, variance * factor**2
        names = " and ".join(c for c in ("lp", "qe", "dqe") if c in table.columns)
        what = ", ".join(sorted(corrected)) or "nothing else"
        notes.append(f"intensities were corrected by the columns {names} of the table ({what})")
    return Intensities(value, variance, has, damaged, corrected, tuple(notes))


def _factor(table: ReflectionTable, sweeps: bool) -> tuple[F8 | None, frozenset[Correction]]:
    """lp/qe of every row, None of a table without these columns, and what that corrects for."""
    lp = table.columns.get("lp")
    qe = table.columns.get("qe", table.columns.get("dqe"))
    if lp is None and qe is None:
        return None, frozenset()
    factor = np.ones(table.n_rows)
    corrected = set()
    if lp is not None:
        factor = factor * lp
        corrected |= {Correction.POLARISATION} | ({Correction.LORENTZ} if sweeps else set())
    if qe is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = factor / qe
        corrected.add(Correction.EFFICIENCY)
    return factor, frozenset(corrected)


def _chosen(table: ReflectionTable, flags: Ints) -> tuple[F8, F8, Mask, str]:
    """Value, variance and presence of the intensity of every row, and a sentence that says which
    kind was taken."""
    kinds = [k for k in ("prf", "sum") if f"intensity.{k}.value" in table.columns]
    if not kinds:
        raise InputError(
            f"'{table.path}' has no column intensity.sum.value or intensity.prf.value, only "
            f"{', '.join(sorted(table.columns))}. Integrate the images with DIALS, or give a table "
            "of indexed spots with summed intensities."
        )
    columns = {k: (_column(table, k, "value"), _column(table, k, "variance")) for k in kinds}
    summed = (flags & Flag.INTEGRATED_SUM) != 0
    fitted = (flags & Flag.INTEGRATED_PRF) != 0
    if kinds == ["prf"]:
        has = fitted if "flags" in table.columns else np.isfinite(columns["prf"][0])
        return *columns["prf"], has, "intensities are profile-fitted (intensity.prf)"
    if "prf" not in kinds or not fitted.any():
        if (flags & (Flag.INTEGRATED_SUM | Flag.INTEGRATED_PRF)).any():
            return *columns["sum"], summed | fitted, "intensities are summed (intensity.sum)"
        note = "no row is integrated: the summed intensities of strong spots are used as they are"
        return *columns["sum"], np.ones(table.n_rows, dtype=bool), note
    fitted &= np.isfinite(columns["prf"][0]) & (columns["prf"][1] > 0)
    ratio = _ratio(columns["prf"], columns["sum"], fitted & summed)
    n_fitted, n_rest = int(fitted.sum()), int((summed & ~fitted).sum())
    if not n_rest:
        return *columns["prf"], fitted, "intensities are profile-fitted (intensity.prf)"
    if abs(np.log(ratio)) <= SAME_SCALE:
        value = np.where(fitted, columns["prf"][0], columns["sum"][0])
        variance = np.where(fitted, columns["prf"][1], columns["sum"][1])
        note = (
            f"intensities are profile-fitted where there is a profile (intensity.prf, {n_fitted:,} "
            f"rows), otherwise summed (intensity.sum, {n_rest:,} rows)"
        )
        return value, variance, fitted | summed, note
    why = f"as profile-fitted ones are {ratio:.3g} times as large and cannot be mixed with them"
    if n_fitted > summed.sum():
        return *columns["prf"], fitted, f"only profile-fitted intensities are used, {why}"
    return *columns["sum"], summed, f"intensities are summed (intensity.sum), {why}"


def _column(table: ReflectionTable, kind: str, name: str) -> F8:
    return np.asarray(table.column(f"intensity.{kind}.{name}"), dtype=np.float64)


def _ratio(fitted: tuple[F8, ...], summed: tuple[F8, ...], both: Mask) -> float:
    """Median of profile-fitted over summed intensities of strong rows; 1 with too few of them."""
    strong = both.copy()
    with np.errstate(invalid="ignore"):
        for value, variance in (fitted, summed):
            strong &= (variance > 0) & (value > STRONG_SIGMAS * np.sqrt(np.abs(variance)))
    if np.count_nonzero(strong) < FEWEST_STRONG:
        return 1.0
    return float(np.median(fitted[0][strong] / summed[0][strong]))
