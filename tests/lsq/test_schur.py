"""Theorems about one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.linalg import null_space

from sfxproc.errors import DataError
from sfxproc.lsq import SOLVERS, Engine, Linearisation, Loss, Point
from sfxproc.lsq.compared.dense import dense, normal_matrix
from sfxproc.lsq.lm import StepMethod
from sfxproc.lsq.schur import schur_cg
from sfxproc.lsq.schur_dense import schur_dense
from sfxproc.lsq.step import Step
from tests.lsq.changes import CHANGES, with_silent_lamps
from tests.problems import LampModel, Written, lamp_data, lamp_problem, on_ranks, written_out

TIGHT = 1e-13
STEPS: list[StepMethod] = [
    solver.keywords["step"]
    for solver in SOLVERS.values()
    if isinstance(solver, partial) and "step" in solver.keywords
]
"""How each solver of the table that takes damped steps finds them."""
DAMPINGS = [0.0, 1e-3, 1.0, 1e4]


def linearised(
    change: Callable[[LampModel], LampModel], loss: Loss | None = None, threads: int = 1
) -> tuple[Engine, LampModel, Point, Linearisation]:
    engine, model, start = lamp_problem(lamp_data(), threads=threads)
    model = change(model)
    shared = np.concatenate([start.shared, np.ones(model.layout.n_shared - len(start.shared))])
    point = Point(start.local + 0.05, shared)
    return engine, model, point, engine.linearise(model, point, loss or Loss())


def flat(step: Step[Point]) -> np.ndarray:
    return np.concatenate([step.delta.local.ravel(), step.delta.shared])


def kkt_step(w: Written, damping: float) -> np.ndarray:
    """The damped step in an explicit basis of the directions allowed."""
    H = w.H + damping * np.diag(np.diag(w.H))
    N = w.N[:, w.used] if len(w.N) else np.zeros((0, int(w.used.sum())))
    N = N[N.any(axis=1)]
    Z = null_space(N) if len(N) else np.eye(int(w.used.sum()))
    z = np.linalg.solve(Z.T @ H[np.ix_(w.used, w.used)] @ Z, -Z.T @ w.gradient[w.used])
    d = np.zeros(len(w.gradient))
    d[w.used] = Z @ z
    return d


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("method", STEPS)
def test_one_step_equals_the_dense_kkt_step(
    method: StepMethod, change: Callable[[LampModel], LampModel], damping: float
) -> None:
    """Shared parameters eliminated or not, by conjugate gradients or a factor."""
    engine, model, point, lin = linearised(change)
    w = written_out(model, point, Loss())
    d = kkt_step(w, damping)
    step = method(engine, lin, damping, TIGHT)
    np.testing.assert_allclose(flat(step), d, rtol=1e-9, atol=1e-9 * np.abs(d).max())
    assert step.predicted == pytest.approx(-w.gradient @ d - 0.5 * d @ w.H @ d, rel=1e-8)


def test_the_table_has_the_steps_this_is_about() -> None:
    assert {schur_cg, schur_dense, dense} <= set(STEPS)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("loss", [Loss(), Loss("huber", 1.0), Loss("cauchy", 1.0)])
def test_the_blocks_are_those_of_the_normal_equations_written_out(
    change: Callable[[LampModel], LampModel], loss: Loss
) -> None:
    _, model, point, lin = linearised(change, loss)
    w = written_out(model, point, loss)
    np.testing.assert_allclose(normal_matrix(lin), w.H, rtol=1e-10, atol=1e-8)
    gradient = np.concatenate([lin.g.ravel(), lin.q])
    np.testing.assert_allclose(gradient, w.gradient, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("tolerance", [0.3, 1e-2, TIGHT])
def test_predicted_decrease_is_that_of_the_quadratic_model(
    change: Callable[[LampModel], LampModel], damping: float, tolerance: float
) -> None:
    """Also when conjugate gradients stop early."""
    engine, model, point, lin = linearised(change)
    step = schur_cg(engine, lin, damping, tolerance)
    w, d = written_out(model, point, Loss()), flat(step)
    decrease = -w.gradient @ d - 0.5 * d @ w.H @ d
    assert decrease > 0.0
    assert step.predicted == pytest.approx(decrease, rel=1e-8)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("tolerance", [0.3, TIGHT])
def test_a_step_keeps_the_gauge_and_what_is_fixed(
    change: Callable[[LampModel], LampModel], tolerance: float
) -> None:
    engine, model, _, lin = linearised(change)
    step, layout = schur_cg(engine, lin, 1e-3, tolerance), model.layout
    assert not step.delta.local[~layout.free].any()
    for k in layout.gauge:
        for part in range(layout.n_components):
            total = step.delta.local[layout.component == part, k].sum()
            assert abs(total) < 1e-12 * np.abs(step.delta.local[:, k]).sum()


def test_silent_lamps_stay() -> None:
    engine, model, _, lin = linearised(with_silent_lamps)
    for method in STEPS:
        step = method(engine, lin, 1e-3, TIGHT)
        assert not step.delta.shared[[2, 5, model.layout.n_shared - 1]].any()
        assert np.count_nonzero(step.delta.shared) == model.layout.n_shared - 3


def test_single_precision_couplings_change_a_step_little() -> None:
    steps = []
    for storage in (np.float32, np.float64):
        engine, model, start = lamp_problem(lamp_data(), storage=storage)
        lin = engine.linearise(model, start, Loss())
        assert lin.e.dtype == storage
        steps.append(flat(schur_cg(engine, lin, 1e-3, 1e-9)))
    size = np.abs(steps[1]).max()
    np.testing.assert_allclose(steps[0], steps[1], atol=1e-5 * size)
    assert np.any(steps[0] != steps[1])


@pytest.mark.parametrize("storage", [np.float32, np.float64])
@pytest.mark.parametrize("method", [schur_cg, schur_dense])
def test_same_bits_with_any_number_of_threads(method: StepMethod, storage: type) -> None:
    found = []
    for threads in (1, 2, 3):
        engine, model, start = lamp_problem(lamp_data(), threads=threads, storage=storage)
        lin = engine.linearise(model, start, Loss("huber", 2.0))
        step = method(engine, lin, 1e-3, 1e-6)
        found.append((flat(step), step.predicted, lin.objective, lin.chi2, step.cg_iterations))
    for other in found[1:]:
        np.testing.assert_array_equal(other[0], found[0][0])
        assert other[1:] == found[0][1:]


@pytest.mark.parametrize("size", [2, 3, 5, 11])
@pytest.mark.parametrize("method", [schur_cg, schur_dense])
def test_same_bits_on_any_number_of_ranks(method: StepMethod, size: int) -> None:
    """Eleven ranks share eight chunks: three have nothing to do."""
    data = lamp_data()

    def work(comm: object) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
        engine, model, start = lamp_problem(data, comm, storage=np.float32)  # type: ignore[arg-type]
        lin = engine.linearise(model, start, Loss("huber", 2.0))
        step = method(engine, lin, 1e-3, 1e-6)
        return step.delta.local, step.delta.shared, (step.predicted, lin.objective, lin.chi2)

    ((local, shared, numbers),) = on_ranks(1, work)
    parts = on_ranks(size, work)
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), local)
    for part in parts:
        np.testing.assert_array_equal(part[1], shared)
        assert part[2] == numbers


def test_dense_refuses_what_does_not_fit_before_it_takes_the_memory() -> None:
    engine, model, start = lamp_problem(lamp_data())
    lin = engine.linearise(model, start, Loss())
    huge = replace(lin, layout=replace(lin.layout, n_shared=10**7))
    with pytest.raises(DataError, match="GB"):
        dense(engine, huge, 1e-3, TIGHT)
