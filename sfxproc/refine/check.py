"""What `sfxproc check` tells of a scaling or postrefining job."""

from __future__ import annotations

from pathlib import Path

from sfxproc.errors import OutputError
from sfxproc.formats.inputs import list_inputs
from sfxproc.intake.reference import reference_of
from sfxproc.intake.reindexing import ambiguity_reference
from sfxproc.refine.estimate import estimate, needs_table
from sfxproc.report.log import Log
from sfxproc.report.terminal import counts_table
from sfxproc.runs.folder import refusal
from sfxproc.settings.scale import ScaleConfig, require_sense


def check(config: ScaleConfig, log: Log) -> str:
    """Validate without reading data: settings, input files, reference, output folder; and tell what
    the job will need."""
    require_sense(config)
    folder = Path(config.output.folder)
    if problem := refusal(config.output):
        raise OutputError(problem)
    if config.reference.path is not None:
        reference_of(config)
    ambiguity_reference(config.symmetry, None)
    if config.simulate is None:
        files = list_inputs(config.input.paths, config.input.exclude, Path.cwd())
        log.show(counts_table("Inputs", {f.label: f.format.name for f in files}))
    log.show(needs_table(estimate(config), max(config.parallel.threads, 1)))
    if config.simulate is not None:
        return f"The job is valid: {config.simulate.n_crystals} stills would be simulated."
    return f"The job is valid: {len(files)} input files, results would go to '{folder}'."
