"""Reading for strategy "blocks": any input becomes pieces in a shuffled order of the crystals.

Two rounds of tasks that know nothing of each other, and what rank 0 makes of what they find:

    read_file   an input file → a native file, a shard (itself if it is one); its crystals
    plan        which crystals take part, their order, blocks; parts of about as many rows
    sort_part   a part → a piece: its selected observations, sorted
    inventory   unique reflections, what became of every crystal and observation

so that a worker later reads the rows of a block, and only these, as one stretch of each piece.
Tasks find plain arrays by name. A shard or piece that is there already is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import (
    Crystals,
    Detector,
    Observations,
    Reason,
    Rows,
    Status,
    concatenate,
    require_distinct,
)
from sfxproc.errors import InputError, OutputError
from sfxproc.formats import hdf5
from sfxproc.formats.inputs import InputFile, read_input
from sfxproc.formats.pieces import PieceHead, read_piece_head, read_run, write_piece
from sfxproc.intake.corrections import corrected
from sfxproc.intake.selection import (
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
from sfxproc.parallel.blocks import Blocks, plan_blocks
from sfxproc.settings.sections import Corrections, Selection, Symmetry
from sfxproc.symmetry import SpaceGroup, reflections, space_group, unique_keys

Arrays = Mapping[str, NDArray[Any]]

PART_ROWS = 1 << 22  # of a part: some 0.3 GB while it is sorted


@dataclass(frozen=True)
class Reading:
    """What every task of reading must know. folder : where shards and pieces go; columns : the
    optional columns of observations wanted; oriented : crystals need an orientation, and the hkl of
    their observations are kept as indexed."""

    files: tuple[InputFile, ...]
    columns: frozenset[str]
    strict: bool
    folder: Path
    part_rows: int = PART_ROWS
    corrections: Corrections = field(default_factory=Corrections)
    oriented: bool = False

    def shard(self, number: int) -> Path:
        """The native file of an input."""
        file = self.files[number]
        if file.format == hdf5.FORMAT and not self.corrections.wanted:
            return file.path
        return self.folder / "shards" / f"{number:05d}.h5"

    def piece(self, number: int) -> Path:
        """The piece of a part."""
        return self.folder / "pieces" / f"{number:05d}.h5"


@dataclass(frozen=True, eq=False)
class Sorting:
    """What every task of sorting must know.

    stretches : (n, 5) int64: input file, first and last + 1 of its crystals, first and last + 1 of
    its rows, in the order of the job. parts : (n_parts + 1,) first stretch of each part. status :
    (n_crystals,) after the cell check. position : (n_crystals,) int64 in the shuffled order, −1 for
    crystals left out.
    """

    reading: Reading
    space_group: SpaceGroup
    cell: NDArray[np.float64]
    anomalous: bool
    selection: Selection
    stretches: NDArray[np.int64]
    parts: NDArray[np.int64]
    status: NDArray[np.uint8]
    position: NDArray[np.int64]

    @property
    def n_parts(self) -> int:
        """Number of parts, and of pieces."""
        return len(self.parts) - 1


@dataclass(frozen=True, eq=False)
class Plan:
    """What rank 0 knows once all files are read.

    reason : (n_crystals,) and left_out : by code, after the cell check. crystal_at : (n,) the
    crystal at each position of the shuffled order; the order in `blocks` is that of the crystals
    in use. notes : sentences for the log.
    """

    crystals: Crystals
    reason: NDArray[np.uint8]
    left_out: NDArray[np.int64]
    n_images: int
    detector: Detector | None
    notes: tuple[str, ...]
    found: Arrays
    blocks: Blocks
    crystal_at: NDArray[np.int64]
    sorting: Sorting


def make_folders(folder: Path) -> None:
    """The folders of shards and pieces. Raises OutputError."""
    for name in ("shards", "pieces"):
        try:
            (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"Cannot make the folder '{folder / name}' ({error.strerror or error}). Correct "
                "its permissions, or choose another output.folder."
            ) from error


# ---- reading ---------------------------------------------------------------------------------


def read_file(reading: Reading, number: int) -> Arrays:
    """Have one input as a native file, and tell what it holds but the observations.

    Returns the columns of `Crystals` (text as 'U'), n_images, left_out, notes, has_detector, and
    cuts (k + 1, 2) as of `hdf5.read_cuts`. Raises InputError, or OutputError for a full disk.
    """
    file, shard = reading.files[number], reading.shard(number)
    try:
        head = hdf5.read_head(shard)
    except InputError:
        if shard == file.path:
            raise
        stills = read_input(file, reading.columns, reading.strict)
        stills = corrected(stills, reading.corrections)
        hdf5.write(shard, replace(stills, header=""))
        head = hdf5.read_head(shard)
    require_columns(file.path, head.columns, reading.columns)
    return {
        **{name: plain(values) for name, values in head.crystals.columns().items()},
        "n_images": np.array([head.n_images]),
        "left_out": coded(head.counts),
        "notes": np.array(head.notes, dtype=str),
        "has_detector": np.array([head.has_detector]),
        "cuts": hdf5.read_cuts(shard, reading.part_rows),
    }


def plain(values: NDArray[Any]) -> NDArray[Any]:
    """Text as 'U', numbers as they are."""
    return values.astype(str) if values.dtype == object else values


def plan(
    found: Sequence[Arrays],
    reading: Reading,
    symmetry: Symmetry,
    selection: Selection,
    *,
    size: int,
    overlap: int,
    seed: int,
) -> Plan:
    """Select crystals, cut them into blocks, and the files into parts.

    found : of `read_file`, one a file in their order. size, overlap : of blocks, in crystals.
    Raises InputError, ConfigError or DataError, and ValueError for an overlap as large as a block.
    """
    require_crystals(sum(len(one["file"]) for one in found))
    crystals = concatenate([_crystals(one) for one in found])
    require_distinct(crystals)
    group = space_group(symmetry.space_group)
    cell = target_cell(group, symmetry, crystals)
    status, reason = select_crystals(crystals, cell, symmetry, reading.oriented)
    clusters = by_cell_cluster(crystals, status, reason, group, selection.cell_cluster)
    used = np.flatnonzero(status == Status.USED)
    blocks = plan_blocks(len(used), size, overlap, seed)
    crystal_at = used[blocks.order]
    position = np.full(len(crystals), -1, dtype=np.int64)
    position[crystal_at] = np.arange(len(used))
    stretches = _stretches(found)
    parts = _parts(stretches[:, 4] - stretches[:, 3], reading.part_rows)
    with_detector = [number for number, one in enumerate(found) if one["has_detector"][0]]
    return Plan(
        crystals,
        reason,
        left_out=np.sum([one["left_out"] for one in found], axis=0),
        n_images=sum(int(one["n_images"][0]) for one in found),
        detector=hdf5.read_detector(reading.shard(with_detector[0])) if with_detector else None,
        notes=(
            *(
                f"{file.label}: {note}"
                for file, one in zip(reading.files, found, strict=True)
                for note in one["notes"]
            ),
            *clusters_notes(clusters),
        ),
        found={"cell_cluster": clusters.label},
        blocks=blocks,
        crystal_at=crystal_at,
        sorting=Sorting(
            reading, group, cell, symmetry.anomalous, selection, stretches, parts, status, position
        ),
    )


def _crystals(found: Arrays) -> Crystals:
    text = {name: found[name].astype(object) for name in ("file", "event")}
    return Crystals(**{f.name: found[f.name] for f in fields(Crystals)} | text)


def _stretches(found: Sequence[Arrays]) -> NDArray[np.int64]:
    tables = []
    for number, one in enumerate(found):
        (crystal, row), (last_crystal, last_row) = one["cuts"][:-1].T, one["cuts"][1:].T
        file = np.full(len(crystal), number)
        tables.append(np.stack([file, crystal, last_crystal, row, last_row], axis=1))
    return np.concatenate(tables)


def _parts(n_rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """First of the stretches in each part, and their number: as many as have up to `most` rows."""
    first, held = [0], 0
    for number, n in enumerate(n_rows):
        if n and held and held + n > most:
            first.append(number)
            held = 0
        held += n
    return np.array([*first, len(n_rows)])


# ---- sorting ---------------------------------------------------------------------------------


def sort_part(sorting: Sorting, number: int) -> Arrays:
    """Have the piece of one part, and tell what it holds but the rows.

    Returns keys, position, n_observations (of each position) and left_out, as in `PieceHead`.
    Raises InputError, or OutputError for a full disk.
    """
    path = sorting.reading.piece(number)
    first, last = sorting.parts[number], sorting.parts[number + 1]
    n_crystals = sorting.stretches[:, 2] - sorting.stretches[:, 1]
    start = int(n_crystals[:first].sum())
    crystals = slice(start, start + int(n_crystals[first:last].sum()))
    position = sorting.position[crystals]
    here = np.sort(position[position >= 0])
    try:
        head = read_piece_head(path)
        done = np.array_equal(head.position, here)  # or it is of another job
    except InputError:
        done = False
    if not done:
        _write(path, sorting, sorting.stretches[first:last], crystals, here)
        head = read_piece_head(path)
    return {
        "keys": head.keys,
        "position": head.position,
        "n_observations": head.n_rows,
        "left_out": head.left_out,
    }


def _write(
    path: Path,
    sorting: Sorting,
    stretches: NDArray[np.int64],
    crystals: slice,
    here: NDArray[np.int64],
) -> None:
    """Read, select and sort one part; here : its positions, sorted."""
    table = _read(sorting.reading, stretches)
    status = sorting.status[crystals]
    table, left_out = usable(table, status, sorting.space_group, sorting.cell, sorting.selection)
    counts = np.bincount(table.crystal, minlength=len(status))
    few = too_few(status, counts, sorting.selection)
    status = np.where(few, np.uint8(Status.LEFT_OUT), status)
    table, with_crystals = of_kept_crystals(table, status)
    keys = unique_keys(sorting.space_group, table.hkl, sorting.anomalous)
    unique = np.unique(keys)
    place = np.searchsorted(here, sorting.position[crystals]).astype(np.int32)
    crystal, reflection = place[table.crystal], np.searchsorted(unique, keys).astype(np.int32)
    order = sort_order(crystal, reflection, len(unique))
    rows: Rows | Observations = replace(table, crystal=crystal, reflection=reflection)
    if not sorting.reading.oriented:
        rows = Rows(crystal, reflection, table.intensity, table.variance, table.partiality)
    write_piece(path, unique, here, rows.take(order), left_out + with_crystals)


def _read(reading: Reading, stretches: NDArray[np.int64]) -> Observations:
    """The observations of neighbouring stretches, `crystal` counted from the first one's."""
    tables = []
    begin = 0
    for file, first, last, first_row, last_row in stretches.tolist():
        path = reading.shard(file)
        table = hdf5.read_rows(path, reading.columns, (first, last), (first_row, last_row))
        tables.append(replace(table, crystal=table.crystal + np.int32(begin - first)))
        begin += last - first
    return concatenate(tables)


