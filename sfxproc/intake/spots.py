"""The spots of many stills, read by all ranks or simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sfxproc.data import concatenate
from sfxproc.formats.inputs import InputFile
from sfxproc.formats.spots import read_spots, write_spots
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.coordinator import Arrays, Stage, deal
from sfxproc.report.log import Log
from sfxproc.runs.names import SIMULATED_DATA
from sfxproc.runs.run import Run
from sfxproc.simulate.settings import SpotPowderSettings
from sfxproc.simulate.spot_powder import simulate_spots
from sfxproc.spots import Spots, SpotSet


@dataclass(eq=False)
class _Gathered:
    """Spots of the files, in their order."""

    tables: list[Spots] = field(default_factory=list)
    n_shots: int = 0
    pixel_mm: float = 0.0

    def add(self, number: int, arrays: Arrays) -> None:
        """Add those of one file, its images counted on from the ones before."""
        columns = {name: arrays[name] for name in ("position_mm", "wavelength_A", "intensity")}
        self.tables.append(Spots(shot=arrays["shot"] + np.int32(self.n_shots), **columns))
        self.n_shots += int(arrays["n_shots"])
        self.pixel_mm = self.pixel_mm or float(arrays["pixel_mm"])


def read_all_spots(files: Sequence[InputFile], strict: bool, comm: Comm, log: Log) -> SpotSet:
    """The spots of all files on rank 0, none elsewhere. Raises InputError."""
    gathered = _Gathered()
    notes: list[tuple[int, str]] = []

    def read(number: int) -> Arrays:
        found = read_spots(files[number].path, strict)
        notes.extend((number, note) for note in found.notes)
        constants = {"n_shots": np.array(found.n_shots), "pixel_mm": np.array(found.pixel_mm)}
        return found.spots.columns() | constants

    with log.progress(len(files), "reading") as advance:
        outcome = deal(comm, Stage("spots", read), len(files), gathered.add, progress=advance)
    for number, note in sorted({n for said in comm.allgather(notes) for n in said}):
        log(f"{files[number].label}: {note}")
    for number, reason in sorted(outcome.failed.items()):
        log(f"WARNING: {files[number].label} failed twice and was left out: {reason}")
    none = Spots(np.empty(0, np.int32), np.empty((0, 3)), np.empty(0), np.empty(0, np.float32))
    return SpotSet(concatenate([*gathered.tables] or [none]), gathered.n_shots, gathered.pixel_mm)


def simulated_spots(settings: SpotPowderSettings, run: Run) -> SpotSet:
    """Spots simulated and written to the job's folder; on the first rank."""
    made, truth = simulate_spots(settings)
    write_spots(run.new(SIMULATED_DATA[0]), made)
    cell = " ".join(f"{v:.2f}" for v in truth.structure.cell)
    run.log(f"simulated {truth.structure.space_group.hm}, {cell}")
    return made
