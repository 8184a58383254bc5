"""A linear solve that fails is told: nothing ends as converged, and no sigma comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import sfxproc.lsq.compared.sparse
import sfxproc.lsq.schur
import sfxproc.lsq.schur_dense
from sfxproc.errors import DataError
from sfxproc.lsq import SOLVERS, Engine, LevenbergMarquardt, Linearisation, Loss, Point
from sfxproc.lsq.compared.alternating import alternating
from sfxproc.lsq.covariance import exact
from sfxproc.lsq.problem import Layout
from sfxproc.lsq.rounds import refit_local, step_of_block
from sfxproc.lsq.sampled import sampled, uncorrelated
from sfxproc.lsq.schur import schur_cg
from sfxproc.lsq.step import Outcome
from tests.problems import LampModel, lamp_data, lamp_problem, on_ranks

FACTORS = ["schur-dense", "lm-dense-stepwise", "lm-sparse"]


@dataclass(frozen=True, eq=False)
class WithoutSlope(LampModel):
    """Lamps of which one row's derivatives are no numbers; the objective is finite."""

    bad: int = 17

    def rows(self, point: Point, first: int, last: int, *out: np.ndarray) -> None:
        super().rows(point, first, last, *out)
        row = self.bad - self.layout.start[first]
        if 0 <= row < len(out[0]):
            out[2][row] = np.nan


def without_slope() -> tuple[Engine, WithoutSlope, Point]:
    engine, model, start = lamp_problem(lamp_data())
    return engine, WithoutSlope(model.layout, model.x, model.t, model.weight), start


class Turned(Engine):
    """An engine whose normal matrix has negative curvature in every local parameter."""

    def linearise(self, *arguments: Any) -> Linearisation:
        lin = super().linearise(*arguments)
        return replace(lin, C=-lin.C)


def turned() -> tuple[Engine, LampModel, Point]:
    engine, model, start = lamp_problem(lamp_data())
    return Turned(engine.sums, engine.threads, engine.storage), model, start


@pytest.mark.parametrize("problem", [without_slope, turned])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_cannot_be_solved_does_not_converge(
    name: str, problem: Callable[[], tuple[Engine, LampModel, Point]]
) -> None:
    engine, model, start = problem()
    result = SOLVERS[name](loss=Loss(), max_iterations=200, tolerance=1e-8).solve(
        engine, model, start
    )
    assert not result.converged
    assert result.termination.startswith("Stopped")
    assert np.isfinite(result.objective)
    assert np.isfinite(result.point.local).all()
    assert np.isfinite(result.point.shared).all()


@pytest.mark.parametrize("name", FACTORS)
def test_a_factor_that_fails_is_told_in_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_potrf(a: np.ndarray, **_: Any) -> tuple[np.ndarray, int]:
        return a, 1

    def no_lu(*_: Any, **__: Any) -> None:
        raise RuntimeError("Factor is exactly singular")

    monkeypatch.setattr(sfxproc.lsq.schur_dense, "get_lapack_funcs", lambda *_: (no_potrf,))
    monkeypatch.setattr(sfxproc.lsq.compared.sparse, "splu", no_lu)
    monkeypatch.setattr(sfxproc.lsq.compared.sparse, "cholmod", None)
    engine, model, start = lamp_problem(lamp_data())
    solve = SOLVERS[name](loss=Loss(), max_iterations=200, tolerance=1e-8).solve
    result = solve(engine, model, start)
    assert not result.converged
    assert result.termination == (
        "Stopped: the normal equations cannot be solved, however much they are damped (the last "
        "solve ended as indefinite)."
    )
    np.testing.assert_array_equal(result.point.local, start.local)
    with_few = SOLVERS[name](loss=Loss(), max_iterations=3, tolerance=1e-8)
    told = with_few.solve(engine, model, start).termination
    assert told.endswith("The last linear solve ended as indefinite.")
    if name == "schur-dense":
        with pytest.raises(DataError, match="cannot be worked out"):
            exact(engine, engine.linearise(model, start, Loss()))


