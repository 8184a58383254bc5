"""The postrefinement job: stills in, intensities merged with refined partialities out.

First the crystals are scaled with the partialities that their recorded orientations give; then
scales, orientations, sizes and intensities are refined, together or in one of the ways that are
there for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from sfxproc.jobs import scale
from sfxproc.jobs import scale_steps as steps
from sfxproc.jobs.begun import begun_at, earlier
from sfxproc.jobs.choose_partiality import Fit, chosen, settings_of
from sfxproc.jobs.conclusion import concluded
from sfxproc.jobs.postrefine_config import AUTO, PostrefineConfig, require_sense
from sfxproc.jobs.postrefine_setup import (
    LEAST_PARTIALITY,
    geometry_of,
    n_strains_of,
    require_shown,
)
from sfxproc.jobs.reading import Dataset
from sfxproc.jobs.rejection import Judging
from sfxproc.jobs.scale_job import Scaled, ScaleJob, read_all, with_fixed
from sfxproc.jobs.scale_reference import reference_intensities
from sfxproc.jobs.warm import Kernels
from sfxproc.lsq import Engine, Point, Result
from sfxproc.models.postrefine import (
    Geometry,
    PostrefineModel,
    extended,
    partialities,
    postrefine_model,
    refined_A,
    refined_wavelength,
)
from sfxproc.models.postrefine_passes import SCHEMES, Refinement
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_start import FITTED, MOST_REFITS, ScaleProblem, scale_problem
from sfxproc.parallel.chunks import ChunkSums
from sfxproc.parallel.comm import Comm
from sfxproc.partiality import PARTIALITIES
from sfxproc.report.log import Log
from sfxproc.symmetry import cells_from_A

F8 = NDArray[np.float64]


def run(config: PostrefineConfig, comm: Comm, log: Log) -> None:
    """Do the job."""
    require_sense(config)
    wanted = config.postrefine
    names = tuple(PARTIALITIES) if wanted.partiality == AUTO else (wanted.partiality,)
    kernels = Kernels(names, n_strains_of(config) if wanted.cell else 0, wanted.wavelength)
    scale.run_with(lambda job: postrefined(job, config), config, comm, log, kernels)


def check(config: PostrefineConfig, log: Log) -> None:
    """Validate a job without reading data: settings, inputs, output folder."""
    require_sense(config)
    log(steps.check(config, log))


def postrefined(job: ScaleJob, config: PostrefineConfig) -> Scaled:
    """Scale, refine all together, merge."""
    wanted, settings = config.postrefine, settings_of(config.postrefine)
    data = read_all(job, frozenset(), oriented=True)
    engine = Engine(ChunkSums(job.comm, data.chunks), job.threads)
    geometry, size = geometry_of(data, wanted)
    name = wanted.partiality
    fits: list[Fit] = []
    if name == AUTO:
        name, fits = chosen(job, config, data, geometry, size, settings)
    model = PARTIALITIES[name]
    before = earlier(job, data, geometry.parameters)
    shown = partialities(model, data.observations.crystal, geometry, size)
    require_shown(shown, size, job)
    problem = problem_of(engine, data, shown, config)
    data, n_overlaps = with_fixed(job, data, problem)
    judging = Judging(job, data)
    scaled: Result | ScaleProblem = problem
    point = problem.start
    if before is None or config.start.refine:
        job.log("scaling with the orientations as recorded")
        scaled = steps.solve(
            engine, problem.model, problem.start, config, job.checkpoint, job.log, "scaling"
        )
        point = scaled.point
    assert isinstance(scaled.model, ScaleModel)
    begin = extended(point, size, geometry)
    together = postrefine_model(scaled.model, geometry, model, begin, settings)
    together, begin = begun_at(before, job, together, begin, judging)
    n_rows = np.diff(problem.model.layout.start)
    if before is not None and not config.start.refine:
        job.log("merging with crystals as they were refined before")
        result = steps.solve(
            engine, together, begin, config, job.checkpoint, job.log, "merging-again"
        )
    else:
        result = refined(job, config, engine, together, begin, data, judging)
    assert isinstance(result.model, PostrefineModel)
    more = moved_columns(job, result.model.geometry, result.point)
    found = concluded(job, judging, n_overlaps, engine, result, n_rows, more)
    return replace(found, models=[asdict(fit) for fit in fits])


def problem_of(engine: Engine, data: Dataset, shown: F8, config: PostrefineConfig) -> ScaleProblem:
    """Scaling with the partialities that recorded orientations give, none too near to nothing:
    these may be wrong."""
    partiality = np.maximum(shown, LEAST_PARTIALITY).astype(np.float32)
    observations = replace(data.observations, partiality=partiality)
    return scale_problem(
        engine, observations, data.chunks.local_bounds, data.reflections,
        steps.scale_settings(config),
    )  # fmt: skip


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
        MOST_REFITS if config.scaling.error_model in FITTED else 0,
        wanted.passes, wanted.cycles, job.log, judging, steps.teller(job.checkpoint, job.log),
    )  # fmt: skip
    if wanted.scheme == "crystal-by-crystal" and job.reference is not None:
        start = Point(
            start.local,
            reference_intensities(start.shared, model.scale.set_of_reflection, data, job.reference),
        )
    return SCHEMES[wanted.scheme](way, model, start)


def moved_columns(job: ScaleJob, geometry: Geometry, point: Point) -> dict[str, F8]:
    """Columns of frames.h5 about what was refined of the geometry, of all crystals."""
    A = job.comm.allgather_rows(refined_A(geometry, point))
    columns = {"A_refined": A}
    if geometry.n_strains:
        columns["cell_refined"] = cells_from_A(A)
    if geometry.waves:
        columns["wavelength_refined_A"] = job.comm.allgather_rows(
            refined_wavelength(geometry, point)
        )
    return columns
