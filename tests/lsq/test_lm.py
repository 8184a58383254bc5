"""Levenberg–Marquardt on a problem that has nothing to do with crystals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest
from scipy.optimize import least_squares

from sfxproc.lsq import (
    SOLVERS,
    Engine,
    Iteration,
    LevenbergMarquardt,
    Loss,
    Point,
    Result,
)
from sfxproc.lsq.compared.dense import dense
from tests.problems import LampData, LampModel, lamp_data, lamp_problem, on_ranks

PRECISE: dict[str, Any] = {"cg_tolerance": 1e-6, "tolerance": 1e-15}


def gauged(point: Point) -> Point:
    """With mean exposure zero."""
    mean = point.local[:, 0].mean()
    return Point(point.local - [mean, 0.0, 0.0], point.shared * np.exp(mean))


def solved(data: LampData, solver: LevenbergMarquardt | None = None) -> tuple[Result, LampModel]:
    engine, model, start = lamp_problem(data)
    return (solver or LevenbergMarquardt()).solve(engine, model, start), model


def polished(
    data: LampData, start: Point, loss: str = "linear", f_scale: float = 1.0
) -> np.ndarray:
    """The minimum by scipy, all parameters at once; the gauge held by one extra residual."""
    _, model, _ = lamp_problem(data)
    n = model.layout.n_local

    def residuals(v: np.ndarray) -> np.ndarray:
        point = Point(v[: 3 * n].reshape(n, 3), v[3 * n :])
        r, c = np.empty((2, model.layout.n_rows))
        model.rows(point, 0, n, r, np.empty(0), np.empty((len(r), 3)), c)
        return np.append(r, point.local[:, 0].sum() * 1e-3)

    v = np.concatenate([start.local.ravel(), start.shared])
    found = least_squares(residuals, v, loss=loss, f_scale=f_scale, xtol=1e-14, ftol=1e-14)
    return np.asarray(found.x)


@pytest.fixture(scope="module")
def best() -> tuple[LampData, Point]:
    """A problem and scipy's answer."""
    data = lamp_data(photographs=20, lamps=15)
    _, model, start = lamp_problem(data)
    v, n = polished(data, start), model.layout.n_local
    return data, gauged(Point(v[: 3 * n].reshape(n, 3), v[3 * n :]))


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_reaches_the_minimum(name: str, best: tuple[LampData, Point]) -> None:
    data, expected = best
    engine, model, start = lamp_problem(data)
    result = SOLVERS[name](loss=Loss(), max_iterations=1000, tolerance=1e-12).solve(
        engine, model, start
    )
    assert result.converged, result.termination
    assert result.termination.startswith("Converged")
    point = gauged(result.point)
    np.testing.assert_allclose(point.local, expected.local, atol=2e-3)
    np.testing.assert_allclose(point.shared, expected.shared, atol=2e-3)
    # and the truth within its errors: 1 % noise, ~ 10 rows a parameter
    assert np.sqrt(np.mean((point.shared - data.truth.shared) ** 2)) < 0.1


def test_the_minimum_to_rounding() -> None:
    data = lamp_data()
    result, model = solved(data, LevenbergMarquardt(**PRECISE))
    engine, _, _ = lamp_problem(data)
    lin = engine.linearise(model, result.point, Loss())
    scale = np.sqrt(np.einsum("mii->mi", lin.C))
    # each gradient component in units of its curvature: the step left is ≪ a standard deviation
    assert np.abs(lin.g / scale).max() < 0.02
    assert np.abs(lin.q / np.sqrt(lin.D)).max() < 0.02


def test_exact_data_are_fitted_exactly() -> None:
    data = lamp_data(sigma=1e-6)
    result, _ = solved(data, LevenbergMarquardt(max_iterations=100, **PRECISE))
    assert result.converged
    np.testing.assert_allclose(gauged(result.point).shared, data.truth.shared, atol=1e-4)


def test_chi2_and_degrees_of_freedom() -> None:
    """χ²/dof = 1 ± √(2/dof) ≈ ± 0.12; priors are not counted, the gauge is taken off."""
    data = lamp_data()
    result, model = solved(data)
    seen = len(np.unique(data.shared))
    assert result.n_residuals == len(data.x)
    assert result.n_parameters == 3 * model.layout.n_local + seen - 1
    assert result.chi2 / result.dof == pytest.approx(1.0, abs=0.36)
    told = result.as_dict()
    assert told["dof"] == result.dof
    assert told["chi2_per_dof"] == result.chi2 / result.dof
    assert told["n_iterations"] == len(told["iterations"]) == len(result.iterations)


