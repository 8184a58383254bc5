"""Merged intensities from the scaled observations."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from sfxproc.data import ReflectionSums
from sfxproc.lsq import LevenbergMarquardt, Loss, Point
from sfxproc.lsq.engine import LOSSES
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_merge import merge_sums
from tests.models.stills import StillData, scaling_of, still_data
from tests.problems import on_ranks


class Merged(NamedTuple):
    sums: ReflectionSums
    crystal_cc: np.ndarray
    model: ScaleModel
    point: Point


def halves(n: int) -> np.ndarray:
    half = (np.arange(n) % 2).astype(np.int8)
    half[4] = -1
    return half


def merged(data: StillData, loss: Loss, comm: Any = None) -> Merged:
    engine, problem = scaling_of(data, comm, storage=np.float64)
    solver = LevenbergMarquardt(loss=loss, tolerance=1e-14, cg_tolerance=1e-5)
    result = solver.solve(engine, problem.model, problem.start)
    model = result.model
    first = engine.sums.place(model.layout.n_local)
    half = halves(len(data.ln_G))[first : first + model.layout.n_local]
    return Merged(*merge_sums(model, result.point, loss, half), model, result.point)


@pytest.fixture(scope="module")
def data() -> StillData:
    return still_data(40, 80, 30, scatter=0.1)


@pytest.mark.parametrize("loss", [Loss(kind, 2.0) for kind in LOSSES], ids=lambda loss: loss.kind)
def test_merged_intensities_are_the_solvers_own(loss: Loss, data: StillData) -> None:
    """Where all crystals count; to how well the solver has come to rest."""
    engine, problem = scaling_of(data, storage=np.float64)
    solver = LevenbergMarquardt(loss=loss, tolerance=1e-14, cg_tolerance=1e-5)
    result = solver.solve(engine, problem.model, problem.start)
    model = result.model
    half = (np.arange(40) % 2).astype(np.int8)
    sums, _ = merge_sums(model, result.point, loss, half)
    weight = sums.weight.sum(axis=0)
    mean = sums.weighted.sum(axis=0) / weight
    # one standard deviation is 1/√weight
    assert np.abs((mean - result.point.shared) * np.sqrt(weight)).max() < 0.02
    lin = engine.linearise(model, result.point, loss)
    np.testing.assert_allclose(weight, lin.D, rtol=1e-6)


def test_sums_by_hand(data: StillData) -> None:
    loss = Loss("huber", 2.0)
    found = merged(data, loss)
    o, half = data.observations, halves(40)
    assert o.reflection is not None
    local, s2 = found.point.local[o.crystal], data.reflections.s2[o.reflection]
    J = o.intensity / np.exp(local[:, 0] - 2.0 * local[:, 1] * s2)
    n = len(data.I)
    for t in (0, 1):
        of_half = half[o.crystal] == t
        np.testing.assert_array_equal(
            found.sums.number[t], np.bincount(o.reflection[of_half], minlength=n)
        )
    mean = found.sums.weighted.sum(axis=0) / found.sums.weight.sum(axis=0)
    kept = half[o.crystal] >= 0
    np.testing.assert_allclose(
        found.sums.total, np.bincount(o.reflection[kept], J[kept], n), rtol=1e-9
    )
    np.testing.assert_allclose(
        found.sums.deviation,
        np.bincount(o.reflection[kept], np.abs(J - mean[o.reflection])[kept], n),
        rtol=1e-9,
    )
    for m in (0, 4, 17):  # also of a crystal that is left out
        rows = o.crystal == m
        expected = np.corrcoef(J[rows], mean[o.reflection[rows]])[0, 1]
        assert found.crystal_cc[m] == pytest.approx(expected, abs=1e-9)


def test_a_reflection_without_observations_has_no_weight() -> None:
    data = still_data(10, 200, 5)
    found = merged(data, Loss())
    assert data.observations.reflection is not None
    unseen = np.setdiff1d(np.arange(200), data.observations.reflection)
    assert len(unseen) > 0
    for column in (found.sums.weight, found.sums.weighted, found.sums.number):
        assert not column[:, unseen].any()
    assert not found.sums.total[unseen].any()


@pytest.mark.parametrize("size", [2, 3, 9])
def test_the_same_bits_on_any_number_of_ranks(size: int, data: StillData) -> None:
    (serial,) = on_ranks(1, lambda comm: merged(data, Loss("cauchy", 3.0), comm))
    parts = on_ranks(size, lambda comm: merged(data, Loss("cauchy", 3.0), comm))
    np.testing.assert_array_equal(np.concatenate([p.crystal_cc for p in parts]), serial.crystal_cc)
    for part in parts:
        for name, expected in vars(serial.sums).items():
            np.testing.assert_array_equal(getattr(part.sums, name), expected)
