"""Compiling once for a whole job.

Numba keeps compiled kernels in a cache on disk, which stands many readers but not many writers
at once (they may pick the same file name), and a compilation of some seconds on every rank would
be wasted. So rank 0 solves a tiny problem first, which compiles whatever is not in the cache,
and the other ranks wait and then only read.
"""

from __future__ import annotations

import numpy as np

from sfxproc.data import Observations, Reflections
from sfxproc.lsq import Engine, LevenbergMarquardt, Loss
from sfxproc.lsq.sampled import sampled
from sfxproc.models.scale_merge import merge_sums
from sfxproc.models.scale_start import ScaleSettings, scale_problem
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import Comm, SerialComm
from sfxproc.symmetry import possible, reflections, s_squared, space_group, unique_keys

N_CRYSTALS, N_HKL = 16, 60


def compile_once(comm: Comm) -> None:
    """Have the kernels of a scaling job compiled by rank 0, if there are others to wait for it."""
    if comm.size == 1:
        return
    if comm.rank == 0:
        solve_tiny()
    comm.barrier()


def solve_tiny() -> None:
    """Scale and merge a few made-up observations with all that a job may use."""
    group, cell = space_group("P 1"), np.array([20.0, 20.0, 20.0, 90.0, 90.0, 90.0])
    h = np.arange(N_HKL)
    hkl = np.stack([h % 5 + 1, h // 5 % 5, h // 25], axis=1).astype(np.int16)
    s_squared(hkl, cell)
    possible(group, cell, 2.0, None, anomalous=True)
    keys = np.sort(unique_keys(group, hkl, True))
    unique = reflections(group, cell, keys)
    observations = made_up(unique)
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
    lin = engine.linearise(problem.model, result.point, loss)
    strata = np.zeros(len(unique), dtype=np.int32)
    sampled(engine, problem.model, result.point, lin, loss, strata, samples=2)
    merge_sums(problem.model, result.point, loss, np.zeros(N_CRYSTALS, dtype=np.int8))


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
