"""Levenberg–Marquardt on a problem that is no model: it sees points, steps and values alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pytest

from sfxproc.lsq import LevenbergMarquardt, Loss
from sfxproc.lsq.lm import Standing
from sfxproc.lsq.step import Outcome, Step
from tests.problems import lamp_data, lamp_problem


@dataclass(frozen=True, eq=False)
class Slope:
    """Residuals and Jacobian of Rosenbrock's valley at a point."""

    r: np.ndarray
    J: np.ndarray

    @property
    def objective(self) -> float:
        return 0.5 * self.chi2

    @property
    def chi2(self) -> float:
        return float(self.r @ self.r)


@dataclass(frozen=True)
class Valley:
    """r = (10 (y − x²), 1 − x); linear solves below a damping value end as `outcome`, and then
    give what they gave."""

    outcome: Outcome = Outcome.SOLVED
    below: float = np.inf

    def linearise(self, point: np.ndarray, objective: float | None = None) -> Slope:
        x, y = point
        return Slope(
            100.0 * np.array([10.0 * (y - x * x), 1.0 - x]),
            100.0 * np.array([[-20.0 * x, 10.0], [-1.0, 0.0]]),
        )

    def step(self, lin: Slope, damping: float) -> Step[np.ndarray]:
        H, g = lin.J.T @ lin.J, lin.J.T @ lin.r
        d = np.linalg.solve(H + damping * np.diag(np.diag(H)), -g)
        outcome = self.outcome if damping < self.below else Outcome.SOLVED
        return Step(d, 0.5 * float(d @ (damping * np.diag(H) * d - g)), outcome=outcome)

    def retract(self, point: np.ndarray, delta: np.ndarray) -> np.ndarray:
        return np.asarray(point + delta)

    def objective(self, point: np.ndarray) -> float:
        return self.linearise(point).objective

    def refreshed(self, point: np.ndarray) -> Self:
        return self


def begun(valley: Valley) -> Standing[np.ndarray, Slope]:
    return Standing(valley, np.array([-1.2, 1.0]), 1e-3, 2.0, None, (), 0.0)


def test_any_problem_will_do() -> None:
    end = LevenbergMarquardt(max_iterations=200).minimise(begun(Valley()))
    assert end.converged
    np.testing.assert_allclose(end.point, [1.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("outcome", [Outcome.NOT_CONVERGED, Outcome.INDEFINITE])
def test_convergence_is_refused_while_no_step_is_solved(outcome: Outcome) -> None:
    """Its steps are of use all the same, and arrive."""
    solver = LevenbergMarquardt(max_iterations=200)
    never = solver.minimise(begun(Valley(outcome)))
    assert not never.converged
    assert f"ended as {outcome.value}" in never.termination
    np.testing.assert_allclose(never.point, [1.0, 1.0], atol=1e-6)
    damped = solver.minimise(begun(Valley(outcome, below=0.5)))
    assert damped.converged
    assert damped.iterations[-1].damping >= 0.5


def test_a_linearisation_is_spent_once_its_memory_is_used_again() -> None:
    engine, model, start = lamp_problem(lamp_data())
    first = engine.linearise(model, start, Loss())
    kept = first.with_e(first.e.copy())
    second = engine.linearise(model, start, Loss())
    with pytest.raises(RuntimeError, match="spent"):
        _ = first.e
    np.testing.assert_array_equal(kept.e, second.e)
    assert first.objective == second.objective  # what it owns stays
