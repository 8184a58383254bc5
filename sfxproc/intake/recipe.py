"""From input files to what a job works on: the one order in which everything is taken in.

    list the files            rank 0
    read and correct each     whoever reads it; a summary of each goes to rank 0
    decide                    rank 0: target cell, crystals, clusters of cells
    select observations       part by part, by what was decided
    settle the settings       rank 0, from what is found part by part (`reindexing`)
    sort                      part by part; a summary of each goes to rank 0
    count                     rank 0: unique reflections, what became of everything

Strategy "global" holds the observations in memory (`reading`), "blocks" as pieces on disk
(`pieces`): a `Source`, whose `Parts` are visited alike. Whatever is decided is decided on rank 0
alone, and a mistake that shows there is raised on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from sfxproc.formats.inputs import InputFile, list_inputs
from sfxproc.intake.census import census_of, inventory_of
from sfxproc.intake.reindexing import ambiguity_reference, in_one_setting
from sfxproc.intake.selection import Inventory
from sfxproc.intake.source import FileSummary, Intake, PartsT, Source
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.decide import decided, on_rank_0
from sfxproc.report.log import Log


@dataclass(frozen=True, eq=False)
class TakenIn(Generic[PartsT]):
    """What a job has taken in.

    parts : its observations, sorted. inventory, and keys of its unique reflections, sorted
    (n_reflections,) : on rank 0; None elsewhere.
    """

    parts: PartsT
    inventory: Inventory | None
    keys: NDArray[np.int64] | None


def take_in(
    intake: Intake, read: Callable[[tuple[InputFile, ...]], Source[PartsT]], comm: Comm, log: Log
) -> TakenIn[PartsT]:
    """Take in all inputs of a job; collective. read : where they are read to.

    Raises InputError, ConfigError or DataError.
    """
    inputs = intake.inputs
    reference = decided(comm, lambda: ambiguity_reference(intake.symmetry, intake.reference))
    files = decided(comm, lambda: tuple(list_inputs(inputs.paths, inputs.exclude, Path.cwd())))
    source = read(files)
    of_files = source.summaries
    _tell_notes(files, of_files, log)
    census = on_rank_0(comm, lambda: census_of(of_files, intake))
    for note in census.notes if census else ():
        log(note)
    detector = source.detector()
    parts = source.select(comm.bcast(census.criteria if census else None))
    del source  # what it holds of observations that are left out is not needed any more
    census, parts = in_one_setting(census, parts, intake.symmetry, reference, comm, log)
    parts, of_parts = parts.sort()

    def count() -> tuple[Inventory, NDArray[np.int64]]:
        assert census is not None
        return inventory_of(census, of_parts, files, detector, intake)

    inventory, keys = on_rank_0(comm, count) or (None, None)
    return TakenIn(parts, inventory, keys)


def _tell_notes(files: Sequence[InputFile], summaries: Sequence[FileSummary], log: Log) -> None:
    """What was noted while each file was read; on rank 0."""
    for file, summary in zip(files, summaries, strict=False):
        for note in summary.notes:
            log(f"{file.label}: {note}")
