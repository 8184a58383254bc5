"""The two ways to scale: all crystals together, or in overlapping blocks that are dealt out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Reason, ReferenceSet, Status
from sfxproc.intake import pieces
from sfxproc.intake.reference import reference_scales
from sfxproc.intake.selection import Inventory
from sfxproc.lsq import Engine
from sfxproc.merging.halves import half_of
from sfxproc.merging.merge import merge
from sfxproc.models.scale_start import scale_problem
from sfxproc.parallel.chunks import ChunkSums
from sfxproc.refine.blocks import judge as block_rejection
from sfxproc.refine.blocks.rounds import BlockScaling
from sfxproc.refine.blocks.tasks import Modelling, Scaling, Work
from sfxproc.refine.choices import columns_wanted, loss_of, scale_settings
from sfxproc.refine.conclude import concluded
from sfxproc.refine.judge import Judging, refined_without_bad, without_crystals
from sfxproc.refine.scale_job import (
    Scaled,
    ScaleJob,
    intake_of,
    mark_fixed,
    read_all,
    with_fixed,
)
from sfxproc.refine.solve import solve
from sfxproc.refine.start import begun_at, earlier
from sfxproc.report.log import Log
from sfxproc.results import tables as report
from sfxproc.runs.names import READING
from sfxproc.runs.stages import Stages

THIN = 2.0  # observations a reflection in a block


def scale_globally(job: ScaleJob) -> Scaled:
    """All ranks step together on one problem; each reads and keeps its share of the crystals."""
    config = job.config
    data = read_all(job, columns_wanted(config))
    engine = Engine(ChunkSums(job.comm, data.chunks), job.threads)
    problem = scale_problem(
        engine, data.observations, data.chunks.local_bounds, data.reflections,
        scale_settings(config),
    )  # fmt: skip
    data, n_overlaps = with_fixed(job, data, problem)
    judging = Judging(job, data)
    model, start = begun_at(
        earlier(job, data, problem.model.layout.parameters), job, problem.model, problem.start,
        judging,
    )  # fmt: skip
    n_rows = np.diff(problem.model.layout.start)
    result = solve(engine, model, start, config, job.run)
    if config.start.refine:
        result = refined_without_bad(job, engine, result, judging)
    return concluded(job, judging, n_overlaps, engine, result, n_rows)


def scale_in_blocks(job: ScaleJob) -> Scaled | None:
    """Rank 0 deals blocks of crystals, read from pieces; None on other ranks."""
    b_factor = job.config.scaling.b_factor
    return in_blocks(job, lambda _, plan: Scaling(np.zeros((len(plan.crystal_at), 2)), b_factor))


ModellingOf = Callable[[Inventory, pieces.Plan], Modelling]
"""How a job models its crystals, in the order of the plan."""


def in_blocks(job: ScaleJob, modelling: ModellingOf, oriented: bool = False) -> Scaled | None:
    """A job's crystals refined and merged in blocks; None on other ranks than 0. oriented : they
    need an orientation."""
    config, comm, log, settings = job.config, job.comm, job.log, job.config.parallel
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
    blocks = BlockScaling(work, stages, settings, log)
    set_sizes = blocks.survey()
    with job.run.refusable():
        work.modelling.require_shown(blocks.n_rows, blocks.n_shown, log)
    reasons, n_overlaps = blocks.refine()
    blocks.go_on()
    half = comm.bcast(None if data is None else _halves(data, plan))
    left = block_rejection.refined_without_bad(blocks, config.rejection, half)
    if data is not None:
        everything = _by_crystal(plan, len(data.crystals))
        data = mark_fixed(data, everything(reasons), everything(n_overlaps), set_sizes, log)
    blocks.shift(comm.bcast(None if data is None else _shift(blocks, data, job.reference)))
    sums, found = blocks.merge(left.half)
    log(f"{len(blocks.rounds)} rounds; rank 0 spent {stages.coordinating_s:.2f} s on dealing.")
    if data is None:
        return None
    data = without_crystals(data, everything(left.reason))
    lost = everything(blocks.lost_crystals())
    data = replace(
        data,
        status=np.where(lost, np.uint8(Status.LEFT_OUT), data.status),
        reason=np.where(lost, np.uint8(Reason.TASK_FAILED), data.reason),
    )
    merged = merge(data.reflections, sums, found["from_local"])
    of_crystals = blocks.state["local"], found["sigma"], found["cc"]
    local, sigma, crystal_cc = (everything(a) for a in of_crystals)
    more = left.columns | work.modelling.columns(blocks.state["local"])
    frames = report.frame_columns(
        data, everything(n_overlaps), local, sigma, crystal_cc,
        data.classes.columns() | {name: everything(rows, np.nan) for name, rows in more.items()},
        work.modelling.parameters,
    )  # fmt: skip
    solver = {**blocks.as_dict(), "coordinating_s": stages.coordinating_s}
    return Scaled(data, merged, frames, solver, blocks.state.errors, np.nan)


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
    job.run.begin_state()
    intake = intake_of(job, columns_wanted(config), oriented)
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


def _by_crystal(plan: pieces.Plan, n: int) -> Callable[..., NDArray[Any]]:
    """Rows in the order of the blocks as rows of all crystals, 0 or what else is to be filled in
    for those in no block."""

    def everything(rows: NDArray[Any], nothing: float = 0.0) -> NDArray[Any]:
        out = np.full((n, *rows.shape[1:]), nothing, dtype=rows.dtype)
        out[plan.crystal_at] = rows
        return out

    return everything


def _halves(data: Inventory, plan: pieces.Plan) -> NDArray[np.int8]:
    """Half set of each crystal in the order of the blocks; −1 for those left out."""
    half = half_of(data.crystals.identity)
    half[data.status == Status.LEFT_OUT] = -1
    return half[plan.crystal_at]


def _shift(
    blocks: BlockScaling, data: Inventory, reference: ReferenceSet | None
) -> NDArray[np.float64]:
    """What brings ln G and B of each connected set to mean zero, or to the reference."""
    if reference is None:
        return blocks.to_zero_mean()
    state = blocks.state
    return reference_scales(state["shared"], state["of_reflection"], blocks.n_sets, data, reference)
