"""L-BFGS: where it stops without curvatures, and that with them it is safe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sfxproc.lsq import SOLVERS, Loss, Point, Result
from sfxproc.lsq.compared.lbfgs import PLATEAU, Round
from tests.lsq.test_methods import Problem, minimum, stills
from tests.models.stills import scaling_of, still_data
from tests.problems import lamp_data, lamp_problem

SEEDS = [1, 2, 3, 4]


def lbfgs(problem: Problem, curvatures: bool = False, **settings: Any) -> Result:
    name = "lbfgs-curvatures" if curvatures else "lbfgs"
    settings = {"max_iterations": 20000, "tolerance": 1e-8, **settings}
    return SOLVERS[name](loss=Loss(), **settings).solve(*problem)


def test_the_usual_tolerance_stops_above_the_minimum_and_says_so() -> None:
    best = minimum("I/sigma 4.6")
    early = lbfgs(stills(4.6), tolerance=1e-6)
    assert early.objective > best.objective * (1.0 + 1e-5)
    assert not early.converged
    assert "no minimum" in early.termination
    late = lbfgs(stills(4.6), tolerance=0.0)
    assert late.objective == pytest.approx(best.objective, rel=1e-9)
    assert late.converged
    assert len(late.iterations) > 3 * len(early.iterations)


def test_without_curvatures_strong_data_are_far_from_the_minimum_after_many_iterations() -> None:
    result = lbfgs(stills(143.0), max_iterations=300)
    assert not result.converged
    assert result.objective > 3.0 * minimum("I/sigma 143").objective


def test_more_iterations_are_asked_for() -> None:
    result = lbfgs(stills(45.0), max_iterations=12, curvatures=True)
    assert len(result.iterations) == 12
    assert "raise solver.max_iterations" in result.termination


@pytest.mark.parametrize("variances", ["counting", "given"])
@pytest.mark.parametrize("photons", [143.0**2, 4.6**2])
@pytest.mark.parametrize("seed", SEEDS)
def test_curvatures_from_a_cold_start_reach_the_minimum(
    seed: int, photons: float, variances: str
) -> None:
    """All scales 1, B = 0, mean intensities; an overflow would be a RuntimeWarning."""
    data = still_data(40, 100, 40, seed=seed, photons=photons, background=1.0)
    engine, problem = scaling_of(data, variances=variances, gain=1.0)
    shared, observed = problem.model.layout.shared, problem.model.observed
    mean = np.bincount(shared, observed) / np.maximum(np.bincount(shared), 1)
    cold = Point(np.zeros_like(problem.start.local), mean)
    best = SOLVERS["schur-cg"](loss=Loss(), max_iterations=200, tolerance=1e-12).solve(
        engine, problem.model, problem.start
    )
    result = lbfgs((engine, problem.model, cold), curvatures=True, tolerance=1e-10)
    assert result.converged
    assert result.objective == pytest.approx(best.objective, rel=1e-8)
    assert len(result.iterations) < 200


def test_a_trial_point_that_overflows_is_a_plateau() -> None:
    engine, model, start = lamp_problem(lamp_data())
    lin = engine.linearise(model, start, Loss())
    minimiser = Round(engine, model, start, Loss(), lin, False)
    y = np.zeros(start.local.size + start.shared.size)
    objective, gradient = minimiser.evaluate(y)
    assert objective == lin.objective
    assert gradient.any()
    y[0] = 1e4
    objective, gradient = minimiser.evaluate(y)
    assert objective == PLATEAU * lin.objective
    assert not gradient.any()


@pytest.mark.parametrize("curvatures", [False, True])
def test_the_gradient_is_that_of_the_objective_along_what_may_move(curvatures: bool) -> None:
    engine, model, start = lamp_problem(lamp_data())
    lin = engine.linearise(model, start, Loss())
    minimiser = Round(engine, model, start, Loss(), lin, curvatures)
    rng = np.random.default_rng(3)
    direction = rng.normal(size=start.local.size + start.shared.size)
    _, gradient = minimiser.evaluate(0.0 * direction)
    up, down = (minimiser.evaluate(s * direction)[0] for s in (1e-5, -1e-5))
    assert (up - down) / 2e-5 == pytest.approx(gradient @ direction, rel=1e-6)
