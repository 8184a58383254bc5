"""The postrefinement job: stills in, intensities merged with refined partialities out.

First the crystals are scaled with the partialities that their recorded orientations give; then
scales, orientations, sizes and intensities are refined together, again until the error model rests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from sfxproc.data import Status
from sfxproc.errors import ConfigError, DataError
from sfxproc.jobs import scale
from sfxproc.jobs import scale_steps as steps
from sfxproc.jobs.reading import Dataset
from sfxproc.jobs.scale_config import ScaleConfig
from sfxproc.jobs.settings import Count, NotNegative, Positive, Section
from sfxproc.jobs.strategies import Scaled, ScaleJob, merged_of, read_all, with_fixed
from sfxproc.lsq import Engine, Point, Result
from sfxproc.models.postrefine import (
    Geometry,
    PostrefineModel,
    PostrefineSettings,
    axes_of,
    extended,
    partialities,
    postrefine_model,
    refined_A,
    second_chance,
)
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_start import MOST_REFITS, scale_problem
from sfxproc.parallel.chunks import ChunkSums
from sfxproc.parallel.comm import Comm
from sfxproc.partiality import PARTIALITIES
from sfxproc.report.log import Log

F8 = NDArray[np.float64]

LEAST_PARTIALITY = 0.02  # when scaling with recorded orientations: these may be wrong
FEWEST_SHOWN, MOST_SHOWN = 0.1, 0.5  # of the observations: below, an error or a warning
AT_REST = 0.01  # relative change of the scatter from one pass to the next


class Postrefine(Section, frozen=True):
    """The partiality model and what is refined of it; sizes in Å⁻¹."""

    partiality: str = "sphere"
    size: Positive | None = None
    size_slope: NotNegative = 0.0
    bandwidth: Annotated[float, Meta(ge=0, lt=0.5)] | None = None
    orientation: bool = True
    theta_prior_mrad: Positive = 2.0
    refine_size: bool = True
    size_prior: Positive = 0.5
    passes: Count = 4


class PostrefineConfig(ScaleConfig, frozen=True):
    """A postrefinement job."""

    job: Literal["postrefine"]  # type: ignore[assignment]
    postrefine: Postrefine = Postrefine()


def run(config: PostrefineConfig, comm: Comm, log: Log) -> None:
    """Do the job."""
    require_sense(config)
    name = config.postrefine.partiality
    scale.run_with(lambda job: postrefined(job, config), config, comm, log, name)


def check(config: PostrefineConfig, log: Log) -> None:
    """Validate a job without reading data: settings, inputs, output folder."""
    require_sense(config)
    log(steps.check(config, log))


def require_sense(config: PostrefineConfig) -> None:
    """Raise ConfigError for settings that are valid one by one but not together."""
    name = config.postrefine.partiality
    if name not in PARTIALITIES:
        raise ConfigError(
            f'postrefine.partiality = "{name}" is not a partiality model; choose one of '
            f"{', '.join(sorted(PARTIALITIES))}."
        )
    if config.scaling.partiality == "recorded":
        raise ConfigError(
            'scaling.partiality = "recorded" has no place in postrefinement, which works out '
            "partialities itself. Leave it out."
        )
    if config.parallel.strategy != "global":
        raise ConfigError(
            'parallel.strategy = "blocks" is for job = "scale" only. Leave it out: all ranks '
            "postrefine together."
        )


def postrefined(job: ScaleJob, config: PostrefineConfig) -> Scaled:
    """Scale, refine all together, merge."""
    data = read_all(job, frozenset(), oriented=True)
    engine = Engine(ChunkSums(job.comm, data.chunks), job.threads)
    geometry, size = geometry_of(data, config.postrefine)
    model = PARTIALITIES[config.postrefine.partiality]
    start = partialities(model, data.observations.crystal, geometry, size)
    require_shown(start, size, job)
    observations = replace(
        data.observations, partiality=np.maximum(start, LEAST_PARTIALITY).astype(np.float32)
    )
    problem = scale_problem(
        engine, observations, data.chunks.local_bounds, data.reflections,
        steps.scale_settings(config),
    )  # fmt: skip
    data, n_overlaps = with_fixed(job, data, problem)
    job.log("scaling with the orientations as recorded")
    scaled = steps.solve(
        engine, problem.model, problem.start, config, job.checkpoint, job.log, "scaling"
    )
    assert isinstance(scaled.model, ScaleModel)
    wanted = config.postrefine
    settings = PostrefineSettings(
        theta_prior_mrad=wanted.theta_prior_mrad,
        size_prior=wanted.size_prior,
        orientation=wanted.orientation,
        size=wanted.refine_size,
    )
    begin = extended(scaled.point, size)
    together = postrefine_model(scaled.model, geometry, model, begin, settings)
    result = refined(job, engine, together, begin, wanted.passes)
    moved = job.comm.allgather_rows(refined_A(geometry, result.point))
    found = merged_of(job, data, n_overlaps, engine, result)
    return replace(found, frames={**found.frames, "A_refined": moved})


def require_shown(start: F8, size: F8, job: ScaleJob) -> None:
    """Raise DataError if the recorded orientations and sizes leave nothing of the reflections that
    were measured; warn if it is little."""
    shown = int(np.count_nonzero(start >= LEAST_PARTIALITY))
    n, n_shown = (sum(job.comm.allgather(v)) for v in (len(start), shown))
    r0 = float(np.median(np.concatenate(job.comm.allgather(size))))
    told = (
        f"{n_shown:,} of {n:,} observations are expected to show at least "
        f"{100 * LEAST_PARTIALITY:.0f} % of their reflection, with the orientations as recorded "
        f"and a size of {r0:.2g} Å⁻¹"
    )
    if n_shown < FEWEST_SHOWN * n:
        raise DataError(
            f"Only {told}: that is not how they were predicted. Set a larger postrefine.size, or "
            "check that wavelength and orientations are those of the integration."
        )
    if n_shown < MOST_SHOWN * n:
        job.log(f"WARNING: only {told}. A larger postrefine.size may be a better start.")


def refined(
    job: ScaleJob, engine: Engine, model: PostrefineModel, start: Point, passes: int
) -> Result:
    """All parameters refined together, in as many passes as the error model needs: what remains
    unexplained shrinks while orientations improve."""
    first, loss = start, steps.loss_of(job.config)
    for number in range(1, passes + 1):
        before = model.errors
        refits = MOST_REFITS if job.config.scaling.error_model == "scatter" else 0
        model = model.with_errors(replace(before, refits=refits))
        job.log(f"pass {number}: scales, orientations, sizes and intensities together")
        result = steps.solve(
            engine, model, start, job.config, job.checkpoint, job.log, f"pass-{number}"
        )
        assert isinstance(result.model, PostrefineModel)
        model = result.model
        point, moved = second_chance(model, result.point, first, loss)
        if moved:
            job.log(f"{moved:,} crystals fit better when refined anew from where they began")
        change = abs(model.errors.scatter - before.scatter)
        if not moved and (change <= AT_REST * before.scatter or refits == 0):
            break
        start = point
    return result


def geometry_of(data: Dataset, settings: Postrefine) -> tuple[Geometry, F8]:
    """Geometry of this rank's crystals, and the size r₀ each starts with, the median of the others
    where it is not recorded. Raises DataError if sizes or wavelengths are not known."""
    crystals, everyone = data.own_crystals, data.crystals
    used = data.status != Status.LEFT_OUT
    if not np.isfinite(everyone.wavelength_A[used]).all():
        raise DataError(
            "Crystals in use have no wavelength recorded, without which there is no excitation "
            "error. Convert the files with a program that writes it."
        )
    recorded = everyone.profile_radius[used]
    known = recorded[np.isfinite(recorded) & (recorded > 0)]
    if settings.size is None and not len(known):
        raise DataError(
            "The files record no profile radius, from which sizes could start. Set postrefine.size "
            "in Å⁻¹; 0.002 is common for small crystals at X-ray lasers, and it is refined."
        )
    if settings.size is not None:
        size = np.full(len(crystals), settings.size)
    else:
        own = np.nan_to_num(crystals.profile_radius)
        size = np.where(own > 0, own, np.median(known))
    bandwidth = np.nan_to_num(np.asarray(crystals.bandwidth, dtype=np.float64))
    beam = np.ascontiguousarray(crystals.beam, dtype=np.float64)
    if settings.bandwidth is not None:
        bandwidth = np.full(len(crystals), settings.bandwidth)
    k = 1.0 / np.where(np.isfinite(crystals.wavelength_A), crystals.wavelength_A, 1.0)
    return Geometry(
        hkl=np.ascontiguousarray(data.observations.hkl, dtype=np.int16),
        A=np.nan_to_num(np.asarray(crystals.A, dtype=np.float64)),
        beam=beam,
        axes=axes_of(beam),
        wavenumber=k,
        slope=np.full(len(crystals), settings.size_slope),
        bandwidth=bandwidth,
    ), size  # fmt: skip
