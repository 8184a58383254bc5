"""Postrefinement: derivatives as the solver sees them, and the truth found again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxproc.kernels.postrefine import (
    LN_SIZE,
    THETA_1,
    THETA_2,
    rotation_of,
)
from sfxproc.lsq import Loss, Point
from sfxproc.lsq.covariance import exact
from sfxproc.models.postrefine import axes_of, filler, refined_A
from sfxproc.partiality import PARTIALITIES, size_at, values, width_at
from tests.models.partial_stills import (
    ideal,
    orientation_error_mrad,
    partials,
    r_factor,
    refined,
    set_up,
    with_cells,
)
from tests.problems import moved, written_out

REFINABLE = [name for name in PARTIALITIES if name != "unity"]
SMALL = {"n_crystals": 12, "d_min_A": 5.0}


@pytest.mark.parametrize("angles", [(0.0, 0.0), (1e-8, -2e-8), (0.002, -0.001), (0.7, 1.1)])
def test_rotation(angles: tuple[float, float]) -> None:
    """Against SciPy; J by differences of R(θ + δ) R(θ)⁻¹."""
    axes = axes_of(np.array([[0.1, -0.2, 0.9]]) / np.linalg.norm([0.1, -0.2, 0.9]))[0]
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-14)
    turn, about = np.empty((3, 3)), np.empty((2, 3))
    rotation_of(*angles, axes, turn, about)
    expected = Rotation.from_rotvec(np.array(angles) @ axes).as_matrix()
    np.testing.assert_allclose(turn, expected, atol=1e-14)
    for j in range(2):
        ends = []
        for sign in (-1, 1):
            shifted = np.array(angles)
            shifted[j] += sign * 1e-5
            end = Rotation.from_rotvec(shifted @ axes).as_matrix() @ expected.T
            ends.append(Rotation.from_matrix(end).as_rotvec())
        np.testing.assert_allclose(about[j], (ends[1] - ends[0]) / 2e-5, atol=1e-9)


@pytest.mark.parametrize("name", PARTIALITIES)
def test_kernel_is_the_formula(name: str) -> None:
    """P and its relative derivatives against NumPy, at orientations that are turned, cells that are
    deformed and wavelengths that are off."""
    data = with_cells(partials(name, **SMALL), waves=True)
    model, g = data.partiality, replace(data.geometry, slope=np.full(data.n, 0.001))
    crystal = data.observations.crystal
    start = np.searchsorted(crystal, np.arange(data.n + 1)).astype(np.int64)

    def formula(local: np.ndarray) -> np.ndarray:
        P = np.empty(len(crystal))
        for m in range(data.n):
            rows = slice(start[m], start[m + 1])
            turn = Rotation.from_rotvec(local[m, [THETA_1, THETA_2]] @ g.axes[m]).as_matrix()
            strain = np.eye(3) + np.tensordot(local[m, 5:7], g.deformations, 1)
            q = g.hkl[rows] @ (turn @ g.A[m] @ strain).T
            k = g.wavenumber[m] * np.exp(local[m, 7])
            z = q @ g.beam[m]
            r = np.linalg.norm(q + k * g.beam[m], axis=1) - k
            r0, length = np.exp(local[m, LN_SIZE]), np.linalg.norm(q, axis=1)
            R = size_at(r0, g.slope[m], length)
            P[rows] = values(model, r, R, width_at(g.bandwidth[m], k, length**2, z))
            if model.amplitude == "r0/R":
                P[rows] *= r0 / R
        return P

    def kernel(local: np.ndarray, relative: np.ndarray) -> np.ndarray:
        P = np.empty(len(crystal))
        filler(model, g)(start, 0, data.n, local, P, relative)
        return P

    rng = np.random.default_rng(3)
    local = np.zeros((data.n, 8))
    local[:, LN_SIZE] = np.log(data.size)
    local[:, THETA_1 : THETA_2 + 1] = 3e-4 * rng.normal(size=(data.n, 2))
    local[:, LN_SIZE + 1 :] = 3e-4 * rng.normal(size=(data.n, 3))
    relative = np.empty((len(crystal), 6))
    P = kernel(local, relative)
    np.testing.assert_allclose(P, formula(local), rtol=1e-9, atol=1e-11)
    if name == "unity":
        assert not relative.any()
        return
    for k in range(6):
        step = 1e-6 if k == 2 else 1e-7
        ends = []
        for sign in (-1, 1):
            there = local.copy()
            there[:, THETA_1 + k] += sign * step
            ends.append(formula(there))
        slope = (ends[1] - ends[0]) / (2 * step)
        smooth = (P > 1e-3) & (ends[0] > 0) & (ends[1] > 0)  # away from kinks
        got = relative[smooth, k] * P[smooth]
        np.testing.assert_allclose(got, slope[smooth], rtol=1e-4, atol=1e-6 * np.abs(slope).max())


@pytest.mark.parametrize("name", REFINABLE)
def test_derivatives_through_the_update_of_the_solver(name: str) -> None:
    """Along random directions of all parameters, the slope of the objective is gradient · d."""
    data = with_cells(partials(name, **SMALL), waves=True)
    engine, model, start = set_up(data)
    model = model.with_errors(replace(model.errors, scatter=0.1, refits=0))
    loss = Loss("cauchy", 4.0)
    rng = np.random.default_rng(7)
    away = [0.01, 0.1, 1e-4, 1e-4, 0.02, 1e-4, 1e-4, 1e-4]
    start = Point(start.local + rng.normal(size=start.local.shape) * away, start.shared)
    written = written_out(model, start, loss)
    unit = np.concatenate(
        [np.tile([0.1, 1.0, 1e-4, 1e-4, 0.1, 1e-4, 1e-4, 1e-4], data.n), 0.1 * np.abs(start.shared)]
    )
    for _ in range(3):
        direction = rng.normal(size=len(unit)) * unit
        ends = [
            engine.objective(model, moved(model, start, direction, h), loss) for h in (-1e-5, 1e-5)
        ]
        slope = (ends[1] - ends[0]) / 2e-5
        assert written.gradient @ direction == pytest.approx(slope, rel=2e-4)


@pytest.mark.parametrize("name", REFINABLE)
def test_the_truth_is_found(name: str) -> None:
    """From orientations 0.65 mrad off and sizes 30 % too large."""
    data = partials(name, wrong_size=1.3)
    engine, model, start = set_up(data)
    result = refined(engine, model, start)
    assert result.converged
    assert result.chi2 / result.dof == pytest.approx(1.0, abs=0.03)
    before = orientation_error_mrad(data, data.geometry.A)
    after = orientation_error_mrad(data, refined_A(data.geometry, result.point))
    assert before == pytest.approx(0.65, rel=0.1)
    assert after <= 0.05
    found = np.exp(result.point.local[:, LN_SIZE])
    true = np.array(data.made.stills.crystals.profile_radius)
    assert np.mean(found / true) == pytest.approx(1.0, abs=0.02)
    best, weight = ideal(data)
    limit = r_factor(data, best, weight)
    assert r_factor(data, start.shared, weight) > 2.0 * limit
    assert r_factor(data, result.point.shared, weight) <= 1.08 * limit
    lin = engine.linearise(result.model, result.point, Loss())
    sigma = np.sqrt(np.einsum("mii->mi", exact(engine, lin).local))
    pulls = np.log(found / true) / sigma[:, LN_SIZE]
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1.0, abs=0.25)


def test_what_is_not_to_be_refined_stays() -> None:
    data = partials("lorentzian", **SMALL)
    engine, model, start = set_up(data)
    free = model.layout.free.copy()
    free[:, THETA_1 : LN_SIZE + 1] = False
    layout = replace(model.layout, free=free)
    fixed = replace(model, scale=replace(model.scale, layout=layout))
    local = refined(engine, fixed, start, passes=1).point.local
    np.testing.assert_array_equal(local[:, THETA_1:], start.local[:, THETA_1:])


FULL_SIZE = {"n_crystals": 500, "d_min_A": 2.0, "profile_radius": 0.0012, "photons": 200.0}
LARGE_CELL = {
    "n_crystals": 500,
    "space_group": "P 6 2 2",
    "unit_cell": (281.0, 281.0, 165.0, 90, 90, 120.0),
    "d_min_A": 2.9,
    "profile_radius": 0.00019,
    "photons": 200.0,
    "orientation_error_mrad": 0.35,
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "wrong_size", "settings"),
    [*((name, 1.1, FULL_SIZE) for name in REFINABLE), ("lorentzian", 1.46, LARGE_CELL)],
)
def test_as_good_as_the_ideal_merge(
    name: str, wrong_size: float, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """500 crystals; the table of docs/postrefinement.md."""
    data = partials(name, wrong_size, **settings)
    engine, model, start = set_up(data)
    began = time.process_time()
    result = refined(engine, model, start)
    cpu_s = time.process_time() - began
    best, weight = ideal(data)
    limit = r_factor(data, best, weight)
    found = r_factor(data, result.point.shared, weight)
    true = np.array(data.made.stills.crystals.profile_radius)
    size = np.mean(np.exp(result.point.local[:, LN_SIZE]) / true)
    angle = orientation_error_mrad(data, refined_A(data.geometry, result.point))
    with capsys.disabled():
        print(
            f"\n| {name} | {len(data.observations) / data.n:.0f} | {100 * limit:.2f} | "
            f"{100 * r_factor(data, start.shared, weight):.1f} | {100 * found:.2f} | "
            f"{found / limit:.3f} | {result.chi2 / result.dof:.3f} | {angle:.3f} | {size:.3f} | "
            f"{1e3 * cpu_s / data.n:.1f} |"
        )
    assert found <= 1.06 * limit
    assert result.chi2 / result.dof == pytest.approx(1.0, abs=0.03)
    assert angle <= 0.05
    assert size == pytest.approx(1.0, abs=0.02)


def test_sixty_bytes_an_observation_are_enough() -> None:
    """The table that was read and all that the solver keeps of the length of the data."""
    data = partials("lorentzian", **SMALL)
    engine, model, start = set_up(data)
    model = model.with_errors(replace(model.errors, background=1.1))
    lin = engine.linearise(model, start, Loss())
    table, scale = data.observations, model.scale
    assert np.shares_memory(model.geometry.hkl, table.hkl)
    assert table.reflection is not None
    assert np.shares_memory(model.layout.shared, table.reflection)
    read = (table.crystal, table.hkl, table.intensity, table.variance, table.reflection)
    kept = (scale.background, scale.floor, scale.partiality, lin.e)
    assert sum(column.nbytes for column in (*read, *kept)) <= 60 * len(table)


def test_models_of_two_points_keep_their_own_partialities() -> None:
    """What `at` hands out stays as it is while the model is looked at elsewhere."""
    data = partials("gaussian", **SMALL)
    engine, model, start = set_up(data)
    away = Point(start.local + np.array([0, 0, 1e-3, 0, 0.1]), start.shared)
    here = model.at(start)
    before = here.partiality.copy()
    there = model.at(away)
    engine.linearise(model, away, Loss())
    np.testing.assert_array_equal(here.partiality, before)
    assert np.abs(there.partiality - before).max() > 0.01
    d = np.empty(model.layout.n_rows)
    of_model = np.empty(model.layout.n_rows)
    model.deviances(start, 0, data.n, of_model)
    here.deviances(start, 0, data.n, d)
    np.testing.assert_array_equal(of_model, d)
