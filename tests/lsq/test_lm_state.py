"""A solve that goes on from any of its states has the bits of one that was not interrupted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest

from sfxproc.lsq import Engine, Iteration, LevenbergMarquardt, Loss, Point, Result
from sfxproc.lsq.lm import State
from sfxproc.lsq.result import iterations_of, table_of
from tests.problems import LampModel, lamp_data, lamp_problem

REACH = 0.8


@dataclass(frozen=True, eq=False)
class Touchy(LampModel):
    """Lamps that change their weights at the first `left` refreshes, and that break down beyond
    `reach` of a start, which is nearer than the minimum: some trials are refused."""

    left: int = 0
    reach: float = np.inf
    origin: Point | None = None

    def refreshed(self, point: Point) -> Self:
        if self.left == 0:
            return self
        return replace(self, weight=0.9 * self.weight, left=self.left - 1)

    def deviances(self, point: Point, first: int, last: int, d: np.ndarray) -> None:
        super().deviances(point, first, last, d)
        assert self.origin is not None
        if any(
            np.abs(a - b).max() > self.reach
            for a, b in zip(point[:2], self.origin[:2], strict=True)
        ):
            d[:] = np.inf


def problem(left: int) -> tuple[Engine, Touchy, Point]:
    engine, lamps, start = lamp_problem(lamp_data(), storage=np.float32)
    fields = {name: getattr(lamps, name) for name in ("layout", "x", "t", "weight")}
    return engine, Touchy(**fields, left=left, reach=REACH, origin=start), start


def require_same(found: Result, expected: Result) -> None:
    for a, b in zip(found.point, expected.point, strict=True):
        np.testing.assert_array_equal(a, b)
    numbers = ("objective", "chi2", "converged", "termination", "n_residuals", "n_parameters")
    assert [getattr(found, n) for n in numbers] == [getattr(expected, n) for n in numbers]
    assert timeless(found.iterations) == timeless(expected.iterations)


def timeless(iterations: Any) -> list[Iteration]:
    return [replace(i, seconds=0.0) for i in iterations]


@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize("kind", ["none", "huber", "cauchy"])
def test_from_any_state_on_the_bits_are_the_same(kind: str, left: int) -> None:
    solver = LevenbergMarquardt(
        loss=Loss(kind, 1.5), damping=0.1, tolerance=1e-15, max_iterations=12
    )
    states: list[State] = []
    engine, model, start = problem(left)
    expected = solver.solve(engine, model, start, keep=states.append)
    n = len(expected.iterations)
    assert [len(s.iterations) for s in states] == list(range(1, n))
    assert n > 4
    # the test needs both of either
    assert {i.accepted for i in expected.iterations} == {True, False}
    assert {s.known is None for s in states} == {True, False}

    for state in states:
        engine, unused, _ = problem(left)  # nothing of the first solve is left but the state
        told: list[Iteration] = []
        found = solver.solve(engine, unused, Point(*2 * [np.empty(0)]), told.append, state=state)
        require_same(found, expected)
        assert timeless(told) == timeless(expected.iterations[len(state.iterations) :])
        assert found.seconds >= state.seconds > 0.0
        assert found.model.left == expected.model.left


def test_the_last_iteration_is_nothing_to_go_on_from() -> None:
    engine, model, start = problem(0)
    states: list[State] = []
    result = LevenbergMarquardt(max_iterations=1).solve(engine, model, start, keep=states.append)
    assert (len(result.iterations), states) == (1, [])


def test_iterations_as_numbers() -> None:
    iterations = (
        Iteration(1, 5.0, 10.0, 1e-3, 0.1 + 0.2, 4.0, 7, True, 0.5),
        Iteration(2, 1.0, 2.0, 1e-3, -np.inf, 4.0, 12, False, 0.25),
    )
    assert table_of(iterations).shape == (2, 9)
    back = iterations_of(table_of(iterations))
    assert back == iterations
    assert [type(v) for v in vars(back[1]).values()] == [
        type(v) for v in vars(iterations[1]).values()
    ]
    assert iterations_of(table_of(())) == ()
