"""Whether a scaling or postrefining job makes sense, and what `sfxproc check` tells of it."""

from __future__ import annotations

from pathlib import Path

from sfxproc.errors import ConfigError
from sfxproc.formats.inputs import list_inputs
from sfxproc.intake.reference import reference_of
from sfxproc.intake.reindexing import ambiguity_reference
from sfxproc.lsq import SOLVERS
from sfxproc.partiality import PARTIALITIES
from sfxproc.refine.estimate import estimate, needs_table
from sfxproc.report.log import Log
from sfxproc.report.terminal import counts_table
from sfxproc.settings import postrefine, scale
from sfxproc.settings.postrefine import AUTO, PostrefineConfig
from sfxproc.settings.scale import ScaleConfig
from sfxproc.symmetry import require_cell, space_group


def require_sense(config: ScaleConfig) -> None:
    """Raise ConfigError for names that no table knows and settings that do not go together."""
    require_known(config)
    scale.require_sense(config)
    if isinstance(config, PostrefineConfig):
        postrefine.require_sense(config)


def require_known(config: ScaleConfig) -> None:
    """Raise ConfigError for a solver, partiality model or space group that there is not, or for a
    cell that is not of that group."""
    if config.solver.method not in SOLVERS:
        names = ", ".join(f'"{m}"' for m in SOLVERS)
        raise ConfigError(
            f'solver.method = "{config.solver.method}" is not a solver; choose one of {names}.'
        )
    group = space_group(config.symmetry.space_group)
    if config.symmetry.unit_cell is not None:
        require_cell(group, config.symmetry.unit_cell)
    if isinstance(config, PostrefineConfig):
        name = config.postrefine.partiality
        if name != AUTO and name not in PARTIALITIES:
            raise ConfigError(
                f'postrefine.partiality = "{name}" is not a partiality model; choose one of '
                f'{", ".join(sorted(PARTIALITIES))}, or "{AUTO}" for the one that fits best.'
            )


def check(config: ScaleConfig, log: Log) -> str:
    """Validate without reading data: input files and reference; and tell what the job will need.
    Returns a sentence for the end."""
    if config.reference.path is not None:
        reference_of(config)
    ambiguity_reference(config.symmetry, None)
    if config.simulate is None:
        files = list_inputs(config.input.paths, config.input.exclude, Path.cwd())
        log.show(counts_table("Inputs", {f.label: f.format.name for f in files}))
    log.show(needs_table(estimate(config), max(config.parallel.threads, 1)))
    if config.simulate is not None:
        return f"The job is valid: {config.simulate.n_crystals} stills would be simulated."
    return (
        f"The job is valid: {len(files)} input files, results would go to '{config.output.folder}'."
    )
