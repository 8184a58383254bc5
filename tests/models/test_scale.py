"""The scaling model as the solver sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point
from sfxproc.lsq.compared.dense import normal_matrix
from sfxproc.lsq.engine import LOSSES
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.scale import ScaleModel
from tests.models.stills import StillData, scaling_of, still_data
from tests.problems import moved, on_ranks, written_out
from tests.twins import scale as scale_numpy

ERRORS = [ErrorModel(0.0, 0.0), ErrorModel(1.0, 0.0), ErrorModel(2.0, 0.3), ErrorModel(0.0, 0.1)]
EVERY_LOSS = [Loss(kind, 1.5) for kind in LOSSES]


@pytest.fixture(scope="module")
def small() -> StillData:
    return still_data(30, 60, 25, photons=50.0, partial=True)


def away(
    data: StillData, errors: ErrorModel | None = None, **settings: Any
) -> tuple[Engine, ScaleModel, Point]:
    """The model, and a point away from the minimum where some intensities are below zero."""
    engine, problem = scaling_of(data, storage=np.float64, **settings)
    rng = np.random.default_rng(6)
    local = problem.start.local + rng.normal(size=problem.start.local.shape) * [0.2, 3.0]
    shared = problem.start.shared * rng.uniform(0.7, 1.3, len(data.I))
    shared[::10] = -5.0
    model = problem.model if errors is None else replace(problem.model, errors=errors)
    return engine, model, Point(local, shared)


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("errors", ERRORS, ids=str)
def test_gradient_is_the_slope_of_the_objective_along_the_solvers_own_update(
    small: StillData, loss: Loss, errors: ErrorModel
) -> None:
    """Though the variances move with the parameters."""
    engine, model, point = away(small, errors, b_prior_A2=5.0)
    lin = engine.linearise(model, point, loss)
    gradient = np.concatenate([lin.g.ravel(), lin.q])
    rng = np.random.default_rng(3)
    unit = np.concatenate([np.tile([0.1, 1.0], len(lin.g)), np.full(len(lin.q), 5.0)])
    only_local = np.arange(len(unit)) < lin.g.size
    for part in (only_local, ~only_local, np.ones(len(unit), dtype=bool)):
        direction = rng.normal(size=len(unit)) * unit * part
        ends = [
            engine.objective(model, moved(model, point, direction, h), loss) for h in (-1e-4, 1e-4)
        ]
        slope = (ends[1] - ends[0]) / 2e-4
        assert slope == pytest.approx(gradient @ direction, rel=2e-4)


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=lambda loss: loss.kind)
def test_normal_equations_are_those_written_out(small: StillData, loss: Loss) -> None:
    engine, model, point = away(small, ErrorModel(1.0, 0.1), b_prior_A2=5.0)
    lin = engine.linearise(model, point, loss)
    w = written_out(model, point, loss)
    gradient = np.concatenate([lin.g.ravel(), lin.q])
    np.testing.assert_allclose(normal_matrix(lin), w.H, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gradient, w.gradient, rtol=1e-9, atol=1e-9)


def test_rows_and_deviances_are_the_kernels(small: StillData) -> None:
    _, model, point = away(small, ErrorModel(2.0, 0.3))
    n = model.layout.n_rows
    r, d, a, c = np.empty(n), np.empty(n), np.empty((n, 2)), np.empty(n)
    model.rows(point, 0, model.layout.n_local, r, d, a, c)
    twin = scale_numpy.rows(*model.arguments(point, 0, model.layout.n_local))
    for got, expected in zip((r, d, a, c), twin, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


def two_sets(seed: int = 1) -> StillData:
    """Odd crystals show odd reflections, even ones even: nothing in common."""
    data = still_data(40, 80, 20, seed)
    o = data.observations
    assert o.reflection is not None
    reflection = o.reflection // 2 * 2 + o.crystal % 2
    order = np.lexsort((reflection, o.crystal))
    reflection = reflection[order]
    return replace(data, observations=replace(o.take(order), reflection=reflection))


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("sets", [1, 2])
def test_the_gauge_leaves_the_objective_unchanged(small: StillData, loss: Loss, sets: int) -> None:
    engine, model, point = away(small if sets == 1 else two_sets(), ErrorModel(1.0, 0.1))
    assert model.layout.n_components == sets
    before = engine.objective(model, point, loss)
    shifted = model.gauged(point, np.array([0.7, -0.4])[:sets], np.array([3.0, -5.0])[:sets])
    assert engine.objective(model, shifted, loss) == pytest.approx(before, rel=1e-9)
    assert np.abs(shifted.shared - point.shared).max() > 1.0
    centred = model.centred(shifted)
    assert engine.objective(model, centred, loss) == pytest.approx(before, rel=1e-9)
    for part in range(sets):
        own = centred.local[model.layout.component == part]
        np.testing.assert_allclose(own.mean(axis=0), 0.0, atol=1e-12)
    again = model.centred(centred)
    np.testing.assert_allclose(again.shared, centred.shared, rtol=1e-12)


def test_another_shift_does_not(small: StillData) -> None:
    """The test above can fail: one set's shift given to a part of its crystals only."""
    engine, model, point = away(small, ErrorModel(1.0, 0.1))
    shifted = model.gauged(point, np.array([0.7]), np.array([0.0]))
    local = np.where(np.arange(len(point.local))[:, None] < 5, point.local, shifted.local)
    wrong = engine.objective(model, Point(local, shifted.shared), Loss())
    assert wrong > 1.01 * engine.objective(model, point, Loss())


