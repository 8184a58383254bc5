"""The two ways to scale: all crystals together, or in overlapping blocks that are dealt out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sfxproc.intake import pieces
from sfxproc.intake.selection import Inventory
from sfxproc.lsq import Engine
from sfxproc.models.scale_start import scale_problem
from sfxproc.parallel.chunks import ChunkSums
from sfxproc.parallel.decide import decided
from sfxproc.refine.blocks.dealing import Dealing, surveyed
from sfxproc.refine.blocks.refined import InBlocks, Positions
from sfxproc.refine.blocks.rounds import first_round
from sfxproc.refine.blocks.work import Modelling, Scaling, Work
from sfxproc.refine.choices import columns_wanted, loss_of, scale_settings
from sfxproc.refine.conclude import concluded
from sfxproc.refine.judge import Judge, half_sets, refined_without_bad
from sfxproc.refine.scale_job import (
    Scaled,
    ScaleJob,
    intake_of,
    read_all,
    tell_start_scales,
    with_start_scales,
)
from sfxproc.refine.solve import solve
from sfxproc.refine.start import begun_at, earlier
from sfxproc.refine.whole import Together, fates_of
from sfxproc.report.log import Log
from sfxproc.results import tables as report
from sfxproc.runs.names import READING
from sfxproc.runs.stages import Stages

THIN = 2.0  # observations a reflection in a block


def scale_globally(job: ScaleJob) -> Scaled | None:
    """All ranks step together on one problem; each reads and keeps its share of the crystals."""
    config = job.config
    data = read_all(job, columns_wanted(config))
    engine = Engine(ChunkSums(job.comm, data.chunks), job.threads)
    problem = scale_problem(
        engine, data.observations, data.chunks.local_bounds, data.reflections,
        scale_settings(config),
    )  # fmt: skip
    fates = fates_of(job, problem)
    data = with_start_scales(data, fates.start_scale)
    tell_start_scales(data, fates, job.log)
    judge = judge_of(job, data)
    model, start = begun_at(
        earlier(job, data, problem.model.layout.parameters), job, problem.model, problem.start,
        judge,
    )  # fmt: skip
    result = solve(engine, model, start, config, job.run)
    refined = Together(job, data, fates, engine, result)
    if config.start.refine:
        refined = refined_without_bad(refined, judge)
    return concluded(job, refined, judge, data)


def judge_of(job: ScaleJob, data: Inventory | None) -> Judge:
    """Who judges the job's crystals. data : on rank 0."""

    def halves() -> NDArray[np.int8]:
        assert data is not None
        return half_sets(data)

    return Judge(job.comm, job.config.rejection, job.log, decided(job.comm, halves))


def scale_in_blocks(job: ScaleJob) -> Scaled | None:
    """Rank 0 deals blocks of crystals, read from pieces; None on other ranks."""
    b_factor = job.config.scaling.b_factor
    return in_blocks(job, lambda _, plan: Scaling(np.zeros((len(plan.crystal_at), 2)), b_factor))


ModellingOf = Callable[[Inventory, pieces.Plan], Modelling]
"""How a job models its crystals, in the order of the plan."""


def in_blocks(job: ScaleJob, modelling: ModellingOf, oriented: bool = False) -> Scaled | None:
    """A job's crystals refined and merged in blocks; None on other ranks than 0. oriented : they
    need an orientation."""
    comm, log, settings = job.comm, job.log, job.config.parallel
    stages = job.run.stages
    with job.run.refusable():
        data, plan, work = read_pieces(job, stages, modelling, oriented)
    if data is not None:
        report.tell_data(data, log)
    log(
        f"{work.count('blocks')} blocks of {settings.block_size} crystals, overlapping by "
        f"{settings.overlap}"
    )
    if data is not None:
        warn_of_thin_blocks(data, work, log)
    n_observations = comm.bcast(None if data is None else data.n_observations)
    dealing = Dealing(work, stages, n_observations[plan.crystal_at])
    survey = surveyed(dealing)
    with job.run.refusable():
        work.modelling.require_shown(survey.n_rows, survey.n_shown, log)
    rounds = first_round(dealing, settings, log, survey)
    refined = InBlocks(comm, Positions(plan.crystal_at, len(n_observations)), rounds, [])
    if data is not None:
        fates = refined.fates
        tell_start_scales(with_start_scales(data, fates.start_scale), fates, log)
    judge = judge_of(job, data)
    refined = refined_without_bad(refined.continued("rounds"), judge)
    scaled = concluded(job, refined, judge, data)
    log(
        f"{len(refined.rounds.done)} rounds; rank 0 spent {stages.coordinating_s:.2f} s on dealing."
    )
    return scaled


STRATEGIES: dict[str, Callable[[ScaleJob], Scaled | None]] = {
    "global": scale_globally,
    "blocks": scale_in_blocks,
}


# ---- reading for blocks ----------------------------------------------------------------------


def read_pieces(
    job: ScaleJob, stages: Stages, modelling: ModellingOf, oriented: bool
) -> tuple[Inventory | None, pieces.Plan, Work]:
    """Convert and sort all inputs. The inventory is on rank 0 only."""
    config, comm, settings = job.config, job.comm, job.config.parallel
    order = pieces.Order(settings.block_size, settings.overlap, config.seed)
    folder = job.run.store.folder / READING
    intake = intake_of(job, columns_wanted(config), oriented)
    job.run.begin_state()
    taken = pieces.read_pieces_of(intake, order, folder, stages)
    data, plan = taken.inventory, taken.parts.plan
    told = None if data is None else (taken.keys, data.reflections, modelling(data, plan))
    keys, reflections, model = comm.bcast(told)
    work = Work(
        taken.parts.reader(keys), plan.blocks, reflections, scale_settings(config),
        loss_of(config), job.threads, config.solver.max_iterations, config.solver.tolerance, model,
    )  # fmt: skip
    return data, plan, work


def warn_of_thin_blocks(data: Inventory, work: Work, log: Log) -> None:
    """Say so where blocks hold too little to stand for the whole job."""
    n_blocks = work.count("blocks")
    share = np.diff(work.blocks.bounds).mean() / len(work.blocks.order)
    each = share * float(data.n_observations.sum()) / len(data.reflections)
    if n_blocks > 1 and each < THIN:
        log(
            f"WARNING: a block has only {each:.1f} observations a reflection, too few to tell how "
            "scales move together: rounds converge slowly or not at all. Raise "
            'parallel.block_size, or use parallel.strategy = "global".'
        )
