"""Taking in for strategy "blocks": any input becomes pieces on disk, in a shuffled order of the
crystals.

Stages of tasks that rank 0 deals:

    read   an input file → a native file, a shard (itself if it is one); a summary of it
    sort   a part of the crystals → a piece: its selected observations, sorted; a summary of it

and, where indexing is ambiguous, those of `reindexing` between the two, each of which reads and
selects a part anew. So a worker later reads the rows of a block, and only these, as one stretch of
each piece. A shard or piece that is there already is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Detector, Observations, Rows, Status, concatenate
from sfxproc.errors import InputError, OutputError
from sfxproc.formats import hdf5
from sfxproc.formats.inputs import InputFile
from sfxproc.formats.pieces import PieceHead, read_piece_head, read_run, write_piece
from sfxproc.intake.parts import (
    Criteria,
    CrystalSettings,
    Part,
    PartSummary,
    in_settings,
    keys_of,
    selected,
    sort_order,
)
from sfxproc.intake.recipe import TakenIn, take_in
from sfxproc.intake.selection import coded, require_columns
from sfxproc.intake.source import FileSummary, Intake, RecordT, read_corrected
from sfxproc.parallel.blocks import Blocks, plan_blocks
from sfxproc.parallel.combine import Listed, listed
from sfxproc.parallel.decide import on_rank_0
from sfxproc.parallel.records import from_arrays, to_arrays
from sfxproc.runs.stages import Stages

I8 = NDArray[np.int64]

PART_ROWS = 1 << 22  # of a part: some 0.3 GB while it is sorted


@dataclass(frozen=True, eq=False)
class Reading:
    """What every task must know from the beginning. folder : where shards and pieces go."""

    files: tuple[InputFile, ...]
    intake: Intake
    folder: Path
    part_rows: int = PART_ROWS

    def shard(self, number: int) -> Path:
        """The native file of an input."""
        file = self.files[number]
        if file.format == hdf5.FORMAT and not self.intake.corrections.wanted:
            return file.path
        return self.folder / "shards" / f"{number:05d}.h5"

    def piece(self, number: int) -> Path:
        """The piece of a part."""
        return self.folder / "pieces" / f"{number:05d}.h5"


@dataclass(frozen=True)
class Order:
    """How crystals are cut into blocks: their size and overlap, in crystals, and the seed of the
    order that they are shuffled into."""

    size: int
    overlap: int
    seed: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The blocks of a job.

    crystal_at : (n,) the crystal at each position of the shuffled order, which holds those in use
    after the check of cells. position : (n_crystals,) int64 in that order, −1 for crystals left
    out.
    """

    blocks: Blocks
    crystal_at: I8
    position: I8


@dataclass(frozen=True, eq=False)
class ShardSummary(FileSummary):
    """What an input file holds. cuts : (k + 1, 2) as of `hdf5.read_cuts`."""

    cuts: I8


def read_pieces_of(
    intake: Intake, order: Order, folder: Path, stages: Stages, part_rows: int = PART_ROWS
) -> TakenIn[Pieces]:
    """Have all inputs of a job as pieces in a folder. part_rows : of a part, about.

    Raises InputError, OutputError, ConfigError or DataError, and ValueError for an overlap as large
    as a block.
    """

    def read(files: tuple[InputFile, ...]) -> Shards:
        return read_shards(Reading(files, intake, folder, part_rows), order, stages)

    return take_in(intake, read, stages.comm, stages.log)


def _dealt(
    stages: Stages, name: str, work: Callable[[int], RecordT], n: int, kind: type[RecordT]
) -> list[RecordT]:
    """What the n tasks of a stage find, on rank 0; nothing elsewhere."""
    results = stages.run(
        name, lambda number: to_arrays(work(number)), n, Listed(), to_all=False, all_needed=True
    )
    return [from_arrays(kind, arrays) for arrays in listed(results, n)] if results else []


