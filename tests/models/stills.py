"""Simulated stills for the scaling model, and their truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Observations, Reflections
from sfxproc.lsq import Engine
from sfxproc.models.scale_start import ScaleProblem, ScaleSettings, scale_problem
from sfxproc.parallel.chunks import Chunks, ChunkSums, plan_chunks
from sfxproc.parallel.comm import Comm, SerialComm

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class StillData:
    """Stills with counting noise, and the truth: ln_G, B of the crystals, I of the reflections in
    the units of the observations."""

    observations: Observations
    reflections: Reflections
    ln_G: Array
    B_A2: Array
    I: Array


def still_data(
    n_crystals: int,
    n_reflections: int,
    each: int,
    seed: int = 1,
    photons: float = 200.0,
    background: float = 20.0,
    ring: float = 10.0,
    gain: float = 1.0,
    scatter: float = 0.0,
    partial: bool = False,
    d_min_A: float = 1.9,
) -> StillData:
    """Each crystal shows `each` reflections chosen at random.

    total ~ Poisson(y + b), b̂ ~ Poisson(ring·b)/ring, I_obs = gain (total − b̂) and
    σ² = gain² (total + b̂/ring): what an integrating program would say. scatter : relative
    standard deviation of y itself.
    """
    rng = np.random.default_rng(seed)
    s2 = rng.uniform(0.002, 0.25 / d_min_A**2, n_reflections)
    I = rng.exponential(photons, n_reflections)
    ln_G, B = rng.normal(0.0, 0.4, n_crystals), rng.normal(0.0, 5.0, n_crystals)
    crystal = np.repeat(np.arange(n_crystals), each)
    reflection = np.concatenate(
        [np.sort(rng.choice(n_reflections, each, replace=False)) for _ in range(n_crystals)]
    )
    P = rng.uniform(0.1, 1.0, len(crystal)).astype(np.float32) if partial else None
    y = np.exp(ln_G[crystal] - 2.0 * B[crystal] * s2[reflection]) * I[reflection]
    y = y * (1.0 if P is None else P)
    y = y * np.maximum(1.0 + scatter * rng.normal(size=len(y)), 0.0)
    total = rng.poisson(y + background)
    b = rng.poisson(ring * background, len(y)) / ring
    observations = Observations(
        crystal.astype(np.int32),
        np.zeros((len(crystal), 3), dtype=np.int16),
        (gain * (total - b)).astype(np.float32),
        (gain**2 * (np.maximum(total, 1) + b / ring)).astype(np.float32),
        reflection.astype(np.int32),
        P,
    )
    reflections = Reflections(
        np.zeros((n_reflections, 3), dtype=np.int16),
        np.zeros(n_reflections, dtype=np.int8),
        s2,
        np.zeros(n_reflections, dtype=bool),
        np.ones(n_reflections, dtype=np.int16),
    )
    return StillData(observations, reflections, ln_G, B, gain * I)


SETTINGS = ScaleSettings(
    b_factor=True, b_prior_A2=None, gain=None, variances="scatter", min_overlaps=3
)


def scaling_of(
    data: StillData,
    comm: Comm | None = None,
    threads: int = 1,
    storage: type = np.float32,
    chunks: Chunks | None = None,
    **settings: Any,
) -> tuple[Engine, ScaleProblem]:
    """This rank's part of the scaling of stills."""
    comm = SerialComm() if comm is None else comm
    observations = data.observations
    number = np.bincount(observations.crystal, minlength=len(data.ln_G))
    chunks = plan_chunks(number, len(data.I), comm) if chunks is None else chunks
    start = np.concatenate([[0], np.cumsum(number)])
    own = observations.take(slice(start[chunks.crystals.start], start[chunks.crystals.stop]))
    own = replace(own, crystal=own.crystal - np.int32(chunks.crystals.start))
    engine = Engine(ChunkSums(comm, chunks), threads, storage)
    problem = scale_problem(
        engine, own, chunks.local_bounds, data.reflections, replace(SETTINGS, **settings)
    )
    return engine, problem
