"""The two ways to scale: all crystals together, or in overlapping blocks that are dealt out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sfxproc.lsq import Engine
from sfxproc.models.scale_start import scale_problem
from sfxproc.parallel.chunks import ChunkSums
from sfxproc.refine.blocks.run import (
    in_blocks,
)
from sfxproc.refine.blocks.work import Scaling
from sfxproc.refine.choices import columns_wanted, scale_settings
from sfxproc.refine.judge import judge_of, refined_without_bad
from sfxproc.refine.merging_job import (
    MergingJob,
    MergingOutcome,
    read_all,
    tell_start_scales,
    with_start_scales,
)
from sfxproc.refine.outcome import outcome_of
from sfxproc.refine.solve import solve
from sfxproc.refine.start import as_earlier, earlier
from sfxproc.refine.whole import Together, fates_of


def scale_globally(job: MergingJob) -> MergingOutcome | None:
    """All ranks step together on one problem; each reads and keeps its share of the crystals."""
    config = job.config
    data = read_all(job, columns_wanted(config))
    engine = Engine(ChunkSums(job.comm, data.chunks), job.threads)
    problem = scale_problem(
        engine,
        data.observations,
        data.chunks.local_bounds,
        data.reflections,
        scale_settings(config),
    )
    fates = fates_of(job, problem)
    data = with_start_scales(data, fates.start_scale)
    tell_start_scales(data, fates, job.log)
    judge = judge_of(job, data)
    model, start = as_earlier(
        earlier(job, data, problem.model.layout.parameters),
        job,
        problem.model,
        problem.start,
        judge,
    )
    result = solve(engine, model, start, config, job.run)
    refined = Together(job, data, fates, engine, result)
    if config.start.refine:
        refined = refined_without_bad(refined, judge)
    return outcome_of(job, refined, judge, data)


def scale_in_blocks(job: MergingJob) -> MergingOutcome | None:
    """Rank 0 deals blocks of crystals, read from pieces; None on other ranks."""
    b_factor = job.config.scaling.b_factor
    return in_blocks(job, lambda _, plan: Scaling(np.zeros((len(plan.crystal_at), 2)), b_factor))


STRATEGIES: dict[str, Callable[[MergingJob], MergingOutcome | None]] = {
    "global": scale_globally,
    "blocks": scale_in_blocks,
}


# ---- reading for blocks ----------------------------------------------------------------------
