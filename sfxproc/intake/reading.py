"""From input files to one data set spread over ranks: read, select, make unique, deal out.

Each rank reads its share of the files; crystals are then dealt out in fixed chunks, so that what
follows does not depend on who read what. Everything left out is counted by reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import (
    Crystals,
    Observations,
    Reason,
    ReferenceSet,
    Status,
    Stills,
    concatenate,
    require_distinct,
)
from sfxproc.formats.inputs import InputFile, list_inputs, read_input
from sfxproc.intake.corrections import corrected
from sfxproc.intake.reindexing import ambiguity_reference, in_one_setting
from sfxproc.intake.selection import (
    N_REASONS,
    Inventory,
    by_cell_cluster,
    by_reason,
    clusters_notes,
    coded,
    of_kept_crystals,
    require_columns,
    require_crystals,
    require_reach,
    require_rows,
    select_crystals,
    sort_order,
    target_cell,
    too_few,
    usable,
)
from sfxproc.parallel.chunks import Chunks, owned, plan_chunks
from sfxproc.parallel.comm import Comm
from sfxproc.report.log import Log
from sfxproc.settings.sections import Corrections, Input, Selection, Symmetry
from sfxproc.symmetry import SpaceGroup, reflections, space_group, unique_keys


@dataclass(frozen=True, eq=False)
class Dataset(Inventory):
    """All that a job works on, after selection.

    observations : of this rank's crystals (chunks.crystals), `crystal` counted from its first,
    sorted by crystal and reflection.
    """

    observations: Observations
    chunks: Chunks

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
    oriented: bool = False,
    reference: ReferenceSet | None = None,
    corrections: Corrections | None = None,
) -> Dataset:
    """Read all inputs of a job. oriented : crystals need an orientation. reference : the set whose
    setting crystals are brought into, where indexing is ambiguous and the settings name no other.
    Raises InputError, ConfigError or DataError."""
    group = space_group(symmetry.space_group)
    reference = ambiguity_reference(symmetry, reference)
    files = list_inputs(inputs.paths, inputs.exclude, Path.cwd())
    stills = _read_share(files, columns, inputs.strict, corrections or Corrections(), comm, log)
    crystals, first = _all_crystals(stills, comm)
    require_distinct(crystals)
    cell = target_cell(group, symmetry, crystals)
    status, reason = select_crystals(crystals, cell, symmetry, oriented)
    clusters = by_cell_cluster(crystals, status, reason, group, selection.cell_cluster)
    for note in clusters_notes(clusters):
        log(note)
    observations, left_out = _select_observations(
        stills, first, status, group, cell, selection, columns
    )
    counts = sum(comm.allgather(np.bincount(observations.crystal, minlength=len(crystals))))
    few = too_few(status, counts, selection)
    status[few], reason[few] = Status.LEFT_OUT, Reason.TOO_FEW_OBSERVATIONS
    observations, with_crystals = of_kept_crystals(observations, status)
    n_observations = np.where(status == Status.LEFT_OUT, 0, counts)
    total = sum(comm.allgather(left_out + with_crystals))
    require_rows(n_observations, reason, total, cell)
    alike = in_one_setting(
        group, cell, symmetry, crystals, status, observations, reference, comm, log
    )
    crystals, observations = alike.crystals, alike.observations
    n_observations -= alike.n_absent
    total[Reason.SYSTEMATIC_ABSENCE] += alike.n_absent.sum()
    cell = target_cell(group, symmetry, crystals)
    keys = unique_keys(group, observations.hkl, symmetry.anomalous)
    unique = np.unique(comm.allgather_rows(np.unique(keys)))
    unique_reflections = reflections(group, cell, unique)
    require_reach(selection, unique_reflections)
    observations = replace(observations, reflection=np.searchsorted(unique, keys).astype(np.int32))
    chunks = plan_chunks(n_observations, len(unique), comm)
    return Dataset(
        group, cell, crystals, status, reason, n_observations, unique_reflections,
        by_reason(total),
        sum(comm.allgather(sum(s.n_images for s in stills.values()))),
        next((s.detector for s in stills.values() if s.detector is not None), None),
        tuple(files),
        _deal(observations, chunks, len(unique), comm), chunks,
        found={**alike.columns, "cell_cluster": clusters.label},
    )  # fmt: skip


def _read_share(
    files: list[InputFile],
    columns: frozenset[str],
    strict: bool,
    corrections: Corrections,
    comm: Comm,
    log: Log,
) -> dict[int, Stills]:
    """This rank's share of the files, by their number; every rank's notes are told by rank 0."""
    stills = {}
    with log.progress(len(files), "reading") as advance:
        for number in range(comm.rank, len(files), comm.size):
            stills[number] = corrected(read_input(files[number], columns, strict), corrections)
            present = stills[number].observations.columns()
            require_columns(files[number].path, present, columns)
            advance(min(comm.size, len(files) - number))
    notes = {number: s.notes for number, s in stills.items()}
    for number, said in sorted({k: v for d in comm.allgather(notes) for k, v in d.items()}.items()):
        for note in said:
            log(f"{files[number].label}: {note}")
    return stills


def _all_crystals(stills: dict[int, Stills], comm: Comm) -> tuple[Crystals, dict[int, int]]:
    """Crystals of all ranks in the order of the files, and where each file's crystals begin."""
    tables = {k: v for d in comm.allgather({n: s.crystals for n, s in stills.items()})
              for k, v in d.items()}  # fmt: skip
    order = sorted(tables)
    sizes = [len(tables[n]) for n in order]
    require_crystals(sum(sizes))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    first = {n: int(s) for n, s in zip(order, starts, strict=False)}
    return concatenate([tables[n] for n in order]), first


def _select_observations(
    stills: dict[int, Stills],
    first: dict[int, int],
    status: NDArray[np.uint8],
    group: SpaceGroup,
    cell: NDArray[np.float64],
    selection: Selection,
    columns: frozenset[str],
) -> tuple[Observations, NDArray[np.int64]]:
    """This rank's usable observations, numbered by the job's crystals, and what was left out."""
    left_out = np.zeros(N_REASONS, dtype=np.int64)
    parts = []
    for number in sorted(stills):
        still = stills[number]
        table = replace(
            still.observations,
            crystal=(still.observations.crystal + first[number]).astype(np.int32),
        )
        part, here = usable(table, status, group, cell, selection)
        left_out += coded(still.counts) + here
        parts.append(part)
    return (concatenate(parts) if parts else _no_observations(columns)), left_out


def _no_observations(columns: frozenset[str]) -> Observations:
    """An empty table with the columns that other ranks have."""
    empty = np.empty(0, np.float32)
    return Observations(
        np.empty(0, np.int32), np.empty((0, 3), np.int16), empty, empty,
        **dict.fromkeys(columns, empty),  # type: ignore[arg-type]
    )  # fmt: skip


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
    assert observations.reflection is not None
    order = sort_order(observations.crystal, observations.reflection, n_reflections)
    observations = observations.take(order)
    own = chunks.crystals
    return replace(observations, crystal=(observations.crystal - own.start).astype(np.int32))
