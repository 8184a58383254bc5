"""Compiling once for a whole job.

Numba keeps compiled kernels in a cache on disk, which stands many readers but not many writers
at once (they may pick the same file name), and a compilation of some seconds on every rank would
be wasted. So rank 0 solves a tiny problem first, which compiles whatever is not in the cache,
and the other ranks wait and then only read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from sfxproc.data import Observations, Reflections
from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point
from sfxproc.lsq.rounds import refit_local
from sfxproc.lsq.sampled import sampled
from sfxproc.merging.ambiguity import ranks, resolve
from sfxproc.models.agreement import agreement_of
from sfxproc.models.postrefine import (
    Geometry,
    PostrefineModel,
    axes_of,
    extended,
    postrefine_model,
)
from sfxproc.models.postrefine_passes import unlikeliness
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_merge import merge_sums
from sfxproc.models.scale_start import ScaleSettings, scale_problem
from sfxproc.models.scaled_rows import scaled_rows
from sfxproc.models.settings import ParameterSettings
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import Comm, SerialComm
from sfxproc.partiality import PARTIALITIES, Partiality
from sfxproc.symmetry import possible, reflections, s_squared, space_group, unique_keys

N_CRYSTALS, N_HKL = 16, 60


@dataclass(frozen=True)
class Kernels:
    """What postrefinement is to be compiled for: names of partiality models, what is refined of
    crystals, strains of a cell if that is."""

    partialities: tuple[str, ...]
    settings: ParameterSettings = field(default_factory=ParameterSettings)
    n_strains: int = 0


def compile_once(comm: Comm, kernels: Kernels | None = None) -> None:
    """Have the kernels of a job compiled by rank 0, if there are others to wait for it."""
    if comm.size == 1:
        return
    if comm.rank == 0:
        solve_tiny(kernels)
    comm.barrier()


def solve_tiny(kernels: Kernels | None = None) -> None:
    """Scale, postrefine if wanted, and merge a few made-up observations with all that a job may
    use."""
    group, cell = space_group("P 1"), np.array([20.0, 20.0, 20.0, 90.0, 90.0, 90.0])
    h = np.arange(N_HKL)
    hkl = np.stack([h % 5 + 1, h // 5 % 5, h // 25], axis=1).astype(np.int16)
    s_squared(hkl, cell)
    possible(group, cell, 2.0, None, anomalous=True)
    keys = np.sort(unique_keys(group, hkl, True))
    unique = reflections(group, cell, keys)
    observations = made_up(unique)
    shown = observations.reflection
    assert shown is not None
    start = np.arange(N_CRYSTALS + 1) * len(unique)
    z = ranks(start, unique.s2[shown], observations.intensity)
    pair = np.stack([shown, shown[::-1]], axis=1).astype(np.int64)
    resolve(start, pair, z, len(unique), np.array([[0, 1], [1, 0]]))
    comm = SerialComm()
    chunks = plan_chunks(np.full(N_CRYSTALS, N_HKL), len(unique), comm)
    engine = Engine(ChunkSums(comm, chunks))
    settings = ScaleSettings(
        b_factor=True,
        b_prior_A2=10.0,
        gain=None,
        variances="scatter",
        min_overlaps=3,
        outliers=True,
    )
    problem = scale_problem(engine, observations, chunks.local_bounds, unique, settings)
    loss = Loss()
    result = LevenbergMarquardt(loss=loss, max_iterations=2).solve(
        engine, problem.model, problem.start
    )
    finish_tiny(engine, result.model, result.point, loss)
    kernels = kernels or Kernels(())
    for name in kernels.partialities:
        moved = postrefine_tiny(
            engine, result.model, result.point, observations, PARTIALITIES[name], kernels
        )
        finish_tiny(engine, *moved, loss)


def finish_tiny(
    engine: Engine, model: ScaleModel | PostrefineModel, point: Point, loss: Loss
) -> None:
    """Refit crystals, work out covariances, merge."""
    n_shared = model.layout.n_shared
    refit_local(engine, model, point, loss)
    Engine(engine.sums, storage=np.float64).linearise(model, point, loss)
    lin = engine.linearise(model, point, loss)
    sampled(engine, model, point, lin, loss, np.zeros(n_shared, dtype=np.int32), samples=2)
    scale, half = model.at(point), np.zeros(N_CRYSTALS, dtype=np.int8)
    merge_sums(scale, point, loss, half)
    agreement_of(scale, point, loss, half)
    scaled_rows(scale, point, loss, half == 0)
    likely = replace(scale.errors, likelihood=True, refits=1)
    scale.with_errors(likely).refreshed(point)
    scale.pulls_in_bins(point)


def postrefine_tiny(
    engine: Engine, scale: ScaleModel, point: Point, observations: Observations, shape: Partiality,
    kernels: Kernels,
) -> tuple[PostrefineModel, Point]:  # fmt: skip
    """A few steps with partialities."""
    n = N_CRYSTALS
    beam = np.tile([0.0, 0.0, 1.0], (n, 1))
    geometry = Geometry(
        np.ascontiguousarray(observations.hkl, dtype=np.int16),
        np.tile(0.05 * np.eye(3), (n, 1, 1)), beam, axes_of(beam), np.ones(n), np.zeros(n),
        np.zeros(n), np.tile(np.eye(3), (kernels.n_strains, 1, 1)),
        np.zeros((n, kernels.n_strains)), kernels.settings,
    )  # fmt: skip
    start = extended(point, np.full(n, 0.1), geometry)
    model = postrefine_model(scale, geometry, shape, start)
    model = model.with_errors(replace(model.errors, refits=2))
    result = LevenbergMarquardt(max_iterations=2).solve(engine, model, start)
    unlikeliness(result.model, result.point, Loss())
    return result.model, result.point


def made_up(unique: Reflections) -> Observations:
    """Every crystal sees every reflection, with a little of everything that calls for code."""
    n = len(unique)
    crystal = np.repeat(np.arange(N_CRYSTALS, dtype=np.int32), n)
    reflection = np.tile(np.arange(n, dtype=np.int32), N_CRYSTALS)
    intensity = 100.0 + 50.0 * np.sin(1.7 * reflection + crystal)
    return Observations(
        crystal,
        unique.hkl[reflection],
        intensity.astype(np.float32),
        (intensity + 20.0).astype(np.float32),
        reflection=reflection,
    )
