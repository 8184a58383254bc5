"""Our solvers on a benchmark problem, and the judgement of anybody's solution."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.problems import F8, Problem, blocks
from sfxproc.data import Observations, Reflections
from sfxproc.lsq import SOLVERS, Engine, Point, Result
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_start import ScaleSettings, scale_problem
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import SerialComm


def solve(problem: Problem, method: str, weights: str, threads: int) -> dict[str, Any]:
    """Set up and solve; what it took and what came out, with the solution under 'point'."""
    began = time.perf_counter(), time.process_time()
    model, start = set_up(problem, weights, threads)
    ready = time.perf_counter(), time.process_time()
    result: Result = SOLVERS[method]().solve(model.engine, model, start)
    done = time.perf_counter(), time.process_time()
    return {
        "set_up_wall_s": ready[0] - began[0],
        "set_up_cpu_s": ready[1] - began[1],
        "wall_s": done[0] - ready[0],
        "cpu_s": done[1] - ready[1],
        "iterations": len(result.iterations),
        "cg_iterations": sum(i.cg_iterations for i in result.iterations),
        "converged": result.converged,
        "termination": result.termination,
        "solver_objective": result.objective,
        "point": result.point,
    }


def set_up(problem: Problem, weights: str, threads: int) -> tuple[ScaleModel, Point]:
    """The scaling model with the weights asked for, and its start values."""
    n = len(problem.observed)
    comm = SerialComm()
    chunks = plan_chunks(np.diff(problem.start), len(problem.s2), comm)
    engine = Engine(ChunkSums(comm, chunks), threads)
    no_hkl = np.broadcast_to(np.zeros(3, dtype=np.int16), (n, 3))
    observations = Observations(
        problem.image, no_hkl, problem.observed, problem.variance, reflection=problem.reflection
    )
    settings = ScaleSettings(
        b_factor=True,
        b_prior_A2=None,
        gain=None,
        min_overlaps=1,
        variances="counting" if weights == "counting" else "given",
    )
    made = scale_problem(engine, observations, chunks.local_bounds, table(problem), settings)
    return made.model, made.start


def table(problem: Problem) -> Reflections:
    """Reflections without indices: the model needs their resolution alone."""
    n = len(problem.s2)
    zeros = np.zeros(n, dtype=np.int16)
    hkl = np.zeros((n, 3), dtype=np.int16)
    return Reflections(hkl, zeros, problem.s2, zeros.astype(bool), zeros + 1)


def judge(problem: Problem, ln_G: F8, B: F8, I: F8) -> dict[str, float]:
    """½ Σ (I_obs − y)²/variance in double precision, and correlations with the truth in its gauge
    (mean ln G and mean B of the truth)."""
    objective = 0.0
    for first, last in blocks(len(ln_G)):
        rows = slice(problem.start[first], problem.start[last])
        h, n = problem.reflection[rows], np.diff(problem.start[first : last + 1])
        beta = 2.0 * np.repeat(B[first:last], n) * problem.s2[h]
        y = np.exp(np.repeat(ln_G[first:last], n) - beta)
        r = problem.observed[rows] - y * I[h]
        objective += 0.5 * float(np.sum(r * r / problem.variance[rows].astype(np.float64)))
    ln_k = float(np.mean(problem.ln_G) - np.mean(ln_G))
    b = float(np.mean(problem.B) - np.mean(B))
    I = I * np.exp(2.0 * b * problem.s2 - ln_k)
    return {
        "objective": objective,
        "cc_I": correlation(I, problem.I),
        "cc_G": correlation(np.exp(ln_G + ln_k), np.exp(problem.ln_G)),
        "cc_B": correlation(B, problem.B),
        "rms_B_A2": float(np.sqrt(np.mean((B + b - problem.B) ** 2))),
    }


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's."""
    return float(np.corrcoef(a, b)[0, 1])