def inventory(plan: Plan, found: Sequence[Arrays]) -> tuple[Inventory, NDArray[np.int64]]:
    """What the job works on, and the keys of its unique reflections.

    found : of `sort_part`, one a part. Raises ConfigError or DataError as all reading does.
    """
    sorting = plan.sorting
    n_observations = np.zeros(len(plan.crystals), dtype=np.int64)
    for one in found:
        n_observations[plan.crystal_at[one["position"]]] = one["n_observations"]
    status, reason = sorting.status.copy(), plan.reason.copy()
    few = too_few(status, n_observations, sorting.selection)
    status[few], reason[few] = Status.LEFT_OUT, Reason.TOO_FEW_OBSERVATIONS
    left_out = plan.left_out + np.sum([one["left_out"] for one in found], axis=0)
    require_rows(n_observations, reason, left_out, sorting.cell)
    keys = np.unique(np.concatenate([one["keys"] for one in found]))
    unique = reflections(sorting.space_group, sorting.cell, keys)
    require_reach(sorting.selection, unique)
    return Inventory(
        sorting.space_group, sorting.cell, plan.crystals, status, reason, n_observations, unique,
        by_reason(left_out), plan.n_images, plan.detector, sorting.reading.files, found=plan.found,
    ), keys  # fmt: skip


def open_pieces(
    sorting: Sorting, keys: NDArray[np.int64]
) -> tuple[list[PieceHead], list[NDArray[np.int32]]]:
    """Heads of all pieces, and the job's reflection of each of their keys, for `read_run`.

    keys : of all unique reflections. Raises InputError for a piece that is damaged or not there.
    """
    heads = [read_piece_head(sorting.reading.piece(n)) for n in range(sorting.n_parts)]
    return heads, [np.searchsorted(keys, head.keys).astype(np.int32) for head in heads]


def reader(sorting: Sorting, keys: NDArray[np.int64]) -> Callable[[int, int], Rows | Observations]:
    """What reads the rows of the crystals at positions first … last − 1 of the order."""
    heads, to_job = open_pieces(sorting, keys)
    reading = sorting.reading

    def read(first: int, last: int) -> Rows | Observations:
        wanted = "partiality" in reading.columns, reading.oriented
        return read_run(heads, to_job, first, last, *wanted)

    return read
