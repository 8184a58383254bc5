"""The scaling job: stills in, merged intensities out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sfxproc.formats.inputs import list_inputs
from sfxproc.intake.reference import reference_of
from sfxproc.intake.simulated import simulated_inputs
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.threads import threads_of
from sfxproc.refine.check import check as checked
from sfxproc.refine.check import require_sense, tell_idle
from sfxproc.refine.merging_job import MergingJob, MergingOutcome
from sfxproc.refine.strategies import STRATEGIES
from sfxproc.report.log import Log
from sfxproc.results import tables as report
from sfxproc.results.files import write_outputs
from sfxproc.results.outputs import OUTPUTS, Results, merging_names
from sfxproc.runs.contents import Claim
from sfxproc.runs.names import FRAMES, SIMULATED_DATA, home_expanded, require_group_names
from sfxproc.runs.run import Finished, Run
from sfxproc.settings.scale import ScaleConfig


def run(config: ScaleConfig, run: Run) -> Finished | None:
    """Do the job."""
    return run_with(STRATEGIES[config.parallel.strategy], config, run)


def run_with(
    scaled_by: Callable[[MergingJob], MergingOutcome | None],
    config: ScaleConfig,
    run: Run,
) -> Finished | None:
    """Do a merging job whose crystals are scaled in a way of its own; on the first rank, what came
    of it."""
    tell_idle(config, run.log)
    reference = reference_of(config)
    inputs = simulated_inputs(config.simulate, config.input, run)
    scaled = scaled_by(MergingJob(config, run, inputs, reference))
    if scaled is None or run.comm.rank > 0:
        return None
    told = report.statistics_of(
        config,
        scaled.data,
        scaled.merged,
        reference,
        scaled.errors,
        scaled.scale_variance_error,
        scaled.solver,
    )
    told |= report.of_groups(config, scaled.data, scaled.groups)
    told["error_model"] |= scaled.pulls
    if scaled.models:
        told["partiality_models"] = list(scaled.models)
    report.tell_statistics(told, run.log)
    results = Results(
        scaled.data, scaled.merged, scaled.frames, told, scaled.groups, scaled.unmerged
    )
    sentence = report.closing_sentence(told, run.folder)
    return write_outputs(run, OUTPUTS, results, config, told, sentence)


def claim(config: ScaleConfig, comm: Comm) -> Claim:
    """What the job asks of its output folder. Raises ConfigError for settings without sense."""
    require_sense(config)
    require_group_names(list(config.merging.groups))
    return Claim(
        config.job,
        config,
        config.output,
        inputs=lambda: files_of(config),
        names=(*merging_names(config), *(SIMULATED_DATA if config.simulate is not None else ())),
        threads=threads_of(config.parallel.threads, comm),
        interval_s=config.output.checkpoint_interval_s,
    )


def files_of(config: ScaleConfig) -> list[Path]:
    """All files that the job reads. Raises InputError if inputs are missing."""
    paths = []
    if config.simulate is None:
        files = list_inputs(config.input.paths, config.input.exclude, Path.cwd())
        paths = [path for file in files for path in file.members]
    others = config.reference.path, config.symmetry.ambiguity_reference
    paths += [home_expanded(name) for name in others if name is not None]
    if config.start.frames is not None:
        frames = home_expanded(config.start.frames)
        paths.append(frames / FRAMES if frames.is_dir() else frames)
    return paths


def check(config: ScaleConfig, log: Log) -> str:
    """Validate a job without reading data; a sentence for the end."""
    return checked(config, log)
