"""The scaling job: stills in, merged intensities out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sfxproc import __version__
from sfxproc.formats.inputs import list_inputs
from sfxproc.jobs import scale_report as report
from sfxproc.jobs import scale_steps as steps
from sfxproc.jobs.checkpoints import open_job
from sfxproc.jobs.outputs import Results, write_results
from sfxproc.jobs.scale_config import ScaleConfig
from sfxproc.jobs.scale_job import Scaled, ScaleJob
from sfxproc.jobs.simulate import simulated_inputs
from sfxproc.jobs.strategies import STRATEGIES
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.threads import threads_of
from sfxproc.report.log import Log


def run(config: ScaleConfig, comm: Comm, log: Log) -> None:
    """Do the job."""
    run_with(STRATEGIES[config.parallel.strategy], config, comm, log)


def run_with(
    scaled_by: Callable[[ScaleJob], Scaled | None],
    config: ScaleConfig,
    comm: Comm,
    log: Log,
) -> None:
    """Do a job from opening its folder to writing its results, scaled in a way of its own."""
    threads = threads_of(config.parallel.threads, comm)
    log(f"sfxproc {__version__}, {config.job}; ranks: {comm.size}, threads of each: {threads}")
    steps.require_sense(config)
    checkpoint = open_job(config, config.output, lambda: files_of(config), comm, log)
    if checkpoint is None:
        return
    folder = checkpoint.folder
    reference = steps.reference_of(config)
    inputs = simulated_inputs(config.simulate, config.input, checkpoint, log)
    job = ScaleJob(config, comm, log, checkpoint, inputs, reference, threads)
    scaled = scaled_by(job)
    if comm.rank == 0 and scaled is not None:
        data, merged = scaled.data, scaled.merged
        told = report.statistics_of(
            config, data, merged, reference, scaled.errors, scaled.scale_variance_error,
            scaled.solver,
        )  # fmt: skip
        told |= report.of_groups(config, data, scaled.groups)
        told["error_model"] |= scaled.pulls
        if scaled.models:
            told["partiality_models"] = list(scaled.models)
        report.tell_statistics(told, log)
        sentence = report.closing_sentence(told, folder)
        checkpoint.begin()
        results = Results(merged, scaled.frames, told, scaled.groups, scaled.unmerged)
        write_results(folder, data, results, config, config.job, sentence, log)
        checkpoint.remove()
    comm.barrier()


def files_of(config: ScaleConfig) -> list[Path]:
    """All files that the job reads. Raises InputError if inputs are missing."""
    paths = []
    if config.simulate is None:
        files = list_inputs(config.input.paths, config.input.exclude, Path.cwd())
        paths = [path for file in files for path in file.members]
    others = config.reference.path, config.symmetry.ambiguity_reference, config.start.frames
    return paths + [Path(name) for name in others if name is not None]


def check(config: ScaleConfig, log: Log) -> None:
    """Validate a job without reading data: settings, inputs, output folder."""
    log(steps.check(config, log))
