"""The postrefinement job: stills in, intensities merged with refined partialities out.

First the crystals are scaled with the partialities that their recorded orientations give; then
scales, orientations, sizes and intensities are refined, together or in one of the ways that are
there for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from sfxproc.jobs import scale
from sfxproc.jobs import scale_steps as steps
from sfxproc.jobs.begun import begun_at, earlier
from sfxproc.jobs.choose_partiality import Fit, chosen, settings_of
from sfxproc.jobs.conclusion import concluded
from sfxproc.jobs.postrefine_blocks import postrefined_in_blocks
from sfxproc.jobs.postrefine_config import AUTO, PostrefineConfig, require_sense
from sfxproc.jobs.postrefine_setup import (
    LEAST_PARTIALITY,
    geometry_of,
    moved_columns,
    require_shown,
    with_shown,
)
from sfxproc.jobs.reading import Dataset
from sfxproc.jobs.rejection import Judging
from sfxproc.jobs.scale_job import Scaled, ScaleJob, read_all, with_fixed
from sfxproc.jobs.scale_reference import reference_intensities
from sfxproc.lsq import Engine, Point, Result
from sfxproc.models.error_model import refits_of
from sfxproc.models.postrefine import (
    Geometry,
    PostrefineModel,
    extended,
    partialities,
    postrefine_model,
)
from sfxproc.models.postrefine_passes import SCHEMES, Refinement
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_start import ScaleProblem, scale_problem
from sfxproc.parallel.chunks import ChunkSums
from sfxproc.parallel.comm import Comm
from sfxproc.partiality import PARTIALITIES, Partiality
from sfxproc.report.log import Log

F8 = NDArray[np.float64]

ROUGH = 1e-4  # relative, of the objective: scaling is only where postrefinement begins


def run(config: PostrefineConfig, comm: Comm, log: Log) -> None:
    """Do the job."""
    require_sense(config)
    way = STRATEGIES[config.parallel.strategy]
    scale.run_with(lambda job: way(job, config), config, comm, log)


def check(config: PostrefineConfig, log: Log) -> None:
    """Validate a job without reading data: settings, inputs, output folder."""
    require_sense(config)
    log(steps.check(config, log))


def postrefined(job: ScaleJob, config: PostrefineConfig) -> Scaled:
    """Scale, refine all together, merge."""
    wanted, settings = config.postrefine, settings_of(config.postrefine)
    data = read_all(job, frozenset(), oriented=True)
    engine = Engine(ChunkSums(job.comm, data.chunks), job.threads)
    geometry, size = geometry_of(data, data.own_crystals, data.observations.hkl, wanted)
    name = wanted.partiality
    fits: list[Fit] = []
    if name == AUTO:
        name, fits = chosen(job, config, data, geometry, size, settings)
    before = earlier(job, data, geometry.parameters)
    anew = before is None or config.start.refine
    data, n_overlaps, together, begin = set_up(
        job, config, engine, data, geometry, size, PARTIALITIES[name], anew
    )
    n_rows = np.diff(together.layout.start)
    judging = Judging(job, data)
    together, begin = begun_at(before, job, together, begin, judging)
    if anew:
        result = refined(job, config, engine, together, begin, data, judging)
    else:
        job.log("merging with crystals as they were refined before")
        result = steps.solve(
            engine, together, begin, config, job.checkpoint, job.log, "merging-again"
        )
    assert isinstance(result.model, PostrefineModel)
    own = moved_columns(result.model.geometry, result.point)
    more = {name: job.comm.allgather_rows(column) for name, column in own.items()}
    found = concluded(job, judging, n_overlaps, engine, result, n_rows, more)
    return replace(found, models=[asdict(fit) for fit in fits])


def set_up(
    job: ScaleJob, config: PostrefineConfig, engine: Engine, data: Dataset, geometry: Geometry,
    size: F8, model: Partiality, scaled_first: bool,
) -> tuple[Dataset, NDArray[np.int64], PostrefineModel, Point]:  # fmt: skip
    """The model of all that is to be refined, and its start: scaled, if wanted. Nothing else that
    scaling holds outlives this. Also the data as `with_fixed` leaves them, and overlaps."""
    shown = partialities(model, data.observations.crystal, geometry, size)
    n_shown = int(np.count_nonzero(shown >= LEAST_PARTIALITY))
    n, n_shown = (sum(job.comm.allgather(v)) for v in (len(shown), n_shown))
    require_shown(n, n_shown, job.comm.allgather_rows(size), job.log)
    problem = scale_problem(
        engine, with_shown(data.observations, shown), data.chunks.local_bounds, data.reflections,
        steps.scale_settings(config),
    )  # fmt: skip
    del shown
    data, n_overlaps = with_fixed(job, data, problem)
    scaled: Result | ScaleProblem = problem
    point = problem.start
    if scaled_first:
        job.log("scaling with the orientations as recorded")
        solver = structs.replace(config.solver, tolerance=max(config.solver.tolerance, ROUGH))
        rough = structs.replace(config, solver=solver)
        scaled = steps.solve(
            engine, problem.model, problem.start, rough, job.checkpoint, job.log, "scaling"
        )
        point = scaled.point
    assert isinstance(scaled.model, ScaleModel)
    begin = extended(point, size, geometry)
    together = postrefine_model(
        scaled.model, geometry, model, begin, settings_of(config.postrefine)
    )
    return data, n_overlaps, together, begin


STRATEGIES: dict[str, Callable[[ScaleJob, PostrefineConfig], Scaled | None]] = {
    "global": postrefined,
    "blocks": postrefined_in_blocks,
}


def refined(
    job: ScaleJob, config: PostrefineConfig, engine: Engine, model: PostrefineModel, start: Point,
    data: Dataset, judging: Callable[[Result], NDArray[np.bool_]],
) -> Result:  # fmt: skip
    """The scheme that the settings ask for."""
    wanted = config.postrefine

    def solve(some: PostrefineModel, point: Point, key: str) -> Result:
        return steps.solve(engine, some, point, config, job.checkpoint, job.log, key)

    way = Refinement(
        engine, solve, steps.loss_of(config),
        refits_of(config.scaling.error_model),
        wanted.passes, wanted.cycles, job.log, judging, steps.teller(job.checkpoint, job.log),
    )  # fmt: skip
    if wanted.scheme == "crystal-by-crystal" and job.reference is not None:
        start = Point(
            start.local,
            reference_intensities(start.shared, model.scale.set_of_reflection, data, job.reference),
        )
    return SCHEMES[wanted.scheme](way, model, start)
