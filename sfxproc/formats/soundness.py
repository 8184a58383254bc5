"""Rows that no measurement can have given are left out, with counts, whatever file they come from.

    q = |A h|,    q ≤ 2/λ        (d ≥ λ/2: what the Ewald sphere can reach)

with each crystal's own A (or cell) and λ; where the wavelength is not known, d ≥ 0.1 Å. A reader
writes 0 0 0 for indices that are no numbers or too large for their columns (`indices_of`), which
is no reflection.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Ints, Mask, Observations, Reason, Stills
from sfxproc.errors import InputError
from sfxproc.symmetry import reciprocal_matrix

MAX_INDEX = np.iinfo(np.int16).max
MOST_INTENSITY = 1e18  # its square is a float32 still
MOST_VARIANCE = 1e36
TOLERANCE = 1.02  # of 2/λ: bandwidth, and cells that are not exact
LEAST_D_A = 0.1
CHUNK = 1 << 18


def indices_of(values: NDArray[np.generic]) -> NDArray[np.int16]:
    """Miller indices (n, 3) as int16; 0 0 0 where one is no whole number or beyond ±32767."""
    wide = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        good = (np.abs(wide) <= MAX_INDEX) & (wide == np.rint(wide))
    return np.where(good.all(axis=1)[:, None], wide, 0.0).astype(np.int16)


def sound(stills: Stills, path: Path, strict: bool = False) -> Stills:
    """The stills without impossible indices and without intensities and variances whose squares
    are no float32; NaN and infinity stay, which selection counts.

    path : the file, for messages. Raises InputError if any row is left out, or was by the reader as
    damaged, and `strict` is set.
    """
    table = stills.observations
    if table.hkl.dtype != np.int16:
        table = replace(table, hkl=indices_of(table.hkl))
    impossible = _impossible(stills.crystals, table)
    with np.errstate(invalid="ignore"):
        huge = np.isfinite(table.intensity) & (np.abs(table.intensity) > MOST_INTENSITY)
        huge |= np.isfinite(table.variance) & (np.abs(table.variance) > MOST_VARIANCE)
    huge &= ~impossible
    left_out = {
        Reason.IMPOSSIBLE_INDEX: int(np.count_nonzero(impossible)),
        Reason.DAMAGED: int(np.count_nonzero(huge)),
    }
    if not any(left_out.values()):
        if strict and (n := stills.counts.get(Reason.DAMAGED, 0)):
            raise _damaged(path, f"{n:,} rows are damaged")
        return replace(stills, observations=table)
    counts = dict(stills.counts)
    for reason, n in left_out.items():
        if n:
            counts[reason] = counts.get(reason, 0) + n
    notes = list(stills.notes)
    if n := left_out[Reason.IMPOSSIBLE_INDEX]:
        row = int(np.argmax(impossible))
        h, k, l = table.hkl[row].tolist()
        name = stills.crystals.identity[int(table.crystal[row])]
        notes.append(
            f"reflections with impossible indices were left out: {n:,}, the first {h} {k} {l} of "
            f"'{name}' (no reflection, or d is below half the wavelength)"
        )
    if n := left_out[Reason.DAMAGED]:
        notes.append(f"reflections with intensities beyond all measure were left out: {n:,}")
    if strict:
        raise _damaged(path, notes[-1])
    kept = table.take(~(impossible | huge))
    return replace(stills, observations=kept, counts=counts, notes=tuple(notes))


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"'{path}': {what}. Repair the file or write it again, or set input.strict to false to "
        "leave out what is damaged."
    )


def _impossible(crystals: Crystals, table: Observations) -> Mask:
    """(n,) of the rows."""
    if not len(table):
        return np.zeros(0, dtype=bool)
    A = np.array(crystals.A, dtype=np.float64)
    for i in np.flatnonzero(~np.isfinite(A).all(axis=(1, 2))):
        if np.isfinite(crystals.cell[i]).all():
            with np.errstate(all="ignore"):
                A[i] = reciprocal_matrix(crystals.cell[i])
    wavelength = np.asarray(crystals.wavelength_A, dtype=np.float64)
    known = np.isfinite(wavelength) & (wavelength > 0)
    most = np.where(known, TOLERANCE * 2.0 / np.where(known, wavelength, 1.0), 1.0 / LEAST_D_A)
    # |A h| ≤ ‖A‖ |h| spares most rows the product; NaN where neither orientation nor cell is known
    with np.errstate(divide="ignore"):
        safe = (most / np.linalg.norm(A, axis=(1, 2))) ** 2
    crystal: Ints = table.crystal
    found = np.zeros(len(table), dtype=bool)
    for start in range(0, len(table), CHUNK):
        hkl, own = (
            table.hkl[start : start + CHUNK].astype(np.float64),
            crystal[start : start + CHUNK],
        )
        length = np.einsum("ni,ni->n", hkl, hkl)
        doubtful = np.flatnonzero(length > safe[own])
        q = np.einsum("nij,nj->ni", A[own[doubtful]], hkl[doubtful])
        found[start + doubtful] = np.einsum("ni,ni->n", q, q) > most[own[doubtful]] ** 2
        found[start : start + CHUNK] |= length == 0.0
    return found
