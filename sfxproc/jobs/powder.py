"""The powder job: lines of a powder pattern in, ranked unit cells of all Bravais lattices out.

Rank 0 deals the tasks of a wave to all ranks, puts what they found among the best cells, and looks
whether to go on. What a wave found is kept, so that a job that goes on does not search it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfxproc import __version__
from sfxproc.config import resolved_toml
from sfxproc.errors import ConfigError, OutputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.cell_files import write_cells, write_crystfel_cell, write_dials_cell
from sfxproc.formats.inputs import missing_file
from sfxproc.formats.peak_lists import PeakList, read_peak_list
from sfxproc.jobs.checkpoints import JobCheckpoint, open_job
from sfxproc.jobs.outputs import refusal
from sfxproc.jobs.powder_config import PowderConfig, SimulatedPattern
from sfxproc.jobs.powder_results import (
    calculated_lines,
    cell_file,
    in_standard_setting,
    place_of,
    sentence_of,
    so_far,
    told_of,
)
from sfxproc.jobs.settings import Output
from sfxproc.jobs.simulate_powder import simulated, write_pattern
from sfxproc.jobs.stages import Found, Stages
from sfxproc.jobs.strategies import Listed, listed
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.coordinator import Arrays
from sfxproc.powder.indexing import gathered, lines_of, search, settled, waves
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.ranking import Cell, Lines
from sfxproc.powder.search import IndexSettings, Task
from sfxproc.report.log import Log
from sfxproc.report.powder import PowderStory, cells_table, powder_html

SIMULATED = "simulated.txt"
CELLS = "cells"
RESULTS = ("cells.json", "powder.html", "job.resolved.toml", "log.txt")
DRAWN = 5  # cells on the page


@dataclass(frozen=True)
class Search:
    """How the search went. best : best first. n_done, n_planned : tasks, of lattices `tried`."""

    best: list[Cell]
    tried: tuple[str, ...]
    n_done: int
    n_planned: int


def run(config: PowderConfig, comm: Comm, log: Log) -> None:
    """Do the job. Raises InputError, ConfigError, OutputError, DataError or Stopped."""
    log(f"sfxproc {__version__}, {config.job}; ranks: {comm.size}")
    checkpoint = open_job(config, _output(config), lambda: _files(config), comm, log)
    if checkpoint is None:
        return
    peaks = comm.bcast(_peaks(config, checkpoint, log) if comm.rank == 0 else None)
    lines = lines_of(peaks.q2, peaks.sigma, config.peaks.n_lines, config.search.outliers)
    _tell_lines(peaks, lines, log)
    checkpoint.begin()
    settings = config.search.index_settings()
    stages = Stages(comm, log, checkpoint.folder, checkpoint.store)
    found = _searched(lines, settings, stages, log)
    if comm.rank == 0:
        _write(checkpoint.folder, config, peaks, lines, found, log)
        checkpoint.remove()
    comm.barrier()


def check(config: PowderConfig, log: Log) -> None:
    """Validate a job without searching: settings, list of lines, output folder."""
    if problem := refusal(_output(config)):
        raise OutputError(problem)
    tasks = sum(len(wave) for wave in waves(config.search.index_settings()))
    if _files(config):
        peaks = _read(config)
        lines = lines_of(peaks.q2, peaks.sigma, config.peaks.n_lines, config.search.outliers)
        _tell_lines(peaks, lines, log)
    else:
        log(f"A pattern of lattice {_simulation(config).lattice} will be simulated.")
    log(f"{tasks} tasks at most for {len(config.search.lattices)} lattices; the job can be run.")


# ---- the lines -------------------------------------------------------------------------------


def _output(config: PowderConfig) -> Output:
    given = config.output
    return Output(folder=given.folder, overwrite=given.overwrite, resume=given.resume)


def _files(config: PowderConfig) -> list[Path]:
    """The file to read, if not simulated. Raises InputError if it is missing."""
    if config.peaks.path is None:
        _simulation(config)
        return []
    path = Path(config.peaks.path).expanduser()
    if not path.is_file():
        raise missing_file(path.absolute(), f"peaks.path: '{path}'")
    return [path]


def _simulation(config: PowderConfig) -> SimulatedPattern:
    if config.simulate is None:
        raise ConfigError(
            "peaks.path is not set. Give a list of powder lines, or a table [simulate] to try the "
            "job on a simulated pattern."
        )
    return config.simulate


def _peaks(config: PowderConfig, checkpoint: JobCheckpoint, log: Log) -> PeakList:
    """The list of lines, simulated if none is given; on one rank."""
    if config.peaks.path is not None:
        if config.simulate is not None:
            log("[simulate] has no effect, since peaks.path is set")
        return _read(config)
    settings, path = _simulation(config), checkpoint.folder / SIMULATED
    pattern = simulated(settings)
    checkpoint.begin()
    write_pattern(path, pattern, settings)
    cell = " ".join(f"{v:.3f}" for v in pattern.structure.cell)
    group = pattern.structure.space_group.hm
    log(f"simulated a pattern of {pattern.lattice} {cell} in {group}: '{path}'")
    return read_peak_list(path)


def _read(config: PowderConfig) -> PeakList:
    given = config.peaks
    return read_peak_list(Path(given.path or "").expanduser(), given.kind, given.wavelength_A)


def _tell_lines(peaks: PeakList, lines: Lines, log: Log) -> None:
    for note in peaks.notes:
        log(f"'{peaks.source}': {note}")
    d_A = lines.q2[[0, -1]] ** -0.5
    known = "as given" if lines.known else "unknown: told by the fit"
    log(
        f"{len(lines.q2)} of {len(peaks.q2)} lines are used, {d_A[0]:.3f} to {d_A[1]:.3f} Å; "
        f"their errors are {known}"
    )


# ---- the search ------------------------------------------------------------------------------


def _searched(lines: Lines, settings: IndexSettings, stages: Stages, log: Log) -> Search:
    """Do wave after wave until the search may end; the cells are on rank 0 only."""
    comm, todo = stages.comm, waves(settings)
    best: list[Cell] = []
    tried: dict[str, None] = {}
    n_done = 0
    for number, wave in enumerate(todo):
        results = _found_by(wave, lines, settings, stages)
        n_done += len(wave)
        tried |= dict.fromkeys(task.lattice for task in wave)
        ended = False
        if comm.rank == 0:
            left = todo[number + 1 :]
            best = gathered(lines, results, best, settings, left)
            ended = settings.early_stop and settled(best, lines, left)
            log(f"{', '.join({t.lattice: None for t in wave})}: {so_far(best, lines)}")
        if comm.bcast(ended):
            log("This cell is beyond doubt; the search ends.")
            break
    best = [in_standard_setting(cell, lines) for cell in best]
    return Search(best, tuple(tried), n_done, sum(len(wave) for wave in todo))


def _found_by(
    wave: Sequence[Task], lines: Lines, settings: IndexSettings, stages: Stages
) -> list[Found]:
    """What the tasks of a wave found, those that failed left out; on rank 0."""

    def work(number: int) -> Arrays:
        return search(lines, wave[number], settings)

    name = "-".join(dict.fromkeys(LATTICES[task.lattice].system for task in wave))
    found = stages.run(name, work, len(wave), Listed(), to_all=False)
    return [dict(arrays) for arrays in listed(found, len(wave)) if arrays]


# ---- writing ---------------------------------------------------------------------------------


def _write(
    folder: Path, config: PowderConfig, peaks: PeakList, lines: Lines, found: Search, log: Log
) -> None:
    """All results, DONE last."""
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / CELLS, ignore_errors=True)
    everything = lines_of(peaks.q2, peaks.sigma, len(peaks.q2), config.search.outliers)
    told = {
        "sfxproc": __version__,
        "source": Path(peaks.source).name,
        "notes": list(peaks.notes),
        "lattices_tried": list(found.tried),
        "tasks_done": found.n_done,
        "tasks_planned": found.n_planned,
        **told_of(found.best, config.search.n_cells, lines, everything, peaks.intensity),
    }
    write_cells(folder / "cells.json", told)
    (folder / CELLS).mkdir()
    for number, cell in enumerate(found.best[: config.output.cell_files], 1):
        path, unit = folder / CELLS / f"{number:02d}-{cell.lattice.symbol}", cell_file(cell)
        write_crystfel_cell(path.with_suffix(".cell"), unit)
        write_dials_cell(path.with_suffix(".phil"), unit)
    settings = resolved_toml(config, f"sfxproc {__version__}")
    write_text(folder / "job.resolved.toml", settings)
    if found.best:
        log.show(cells_table(told["cells"]))
    if config.peaks.path is None:
        log(place_of(folder / SIMULATED, found.best))
    sentence = sentence_of(found.best, lines, found.tried, folder)
    log(sentence)
    story = PowderStory(
        title=f"powder {folder.name}", sentence=sentence, told=told,
        calculated=[calculated_lines(cell, lines) for cell in found.best[:DRAWN]],
        config_text=settings, log_text=log.text,
    )  # fmt: skip
    write_text(folder / "powder.html", powder_html(story))
    write_text(folder / "log.txt", log.text)
    write_text(folder / "DONE", "")
