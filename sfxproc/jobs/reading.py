"""From input files to one data set spread over ranks: read, select, make unique, deal out.

Each rank reads its share of the files; crystals are then dealt out in fixed chunks, so that what
follows does not depend on who read what. Everything left out is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import (
    Crystals,
    Detector,
    Ints,
    Observations,
    Reason,
    Reflections,
    Status,
    Stills,
    concatenate,
    require_distinct,
)
from sfxproc.errors import ConfigError, DataError, InputError
from sfxproc.formats.inputs import InputFile, list_inputs, read_input
from sfxproc.jobs.settings import Input, Selection, Symmetry
from sfxproc.merging.shells import shell_edges
from sfxproc.parallel.chunks import Chunks, owned, plan_chunks
from sfxproc.parallel.comm import Comm
from sfxproc.report.log import Log
from sfxproc.symmetry import (
    SpaceGroup,
    absent,
    cell_fits,
    median_cell,
    reflections,
    require_cell,
    s_squared,
    space_group,
    unique_keys,
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """All that a job works on, after selection.

    crystals, status, reason, n_observations : of the whole job, the same on every rank.
    observations : of this rank's crystals (chunks.crystals), `crystal` counted from its first,
    sorted by crystal and reflection. reflections : all unique ones, on every rank.
    left_out : observations left out, by reason, of the whole job; no zeros.
    """

    space_group: SpaceGroup
    cell: NDArray[np.float64]
    crystals: Crystals
    status: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    n_observations: NDArray[np.int64]
    observations: Observations
    reflections: Reflections
    chunks: Chunks
    left_out: Mapping[Reason, int]
    n_images: int
    detector: Detector | None
    files: tuple[InputFile, ...]

    @property
    def own_crystals(self) -> Crystals:
        """This rank's crystals."""
        return self.crystals.take(self.chunks.crystals)


def read_dataset(
    inputs: Input,
    symmetry: Symmetry,
    selection: Selection,
    columns: frozenset[str],
    comm: Comm,
    log: Log,
) -> Dataset:
    """Read all inputs of a job. Raises InputError, ConfigError or DataError."""
    group = space_group(symmetry.space_group)
    files = list_inputs(inputs.paths, inputs.exclude, Path.cwd())
    stills = _read_share(files, columns, inputs.strict, comm, log)
    crystals, first = _all_crystals(stills, comm)
    require_distinct(crystals)
    cell = _target_cell(group, symmetry, crystals)
    status, reason = _select_crystals(crystals, cell, symmetry)
    observations, left_out = _select_observations(
        stills, first, status, group, cell, selection, columns
    )
    counts = sum(comm.allgather(np.bincount(observations.crystal, minlength=len(crystals))))
    few = (status == Status.USED) & (counts < selection.min_observations)
    status[few], reason[few] = Status.LEFT_OUT, Reason.TOO_FEW_OBSERVATIONS
    kept = status[observations.crystal] != Status.LEFT_OUT
    left_out += Counter({Reason.CRYSTAL_LEFT_OUT: int(np.count_nonzero(~kept))})
    observations = observations.take(kept)
    n_observations = np.where(status == Status.LEFT_OUT, 0, counts)
    total = Counter[Reason]()
    for part in comm.allgather(left_out):
        total.update(part)
    if not n_observations.any():
        raise DataError(_nothing_left(reason, total, cell))
    keys = unique_keys(group, observations.hkl, symmetry.anomalous)
    unique = np.unique(comm.allgather_rows(np.unique(keys)))
    unique_reflections = reflections(group, cell, unique)
    _require_reach(selection, unique_reflections)
    observations = replace(observations, reflection=np.searchsorted(unique, keys).astype(np.int32))
    chunks = plan_chunks(n_observations, len(unique), comm)
    return Dataset(
        group, cell, crystals, status, reason, n_observations,
        _deal(observations, chunks, len(unique), comm), unique_reflections, chunks, total,
        sum(comm.allgather(sum(s.n_images for s in stills.values()))),
        next((s.detector for s in stills.values() if s.detector is not None), None),
        tuple(files),
    )  # fmt: skip


def _read_share(
    files: list[InputFile], columns: frozenset[str], strict: bool, comm: Comm, log: Log
) -> dict[int, Stills]:
    """This rank's share of the files, by their number; every rank's notes are told by rank 0."""
    stills = {}
    with log.progress(len(files), "reading") as advance:
        for number in range(comm.rank, len(files), comm.size):
            stills[number] = read_input(files[number], columns, strict)
            _require_columns(files[number], stills[number], columns)
            advance(min(comm.size, len(files) - number))
    notes = {number: s.notes for number, s in stills.items()}
    for number, said in sorted({k: v for d in comm.allgather(notes) for k, v in d.items()}.items()):
        for note in said:
            log(f"{files[number].label}: {note}")
    return stills


