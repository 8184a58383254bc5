"""All solvers on the same problems: one minimum, whatever the way there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from sfxproc.errors import DataError
from sfxproc.lsq import SOLVERS, Engine, LevenbergMarquardt, Loss, Model, Point, Result
from sfxproc.lsq.compared.dense import dense
from sfxproc.parallel.comm import Comm
from tests.lsq.changes import CHANGES
from tests.models.stills import scaling_of, still_data
from tests.problems import lamp_data, lamp_problem, on_ranks

Problem = tuple[Engine, Model, Point]
COMPLETE = [name for name in SOLVERS if name != "lbfgs"]  # without curvatures it does not arrive


def stills(signal: float, comm: Comm | None = None, threads: int = 1, **settings: Any) -> Problem:
    """40 frames of 40 intensities out of 100, of mean I/σ `signal` by counting."""
    data = still_data(40, 100, 40, photons=signal**2, background=1.0)
    settings = {"variances": "counting", "gain": 1.0, **settings}
    engine, problem = scaling_of(data, comm, threads, **settings)
    return engine, problem.model, problem.start


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "I/sigma 143": lambda **where: stills(143.0, **where),
    "I/sigma 45": lambda **where: stills(45.0, **where),
    "I/sigma 4.6": lambda **where: stills(4.6, **where),
    "lamps": lambda **where: lamp_problem(lamp_data(), storage=np.float32, **where),
}


def solved(name: str, problem: Problem, tolerance: float = 1e-10) -> Result:
    solver = SOLVERS[name](loss=Loss(), max_iterations=2000, tolerance=tolerance)
    return solver.solve(*problem)


@cache
def minimum(problem: str) -> Result:
    solver = LevenbergMarquardt(tolerance=1e-14, cg_tolerance=1e-6)
    return solver.solve(*PROBLEMS[problem]())


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", COMPLETE)
def test_every_complete_method_finds_the_minimum(name: str, problem: str) -> None:
    result, best = solved(name, PROBLEMS[problem]()), minimum(problem)
    assert result.converged
    assert result.termination.startswith("Converged")
    assert result.objective == pytest.approx(best.objective, rel=1e-8)
    assert result.chi2 == pytest.approx(best.chi2, rel=1e-5)
    assert (result.n_residuals, result.n_parameters) == (best.n_residuals, best.n_parameters)
    np.testing.assert_allclose(result.point.local, best.point.local, atol=2e-2)
    told = result.as_dict()
    assert told["n_iterations"] == len(result.iterations)
    objectives = [i.objective for i in result.iterations if i.accepted]
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] >= result.objective


@pytest.mark.parametrize("name", COMPLETE)
def test_an_error_model_refitted_on_the_way_comes_to_rest_where_it_should(name: str) -> None:
    """Its accuracy, not the solver's, is what is left of the differences."""
    result = solved(name, stills(45.0, variances="scatter"))
    best = solved("schur-cg", stills(45.0, variances="scatter"))
    assert result.converged
    assert result.model.errors.scatter > 0.0
    assert result.model.errors.scatter == pytest.approx(best.model.errors.scatter, rel=1e-3)
    assert result.objective == pytest.approx(best.objective, rel=1e-5)
    np.testing.assert_allclose(result.point.local, best.point.local, atol=2e-2)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", COMPLETE)
def test_the_same_minimum_under_priors_constraints_and_several_gauges(
    name: str, change: Callable[[Any], Any]
) -> None:
    engine, model, start = lamp_problem(lamp_data())
    model = change(model)
    start = Point(start.local, np.resize(start.shared, model.layout.n_shared))
    best = LevenbergMarquardt(tolerance=1e-14, cg_tolerance=1e-6).solve(engine, model, start)
    result = solved(name, (engine, model, start), 1e-12)
    assert result.objective == pytest.approx(best.objective, rel=1e-8)
    layout, moved = model.layout, result.point.local - start.local
    assert not moved[~layout.free].any()
    for k in layout.gauge:
        for part in range(layout.n_components):
            assert abs(moved[layout.component == part, k].sum()) < 1e-10


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("size", [1, 3])
def test_same_bits_at_any_number_of_threads_and_ranks(name: str, size: int) -> None:
    def work(comm: Comm, threads: int = 2) -> tuple[Any, ...]:
        engine, model, start = stills(45.0, comm, threads)
        solver = SOLVERS[name](loss=Loss(), max_iterations=30, tolerance=1e-8)
        result = solver.solve(engine, model, start)
        table = [(i.objective, i.chi2) for i in result.iterations]
        told = (result.objective, result.converged, result.termination, table)
        return result.point.local, result.point.shared, told

    ((local, shared, told),) = on_ranks(1, lambda comm: work(comm, 1))
    parts = on_ranks(size, work)
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), local)
    for part in parts:
        np.testing.assert_array_equal(part[1], shared)
        assert part[2] == told


@pytest.mark.parametrize("name", SOLVERS)
def test_progress_is_told_of_every_iteration(name: str) -> None:
    heard: list[Any] = []
    solver = SOLVERS[name](loss=Loss(), max_iterations=40, tolerance=1e-8)
    result = solver.solve(*stills(45.0), heard.append)
    assert tuple(heard) == result.iterations
    assert [i.number for i in heard] == list(range(1, len(heard) + 1))


def test_the_dense_method_says_what_memory_it_would_need_and_what_needs_none() -> None:
    engine, model, start = stills(45.0)
    lin = engine.linearise(model, start, Loss())
    large = replace(lin, layout=replace(lin.layout, n_shared=170_000))
    with pytest.raises(DataError, match=r'170,080 parameters .* 231\.\d GB .* "schur-cg"'):
        dense(engine, large, 1e-3, 1e-2)