# ---- reading ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shards:
    """All inputs as native files. summaries : on rank 0."""

    reading: Reading
    order: Order
    stages: Stages
    summaries: Sequence[ShardSummary]

    def detector(self) -> Detector | None:
        """That of the first file that has one, on rank 0."""
        having = [number for number, one in enumerate(self.summaries) if one.has_detector]
        return hdf5.read_detector(self.reading.shard(having[0])) if having else None

    def select(self, criteria: Criteria) -> Pieces:
        """The observations that take part, in parts of about as many rows."""
        stretches: I8 = self.stages.comm.bcast(_stretches(self.summaries))
        parts = _parts(stretches[:, 4] - stretches[:, 3], self.reading.part_rows)
        plan = planned(criteria, self.order)
        return Pieces(self.reading, criteria, self.stages, stretches, parts, plan)


def read_shards(reading: Reading, order: Order, stages: Stages) -> Shards:
    """Have all inputs as native files; collective. Raises InputError, OutputError for a full disk,
    and what `read_corrected` raises."""
    on_rank_0(stages.comm, lambda: make_folders(reading.folder))
    n = len(reading.files)
    summaries = _dealt(stages, "read", lambda number: read_shard(reading, number), n, ShardSummary)
    return Shards(reading, order, stages, summaries)


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


def read_shard(reading: Reading, number: int) -> ShardSummary:
    """Have one input as a native file, and tell what it holds but the observations."""
    file, shard = reading.files[number], reading.shard(number)
    try:
        head = hdf5.read_head(shard)
    except InputError:
        if shard == file.path:
            raise
        hdf5.write(shard, replace(read_corrected(file, reading.intake), header=""))
        head = hdf5.read_head(shard)
    require_columns(file.path, head.columns, reading.intake.columns)
    return ShardSummary(
        head.crystals,
        head.n_images,
        coded(head.counts),
        np.array(head.notes, dtype=object),
        head.has_detector,
        hdf5.read_cuts(shard, reading.part_rows),
    )


def planned(criteria: Criteria, order: Order) -> Plan:
    """The blocks of the crystals in use. Raises ValueError for an overlap as large as a block."""
    used = np.flatnonzero(criteria.status == Status.USED)
    blocks = plan_blocks(len(used), order.size, order.overlap, order.seed)
    crystal_at = used[blocks.order]
    position = np.full(len(criteria.status), -1, dtype=np.int64)
    position[crystal_at] = np.arange(len(used))
    return Plan(blocks, crystal_at, position)


def _stretches(summaries: Sequence[ShardSummary]) -> I8 | None:
    """(n, 5) input file, first and last + 1 of its crystals, first and last + 1 of its rows, in the
    order of the job; None without summaries."""
    tables = []
    for number, one in enumerate(summaries):
        (crystal, row), (last_crystal, last_row) = one.cuts[:-1].T, one.cuts[1:].T
        file = np.full(len(crystal), number)
        tables.append(np.stack([file, crystal, last_crystal, row, last_row], axis=1))
    return np.concatenate(tables) if tables else None


def _parts(n_rows: I8, most: int) -> I8:
    """First of the stretches in each part, and their number: as many as have up to `most` rows."""
    first, held = [0], 0
    for number, n in enumerate(n_rows):
        if n and held and held + n > most:
            first.append(number)
            held = 0
        held += n
    return np.array([*first, len(n_rows)])