def test_an_indefinite_sparse_matrix_has_no_factor() -> None:
    """SuperLU factors it all the same."""
    engine, model, start = lamp_problem(lamp_data())
    layout = sfxproc.lsq.compared.sparse.whole_layout(engine, model.layout)
    assert layout is not None
    structure = sfxproc.lsq.compared.sparse.Structure.of(layout)
    lin = engine.linearise(model, start, Loss())
    assert structure.local_step(lin, 1e-3) is not None
    C = lin.C.copy()
    C[5] = [[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert structure.local_step(replace(lin, C=C).with_e(0.0 * lin.e), 1e-3) is None


def test_conjugate_gradients_that_run_out_of_iterations_give_a_step_and_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, model, start = lamp_problem(lamp_data())
    lin = engine.linearise(model, start, Loss())
    assert schur_cg(engine, lin, 1e-3, 1e-6).outcome is Outcome.SOLVED
    monkeypatch.setattr(sfxproc.lsq.schur, "MAX_CG_ITERATIONS", 1)
    step = schur_cg(engine, lin, 1e-3, 1e-6)
    assert step.outcome is Outcome.NOT_CONVERGED
    assert step.cg_iterations == 1
    assert step.predicted > 0.0
    block = step_of_block(engine, lin, lin.D, lin.q, 1e-6)
    assert block.outcome is Outcome.NOT_CONVERGED
    result = LevenbergMarquardt(cg_tolerance=1e-9, max_iterations=60).solve(engine, model, start)
    assert result.objective < lin.objective  # its steps are of use
    assert not result.converged
    strata = np.zeros(model.layout.n_shared, dtype=np.int32)
    lin = engine.linearise(model, result.point, Loss())
    with pytest.raises(DataError, match="ended as not converged after 1 iterations"):
        sampled(engine, model, result.point, lin, Loss(), strata)


@pytest.mark.parametrize("damping", [1e-3, 1e3])
def test_negative_curvature_is_told(damping: float) -> None:
    engine, model, start = turned()
    step = schur_cg(engine, engine.linearise(model, start, Loss()), damping, 1e-6)
    assert step.outcome is Outcome.INDEFINITE
    assert not step.delta.local.any()


def test_a_step_that_is_not_finite_is_none() -> None:
    engine, model, start = without_slope()
    step = schur_cg(engine, engine.linearise(model, start, Loss()), 1e-3, 1e-6)
    assert step.outcome is Outcome.INDEFINITE
    assert not step.delta.local.any()
    assert not step.delta.shared.any()


def indefinite(lin: Linearisation) -> Linearisation:
    """With a local block of positive diagonal that is not positive definite."""
    C = lin.C.copy()
    C[5] = 1e3 * np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return replace(lin, C=C)


@pytest.mark.parametrize("size", [1, 3])
def test_no_covariance_comes_of_an_indefinite_matrix(size: int) -> None:
    data = lamp_data()

    def work(comm: Any) -> tuple[str, str]:
        engine, model, start = lamp_problem(data, comm)
        lin = engine.linearise(model, start, Loss())
        if comm.rank == 0:
            lin = indefinite(lin)
        strata = np.zeros(model.layout.n_shared, dtype=np.int32)
        with pytest.raises(DataError) as exactly:
            exact(engine, lin)
        with pytest.raises(DataError) as by_sampling:
            sampled(engine, model, start, lin, Loss(), strata)
        return str(exactly.value), str(by_sampling.value)

    for exactly, by_sampling in on_ranks(size, work):
        assert "cannot be worked out" in exactly
        assert "cannot be sampled" in by_sampling


def test_what_a_block_without_inverse_would_add_is_infinite() -> None:
    """The diagonal that stands in for its inverse in a preconditioner is no covariance."""
    engine, model, start = lamp_problem(lamp_data())
    lin = engine.linearise(model, start, Loss())
    V, spread = uncorrelated(engine, lin)
    W, other = uncorrelated(engine, indefinite(lin))
    assert np.isfinite(V).all()
    assert np.isinf(np.diag(W[5])).all()
    rest = np.arange(len(V)) != 5
    np.testing.assert_array_equal(V[rest], W[rest])
    its = np.unique(model.layout.shared[model.layout.start[5] : model.layout.start[6]])
    assert np.isinf(other[its]).all()
    np.testing.assert_array_equal(np.delete(other, its), np.delete(spread, its))


def test_what_elimination_leaves_nothing_of_has_no_finite_variance() -> None:
    """A photograph all of whose lamps are its own: the exposure could be anything."""
    engine, model, start = lamp_problem(lamp_data())
    n, own = model.layout.n_shared, slice(*model.layout.start[5:7])
    shared = model.layout.shared.copy()
    shared[own] = n + np.arange(own.stop - own.start)
    free = np.ones_like(model.layout.free)
    free[:, 1:] = False
    layout = replace(model.layout, shared=shared, free=free, n_shared=int(shared.max()) + 1)
    model = replace(model, layout=replace(layout, gauge=()))
    prior = np.where(np.arange(len(free)) == 5, 0.0, 1.0)
    model = replace(
        model, layout=replace(model.layout, prior_weight=np.outer(prior, [1.0, 0.0, 0.0]))
    )
    point = Point(start.local, np.concatenate([start.shared, np.ones(layout.n_shared - n)]))
    found = exact(engine, engine.linearise(model, point, Loss()))
    assert np.isinf(found.local[5, 0, 0])
    assert np.isfinite(np.delete(found.local, 5, axis=0)).all()
    assert np.isinf(found.from_local[n:]).all()
    assert np.isfinite(found.from_local[:n]).all()


def restricted(model: LampModel, layout: Layout) -> LampModel:
    return replace(model, layout=layout)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_in_turn_nothing_converges_that_could_not_be_refitted() -> None:
    engine, model, start = without_slope()
    assert refit_local(engine, model, start, Loss()).outcome is Outcome.INDEFINITE
    result = alternating(engine, model, start, Loss(), [(0, 1, 2)], 30, restricted)
    assert not result.converged
    assert result.termination == (
        "All cycles are done; in the last one some parameters could not be refitted."
    )


def test_healthy_problems_are_solved() -> None:
    engine, model, start = lamp_problem(lamp_data())
    assert refit_local(engine, model, start, Loss()).outcome is Outcome.SOLVED
    for name in SOLVERS:
        result = SOLVERS[name](loss=Loss(), max_iterations=1000, tolerance=1e-10).solve(
            engine, model, start
        )
        assert result.converged


def test_a_stall_on_an_indefinite_matrix_is_no_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Much damping makes it definite: short steps are then solved, but none of them says that this
    is a minimum."""
    linearise = Engine.linearise

    def twisted(self: Engine, *arguments: Any) -> Linearisation:
        lin = linearise(self, *arguments)
        C = lin.C.copy()
        C[5, 0, 1] = C[5, 1, 0] = 2.0 * np.sqrt(C[5, 0, 0] * C[5, 1, 1])
        return replace(lin, C=C)

    monkeypatch.setattr(Engine, "linearise", twisted)
    engine, model, start = lamp_problem(lamp_data())
    result = LevenbergMarquardt(max_iterations=300).solve(engine, model, start)
    assert not result.converged
    assert result.termination.startswith("Stopped")