def test_iterations_tell_the_story() -> None:
    told: list[Iteration] = []
    engine, model, start = lamp_problem(lamp_data())
    result = LevenbergMarquardt().solve(engine, model, start, told.append)
    assert tuple(told) == result.iterations
    assert [i.number for i in told] == list(range(1, len(told) + 1))
    objectives = [i.objective for i in told if i.accepted] + [result.objective]
    assert all(np.diff(objectives) <= 0)
    assert result.objective == engine.objective(result.model, result.point, Loss())


def test_gauge_columns_keep_their_sum() -> None:
    engine, model, start = lamp_problem(lamp_data())
    rng = np.random.default_rng(2)
    start = Point(start.local + rng.normal(0, 0.1, start.local.shape), start.shared)
    result = LevenbergMarquardt().solve(engine, model, start)
    assert result.converged
    assert result.point.local[:, 0].sum() == pytest.approx(start.local[:, 0].sum(), abs=1e-10)
    assert abs(result.point.local[:, 1].sum() - start.local[:, 1].sum()) > 1e-3  # no gauge


def test_fixed_parameters_do_not_move() -> None:
    engine, model, start = lamp_problem(lamp_data())
    free = model.layout.free.copy()
    free[5:10] = False
    free[:, 2] = False
    result = LevenbergMarquardt().solve(
        engine, replace(model, layout=replace(model.layout, free=free)), start
    )
    assert result.converged
    np.testing.assert_array_equal(result.point.local[~free], start.local[~free])
    assert np.all(result.point.local[free] != start.local[free])
    assert result.n_parameters == free.sum() + len(np.unique(model.layout.shared)) - 1


def test_a_strong_prior_holds_and_a_weak_one_does_not() -> None:
    engine, model, start = lamp_problem(lamp_data())
    column = np.zeros(model.layout.free.shape)
    column[:, 1] = 1.0
    ends = []
    for weight in (1e-6, 1e12):
        layout = replace(model.layout, prior_weight=weight * column, prior_centre=0.7 * column)
        ends.append(LevenbergMarquardt().solve(engine, replace(model, layout=layout), start))
    np.testing.assert_allclose(ends[1].point.local[:, 1], 0.7, atol=1e-6)
    assert np.abs(ends[0].point.local[:, 1] - 0.7).max() > 0.3


@pytest.mark.parametrize("kind", ["huber", "cauchy"])
def test_a_robust_loss_finds_the_truth_among_gross_outliers(kind: str) -> None:
    """5 % of the data are off by 20 to 100 σ; without a loss the answer is spoilt."""
    data = lamp_data(photographs=100, each=20)
    rng = np.random.default_rng(4)
    wrong = rng.random(len(data.x)) < 0.05
    spoilt = replace(data, x=data.x + wrong * data.sigma * rng.uniform(20, 100, len(data.x)))

    def error(data: LampData, loss: Loss) -> float:
        result, _ = solved(data, LevenbergMarquardt(loss=loss))
        assert result.converged
        return float(np.sqrt(np.mean((gauged(result.point).shared - data.truth.shared) ** 2)))

    clean, robust = error(data, Loss()), error(spoilt, Loss(kind, 2.0))
    assert robust < 2.5 * clean
    assert error(spoilt, Loss()) > 8.0 * clean


@pytest.mark.parametrize("kind", ["huber", "cauchy"])
def test_robust_minimum_is_scipys(kind: str) -> None:
    """There are several: started from ours, scipy stays. Reweighting converges linearly, so more
    is left at the end than the last step promised."""
    data, loss = lamp_data(photographs=15, lamps=12), Loss(kind, 1.5)
    result, model = solved(data, LevenbergMarquardt(loss=loss, **PRECISE))
    v = polished(data, result.point, kind, loss.scale)
    engine, _, _ = lamp_problem(data)
    n = model.layout.n_local
    theirs = engine.objective(model, Point(v[: 3 * n].reshape(n, 3), v[3 * n :]), loss)
    assert 0.0 <= result.objective - theirs < 2e-3


def test_too_few_iterations_are_told() -> None:
    result, _ = solved(lamp_data(), LevenbergMarquardt(max_iterations=2))
    assert not result.converged
    assert len(result.iterations) == 2
    assert result.termination.startswith("Stopped after 2 iterations")
    assert "max_iterations" in result.termination


def test_a_solved_problem_needs_one_step() -> None:
    engine, model, start = lamp_problem(lamp_data())
    first = LevenbergMarquardt(tolerance=1e-12, cg_tolerance=1e-6).solve(engine, model, start)
    again = LevenbergMarquardt().solve(engine, model, first.point)
    assert again.converged
    assert len(again.iterations) == 1


