"""Merged MTZ: one row a reflection of the CCP4 asymmetric unit.

Friedel mates that were kept apart are averaged with weights 1/σ² for the mean columns and stand
beside it as (+) and (-), a centric reflection as (+). MTZ stores float32; `frames.h5` keeps the
float64 values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from sfxproc.data import Derived, Floats, Ints, Merged, packed_hkl
from sfxproc.formats.mtz import fill, new_mtz, save


def inverse_variance_mean(
    group: Ints, n_groups: int, intensity: Floats, sigma: Floats
) -> tuple[Floats, Floats]:
    """Mean of each group of rows with weights 1/σ², and its σ.

    group : (n,) 0 … n_groups − 1; intensity, sigma : (n,). Rows that are not finite or whose σ is
    not positive do not count. Returns two (n_groups,) float64 arrays, NaN for an empty group.
    """
    good = np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0)
    weight = 1.0 / np.asarray(sigma[good], dtype=np.float64) ** 2
    total = np.bincount(group[good], weight, n_groups)
    total = np.where(total > 0, total, np.nan)
    mean = np.bincount(group[good], weight * intensity[good], n_groups) / total
    return mean, 1.0 / np.sqrt(total)


def write_merged(
    path: Path,
    merged: Merged,
    space_group: str,
    cell: Floats,
    wavelength_A: float,
    history: Sequence[str] = (),
    derived: Derived | None = None,
) -> None:
    """Write the merge and its half sets as MTZ, atomically.

    Columns: IMEAN SIGIMEAN N, then I(+) SIGI(+) I(-) SIGI(-) N(+) N(-) if Friedel mates were kept
    apart, then what is derived from them: F SIGF, of mates apart F(+) SIGF(+) F(-) SIGF(-) DANO
    SIGDANO, and FreeR_flag; then the two half sets, whose type R keeps programs from taking them
    for the data. NaN where nothing was measured. cell : (6,) Å and degrees. Raises OutputError.
    """
    table = merged.reflections
    hkl, group = _unique_hkl(table.hkl)
    intensity, sigma, n = _measured(merged)
    mean, mean_sigma, count = _collapse(group, len(hkl), intensity, sigma, n)
    columns: dict[str, Any] = {"IMEAN:J": mean, "SIGIMEAN:Q": mean_sigma, "N:I": count}
    if np.any(table.friedel != 0):
        sides: dict[str, Any] = {}
        for sign, rows in (("+", table.friedel >= 0), ("-", table.friedel < 0)):
            side = _collapse(group[rows], len(hkl), intensity[rows], sigma[rows], n[rows])
            sides[f"I({sign}):K"], sides[f"SIGI({sign}):M"], sides[f"N({sign}):I"] = side
        order = ("I(+):K", "SIGI(+):M", "I(-):K", "SIGI(-):M", "N(+):I", "N(-):I")
        columns |= {name: sides[name] for name in order}
    columns |= _derived_columns(derived) if derived else {}
    halves = [
        _collapse(group, len(hkl), merged.half_intensity[i], merged.half_sigma[i], merged.half_n[i])
        for i in (0, 1)
    ]
    for i, (half_mean, half_sigma, _) in enumerate(halves, 1):
        columns |= {f"IHALF{i}:R": half_mean, f"SIGIHALF{i}:R": half_sigma}
    columns |= {f"NHALF{i}:I": half_n for i, (_, _, half_n) in enumerate(halves, 1)}
    _write_rows(
        path, new_mtz("merged intensities", space_group, cell, wavelength_A, history), hkl, columns
    )


def _derived_columns(derived: Derived) -> dict[str, Floats | Ints]:
    """DANO = F(+) − F(−), of reflections that have both; its σ² is the sum of theirs."""
    columns: dict[str, Floats | Ints] = {"F:F": derived.mean[0], "SIGF:Q": derived.mean[1]}
    if derived.plus is not None and derived.minus is not None:
        columns |= {"F(+):G": derived.plus[0], "SIGF(+):L": derived.plus[1]}
        columns |= {"F(-):G": derived.minus[0], "SIGF(-):L": derived.minus[1]}
        columns["DANO:D"] = derived.plus[0] - derived.minus[0]
        columns["SIGDANO:Q"] = np.hypot(derived.plus[1], derived.minus[1])
    return columns | {"FreeR_flag:I": derived.free_flag}


def write_difference(
    path: Path,
    first: Merged,
    second: Merged,
    space_group: str,
    cell: Floats,
    wavelength_A: float,
    history: Sequence[str] = (),
) -> None:
    """Write first − second of two merges on one scale, reflections of both: DI and SIGDI, the
    variances added. Friedel mates that were kept apart are averaged. Raises OutputError."""
    hkl, group = _unique_hkl(first.reflections.hkl)
    means = [_collapse(group, len(hkl), *_measured(one)) for one in (first, second)]
    (a, sigma_a, n_a), (b, sigma_b, n_b) = means
    both = np.isfinite(a) & np.isfinite(b)
    columns = {"DI:J": a - b, "SIGDI:Q": np.hypot(sigma_a, sigma_b), "N1:I": n_a, "N2:I": n_b}
    mtz = new_mtz("difference of intensities", space_group, cell, wavelength_A, history)
    _write_rows(path, mtz, hkl[both], {name: values[both] for name, values in columns.items()})


def write_half(
    path: Path,
    merged: Merged,
    space_group: str,
    cell: Floats,
    wavelength_A: float,
    history: Sequence[str] = (),
    *,
    half: int,
) -> None:
    """Write one half set (half = 1 or 2) as IMEAN, SIGIMEAN, N; otherwise as `write_merged`."""
    i = half - 1
    hkl, group = _unique_hkl(merged.reflections.hkl)
    mean, sigma, count = _collapse(
        group, len(hkl), merged.half_intensity[i], merged.half_sigma[i], merged.half_n[i]
    )
    mtz = new_mtz(f"half set {half}", space_group, cell, wavelength_A, history)
    _write_rows(path, mtz, hkl, {"IMEAN:J": mean, "SIGIMEAN:Q": sigma, "N:I": count})


def _measured(merged: Merged) -> tuple[Floats, Floats, Ints]:
    table = merged.reflections
    if table.intensity is None or table.sigma is None or table.n_observations is None:
        raise ValueError("the reflections carry no merged intensities")
    return table.intensity, table.sigma, table.n_observations


def _unique_hkl(hkl: Ints) -> tuple[Ints, Ints]:
    """Distinct indices in the order h, k, l, and the row of each reflection among them."""
    _, first, group = np.unique(packed_hkl(hkl), return_index=True, return_inverse=True)
    return hkl[first], group


def _collapse(
    group: Ints, n_groups: int, intensity: Floats, sigma: Floats, n: Ints
) -> tuple[Floats, Floats, Floats]:
    mean, mean_sigma = inverse_variance_mean(group, n_groups, intensity, sigma)
    count = np.bincount(group, n, n_groups)
    return mean, mean_sigma, np.asarray(count, dtype=np.float64)


def _write_rows(path: Path, mtz: gemmi.Mtz, hkl: Ints, columns: dict[str, Any]) -> None:
    fill(mtz, hkl, columns)
    mtz.sort()
    save(path, mtz)
