"""The scaling job: stills in, merged intensities out."""

from __future__ import annotations

from sfxproc import __version__
from sfxproc.jobs import scale_report as report
from sfxproc.jobs import scale_steps as steps
from sfxproc.jobs.outputs import Results, open_output, write_results
from sfxproc.jobs.reading import read_dataset
from sfxproc.jobs.scale_config import ScaleConfig
from sfxproc.jobs.scale_reference import require_overlap
from sfxproc.jobs.simulate import simulated_inputs
from sfxproc.jobs.warm import compile_once
from sfxproc.lsq import Engine
from sfxproc.merging.merge import merge
from sfxproc.models.scale_merge import merge_sums
from sfxproc.models.scale_start import scale_problem
from sfxproc.parallel.chunks import ChunkSums
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.threads import threads_of
from sfxproc.report.log import Log


def run(config: ScaleConfig, comm: Comm, log: Log) -> None:
    """Do the job."""
    threads = threads_of(config.parallel.threads, comm)
    log(f"sfxproc {__version__}, scaling; ranks: {comm.size}, threads of each: {threads}")
    steps.require_sense(config)
    folder = open_output(config.output, comm)
    reference = steps.reference_of(config)
    compile_once(comm)
    inputs = simulated_inputs(config.simulate, config.input, folder, comm, log)
    data = read_dataset(
        inputs, config.symmetry, config.selection, steps.columns_wanted(config), comm, log
    )
    report.tell_data(data, log)
    if reference is not None:
        require_overlap(data, reference, config.symmetry)
    engine = Engine(ChunkSums(comm, data.chunks), threads)
    problem = scale_problem(
        engine, data.observations, data.chunks.local_bounds, data.reflections,
        steps.scale_settings(config),
    )  # fmt: skip
    data = steps.with_fixed(data, problem, comm, log)
    result = steps.solve(engine, problem, config, log)
    solution = steps.in_gauge(engine, result, data, reference, config)
    sums, crystal_cc = merge_sums(
        solution.model, solution.point, steps.loss_of(config), steps.own_halves(data)
    )
    merged = merge(data.reflections, sums, solution.covariance.from_local)
    frames = report.frame_columns(data, problem, solution, crystal_cc, comm)
    if comm.rank == 0:
        told = report.statistics_of(config, data, merged, result, solution, reference)
        report.tell_statistics(told, log)
        sentence = report.closing_sentence(told, folder)
        write_results(folder, data, Results(merged, frames, told), config, sentence, log)
    comm.barrier()


def check(config: ScaleConfig, log: Log) -> None:
    """Validate a job without reading data: settings, inputs, output folder."""
    log(steps.check(config, log))
