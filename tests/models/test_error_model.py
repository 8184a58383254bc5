"""The error model a, b, c: found by likelihood from data whose variances are known to be wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sfxproc.kernels.scale import Scaling
from sfxproc.kernels.variances import variance_sums
from sfxproc.lsq import LevenbergMarquardt, Loss, Result
from sfxproc.models.error_model import next_errors, within_bounds
from tests.kernels.test_scale import stills
from tests.models.stills import StillData, scaling_of, still_data
from tests.twins import scale as scale_numpy


def solved(data: StillData, outliers: bool = False, **settings: Any) -> Result:
    engine, problem = scaling_of(data, variances="likelihood", outliers=outliers, **settings)
    loss = Loss("cauchy", 4.0) if outliers else Loss()
    return LevenbergMarquardt(loss=loss).solve(engine, problem.model, problem.start)


@pytest.mark.parametrize("most", [36.0, 1.0])
def test_variance_sums(most: float) -> None:
    """Against NumPy; a variance without limit counts for nothing."""
    x = stills(partial=True)
    x.background[3] = np.inf
    v, share = np.array([1.5, 0.8, 0.01]), np.linspace(0.0, 1.0, len(x.I))
    out = np.zeros(10)
    place = x.start, x.shared, 0, 6, x.local, x.I, x.s2, x.P, x.observed, x.background
    variance_sums(Scaling(*place, 1.0, 0.0), v, share, most, out)
    row = scale_numpy.Rows(x.start, x.shared, 0, 6, x.local, x.s2, x.P)
    y, e = row.f * x.I[row.h], share[row.h]
    phi = np.stack([x.background[row.at], np.maximum(y, 0.0), np.maximum(y, 0.0) ** 2])
    V = v @ phi
    used = np.isfinite(V) & (e > 0.0)
    square = (x.observed[row.at] - y) ** 2
    square[used] = np.minimum(square, most * e * V, where=used, out=square)[used]
    phi, V, square = phi[:, used], V[used], square[used]
    F = np.einsum("ai,bi->ab", phi * e[used] / V**2, phi)
    t = (phi * square / V**2).sum(axis=1)
    np.testing.assert_allclose(out[:6], F[np.triu_indices(3)], rtol=1e-11)
    np.testing.assert_allclose(out[6:9], t, rtol=1e-11)
    assert out[9] == pytest.approx(e[used].sum())


def test_what_is_within_bounds_is_the_least_there_is() -> None:
    """Against all points of a grid."""
    rng = np.random.default_rng(1)
    axes = np.linspace(1.0 / 9.0, 9.0, 33), *[np.linspace(0.0, 3.0, 31)] * 2
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)
    bound = 0
    for _ in range(30):
        A = rng.normal(size=(6, 3))
        F, t = A.T @ A, A.T @ rng.normal(1.0, 1.0, 6)
        v = within_bounds(F, t)
        assert (v >= 0.0).all()
        bound += bool((v[1:] == 0.0).any())

        def value(v: np.ndarray, F: np.ndarray = F, t: np.ndarray = t) -> np.ndarray:
            return 0.5 * np.einsum("...i,ij,...j", v, F, v) - v @ t

        assert 1.0 / 9.0 <= v[0] <= 9.0
        assert value(v) <= value(grid).min() + 1e-9
    assert bound > 3


@pytest.mark.parametrize("outliers", [False, True])
def test_what_was_done_to_the_variances_is_found(outliers: bool) -> None:
    """σ² as counted divided by 4, a scatter of 15 %: a = 2, b = 0, c = 0.075."""
    made = still_data(150, 300, 200, photons=300.0, background=100.0, ring=100.0, scatter=0.15)
    o = made.observations
    result = solved(
        replace(made, observations=replace(o, variance=0.25 * o.variance)), outliers, gain=0.25
    )
    assert result.converged
    errors = result.model.errors
    assert errors.as_dict()["a"] == pytest.approx(2.0, rel=0.1)
    assert errors.as_dict()["c"] == pytest.approx(0.075, rel=0.1)
    y = np.array([30.0, 100.0, 300.0, 1000.0])
    V = errors.v @ np.stack([np.full(4, 0.25 * 101.0), y, y**2])
    np.testing.assert_allclose(V, 101.0 + y + (0.15 * y) ** 2, rtol=0.07)
    if not outliers:
        assert result.chi2 / result.dof == pytest.approx(1.0, abs=0.02)


def test_right_variances_stay_as_they_are() -> None:
    made = still_data(60, 300, 150, photons=100.0, ring=100.0)
    model = solved(made, gain=1.0).model
    told = model.errors.as_dict()
    assert told["a"] == pytest.approx(1.0, abs=0.05)
    assert told["b"] == pytest.approx(0.0, abs=0.1)
    assert told["c"] < 0.03


def test_blocks_come_to_the_same() -> None:
    """Step by step from sums, as blocks do it, and all at once, as one job does."""
    _, problem = scaling_of(still_data(30, 60, 40), variances="likelihood")
    model = problem.model
    there = model.refreshed(problem.start).errors
    for _ in range(model.errors.refits):
        errors = next_errors(model.errors, model.error_sums(problem.start), model.dof)
        model = model.with_errors(errors)
    assert model.errors.refits == 0
    np.testing.assert_allclose(model.errors.v, there.v, rtol=1e-2)
