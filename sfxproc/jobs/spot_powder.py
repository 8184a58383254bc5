"""The spot-powder job: spots of many stills in, the lines of their powder pattern out.

Ranks read the files; rank 0 has the spots of all, in the order of the files, and does the rest.
"""

from __future__ import annotations

from pathlib import Path

from sfxproc.errors import ConfigError
from sfxproc.formats.inputs import InputFile, list_inputs
from sfxproc.intake.spots import read_all_spots, simulated_spots
from sfxproc.parallel.comm import Comm
from sfxproc.powder.spots import powder_of
from sfxproc.report.log import Log
from sfxproc.report.terminal import counts_table
from sfxproc.results.files import names_of, write_outputs
from sfxproc.results.spot_powder import OUTPUTS, SpotPowderResults, tell_pattern
from sfxproc.runs.contents import Claim
from sfxproc.runs.names import SIMULATED_DATA
from sfxproc.runs.run import Finished, Run
from sfxproc.settings.spot_powder import SpotPowderConfig


def run(config: SpotPowderConfig, run: Run) -> Finished | None:
    """Do the job. Raises InputError, OutputError or DataError."""
    spots = read_all_spots(inputs_of(config), config.input.strict, run.comm, run.log)
    if run.comm.rank > 0:
        return None
    if config.simulate is not None:
        spots = simulated_spots(config.simulate, run)
    run.log(f"{len(spots.spots):,} spots on {spots.n_shots:,} images")
    results = SpotPowderResults(spots, powder_of(spots.spots, config.peaks))
    tell_pattern(results, config.peaks, run.log)
    sentence = results.sentence(run.folder)
    return write_outputs(run, OUTPUTS, results, config, results.told(), sentence)


def claim(config: SpotPowderConfig, comm: Comm) -> Claim:
    """What the job asks of its output folder. Raises ConfigError for settings without sense."""
    if config.simulate is not None and config.input.paths:
        raise ConfigError(
            "Both input.paths and a [simulate] table are given, so it is not clear what to read. "
            "Remove the [simulate] table to read the files, or input.paths to simulate."
        )
    simulated = SIMULATED_DATA[:1] if config.simulate is not None else ()
    return Claim(
        config.job,
        config,
        config.output,
        inputs=lambda: [path for file in inputs_of(config) for path in file.members],
        names=(*names_of(OUTPUTS, config), *simulated),
    )


def inputs_of(config: SpotPowderConfig) -> list[InputFile]:
    """The files to read, none if spots are simulated. Raises InputError."""
    if config.simulate is not None:
        return []
    return list_inputs(config.input.paths, config.input.exclude, Path.cwd())


def check(config: SpotPowderConfig, log: Log) -> str:
    """Validate a job without reading spots; a sentence for the end."""
    if config.simulate is None:
        files = inputs_of(config)
        log.show(counts_table("Inputs", {f.label: f.format.name for f in files}))
        told = f"{len(files)} input files"
    else:
        told = f"{config.simulate.n_stills:,} stills would be simulated"
    return f"The job is valid: {told}, results would go to '{config.output.folder}'."