@dataclass(frozen=True, eq=False)
class Broken(LampModel):
    """Lamps whose deviances are `value` wherever a parameter has moved by more than `reach`."""

    origin: Point | None = None
    reach: float = 0.0
    value: float = np.nan

    def deviances(self, point: Point, first: int, last: int, d: np.ndarray) -> None:
        super().deviances(point, first, last, d)
        assert self.origin is not None
        if any(
            np.abs(a - b).max() > self.reach
            for a, b in zip(point[:2], self.origin[:2], strict=True)
        ):
            d[:] = self.value


def broken(reach: float, value: float) -> tuple[Engine, Broken, Point]:
    engine, model, start = lamp_problem(lamp_data())
    fields = {name: getattr(model, name) for name in ("layout", "x", "t", "weight")}
    return engine, Broken(**fields, origin=start, reach=reach, value=value), start


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_trial_that_is_not_finite_is_refused_and_shortened(value: float) -> None:
    """The minimum lies within reach, the first full step does not."""
    engine, model, start = broken(3.0, value)
    far = LevenbergMarquardt(damping=1e-9).solve(engine, replace(model, reach=np.inf), start)
    first = far.iterations[0]
    assert first.accepted
    best = max(np.abs(a - b).max() for a, b in zip(far.point[:2], start[:2], strict=True))
    model = replace(model, reach=1.05 * best)
    result = LevenbergMarquardt(damping=1e-9).solve(engine, model, start)
    assert np.isfinite(result.objective)
    assert result.objective == pytest.approx(far.objective, rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_where_no_step_helps_it_is_not_called_converged(value: float) -> None:
    engine, model, start = broken(0.0, value)
    result = LevenbergMarquardt().solve(engine, model, start)
    assert not result.converged
    assert result.termination == "Stopped: no step lowers the objective, however short."
    np.testing.assert_array_equal(result.point.local, start.local)
    assert not any(i.accepted for i in result.iterations)


def test_a_start_that_is_not_finite_is_told() -> None:
    engine, model, start = lamp_problem(lamp_data())
    local = start.local.copy()
    local[3, 0] = np.nan
    result = LevenbergMarquardt().solve(engine, model, Point(local, start.shared))
    assert not result.converged
    assert result.termination == "Stopped: the objective is not a finite number."


@dataclass(frozen=True, eq=False)
class Adapting(LampModel):
    """Lamps that halve their weights at each refresh, three times."""

    left: int = 3

    def refreshed(self, point: Point) -> Self:
        if self.left == 0:
            return self
        return replace(self, weight=0.5 * self.weight, left=self.left - 1)


def test_an_error_model_adapts_between_steps() -> None:
    """Once before the first step, once after each accepted one; gains compare like with like."""
    engine, model, start = lamp_problem(lamp_data())
    fields = {name: getattr(model, name) for name in ("layout", "x", "t", "weight")}
    result = LevenbergMarquardt().solve(engine, Adapting(**fields), start)
    assert result.converged
    assert result.model.left == 0
    np.testing.assert_allclose(result.model.weight, model.weight / 8.0)
    fixed = LevenbergMarquardt(**PRECISE).solve(engine, model, start)
    assert result.objective == pytest.approx(fixed.objective / 64.0, rel=1e-3)
    first = result.iterations[0]
    plain = LevenbergMarquardt().solve(engine, replace(model, weight=model.weight / 2), start)
    assert first.gain_ratio == pytest.approx(plain.iterations[0].gain_ratio, rel=1e-12)


def test_dense_and_schur_steps_take_the_same_path() -> None:
    data = lamp_data()
    paths = []
    for step in ({}, {"step": dense}):
        result, _ = solved(data, LevenbergMarquardt(**step, **PRECISE))
        paths.append([i.objective for i in result.iterations])
    np.testing.assert_allclose(paths[0], paths[1], rtol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_a_whole_solve_has_the_same_bits_on_ranks_and_threads(size: int) -> None:
    data = lamp_data(photographs=60)

    def work(comm: Any) -> tuple[np.ndarray, np.ndarray, str, int, int]:
        engine, model, start = lamp_problem(data, comm, comm.size, np.float32)
        result = LevenbergMarquardt(loss=Loss("cauchy", 2.0)).solve(engine, model, start)
        return (
            result.point.local,
            result.point.shared,
            result.termination,
            result.n_residuals,
            result.n_parameters,
        )

    (serial,) = on_ranks(1, work)
    parts = on_ranks(size, work)
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), serial[0])
    for part in parts:
        np.testing.assert_array_equal(part[1], serial[1])
        assert part[2:] == serial[2:]
