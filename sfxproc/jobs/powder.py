"""The powder job: lines of a powder pattern in, ranked unit cells of all Bravais lattices out.

Rank 0 deals the tasks of a wave to all ranks, puts what they found among the best cells, and looks
whether to go on. What a wave found is kept, so that a job that goes on does not search it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sfxproc.intake.powder_lines import (
    lines_of_job,
    list_of_lines,
    read_lines,
    simulation_of,
    tell_lines,
)
from sfxproc.parallel.combine import Found, Listed, listed
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.coordinator import Arrays
from sfxproc.powder.indexing import gathered, lines_of, search, settled, waves
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.ranking import Cell, Lines
from sfxproc.powder.search import IndexSettings, Task
from sfxproc.powder.warm import compile_search
from sfxproc.report.log import Log
from sfxproc.results.files import names_of, write_outputs
from sfxproc.results.powder import in_standard_setting, so_far
from sfxproc.results.powder_files import OUTPUTS, PowderResults, Search, tell_cells
from sfxproc.runs.contents import Claim
from sfxproc.runs.names import SIMULATED_LINES
from sfxproc.runs.run import Finished, Run
from sfxproc.runs.stages import Stages
from sfxproc.settings.powder import PowderConfig
from sfxproc.settings.powder import Search as SearchSettings


def run(config: PowderConfig, run: Run) -> Finished | None:
    """Do the job. Raises InputError, OutputError, DataError or Stopped."""
    peaks = lines_of_job(config, run)
    lines = lines_of(peaks.q2, peaks.sigma, config.peaks.n_lines, config.search.outliers)
    tell_lines(peaks, lines, run.log)
    settings = index_settings(config.search)
    if run.comm.size > 1 and run.comm.rank == 0:  # the others wait, and read what it compiled
        compile_search(settings)
    run.comm.barrier()
    searched = search_in_waves(lines, settings, run.stages, run.log)
    if run.comm.rank > 0:
        return None
    results = PowderResults(config, peaks, lines, searched)
    tell_cells(results, run.folder, run.log)
    sentence = results.sentence(run.folder)
    return write_outputs(run, OUTPUTS, results, config, results.told, sentence)


def claim(config: PowderConfig, comm: Comm) -> Claim:
    """What the job asks of its output folder. Raises ConfigError for settings without sense."""
    simulated = () if config.peaks.path is not None else SIMULATED_LINES
    if simulated:
        simulation_of(config)
    return Claim(
        config.job,
        config,
        config.output,
        inputs=lambda: [path for path in [list_of_lines(config)] if path is not None],
        names=(*names_of(OUTPUTS, config), *simulated),
    )


def check(config: PowderConfig, log: Log) -> str:
    """Validate a job without searching; a sentence for the end. Raises InputError."""
    tasks = sum(len(wave) for wave in waves(index_settings(config.search)))
    if list_of_lines(config) is not None:
        peaks = read_lines(config)
        lines = lines_of(peaks.q2, peaks.sigma, config.peaks.n_lines, config.search.outliers)
        tell_lines(peaks, lines, log)
    else:
        log(f"A pattern of lattice {simulation_of(config).lattice} will be simulated.")
    return f"{tasks} tasks at most for {len(config.search.lattices)} lattices; the job can be run."


# ---- the search ------------------------------------------------------------------------------


def index_settings(given: SearchSettings) -> IndexSettings:
    """As the search takes them: it ranks many cells, however few are told, since whether one is
    beyond doubt depends on the others."""
    return IndexSettings(
        lattices=tuple(given.lattices),
        effort=given.effort,
        n_lines=given.n_lines,
        n_ranked=max(given.n_cells, IndexSettings.n_ranked),
        early_stop=given.early_stop,
        seed=given.seed,
        min_volume_A3=given.min_volume_A3,
        max_volume_A3=given.max_volume_A3,
    )


def search_in_waves(lines: Lines, settings: IndexSettings, stages: Stages, log: Log) -> Search:
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
