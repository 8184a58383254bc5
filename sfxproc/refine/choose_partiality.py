"""partiality = "auto": all models on a sample of the crystals, and the likeliest of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Observations, Reflections, Status, concatenate
from sfxproc.errors import DataError
from sfxproc.intake.reading import Dataset
from sfxproc.lsq import Engine, LevenbergMarquardt, Point, Result
from sfxproc.models.error_model import refits_of
from sfxproc.models.postrefine import Geometry, PostrefineModel
from sfxproc.models.postrefine_passes import CrystalModelT, Refinement, unlikeliness
from sfxproc.models.scale_start import scale_problem
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import SerialComm
from sfxproc.partiality import PARTIALITIES, Partiality
from sfxproc.refine.choices import loss_of, scale_settings
from sfxproc.refine.merging_job import MergingJob
from sfxproc.refine.postrefine_setup import Recorded, scaled_and_refined
from sfxproc.settings.postrefine import PostrefineConfig

F8 = NDArray[np.float64]

SAMPLE = 300  # crystals, or more until a reflection is seen MULTIPLICITY times
MULTIPLICITY = 6.0
MOST_SAMPLED = 2000
MOST_ITERATIONS, PASSES = 60, 2
CLEAR = 10.0  # of 2 ln L: below, two models cannot be told apart


@dataclass(frozen=True, eq=False)
class Sample:
    """Some crystals, all on this process: their observations by crystal and reflection."""

    observations: Observations
    reflections: Reflections
    geometry: Geometry
    size: F8


@dataclass(frozen=True)
class Fit:
    """How well a model explains the sample. excess : 2 ln L less than the best has; scatter : what
    it leaves unexplained, relative."""

    name: str
    excess: float
    scatter: float
    chi2_per_dof: float


def chosen(
    job: MergingJob, config: PostrefineConfig, data: Dataset, geometry: Geometry, size: F8
) -> tuple[str, list[Fit]]:
    """The likeliest model's name and how all fit; the same on all ranks."""
    sample = sampled(job, data, geometry, size)
    fits: list[Fit] = []
    if sample is not None:
        job.log(
            f"trying {len(PARTIALITIES)} partiality models on {len(sample.size)} crystals, "
            f"{len(sample.observations):,} observations"
        )
        fits = fitted(sample, config, job.threads)
    fits = job.comm.bcast(fits)
    if not fits:
        raise DataError(
            "No partiality model could be fitted to the sample of crystals. Set "
            "postrefine.partiality to one of "
            f"{', '.join(sorted(PARTIALITIES))}."
        )
    for fit in fits:
        job.log(
            f"{fit.name:18s} 2 ln L {-fit.excess:12.1f}, unexplained scatter "
            f"{100 * fit.scatter:5.1f} %"
        )
    near = [fit.name for fit in fits[1:] if fit.excess < CLEAR]
    also = f"; these data do not tell it from {', '.join(near)}" if near else ""
    job.log(f'partiality = "{fits[0].name}"{also}')
    return fits[0].name, fits


def sampled(job: MergingJob, data: Dataset, geometry: Geometry, size: F8) -> Sample | None:
    """Crystals evenly picked of those in use, on rank 0; None elsewhere."""
    used = np.flatnonzero(data.status == Status.USED)
    each = max(float(data.n_observations[used].mean()), 1.0)
    wanted = max(SAMPLE, int(MULTIPLICITY * len(data.reflections) / each))
    n = min(wanted, MOST_SAMPLED, len(used))
    picked = used[np.linspace(0, len(used) - 1, n).astype(np.int64)]
    own = data.chunks.crystals
    mine = picked[(picked >= own.start) & (picked < own.stop)] - own.start
    of_mine = np.full(own.stop - own.start, -1, dtype=np.int32)
    of_mine[mine] = np.arange(len(mine))
    table = data.observations
    rows = np.flatnonzero(of_mine[table.crystal] >= 0)
    part = table.take(rows)
    part = replace(part, crystal=of_mine[part.crystal])
    parts = job.comm.allgather((part, geometry.of(mine, rows), size[mine]))
    if job.comm.rank != 0:
        return None
    return joined(parts, data.reflections)


def joined(parts: list[tuple[Observations, Geometry, F8]], reflections: Reflections) -> Sample:
    """The crystals of all ranks end to end, with the reflections that they show."""
    before = np.concatenate([[0], np.cumsum([len(size) for _, _, size in parts])])
    tables = [
        replace(table, crystal=(table.crystal + first).astype(np.int32))
        for first, (table, _, _) in zip(before, parts, strict=False)
    ]
    observations = concatenate(tables)
    assert observations.reflection is not None
    shown, reflection = np.unique(observations.reflection, return_inverse=True)
    own = ("hkl", "A", "beam", "axes", "wavenumber", "slope", "bandwidth")
    first = parts[0][1]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(g, name) for _, g, _ in parts]) for name in own
    }
    if first.strain is not None:
        columns["strain"] = np.concatenate([g.strain for _, g, _ in parts])
    return Sample(
        replace(observations, reflection=reflection.astype(np.int32)),
        reflections.take(shown),
        replace(first, **columns),
        np.concatenate([size for _, _, size in parts]),
    )


def fitted(sample: Sample, config: PostrefineConfig, threads: int) -> list[Fit]:
    """All models on a sample, the likeliest first; those that cannot be fitted are left out."""
    found = []
    for name, shape in PARTIALITIES.items():
        if shape.uses_bandwidth and not sample.geometry.bandwidth.any():
            continue  # the same as the model without a spectrum
        one = fit_of(sample, shape, config, threads)
        if one is not None:
            found.append((name, *one))
    best = min((score for _, score, _ in found), default=0.0)
    fits = [
        Fit(name, score - best, result.model.errors.scatter, result.chi2 / max(result.dof, 1))
        for name, score, result in found
    ]
    return sorted(fits, key=lambda fit: fit.excess)


def fit_of(
    sample: Sample, shape: Partiality, config: PostrefineConfig, threads: int
) -> tuple[float, Result[PostrefineModel]] | None:
    """−2 ln L of a model on the sample, and its solution; None if it explains nothing."""
    recorded = Recorded(sample.geometry, sample.size, shape)
    table, n_shown = recorded.shown(sample.observations)
    if n_shown == 0:
        return None
    comm = SerialComm()
    counts = np.bincount(table.crystal, minlength=len(sample.size))
    chunks = plan_chunks(counts, len(sample.reflections), comm)
    engine = Engine(ChunkSums(comm, chunks), threads)
    problem = scale_problem(
        engine, table, chunks.local_bounds, sample.reflections, scale_settings(config)
    )
    loss = loss_of(config)
    solver = LevenbergMarquardt(loss=loss, max_iterations=MOST_ITERATIONS, tolerance=1e-6)

    def solve(model: CrystalModelT, point: Point, key: str) -> Result[CrystalModelT]:
        return solver.solve(engine, model, point)

    way = Refinement(engine, solve, loss, refits_of(config.scaling.error_model), PASSES)
    result = scaled_and_refined(recorded, problem, way)
    score = unlikeliness(result.model, result.point, loss)
    return (score, result) if np.isfinite(score) else None
