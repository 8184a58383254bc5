"""Scaled observations, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sfxproc.lsq import LevenbergMarquardt, Loss, Point
from sfxproc.lsq.engine import LOSSES
from sfxproc.models.scale import ScaleModel
from sfxproc.models.scale_merge import mean_intensity, weighted_sums
from sfxproc.models.scaled_rows import ScaledRows, scaled_rows
from tests.models.stills import StillData, scaling_of, still_data
from tests.problems import on_ranks
from tests.twins import scale as scale_numpy
from tests.twins.arrow import rho_and_weight

N = 40
HUBER = Loss("huber", 2.0)


def solved(data: StillData, loss: Loss, comm: Any = None) -> tuple[ScaleModel, Point]:
    engine, problem = scaling_of(data, comm, storage=np.float64)
    result = LevenbergMarquardt(loss=loss, max_iterations=20).solve(
        engine, problem.model, problem.start
    )
    return result.model, result.point


def all_but(model: ScaleModel, *left_out: int) -> np.ndarray:
    kept = np.ones(model.layout.n_local, dtype=bool)
    kept[list(left_out)] = False
    return kept


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("loss", [Loss(), HUBER], ids=lambda loss: loss.kind)
def test_as_its_numpy_twin(loss: Loss, partial: bool) -> None:
    data = still_data(N, 80, 30, scatter=0.1, partial=partial)
    model, point = solved(data, loss)
    found = scaled_rows(model, point, loss, all_but(model, 4, 9), least_partiality=0.3)
    o = data.observations
    assert o.reflection is not None
    P = np.ones(len(o), np.float32) if o.partiality is None else o.partiality
    np.testing.assert_array_equal(
        found.row, np.flatnonzero((P >= 0.3) & ~np.isin(o.crystal, [4, 9]))
    )
    o, P = o.take(found.row), P[found.row]
    assert o.reflection is not None
    ln_g, B = point.local[o.crystal].T
    scale = np.exp(ln_g - 2.0 * B * model.s2[o.reflection])
    y = P * scale * point.shared[o.reflection]
    gain, c2 = model.errors.gain, model.errors.scatter**2
    floor = model.arguments(point, 0, N)[9][found.row].astype(np.float64)
    d = np.sqrt(np.maximum(scale_numpy.deviance(o.intensity, y, floor, gain, c2), 0.0))
    V = scale_numpy.variance_of(y, floor, gain, c2)
    np.testing.assert_array_equal(found.crystal, o.crystal)
    np.testing.assert_array_equal(found.partiality, P)
    np.testing.assert_allclose(found.intensity, o.intensity / (P * scale), rtol=1e-6)
    np.testing.assert_allclose(found.sigma, np.sqrt(V) / (P * scale), rtol=1e-6)
    np.testing.assert_allclose(found.scale, 1.0 / scale, rtol=1e-6)
    psi = rho_and_weight(d, LOSSES[loss.kind], loss.scale)[1]
    np.testing.assert_allclose(found.weight, psi, rtol=1e-5)
    assert (found.weight < 0.9).any() == (loss.kind == "huber")


def test_they_merge_to_the_jobs_own_intensities() -> None:
    data = still_data(N, 80, 30, scatter=0.1, partial=True)
    model, point = solved(data, HUBER)
    rows = scaled_rows(model, point, HUBER, all_but(model), least_partiality=0.0)
    h = model.layout.shared[rows.row]
    w = rows.weight.astype(np.float64) / rows.sigma.astype(np.float64) ** 2
    merged = np.bincount(h, w * rows.intensity, 80) / np.bincount(h, w, 80)
    sums = weighted_sums(model, point, HUBER, np.zeros(N, dtype=np.int8))
    np.testing.assert_allclose(merged, mean_intensity(sums), rtol=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_the_same_rows_on_any_number_of_ranks(size: int) -> None:
    data = still_data(N, 80, 30, scatter=0.1)

    def work(comm: Any) -> tuple[ScaledRows, int]:
        model, point = solved(data, HUBER, comm)
        first = model.engine.sums.place(model.layout.n_local)
        return scaled_rows(model, point, HUBER, all_but(model)), first

    ((serial, _),) = on_ranks(1, work)
    parts = on_ranks(size, work)
    np.testing.assert_array_equal(
        np.concatenate([rows.crystal + first for rows, first in parts]), serial.crystal
    )
    for name in ("intensity", "sigma", "scale", "weight"):
        together = np.concatenate([getattr(rows, name) for rows, _ in parts])
        np.testing.assert_array_equal(together, getattr(serial, name))