def test_steps_keep_the_means_of_ln_g_and_b(small: StillData) -> None:
    engine, problem = scaling_of(small)
    result = LevenbergMarquardt().solve(engine, problem.model, problem.start)
    assert result.converged
    np.testing.assert_allclose(
        result.point.local.mean(axis=0), problem.start.local.mean(axis=0), atol=1e-9
    )


# ---- the scatter -------------------------------------------------------------------------------


def test_refreshed_scatter_makes_chi2_the_degrees_of_freedom(small: StillData) -> None:
    """Pulls beyond the cap count as the cap."""
    _, model, point = away(small)
    point = Point(point.local, np.maximum(point.shared, 1.0))
    fresh = model.refreshed(point)
    assert fresh.errors.scatter > 0.05
    n = model.layout.n_rows
    r, d, a, c = np.empty(n), np.empty(n), np.empty((n, 2)), np.empty(n)
    fresh.rows(point, 0, model.layout.n_local, r, d, a, c)
    assert np.minimum(r**2, 36.0).sum() == pytest.approx(model.dof, rel=2e-4)


def test_scatter_stays_within_bounds_where_nothing_fits(small: StillData) -> None:
    """No scatter helps observations whose prediction is below zero."""
    _, model, point = away(small)
    fresh = model.refreshed(Point(point.local, -np.abs(point.shared)))
    assert 0.0 < fresh.errors.scatter <= 10.0


def test_no_scatter_where_counting_explains_everything() -> None:
    """With variances ten times what they are."""
    data = still_data(30, 60, 25, photons=50.0)
    o = data.observations
    data = replace(data, observations=replace(o, variance=10 * o.variance))
    engine, problem = scaling_of(data, gain=10.0)
    result = LevenbergMarquardt().solve(engine, problem.model, problem.start)
    assert result.model.errors.scatter == 0.0
    assert result.chi2 < 0.3 * result.dof


def test_the_error_model_comes_to_rest(small: StillData) -> None:
    """At a point that stays, and after so many refits in any case."""
    _, model, point = away(small)
    first = model.refreshed(point)
    second = first.refreshed(point)
    assert first.errors.refits == model.errors.refits - 1
    assert second.errors.refits == 0
    assert second.refreshed(point) is second
    rng = np.random.default_rng(2)
    for _ in range(model.errors.refits):
        model = model.refreshed(Point(point.local, point.shared * rng.uniform(0.2, 5.0)))
    assert model.refreshed(point) is model


def test_counting_and_given_variances_are_never_refitted(small: StillData) -> None:
    for variances in ("counting", "given"):
        _, model, point = away(small, variances=variances)
        assert model.refreshed(point) is model
        assert model.errors.scatter == 0.0
    assert model.errors.gain == 0.0  # given: as they are, whatever the model says
    np.testing.assert_array_equal(model.background, small.observations.variance)


# ---- ranks, threads, chunks --------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 9])
def test_the_same_bits_on_any_number_of_ranks_and_threads(size: int) -> None:
    """Set-up, refinement and gauge; nine ranks share eight chunks."""
    data = still_data(60, 100, 30, scatter=0.1)

    def work(comm: Any) -> tuple[Any, ...]:
        engine, problem = scaling_of(data, comm, threads=min(comm.size, 2), b_prior_A2=10.0)
        result = LevenbergMarquardt(loss=Loss("huber", 2.0)).solve(
            engine, problem.model, problem.start
        )
        centred = result.model.centred(result.point)
        own = problem.start.local, problem.reasons, problem.n_overlaps, centred.local
        shared = problem.start.shared, centred.shared
        numbers = result.model.errors, result.model.dof, result.objective, result.chi2
        return own, shared, numbers

    (serial,), parts = on_ranks(1, work), on_ranks(size, work)
    for k, expected in enumerate(serial[0]):
        np.testing.assert_array_equal(np.concatenate([p[0][k] for p in parts]), expected)
    for part in parts:
        for got, expected in zip(part[1], serial[1], strict=True):
            np.testing.assert_array_equal(got, expected)
        assert part[2] == serial[2]