def _require_columns(file: InputFile, stills: Stills, columns: frozenset[str]) -> None:
    missing = sorted(c for c in columns if getattr(stills.observations, c) is None)
    if missing:
        raise InputError(
            f"'{file.path}' has no column {' and '.join(missing)}, which this job's settings ask "
            'for. Integrate with a program that writes it, or set scaling.partiality = "ignore".'
        )


def _all_crystals(stills: dict[int, Stills], comm: Comm) -> tuple[Crystals, dict[int, int]]:
    """Crystals of all ranks in the order of the files, and where each file's crystals begin."""
    tables = {k: v for d in comm.allgather({n: s.crystals for n, s in stills.items()})
              for k, v in d.items()}  # fmt: skip
    order = sorted(tables)
    sizes = [len(tables[n]) for n in order]
    if not sum(sizes):
        raise DataError(
            "The inputs hold no crystals. Check with `sfxproc show` that the images were indexed."
        )
    starts = np.concatenate([[0], np.cumsum(sizes)])
    first = {n: int(s) for n, s in zip(order, starts, strict=False)}
    return concatenate([tables[n] for n in order]), first


def _target_cell(group: SpaceGroup, symmetry: Symmetry, crystals: Crystals) -> NDArray[np.float64]:
    """The cell given, or the median of the data's; checked against the space group."""
    known = np.asarray(np.isfinite(crystals.cell).all(axis=1))
    if not known.any():
        raise DataError(
            f"None of the {len(crystals)} crystals has a unit cell or an orientation, so they "
            "cannot be told to be of one crystal form. Give the files that the indexing program "
            "wrote, with cells; `sfxproc show` tells what a file holds."
        )
    if symmetry.unit_cell is not None:
        target = np.array(symmetry.unit_cell, dtype=np.float64)
        require_cell(group, target)
        return target
    require_cell(group, np.median(crystals.cell[known], axis=0))
    return np.asarray(median_cell(group, crystals.cell[known]))


