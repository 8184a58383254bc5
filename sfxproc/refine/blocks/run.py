"""Crystals refined and merged in blocks that rank 0 deals out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sfxproc.intake import pieces
from sfxproc.intake.selection import Inventory
from sfxproc.refine.blocks.dealing import Dealing, surveyed
from sfxproc.refine.blocks.refined import InBlocks, Positions
from sfxproc.refine.blocks.rounds import first_round
from sfxproc.refine.blocks.work import Modelling, Work
from sfxproc.refine.choices import columns_wanted, loss_of, scale_settings
from sfxproc.refine.judge import judge_of, refined_without_bad
from sfxproc.refine.merging_job import (
    MergingJob,
    MergingOutcome,
    intake_of,
    tell_start_scales,
    with_start_scales,
)
from sfxproc.refine.outcome import outcome_of
from sfxproc.report.log import Log
from sfxproc.results import tables as report
from sfxproc.runs.stages import Stages

THIN = 2.0  # observations a reflection in a block


READING = "reading"  # folder of shards and pieces, in the checkpoint


ModellingOf = Callable[[Inventory, pieces.Plan], Modelling]
"""How a job models its crystals, in the order of the plan."""


def in_blocks(
    job: MergingJob, modelling: ModellingOf, oriented: bool = False
) -> MergingOutcome | None:
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
    scaled = outcome_of(job, refined, judge, data)
    log(
        f"{len(refined.rounds.done)} rounds; rank 0 spent {stages.coordinating_s:.2f} s on dealing."
    )
    return scaled


def read_pieces(
    job: MergingJob, stages: Stages, modelling: ModellingOf, oriented: bool
) -> tuple[Inventory | None, pieces.Plan, Work]:
    """Convert and sort all inputs. The inventory is on rank 0 only."""
    config, comm, settings = job.config, job.comm, job.config.parallel
    order = pieces.Order(settings.block_size, settings.overlap, config.seed)
    folder = job.run.store.folder / READING
    job.run.begin_state()
    intake = intake_of(job, columns_wanted(config), oriented)
    taken = pieces.read_pieces_of(intake, order, folder, stages)
    data, plan = taken.inventory, taken.parts.plan
    told = None if data is None else (taken.keys, data.reflections, modelling(data, plan))
    keys, reflections, model = comm.bcast(told)
    work = Work(
        taken.parts.reader(keys),
        plan.blocks,
        reflections,
        scale_settings(config),
        loss_of(config),
        job.threads,
        config.solver.max_iterations,
        config.solver.tolerance,
        model,
    )
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
