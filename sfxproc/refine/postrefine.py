"""Postrefining: scaled with the orientations as recorded, then refined in one of the schemes.

What is done with all crystals in memory; in blocks it is `blocks.postrefine`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from sfxproc.intake.reading import Dataset
from sfxproc.intake.reference import reference_intensities
from sfxproc.lsq import Engine, Point, Result
from sfxproc.models.error_model import refits_of
from sfxproc.models.parameters import names_of
from sfxproc.models.postrefine import PostrefineModel
from sfxproc.models.postrefine_passes import SCHEMES, CrystalModelT, Refinement
from sfxproc.models.scale_start import scale_problem
from sfxproc.parallel.chunks import ChunkSums
from sfxproc.partiality import PARTIALITIES
from sfxproc.refine.blocks.postrefine import postrefined_in_blocks
from sfxproc.refine.choices import loss_of, scale_settings
from sfxproc.refine.choose_partiality import Fit, chosen
from sfxproc.refine.judge import judge_of
from sfxproc.refine.merging_job import (
    MergingJob,
    MergingOutcome,
    read_all,
    tell_start_scales,
    with_start_scales,
)
from sfxproc.refine.outcome import outcome_of
from sfxproc.refine.postrefine_setup import (
    Recorded,
    geometry_of,
    require_shown,
    scaled_start,
)
from sfxproc.refine.refined import Fates
from sfxproc.refine.solve import solve as solve_kept
from sfxproc.refine.solve import teller
from sfxproc.refine.start import as_earlier, earlier
from sfxproc.refine.whole import Together, fates_of
from sfxproc.settings.postrefine import AUTO, PostrefineConfig

F8 = NDArray[np.float64]


ROUGH = 1e-4  # relative, of the objective: scaling is only where postrefinement begins


def postrefined(job: MergingJob, config: PostrefineConfig) -> MergingOutcome | None:
    """Scale, refine all together, merge."""
    wanted = config.postrefine
    data = read_all(job, frozenset(), oriented=True)
    engine = Engine(ChunkSums(job.comm, data.chunks), job.threads)
    geometry, size = geometry_of(data, data.own_crystals, data.observations.hkl, wanted)
    name = wanted.partiality
    fits: list[Fit] = []
    if name == AUTO:
        name, fits = chosen(job, config, data, geometry, size)
    before = earlier(job, data, names_of(geometry.parameters))
    anew = before is None or config.start.refine
    recorded = Recorded(geometry, size, PARTIALITIES[name])
    data, fates, together, begin = set_up(job, config, engine, data, recorded, anew)
    judge = judge_of(job, data)
    together, begin = as_earlier(before, job, together, begin, judge)

    def newly_out(result: Result[PostrefineModel]) -> NDArray[np.bool_]:
        return judge.newly_out(Together(job, data, fates, engine, result))[data.chunks.crystals]

    if anew:
        result = refined(job, config, engine, together, begin, data, newly_out)
    else:
        job.log("merging with crystals as they were refined before")
        result = solve_kept(engine, together, begin, config, job.run, "merging-again")
    found = outcome_of(job, Together(job, data, fates, engine, result), judge, data)
    return None if found is None else replace(found, models=[asdict(fit) for fit in fits])


def set_up(
    job: MergingJob,
    config: PostrefineConfig,
    engine: Engine,
    data: Dataset,
    recorded: Recorded,
    scaled_first: bool,
) -> tuple[Dataset, Fates, PostrefineModel, Point]:
    """The model of all that is to be refined, and its start: scaled, if wanted. Nothing else that
    scaling holds outlives this. Also the data with crystals marked that keep their start scale."""
    table, n_shown = recorded.shown(data.observations)
    n, n_shown = (sum(job.comm.allgather(v)) for v in (len(table), n_shown))
    require_shown(n, n_shown, job.comm.allgather_rows(recorded.size), job.log)
    problem = scale_problem(
        engine, table, data.chunks.local_bounds, data.reflections, scale_settings(config)
    )
    del table
    fates = fates_of(job, problem)
    data = with_start_scales(data, fates.start_scale)
    tell_start_scales(data, fates, job.log)
    solver = structs.replace(config.solver, tolerance=max(config.solver.tolerance, ROUGH))
    rough = structs.replace(config, solver=solver)

    def solve(model: CrystalModelT, point: Point, key: str) -> Result[CrystalModelT]:
        job.log("scaling with the orientations as recorded")
        return solve_kept(engine, model, point, rough, job.run, key)

    return data, fates, *scaled_start(recorded, problem, solve if scaled_first else None)


STRATEGIES: dict[str, Callable[[MergingJob, PostrefineConfig], MergingOutcome | None]] = {
    "global": postrefined,
    "blocks": postrefined_in_blocks,
}


def refined(
    job: MergingJob,
    config: PostrefineConfig,
    engine: Engine,
    model: PostrefineModel,
    start: Point,
    data: Dataset,
    newly_out: Callable[[Result[PostrefineModel]], NDArray[np.bool_]],
) -> Result[PostrefineModel]:
    """The scheme that the settings ask for."""
    wanted = config.postrefine

    def solve(model: CrystalModelT, point: Point, key: str) -> Result[CrystalModelT]:
        return solve_kept(engine, model, point, config, job.run, key)

    way = Refinement(
        engine,
        solve,
        loss_of(config),
        refits_of(config.scaling.error_model),
        wanted.passes,
        wanted.cycles,
        job.log,
        newly_out,
        teller(job.run),
    )
    if wanted.scheme == "crystal-by-crystal" and job.reference is not None:
        start = Point(
            start.local,
            reference_intensities(start.shared, model.scale.set_of_reflection, data, job.reference),
        )
    return SCHEMES[wanted.scheme](way, model, start)