def _select_crystals(
    crystals: Crystals, cell: NDArray[np.float64], symmetry: Symmetry
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Status and reason of every crystal after the cell check."""
    status = np.full(len(crystals), Status.USED, dtype=np.uint8)
    reason = np.full(len(crystals), Reason.NONE, dtype=np.uint8)
    known = np.asarray(np.isfinite(crystals.cell).all(axis=1))
    fits = np.zeros(len(crystals), dtype=bool)
    fits[known] = cell_fits(
        crystals.cell[known], cell, symmetry.length_tolerance_percent, symmetry.angle_tolerance_deg
    )
    status[~fits] = Status.LEFT_OUT
    reason[~fits] = np.where(known[~fits], Reason.CELL_OFF_TARGET, Reason.NO_ORIENTATION)
    if not fits.any():
        found = " ".join(f"{v:.2f}" for v in np.nanmedian(crystals.cell, axis=0))
        wanted = " ".join(f"{v:.2f}" for v in cell)
        raise DataError(
            f"None of the {len(crystals)} crystals has a cell near the target {wanted} (within "
            f"{symmetry.length_tolerance_percent:g} % and {symmetry.angle_tolerance_deg:g}°): "
            f"their median is {found}. Correct symmetry.unit_cell, or widen "
            "symmetry.length_tolerance_percent and symmetry.angle_tolerance_deg."
        )
    return status, reason


def _select_observations(
    stills: dict[int, Stills],
    first: dict[int, int],
    status: NDArray[np.uint8],
    group: SpaceGroup,
    cell: NDArray[np.float64],
    selection: Selection,
    columns: frozenset[str],
) -> tuple[Observations, Counter[Reason]]:
    """This rank's usable observations, crystals numbered in the whole job."""
    left_out: Counter[Reason] = Counter()
    parts = []
    for number in sorted(stills):
        still = stills[number]
        left_out.update(still.counts)
        table = replace(
            still.observations,
            crystal=(still.observations.crystal + first[number]).astype(np.int32),
        )
        parts.append(_usable(table, status, group, cell, selection, left_out))
    return (concatenate(parts) if parts else _no_observations(columns)), left_out


def _usable(
    table: Observations,
    status: NDArray[np.uint8],
    group: SpaceGroup,
    cell: NDArray[np.float64],
    selection: Selection,
    left_out: Counter[Reason],
) -> Observations:
    """Rows without a reason against them; each other row counts for its first reason."""
    reason = np.full(len(table), Reason.NONE, dtype=np.uint8)

    def mark(rows: NDArray[np.bool_], why: Reason) -> None:
        reason[rows & (reason == Reason.NONE)] = why

    d = 0.5 / np.sqrt(np.maximum(s_squared(table.hkl, cell), 1e-12))
    mark(status[table.crystal] == Status.LEFT_OUT, Reason.CRYSTAL_LEFT_OUT)
    mark(~np.isfinite(table.intensity) | ~np.isfinite(table.variance), Reason.NOT_FINITE)
    with np.errstate(invalid="ignore"):
        mark(table.variance <= 0, Reason.VARIANCE_NOT_POSITIVE)
    mark(absent(group, table.hkl), Reason.SYSTEMATIC_ABSENCE)
    if selection.d_min_A is not None:
        mark(d < selection.d_min_A, Reason.BELOW_D_MIN)
    if selection.d_max_A is not None:
        mark(d > selection.d_max_A, Reason.ABOVE_D_MAX)
    if table.partiality is not None:
        mark(~(table.partiality > selection.min_partiality), Reason.PARTIALITY_TOO_LOW)
    for why, n in zip(*np.unique(reason, return_counts=True), strict=True):
        if why != Reason.NONE:
            left_out[Reason(int(why))] += int(n)
    return table.take(reason == Reason.NONE)


def _no_observations(columns: frozenset[str]) -> Observations:
    """An empty table with the columns that other ranks have."""
    empty = np.empty(0, np.float32)
    return Observations(
        np.empty(0, np.int32), np.empty((0, 3), np.int16), empty, empty,
        **dict.fromkeys(columns, empty),  # type: ignore[arg-type]
    )  # fmt: skip


def _nothing_left(
    reason: NDArray[np.uint8], left_out: Counter[Reason], cell: NDArray[np.float64]
) -> str:
    def told(counts: Counter[Reason]) -> str:
        return ", ".join(f"{r.text} {n:,}" for r, n in counts.most_common()) or "none"

    crystals = Counter(Reason(int(r)) for r in reason if r != Reason.NONE)
    return (
        f"No usable observation is left of {len(reason):,} crystals (cell "
        f"{' '.join(f'{v:.2f}' for v in cell)}). Observations left out: {told(left_out)}; "
        f"crystals left out: {told(crystals)}. Check symmetry.space_group and the limits in "
        "[selection]."
    )


def _require_reach(selection: Selection, unique: Reflections) -> None:
    """The resolution limit asked for must not lie beyond the data."""
    reach = float(unique.d_A.min())
    if selection.d_min_A is None:
        return
    edges = shell_edges(np.array([unique.s2.min(), 0.25 / selection.d_min_A**2]), 10)
    if float(unique.s2.max()) < edges[-2]:
        raise ConfigError(
            f"selection.d_min_A = {selection.d_min_A:g} is beyond the data, which reach "
            f"{reach:.2f} Å: the last of ten resolution shells would be empty. Set "
            f"selection.d_min_A = {reach:.2f} or leave it out."
        )


def _deal(
    observations: Observations, chunks: Chunks, n_reflections: int, comm: Comm
) -> Observations:
    """Send every crystal's observations to the rank that owns it, sorted for the solver."""
    if comm.size > 1:
        n_chunks = len(chunks.bounds) - 1
        ends = [chunks.bounds[owned(n_chunks, r, comm.size)[1]] for r in range(comm.size)]
        cuts = np.concatenate([[0], np.searchsorted(observations.crystal, ends)])
        parts = [observations.take(slice(int(a), int(b))) for a, b in pairwise(cuts)]
        columns = {
            name: np.concatenate(comm.exchange([p.columns()[name] for p in parts]))
            for name in observations.columns()
        }
        observations = Observations(**columns)
    order = _sort_order(observations.crystal, observations.reflection, n_reflections)
    observations = observations.take(order)
    own = chunks.crystals
    return replace(observations, crystal=(observations.crystal - own.start).astype(np.int32))


def _sort_order(crystal: Ints, reflection: Ints | None, n_reflections: int) -> NDArray[np.intp]:
    assert reflection is not None
    return np.argsort(crystal.astype(np.int64) * n_reflections + reflection, kind="stable")
