"""Scaling of simulated stills against their truth.

900 crystals × 150 of 4000 reflections, 200 counts on the mean: 1.35e5 observations. Statistical
errors of what is tested: χ²/dof ± √(2/dof) = 0.004 (0.005 with the tails of counting); r.m.s.
pulls ± 1/√(2n), 0.024 for ln G and B, 0.012 for I; scatter of 0.1 ± 0.0005.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from sfxproc.lsq import LevenbergMarquardt, Linearisation, Loss, Point, Result
from sfxproc.lsq.covariance import Covariance, exact
from sfxproc.models.scale import ScaleModel
from tests.models.stills import StillData, scaling_of, still_data

SIZE = (900, 4000, 150)


class Solved(NamedTuple):
    """The answer and the truth in the gauge of mean ln G = mean B = 0."""

    data: StillData
    result: Result
    model: ScaleModel
    point: Point
    truth: Point
    lin: Linearisation
    covariance: Covariance | None


def solved(
    data: StillData, loss: Loss | None = None, sigmas: bool = False, **settings: Any
) -> Solved:
    engine, problem = scaling_of(data, threads=2, **settings)
    result = LevenbergMarquardt(loss=loss or Loss()).solve(engine, problem.model, problem.start)
    assert result.converged, result.termination
    model = result.model
    point = model.centred(result.point)
    truth = model.centred(Point(np.stack([data.ln_G, data.B_A2], axis=1), data.I))
    lin = engine.linearise(model, point, loss or Loss())
    return Solved(data, result, model, point, truth, lin, exact(engine, lin) if sigmas else None)


def cc(found: Solved) -> float:
    return float(np.corrcoef(found.point.shared, found.truth.shared)[0, 1])


@pytest.fixture(scope="module")
def counting() -> Solved:
    return solved(still_data(*SIZE), sigmas=True, variances="counting")


@pytest.fixture(scope="module")
def scattered() -> Solved:
    return solved(still_data(*SIZE, scatter=0.1, partial=True), sigmas=True)


def test_chi2_is_the_degrees_of_freedom(counting: Solved) -> None:
    assert counting.result.chi2 / counting.result.dof == pytest.approx(1.0, abs=0.02)


def test_intensities_are_the_true_ones(counting: Solved) -> None:
    assert cc(counting) > 0.999


@pytest.mark.parametrize("case", ["counting", "scattered"])
def test_pulls_have_unit_variance(case: str, request: pytest.FixtureRequest) -> None:
    """Errors are as large as the covariances say, with and without a fitted scatter."""
    found: Solved = request.getfixturevalue(case)
    assert found.covariance is not None
    sigma = np.sqrt(np.einsum("mii->mi", found.covariance.local))
    local = (found.point.local - found.truth.local) / sigma
    shared = (found.point.shared - found.truth.shared) / np.sqrt(
        1.0 / found.lin.D + found.covariance.from_local
    )
    assert np.sqrt(np.mean(local**2, axis=0)) == pytest.approx([1.0, 1.0], abs=0.07)
    assert np.sqrt(np.mean(shared**2)) == pytest.approx(1.0, abs=0.04)
    assert np.mean(shared) == pytest.approx(0.0, abs=0.08)


def test_scatter_is_recovered(scattered: Solved) -> None:
    """Also with partialities, which are used."""
    assert scattered.model.errors.scatter == pytest.approx(0.1, abs=0.003)
    assert scattered.result.chi2 / scattered.result.dof == pytest.approx(1.0, abs=0.005)
    assert cc(scattered) > 0.998


def test_scatter_is_small_where_there_is_none() -> None:
    found = solved(still_data(*SIZE))
    assert found.model.errors.scatter < 0.015
    assert cc(found) > 0.999


def test_partiality_that_is_ignored_shows() -> None:
    data = still_data(*SIZE, partial=True)
    without = replace(data, observations=replace(data.observations, partiality=None))
    used, ignored = solved(data), solved(without)
    assert used.model.errors.scatter < 0.03
    assert ignored.model.errors.scatter > 0.3
    assert cc(used) > cc(ignored) + 0.005


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_gain_changes_the_units_and_nothing_else(gain: float) -> None:
    found = solved(still_data(*SIZE, gain=gain), variances="counting")
    assert found.model.errors.gain == pytest.approx(gain, rel=0.01)
    assert found.result.chi2 / found.result.dof == pytest.approx(1.0, abs=0.02)
    assert cc(found) > 0.999
    assert np.median(found.point.shared / found.truth.shared) == pytest.approx(1.0, abs=0.01)


def with_outliers(data: StillData, fraction: float) -> StillData:
    """Counts of another origin, 3 to 100 times the mean intensity, added to some observations."""
    rng = np.random.default_rng(3)
    o = data.observations
    size = len(o)
    more = 200.0 * 10.0 ** rng.uniform(0.5, 2.0, size) * (rng.random(size) < fraction)
    return replace(
        data,
        observations=replace(
            o,
            intensity=(o.intensity + more).astype(np.float32),
            variance=(o.variance + more).astype(np.float32),
        ),
    )


@pytest.mark.parametrize("kind", ["huber", "cauchy"])
def test_a_robust_loss_recovers_the_truth_among_outliers(kind: str) -> None:
    """0.5 % of them; plain least squares is spoilt."""
    data = with_outliers(still_data(400, 3000, 150), 0.005)
    assert cc(solved(data, Loss(kind, 3.0))) > 0.999
    assert cc(solved(data)) < 0.95


def test_the_truth_is_no_better_than_the_minimum(counting: Solved) -> None:
    """The objective at the truth exceeds the minimum by about half a unit a parameter."""
    engine, _ = scaling_of(counting.data, variances="counting")
    excess = engine.objective(counting.model, counting.truth, Loss()) - counting.result.objective
    assert excess == pytest.approx(0.5 * counting.result.n_parameters, rel=0.08)
