"""Taking in for strategy "global": every rank holds its share of the crystals in memory.

Each rank reads its share of the files; crystals are then dealt out in fixed chunks, so that what
follows does not depend on who read what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Detector, Observations, Stills
from sfxproc.formats.inputs import InputFile
from sfxproc.intake.parts import (
    Criteria,
    CrystalSettings,
    Part,
    PartSummary,
    in_settings,
    joined,
    keys_of,
    selected,
    sort_order,
    summary_of,
)
from sfxproc.intake.recipe import take_in
from sfxproc.intake.selection import Inventory
from sfxproc.intake.source import (
    FileSummary,
    Intake,
    RecordT,
    read_corrected,
    summary_of_file,
)
from sfxproc.parallel.chunks import Chunks, owned, plan_chunks
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.decide import gathered
from sfxproc.report.log import Log

I8 = NDArray[np.int64]


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


def read_dataset(intake: Intake, comm: Comm, log: Log) -> Dataset:
    """Read all inputs of a job. Raises InputError, ConfigError or DataError."""
    taken = take_in(intake, lambda files: read_share(files, intake, comm, log), comm, log)
    inventory, keys = comm.bcast((taken.inventory, taken.keys))
    chunks = plan_chunks(inventory.n_observations, len(keys), comm)
    observations = _deal(taken.parts.numbered(keys), chunks, len(keys), comm)
    known = {f.name: getattr(inventory, f.name) for f in fields(Inventory)}
    return Dataset(**known, observations=observations, chunks=chunks)


@dataclass(frozen=True, eq=False)
class FilesInMemory:
    """This rank's share of the files, by their number. summaries : of all files, on rank 0."""

    stills: Mapping[int, Stills]
    summaries: Sequence[FileSummary]
    columns: frozenset[str]
    comm: Comm

    def detector(self) -> Detector | None:
        """That of the first file that has one, on rank 0."""
        own = [(n, s.detector) for n, s in sorted(self.stills.items()) if s.detector is not None]
        firsts = [first for share in gathered(self.comm, own[:1]) for first in share]
        return min(firsts, key=lambda pair: pair[0])[1] if firsts else None

    def select(self, criteria: Criteria) -> PartInMemory:
        """The observations that take part, this rank's as one part."""
        first = criteria.first
        parts = [
            selected(self.stills[n].observations, int(first[n]), int(first[n + 1]), criteria)
            for n in sorted(self.stills)
        ]
        nothing = selected(_no_observations(self.columns), 0, 0, criteria)
        return PartInMemory(joined(parts or [nothing]), criteria, self.comm)


def read_share(files: tuple[InputFile, ...], intake: Intake, comm: Comm, log: Log) -> FilesInMemory:
    """Every rank its share of the files, read and corrected; collective. Raises UserError."""
    stills = {}
    with log.progress(len(files), "reading") as advance:
        for number in range(comm.rank, len(files), comm.size):
            stills[number] = read_corrected(files[number], intake)
            advance(min(comm.size, len(files) - number))
    own = {number: summary_of_file(read) for number, read in stills.items()}
    everyone = {n: summary for share in gathered(comm, own) for n, summary in share.items()}
    return FilesInMemory(stills, [everyone[n] for n in sorted(everyone)], intake.columns, comm)


@dataclass(frozen=True, eq=False)
class PartInMemory:
    """This rank's part of the observations. keys : (n,) of each, once they are worked out."""

    part: Part
    criteria: Criteria
    comm: Comm
    keys: I8 | None = None

    def each(
        self, name: str, work: Callable[[Part], RecordT], kind: type[RecordT]
    ) -> list[RecordT]:
        """What `work` finds of every rank's part, in their order, on rank 0."""
        return gathered(self.comm, work(self.part))

    def in_settings(self, settings: CrystalSettings) -> Self:
        """The same with all crystals in one setting."""
        return replace(self, part=in_settings(self.part, settings, self.criteria.space_group))

    def sort(self) -> tuple[Self, list[PartSummary]]:
        """The same with keys; rows are sorted by the rank that they are dealt to."""
        keys = keys_of(self.part, self.criteria)
        unique = np.unique(keys)
        summaries = self.each("sort", lambda part: summary_of(part, unique), PartSummary)
        return replace(self, keys=keys), summaries

    def numbered(self, keys: I8) -> Observations:
        """The observations with their reflections; keys : of all unique ones."""
        assert self.keys is not None
        reflection = np.searchsorted(keys, self.keys).astype(np.int32)
        return replace(self.part.observations, reflection=reflection)


def _no_observations(columns: frozenset[str]) -> Observations:
    """An empty table with the columns that other ranks have."""
    empty: dict[str, NDArray[Any]] = {
        name: np.empty(0, np.int16 if name == "panel" else np.float32)
        for name in ("intensity", "variance", *columns)
    }
    return Observations(np.empty(0, np.int32), np.empty((0, 3), np.int16), **empty)


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
