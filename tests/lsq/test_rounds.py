"""Rounds over blocks: gradients of the reduced problem, steps, and where the rounds end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point
from sfxproc.lsq.rounds import local_objectives, refit_local, step_of_block
from sfxproc.lsq.schur import schur_cg
from tests.problems import LampData, LampModel, lamp_data, lamp_problem

LOSSES = [Loss(), Loss("huber", 1.5), Loss("cauchy", 4.0)]
MANY = {"photographs": 240, "lamps": 20, "each": 14}


def part(data: LampData, photographs: np.ndarray) -> tuple[Engine, LampModel, Point]:
    """The problem of some of the photographs."""
    rows = np.concatenate([np.arange(*data.start[m : m + 2]) for m in photographs])
    start = np.concatenate([[0], np.cumsum(np.diff(data.start)[photographs])])
    truth = Point(data.truth.local[photographs], data.truth.shared)
    return lamp_problem(
        LampData(start, data.shared[rows], data.x[rows], data.t[rows], truth, data.sigma)
    )


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_local_objectives_add_up(loss: Loss) -> None:
    engine, model, start = lamp_problem(lamp_data())
    layout = replace(model.layout, prior_weight=np.full((40, 3), 0.7))
    model = replace(model, layout=layout)
    start = Point(start.local + 0.1, start.shared)
    found = local_objectives(engine, model, start, loss)
    assert found.sum() == pytest.approx(engine.objective(model, start, loss), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_each_block_is_at_its_own_minimum(loss: Loss) -> None:
    engine, model, start = lamp_problem(lamp_data())
    refit = refit_local(engine, model, start, loss)
    found = local_objectives(engine, model, Point(refit.local, start.shared), loss)
    assert refit.objective == pytest.approx(found.sum(), rel=1e-6)
    for m in (0, 17, 39):

        def objective(x: np.ndarray, m: int = m) -> float:
            local = refit.local.copy()
            local[m] = x
            return float(local_objectives(engine, model, Point(local, start.shared), loss)[m])

        best = minimize(objective, refit.local[m], method="Nelder-Mead", options={"xatol": 1e-6})
        assert found[m] <= best.fun + 1e-4


class AtAKink(LampModel):
    """Steps of the fifth photograph lead uphill, whatever they promise."""

    def rows(self, point: Point, first: int, last: int, *out: np.ndarray) -> None:
        super().rows(point, first, last, *out)
        at = self.layout.start[5] - self.layout.start[first]
        if first <= 5 < last:
            out[2][at : at + self.layout.start[6] - self.layout.start[5]] *= -1.0


def test_a_block_that_no_step_helps_stays_and_holds_up_none() -> None:
    engine, model, start = lamp_problem(lamp_data())
    kink = AtAKink(model.layout, model.x, model.t, model.weight)
    expected = refit_local(engine, model, start, Loss())
    found = refit_local(engine, kink, start, Loss())
    np.testing.assert_array_equal(found.local[5], start.local[5])
    others = np.arange(40) != 5
    np.testing.assert_allclose(found.local[others], expected.local[others], rtol=0, atol=1e-9)
    at_end = local_objectives(engine, kink, Point(found.local, start.shared), Loss())
    assert found.objective == pytest.approx(at_end.sum(), rel=1e-6)


def test_what_is_not_free_stays() -> None:
    engine, model, start = lamp_problem(lamp_data())
    free = model.layout.free.copy()
    free[3], free[7, 1] = False, False
    model = replace(model, layout=replace(model.layout, free=free))
    local = refit_local(engine, model, start, Loss()).local
    assert np.all(local[~free] == 0.0)
    assert np.all(local[free] != 0.0)


def near(data: LampData) -> tuple[Engine, LampModel, Point]:
    """Not far from the truth, where rounds begin."""
    engine, model, _ = lamp_problem(data)
    bend = 1.0 + 0.03 * np.sin(np.arange(len(data.truth.shared)))
    return engine, model, Point(data.truth.local, data.truth.shared * bend)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_the_reduced_gradient(loss: Loss) -> None:
    """q is the derivative of the objective with the local parameters refitted."""
    engine, model, start = near(lamp_data())
    q = refit_local(engine, model, start, loss).q
    h = 1e-4
    for k in (0, 11, 29):
        ends = []
        for sign in (-1, 1):
            shared = start.shared.copy()
            shared[k] += sign * h
            ends.append(refit_local(engine, model, Point(start.local, shared), loss).objective)
        assert q[k] == pytest.approx((ends[1] - ends[0]) / (2 * h), rel=2e-3, abs=0.05)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_the_step_of_a_single_block_is_the_joint_one(loss: Loss) -> None:
    """Eliminating refitted local parameters leaves the Schur complement of the joint problem."""
    engine, model, start = near(lamp_data())
    refit = refit_local(engine, model, start, loss)
    lin = engine.linearise(model, Point(refit.local, start.shared), loss)
    joint = schur_cg(engine, lin, 0.0, 1e-9).delta.shared
    ours = step_of_block(engine, lin, refit.D, refit.q, 1e-9).delta.shared
    np.testing.assert_allclose(ours, joint, atol=2e-3 * np.abs(joint).max())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("step", [40, 80])
def test_rounds_end_at_the_joint_solution(loss: Loss, step: int) -> None:
    """Blocks of 80 photographs, side by side or overlapping by half, from a poor start."""
    data = lamp_data(3, **MANY)
    engine, model, start = lamp_problem(data)
    joint = LevenbergMarquardt(loss=loss, tolerance=1e-14).solve(engine, model, start)
    every = np.random.default_rng(0).permutation(240)
    blocks = [part(data, np.arange(240)[every[i : i + 80]]) for i in range(0, 240 - 40, step)]
    where = [every[i : i + 80] for i in range(0, 240 - 40, step)]
    apart = [part(data, every[i : i + 80]) for i in range(0, 240, 80)]
    local, shared = start.local.copy(), start.shared.copy()
    moves = []
    for _ in range(12):
        D, q = np.zeros(20), np.zeros(20)
        for i, (e, m, _) in enumerate(apart):
            own = every[80 * i : 80 * i + 80]
            refit = refit_local(e, m, Point(local[own], shared), loss)
            local[own], D, q = refit.local, D + refit.D, q + refit.q
        steps = []
        for (e, m, _), own in zip(blocks, where, strict=True):
            lin = e.linearise(m, Point(local[own], shared), loss)
            steps.append(step_of_block(e, lin, D, q, 1e-6).delta.shared)
        mean = np.mean(steps, axis=0)
        moves.append(float(np.sqrt(np.mean(mean**2 * D))))
        shared = shared + mean
    scale = np.exp(np.mean(local[:, 0]) - np.mean(joint.point.local[:, 0]))
    difference = (shared * scale - joint.point.shared) * np.sqrt(D)
    assert np.sqrt(np.mean(difference**2)) < 0.01
    assert moves[-1] < 1e-3 * moves[0]
