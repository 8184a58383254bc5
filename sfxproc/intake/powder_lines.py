"""The lines of a powder pattern, read from a list or simulated."""

from __future__ import annotations

from pathlib import Path

from sfxproc.errors import ConfigError
from sfxproc.formats.inputs import missing_file
from sfxproc.formats.peak_lists import PeakList, read_peak_list
from sfxproc.intake.simulated_powder import simulated, write_pattern
from sfxproc.powder.ranking import Lines
from sfxproc.report.log import Log
from sfxproc.runs.names import SIMULATED_LINES, home_expanded
from sfxproc.runs.run import Run
from sfxproc.settings.powder import PowderConfig, SimulatedPattern


def list_of_lines(config: PowderConfig) -> Path | None:
    """The file to read, None if a pattern is simulated. Raises InputError if it is missing."""
    if config.peaks.path is None:
        return None
    path = home_expanded(config.peaks.path)
    if not path.is_file():
        raise missing_file(path.absolute(), f"peaks.path: '{path}'")
    return path


def simulation_of(config: PowderConfig) -> SimulatedPattern:
    """What to simulate. Raises ConfigError if there is nothing to read and nothing to simulate."""
    if config.simulate is None:
        raise ConfigError(
            "peaks.path is not set. Give a list of powder lines, or a table [simulate] to try the "
            "job on a simulated pattern."
        )
    return config.simulate


def read_lines(config: PowderConfig) -> PeakList:
    """The list that the settings name. Raises InputError."""
    given = config.peaks
    return read_peak_list(home_expanded(given.path or ""), given.kind, given.wavelength_A)


def lines_of_job(config: PowderConfig, run: Run) -> PeakList:
    """The list of lines, simulated into the job's folder if none is given; on all ranks. Raises
    InputError."""
    peaks = None
    if run.comm.rank == 0:
        if config.peaks.path is None:
            peaks = _simulated(simulation_of(config), run)
        else:
            if config.simulate is not None:
                run.log("[simulate] has no effect, since peaks.path is set")
            peaks = read_lines(config)
    told: PeakList = run.comm.bcast(peaks)
    return told


def _simulated(settings: SimulatedPattern, run: Run) -> PeakList:
    pattern = simulated(settings)
    path, _ = (run.new(name) for name in SIMULATED_LINES)
    write_pattern(path, pattern, settings)
    cell = " ".join(f"{v:.3f}" for v in pattern.structure.cell)
    group = pattern.structure.space_group.hm
    run.log(f"simulated a pattern of {pattern.lattice} {cell} in {group}: '{path}'")
    return read_peak_list(path)


def tell_lines(peaks: PeakList, lines: Lines, log: Log) -> None:
    """What was read, and what of it is used."""
    for note in peaks.notes:
        log(f"'{peaks.source}': {note}")
    d_A = lines.q2[[0, -1]] ** -0.5
    known = "as given" if lines.known else "unknown: told by the fit"
    log(
        f"{len(lines.q2)} of {len(peaks.q2)} lines are used, {d_A[0]:.3f} to {d_A[1]:.3f} Å; "
        f"their errors are {known}"
    )