# ---- pieces ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pieces:
    """The selected observations of a job, as they are to be read or, once sorted, lie in pieces.

    stretches : (n, 5) int64: input file, first and last + 1 of its crystals, first and last + 1 of
    its rows, in the order of the job. parts : (n_parts + 1,) first stretch of each part.
    """

    reading: Reading
    criteria: Criteria
    stages: Stages
    stretches: I8
    parts: I8
    plan: Plan
    settings: CrystalSettings | None = None

    @property
    def n_parts(self) -> int:
        """Number of parts, and of pieces."""
        return len(self.parts) - 1

    def each(
        self, name: str, work: Callable[[Part], RecordT], kind: type[RecordT]
    ) -> list[RecordT]:
        """What `work` finds of each part, on rank 0: a stage of dealt tasks."""
        return _dealt(self.stages, name, lambda n: work(self.part(n)), self.n_parts, kind)

    def in_settings(self, settings: CrystalSettings) -> Self:
        """The same with all crystals in one setting."""
        return replace(self, settings=settings)

    def sort(self) -> tuple[Self, list[PartSummary]]:
        """The same once all pieces are there."""
        return self, _dealt(self.stages, "sort", self.sort_part, self.n_parts, PartSummary)

    def crystals(self, number: int) -> tuple[int, int]:
        """First and last + 1 crystal of a part."""
        n = self.stretches[:, 2] - self.stretches[:, 1]
        first, last = self.parts[number], self.parts[number + 1]
        return int(n[:first].sum()), int(n[:last].sum())

    def part(self, number: int) -> Part:
        """Read one part and select from it. Raises InputError."""
        tables = []
        begin = 0
        for file, first, last, first_row, last_row in self.stretches[
            self.parts[number] : self.parts[number + 1]
        ].tolist():
            table = hdf5.read_rows(
                self.reading.shard(file),
                self.reading.intake.columns,
                (first, last),
                (first_row, last_row),
            )
            tables.append(replace(table, crystal=table.crystal + np.int32(begin - first)))
            begin += last - first
        part = selected(concatenate(tables), *self.crystals(number), self.criteria)
        if self.settings is None:
            return part
        return in_settings(part, self.settings, self.criteria.space_group)

    def sort_part(self, number: int) -> PartSummary:
        """Have the piece of one part, and tell what it holds but the rows. Raises InputError, or
        OutputError for a full disk."""
        path = self.reading.piece(number)
        position = self.plan.position[slice(*self.crystals(number))]
        here = np.sort(position[position >= 0])
        try:
            head = read_piece_head(path)
            done = np.array_equal(head.position, here)  # or it is of another job
        except InputError:
            done = False
        if not done:
            self._write(path, self.part(number), here)
            head = read_piece_head(path)
        crystals = self.plan.crystal_at[head.position]
        order = np.argsort(crystals)
        return PartSummary(
            crystals[order],
            head.n_rows[order].astype(np.int64),
            head.too_few[order],
            head.left_out,
            head.keys,
        )

    def _write(self, path: Path, part: Part, here: I8) -> None:
        """Sort one part and write its piece; here : its positions, sorted."""
        table, counts = part.observations, part.counts
        keys = keys_of(part, self.criteria)
        unique = np.unique(keys)
        position = self.plan.position[counts.crystals]
        first = int(counts.crystals[0]) if len(counts.crystals) else 0
        place = np.searchsorted(here, position).astype(np.int32)
        few = np.zeros(len(here), dtype=bool)
        few[place[position >= 0]] = counts.too_few[position >= 0]
        crystal = place[table.crystal - first]
        reflection = np.searchsorted(unique, keys).astype(np.int32)
        rows: Rows | Observations = replace(table, crystal=crystal, reflection=reflection)
        if not self.reading.intake.keeps_hkl:
            rows = Rows(crystal, reflection, table.intensity, table.variance, table.partiality)
        rows = rows.take(sort_order(crystal, reflection, len(unique)))
        write_piece(path, unique, here, rows, counts.left_out, few)

    def heads(self, keys: I8) -> tuple[list[PieceHead], list[NDArray[np.int32]]]:
        """Heads of all pieces, and the job's reflection of each of their keys. keys : of all unique
        reflections. Raises InputError for a piece that is damaged or not there."""
        heads = [read_piece_head(self.reading.piece(n)) for n in range(self.n_parts)]
        return heads, [np.searchsorted(keys, head.keys).astype(np.int32) for head in heads]

    def reader(self, keys: I8) -> Callable[[int, int], Rows | Observations]:
        """What reads the rows of the crystals at positions first … last − 1 of the order. keys : of
        all unique reflections."""
        heads, to_job = self.heads(keys)
        intake = self.reading.intake
        wanted = "partiality" in intake.columns, intake.keeps_hkl

        def read(first: int, last: int) -> Rows | Observations:
            return read_run(heads, to_job, first, last, *wanted)

        return read
