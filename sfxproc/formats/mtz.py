"""Unmerged MTZ, in and out, and what all MTZ files share.

One batch is one crystal. Its header holds the cell and U (UMAT, Fortran order) with A = U B,
where B is the upper triangle of Busing & Levy (Acta Cryst. 22, 457, 1967) with a* along x: the
reciprocal metric is G* = Bᵀ B = Aᵀ A, so Bᵀ is its Cholesky factor. The beam travels against the
source vector (SO) of the header. Word numbers are those of CCP4's `MTZBAT` record.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Correction, Crystals, Floats, Ints, Mask, Observations, Reason, Stills
from sfxproc.errors import InputError, OutputError
from sfxproc.formats import peek
from sfxproc.formats.atomic import atomic
from sfxproc.formats.base import Format, Request
from sfxproc.formats.soundness import indices_of
from sfxproc.symmetry import cells_from_A, reciprocal_matrix

# words of the batch header (reals, from 0)
UMAT, PHI_START, PHI_END, SOURCE, SO = slice(6, 15), 36, 37, slice(80, 83), slice(83, 86)
CALCULATED = re.compile(r"[FI]C(\(|$)|[FI][-_ ]?(C_|MODEL|CALC)", re.IGNORECASE)
MAX_BATCH = 1 << 24  # MTZ stores the batch number as float32


def open_mtz(path: Path) -> gemmi.Mtz:
    """Read an MTZ with its space group. Raises InputError if it is damaged or lacks one."""
    try:
        mtz = gemmi.read_mtz_file(str(path))
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"'{path}' cannot be read as MTZ ({error}). Check the path, or copy the file again."
        ) from error
    if mtz.spacegroup is None:
        raise InputError(
            f"'{path}' names no space group that is known ('{mtz.spacegroup_name}'). Set it, for "
            "example with CCP4's reindex or mtzutils, and try again."
        )
    _indices_first(path, mtz)
    data = mtz.array
    data[:, :3] = indices_of(data[:, :3])
    return mtz


def is_unmerged(path: Path) -> bool:
    """Whether an MTZ has batches, by its header alone; not of a file that cannot be read."""
    try:
        head = gemmi.read_mtz_file(str(path), with_data=False)
    except (RuntimeError, OSError, ValueError):
        return False
    return bool(head.batches) or "BATCH" in head.column_labels()


def _indices_first(path: Path, mtz: gemmi.Mtz) -> None:
    """Have H, K and L as the first columns, where gemmi looks for them. Raises InputError."""
    labels = mtz.column_labels()
    if labels[:3] == ["H", "K", "L"]:
        return
    if not {"H", "K", "L"} <= set(labels):
        raise InputError(
            f"'{path}' has no columns H, K and L. Its columns: {column_list(mtz)}. Give a file of "
            "reflections."
        )
    for place, label in enumerate("HKL"):
        mtz.copy_column(place, [c for c in mtz.columns if c.label == label][-1])
    for label in "HKL":
        mtz.remove_column([c.idx for c in mtz.columns if c.label == label][-1])


def column_list(mtz: gemmi.Mtz) -> str:
    """The columns of a file as `label (type)`, for messages."""
    return ", ".join(f"{c.label} ({c.type})" for c in mtz.columns)


def find_pair(mtz: gemmi.Mtz, kind: str, preferred: Sequence[str]) -> tuple[int, int | None] | None:
    """Column numbers of a value of MTZ type `kind` and of its σ, or None without such a column.

    The first of the preferred labels there is, otherwise the first column of the type that is no
    half set, map coefficient or calculated value. σ is the column SIG<label>, otherwise the next
    one if its type is one of σ.
    """
    no_mean = ("HALF", "WT")  # half sets, map coefficients
    columns = [c for c in mtz.columns if c.type == kind and not any(n in c.label for n in no_mean)]
    candidates = {c.label: c.idx for c in columns if not is_calculated(mtz, c)}
    if not candidates:
        return None
    label = next((p for p in preferred if p in candidates), next(iter(candidates)))
    value = candidates[label]
    following = [c for c in mtz.columns if c.idx == value + 1 and c.type in "QLM"]
    sigma = [c for c in mtz.columns if c.label == f"SIG{label}"] or following
    return value, sigma[0].idx if sigma else None


def is_calculated(mtz: gemmi.Mtz, column: gemmi.Mtz.Column) -> bool:
    """Whether a column holds what a model says and not what was measured: by its name, or because
    a phase follows it and no σ."""
    following = mtz.columns[column.idx + 1].type if column.idx + 1 < len(mtz.columns) else ""
    has_phase = following == "P" and f"SIG{column.label}" not in mtz.column_labels()
    return CALCULATED.match(column.label) is not None or has_phase


def new_mtz(
    title: str, space_group: str, cell: Floats, wavelength_A: float, history: Sequence[str]
) -> gemmi.Mtz:
    """An empty MTZ with H, K, L and one data set; cell : (6,) Å and degrees."""
    mtz = gemmi.Mtz(with_base=True)
    mtz.title = title
    mtz.spacegroup = gemmi.SpaceGroup(space_group)
    mtz.set_cell_for_all(gemmi.UnitCell(*(float(v) for v in cell)))
    dataset = mtz.add_dataset("sfxproc")
    dataset.project_name = dataset.crystal_name = "sfxproc"
    for known in mtz.datasets:  # some programs take that of H, K and L
        known.wavelength = wavelength_A if np.isfinite(wavelength_A) else 0.0
    # a history line has 80 ASCII characters
    text = (line.encode("ascii", "replace").decode() for line in history)
    mtz.history = [part for line in text for part in textwrap.wrap(line, 80)]
    return mtz


def fill(mtz: gemmi.Mtz, hkl: Ints, columns: dict[str, Any]) -> None:
    """Add columns, by `label:type`, after H, K, L and set the data of all (float32)."""
    for name in columns:
        label, kind = name.rsplit(":", 1)
        mtz.add_column(label, kind)
    data = np.column_stack([hkl, *columns.values()]).astype(np.float32, copy=False)
    mtz.set_data(np.ascontiguousarray(data))


def save(path: Path, mtz: gemmi.Mtz) -> None:
    """Write an MTZ atomically. Raises OutputError."""
    with atomic(path) as temporary:
        temporary.write_bytes(mtz.write_to_bytes())


def write_unmerged(path: Path, stills: Stills) -> None:
    """Write stills as unmerged MTZ in P 1, one batch a crystal, atomically.

    Batch = row of the crystal + 1. Kept: indices, intensities, σ, partiality (FRACTIONCALC),
    position (XDET, YDET), orientation, cell, wavelength and beam. MTZ has no place for panels,
    bandwidth, profile radius and file names longer than a title. Raises OutputError.
    """
    crystals, table = stills.crystals, stills.observations
    cells = best_cells(crystals)
    known = cells[np.isfinite(cells).all(axis=1)]
    cell = np.median(known, axis=0) if len(known) else np.array([1.0, 1, 1, 90, 90, 90])
    mtz = new_mtz("unmerged stills", "P 1", cell, median_wavelength_A(crystals), ())
    sigma = np.sqrt(np.where(table.variance > 0, table.variance, np.nan))
    hkl, isym = asymmetric_unit(mtz.spacegroup, table.hkl)
    columns: dict[str, Any] = {
        "M/ISYM:Y": isym,
        "BATCH:B": table.crystal + 1,
        "I:J": table.intensity,
        "SIGI:Q": sigma,
    }
    if table.partiality is not None:
        columns["FRACTIONCALC:R"] = table.partiality
    if table.x_px is not None and table.y_px is not None:
        columns |= {"XDET:R": table.x_px, "YDET:R": table.y_px}
    fill(mtz, hkl, columns)
    add_batches(path, mtz, crystals, np.arange(len(crystals)))
    save(path, mtz)


def best_cells(crystals: Crystals) -> Floats:
    """(n, 6) Å and degrees. A holds a cell too: it wins, so that U comes out as a rotation."""
    oriented = np.asarray(np.isfinite(crystals.A).all(axis=(1, 2)))
    return np.where(oriented[:, None], cells_from_A(crystals.A), crystals.cell)


def median_wavelength_A(crystals: Crystals) -> float:
    """The median of the wavelengths that are known; NaN if none is."""
    known = crystals.wavelength_A[np.isfinite(crystals.wavelength_A)]
    return float(np.median(known)) if len(known) else np.nan


def asymmetric_unit(group: gemmi.SpaceGroup, hkl: Ints) -> tuple[Ints, Ints]:
    """hkl (n, 3) in CCP4's asymmetric unit of the group, and ISYM (n,) to come back from there.

    The i-th operator's rotation R takes the original into the unit: hkl R = ± asu; ISYM is
    2i − 1, or 2i for the Friedel mate.
    """
    asu = np.array(hkl, dtype=np.int32, order="C")
    group.switch_to_asu(asu)
    isym = np.zeros(len(asu), dtype=np.int32)
    for i, operator in enumerate(group.operations().sym_ops):
        turned = hkl.astype(np.int32) @ (np.array(operator.rot, dtype=np.int32) // gemmi.Op.DEN)
        for code, sign in ((2 * i + 1, 1), (2 * i + 2, -1)):
            isym[(isym == 0) & (turned == sign * asu).all(axis=1)] = code
    return asu, isym


def add_batches(path: Path, mtz: gemmi.Mtz, crystals: Crystals, rows: Ints) -> None:
    """Add headers of the batches of these rows of `crystals`, numbered row + 1.

    path : for the message. Raises OutputError if MTZ cannot hold so large a number.
    """
    if len(crystals) >= MAX_BATCH:
        raise OutputError(
            f"Cannot write '{path}': MTZ holds at most {MAX_BATCH - 1} batches and there are "
            f"{len(crystals)} crystals. Write native HDF5 (.h5) instead."
        )
    cells = best_cells(crystals)
    dataset_id = mtz.datasets[-1].id
    U = crystals.A @ np.linalg.inv(_busing_levy(crystals.A))
    identity = crystals.identity
    for i in rows.tolist():
        batch = gemmi.Mtz.Batch()
        batch.number = i + 1
        batch.title = identity[i].encode("ascii", "replace").decode()[-70:]
        batch.dataset_id = dataset_id
        batch.ints[12] = 1  # NCRYST
        batch.ints[14] = 2  # LDTYPE: area detector
        if np.isfinite(cells[i]).all():
            batch.cell = gemmi.UnitCell(*cells[i].tolist())
        if np.isfinite(crystals.wavelength_A[i]):
            batch.wavelength = float(crystals.wavelength_A[i])
        if np.isfinite(U[i]).all() and np.isfinite(crystals.beam[i]).all():
            _set(batch, UMAT, U[i].T.ravel())
            _set(batch, SOURCE, -crystals.beam[i])
            _set(batch, SO, -crystals.beam[i])
        mtz.batches.append(batch)


def read_unmerged(path: Path, request: Request) -> Stills:
    """Read an unmerged MTZ; original indices, one crystal a batch, event = batch number.

    A is NaN where the header has no U, no beam, or a rotation. Intensities are taken as corrected
    for polarisation, as those of unmerged MTZ are by convention. Raises InputError for a merged or
    damaged file and for one without M/ISYM or intensities.
    """
    mtz = open_mtz(path)
    labels = mtz.column_labels()
    if "BATCH" not in labels:
        raise InputError(
            f"'{path}' is a merged MTZ (it has no BATCH column), but input.paths takes unmerged "
            "observations. To fix scale and B by it, name it as reference.path instead."
        )
    headers = {b.number: b for b in mtz.batches}
    if not headers:  # without any, gemmi takes the file for a merged one
        mtz.batches.append(gemmi.Mtz.Batch())
    good = _switch_to_original(path, mtz)
    pair = find_pair(mtz, "J", ("I", "IPR"))
    if pair is None or pair[1] is None:
        raise InputError(
            f"'{path}' has no intensity (type J) with its sigma (type Q). Export it again with "
            f"both. Its columns: {column_list(mtz)}."
        )
    data = mtz.array
    stored = data[:, labels.index("BATCH")]
    with np.errstate(invalid="ignore"):  # beyond 2²⁴ float32 does not tell neighbours apart
        good &= (stored >= 0) & (stored < MAX_BATCH) & (stored == np.rint(stored))
    counts = {Reason.DAMAGED: n} if (n := int(np.count_nonzero(~good))) else {}
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(stored[rows], kind="stable")]
    batch, sigma = stored[rows].astype(np.int64), data[rows, pair[1]]
    numbers = np.union1d(batch, np.array(list(headers), dtype=np.int64))

    def optional(name: str, label: str) -> NDArray[np.float32] | None:
        wanted = name in request.columns and label in labels
        return data[rows, labels.index(label)] if wanted else None

    crystals, notes = _read_batches(mtz, numbers, headers, request.label)
    observations = Observations(
        crystal=np.searchsorted(numbers, batch).astype(np.int32),
        hkl=indices_of(mtz.make_miller_array()[rows]),
        intensity=data[rows, pair[0]],
        variance=sigma * np.abs(sigma),  # a negative σ marks a rejected row
        partiality=optional("partiality", "FRACTIONCALC"),
        x_px=optional("x_px", "XDET"),
        y_px=optional("y_px", "YDET"),
    )
    if counts:
        notes = (*notes, f"rows with a damaged M/ISYM or BATCH were left out: {n:,}")
    return Stills(
        crystals,
        observations,
        n_images=len(numbers),
        counts=counts,
        notes=notes,
        corrected=frozenset({Correction.POLARISATION}),
        space_group=mtz.spacegroup.xhm(),
    )


def _switch_to_original(path: Path, mtz: gemmi.Mtz) -> Mask:
    """Put the indices as measured in place of those of the asymmetric unit; the rows that have a
    symmetry operator, the others get 0 0 0. Raises InputError."""
    isym = next((c for c in mtz.columns if c.label == "M/ISYM"), None)
    isym = isym or next((c for c in mtz.columns if c.type == "Y"), None)
    switched = False
    good = np.zeros(mtz.nreflections, dtype=bool)
    if isym is not None:
        data = mtz.array
        with np.errstate(invalid="ignore"):
            code = np.nan_to_num(data[:, isym.idx], nan=0.0, posinf=0.0, neginf=0.0)
            operator = code.astype(np.int64) & 0xFF  # M/ISYM is 256 M + ISYM
        good = (operator > 0) & (operator <= 2 * max(mtz.nsymop, 1))
        data[~good, isym.idx] = 1
        data[~good, :3] = 0
        with suppress(IndexError):
            switched = mtz.switch_to_original_hkl()
    if not switched:
        raise InputError(
            f"'{path}' has no usable M/ISYM column, so the indices as measured are lost. Export "
            f"the unmerged file again. Its columns: {column_list(mtz)}."
        )
    return good


def _read_batches(
    mtz: gemmi.Mtz, numbers: Ints, headers: dict[int, gemmi.Mtz.Batch], label: str
) -> tuple[Crystals, tuple[str, ...]]:
    n = len(numbers)
    cell, wavelength = np.full((n, 6), np.nan), np.full(n, np.nan)
    beam, U = np.tile([0.0, 0.0, 1.0], (n, 1)), np.full((n, 3, 3), np.nan)
    rotated = 0
    waves = {d.id: d.wavelength for d in mtz.datasets}
    for i, number in enumerate(numbers.tolist()):
        header = headers.get(number)
        own = header.cell if header is not None else mtz.cell
        shared = mtz.cell if header is None else mtz.get_cell(header.dataset_id)
        wave = max(waves.values(), default=0.0)
        if header is not None:
            wave = header.wavelength or waves.get(header.dataset_id, wave)
            rotated += header.floats[PHI_START] != 0 or header.floats[PHI_END] != 0
            _read_orientation(header, U[i], beam[i])
        best = own if own.is_crystal() else shared
        if best.is_crystal():
            cell[i] = best.parameters
        if wave > 0:
            wavelength[i] = wave
    crystals = Crystals(
        file=np.full(n, label, dtype=object),
        event=np.array([str(v) for v in numbers], dtype=object),
        A=U @ _busing_levy(np.array([reciprocal_matrix(c) for c in cell]).reshape(n, 3, 3)),
        cell=cell,
        beam=beam,
        wavelength_A=wavelength,
        bandwidth=np.full(n, np.nan),
        profile_radius=np.full(n, np.nan),
    )
    notes = []
    if rotated:
        notes.append(
            f"{rotated} of {n} batches are rotation images, not stills; their orientation "
            "is not used."
        )
    elif without := int(np.sum(~np.isfinite(U[:, 0, 0]))):
        notes.append(f"{without} of {n} batches give no orientation.")
    return crystals, tuple(notes)


def _read_orientation(header: gemmi.Mtz.Batch, U: Floats, beam: Floats) -> None:
    """Fill U (3, 3) and beam (3,) in place, if the header describes a still."""
    if header.floats[PHI_START] != 0 or header.floats[PHI_END] != 0:
        return
    matrix = _get(header, UMAT).reshape(3, 3).T
    source = _get(header, SO) if np.any(_get(header, SO)) else _get(header, SOURCE)
    length = np.linalg.norm(source)
    if length > 0 and np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3):
        U[:], beam[:] = matrix, -source / length


def _busing_levy(A: Floats) -> Floats:
    """B (n, 3, 3) of matrices A (n, 3, 3) in any orientation; NaN for NaN."""
    B = np.full(A.shape, np.nan)
    known = np.isfinite(A).all(axis=(1, 2))
    B[known] = np.linalg.cholesky(A[known].mT @ A[known]).mT
    return B


def _get(batch: gemmi.Mtz.Batch, words: slice) -> Floats:
    return np.array([batch.floats[i] for i in range(words.start, words.stop)])


def _set(batch: gemmi.Mtz.Batch, words: slice, values: Floats) -> None:
    for i, value in zip(range(words.start, words.stop), values.tolist(), strict=True):
        batch.floats[i] = value


FORMAT_UNMERGED = Format("unmerged MTZ", (".mtz",), read_unmerged, write_unmerged, peek.mtz)
