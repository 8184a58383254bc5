"""Local and shared parameters in turn: slowly, but to where a joint solve goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sfxproc.lsq import Layout, LevenbergMarquardt, Loss, Point, Result
from sfxproc.lsq.compared.alternating import alternating, settled
from sfxproc.parallel.comm import Comm, SerialComm
from tests.problems import LampModel, lamp_data, lamp_problem, on_ranks

DATA = lamp_data()
GROUPS = ((0,), (1, 2))
LOSSES = [Loss(), Loss("cauchy", 2.0)]


def restrict(model: LampModel, layout: Layout) -> LampModel:
    return replace(model, layout=layout)


def in_turn(
    comm: Comm | None = None,
    cycles: int = 500,
    tolerance: float = 1e-13,
    loss: Loss = LOSSES[0],
    threads: int = 1,
) -> Result:
    engine, model, start = lamp_problem(DATA, comm, threads)
    return alternating(engine, model, start, loss, GROUPS, cycles, restrict, tolerance=tolerance)


def in_gauge(point: Point) -> tuple[np.ndarray, np.ndarray]:
    """Mean exposure 0, which brightnesses make good for."""
    mean = point.local[:, 0].mean()
    return point.local - [mean, 0.0, 0.0], point.shared * np.exp(mean)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_the_fixed_point_is_the_joint_minimum(loss: Loss) -> None:
    engine, model, start = lamp_problem(DATA)
    joint = LevenbergMarquardt(loss=loss, max_iterations=200, tolerance=1e-14).solve(
        engine, model, start
    )
    found = in_turn(loss=loss)
    assert joint.converged
    assert found.converged
    assert found.termination == "The objective no longer falls."
    assert found.objective == pytest.approx(joint.objective, rel=1e-6)
    assert (found.dof, found.n_residuals) == (joint.dof, joint.n_residuals)
    for ours, theirs in zip(in_gauge(found.point), in_gauge(joint.point), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)  # of σ = 0.03 and more
    # and it takes many more cycles to get there than steps
    assert len(found.iterations) > 2 * len(joint.iterations)


def test_every_cycle_lowers_the_objective_until_they_are_used_up() -> None:
    told: list[float] = []
    engine, model, start = lamp_problem(DATA)
    found = alternating(
        engine, model, start, Loss(), GROUPS, 5, restrict, lambda i: told.append(i.objective)
    )
    assert not found.converged
    assert found.termination == "All cycles are done."
    assert [i.number for i in found.iterations] == [1, 2, 3, 4, 5]
    assert told == [i.objective for i in found.iterations]
    assert (np.diff([*told, found.objective]) < 0.0).all()


def test_a_group_that_is_not_named_stays() -> None:
    engine, model, start = lamp_problem(DATA)
    found = alternating(engine, model, start, Loss(), ((0,),), 3, restrict)
    assert np.all(found.point.local[:, 0] != start.local[:, 0])
    np.testing.assert_array_equal(found.point.local[:, 1:], start.local[:, 1:])


def test_settled_is_the_weighted_mean() -> None:
    """At fixed exposures and backgrounds a brightness is a linear parameter of its own."""
    engine, model, _ = lamp_problem(DATA)
    local = DATA.truth.local
    got = settled(engine, model, Point(local, np.ones_like(DATA.truth.shared)), Loss()).shared
    a, b, c = local[np.repeat(np.arange(len(local)), np.diff(DATA.start))].T
    f, left = np.exp(a), DATA.x - b * DATA.t - c * DATA.t**2
    n = len(DATA.truth.shared)
    expected = np.bincount(DATA.shared, f * left, n) / np.bincount(DATA.shared, f * f, n)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize(("ranks", "threads"), [(1, 2), (2, 1), (3, 1)])
def test_same_bits(ranks: int, threads: int) -> None:
    expected = in_turn(SerialComm(), cycles=8)
    found = on_ranks(ranks, lambda comm: in_turn(comm, cycles=8, threads=threads))
    local = np.concatenate([result.point.local for result in found])
    np.testing.assert_array_equal(local, expected.point.local)
    for result in found:
        np.testing.assert_array_equal(result.point.shared, expected.point.shared)
        assert result.objective == expected.objective
