"""Problems with common parameters against their dense twins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sfxproc.errors import DataError
from sfxproc.lsq import SOLVERS, Engine, LevenbergMarquardt, Loss, Point
from sfxproc.lsq.border.solve import border_step
from sfxproc.lsq.covariance import exact
from sfxproc.lsq.rounds import refit_local
from sfxproc.lsq.sampled import sampled
from sfxproc.lsq.step import Outcome
from tests.lsq.bordered import CHANGES, BorderedModel, Size, bordered, dense, flat, plain
from tests.problems import on_ranks

SIZES = {
    "local": Size(),
    "no local": Size(p=0),
    "many columns": Size(k=60, w=9, patterns=40, each=30),
    "one column": Size(k=1, w=1),
    "k = 0": Size(k=0, w=2),
    "shared": Size(shared=11),
    "shared, no local": Size(shared=11, p=0),
    "k = 0, shared": Size(shared=11, k=0, w=2),
}
LOSSES = [Loss(), Loss("huber", 1.0), Loss("cauchy", 1.5)]
Change = Callable[[BorderedModel], BorderedModel]


def fits(size: Size, change: Change) -> bool:
    """Whether a change makes sense for a problem of this size."""
    needs = {"with_silent_columns": 3, "with_a_column_twice": 2, "in_two_parts": 2}
    return size.k >= needs.get(change.__name__, 0)


CASES = [
    pytest.param(size, change, id=f"{name}, {change.__name__}")
    for name, size in SIZES.items()
    for change in CHANGES
    if fits(size, change)
]


@pytest.mark.parametrize(("size", "change"), CASES)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_gradient_is_the_slope_of_the_objective(size: Size, change: Change, loss: Loss) -> None:
    engine, model, point = bordered(size)
    model = change(model)
    lin = engine.linearise(model, point, loss)
    assert lin.objective == engine.objective(model, point, loss)
    twin = dense(model, point, loss)
    border = np.zeros(0) if lin.border is None else lin.border.q
    gradient = np.concatenate([lin.g.ravel(), lin.q, border])
    np.testing.assert_allclose(gradient, twin.gradient, rtol=1e-10, atol=1e-9)
    direction = np.random.default_rng(3).normal(size=len(gradient))
    n, p = point.local.shape
    local, shared, common = np.split(direction, [n * p, n * p + len(point.shared)])
    ends = []
    for h in (-1e-6, 1e-6):
        moved = model.retract(point, h * local.reshape(n, p), h * shared, h * common)
        ends.append(engine.objective(model, moved, loss))
    assert (ends[1] - ends[0]) / 2e-6 == pytest.approx(gradient @ direction, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize(("size", "change"), CASES)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("damping", [0.0, 1e-3, 10.0])
def test_a_step_is_the_dense_one(size: Size, change: Change, loss: Loss, damping: float) -> None:
    engine, model, point = bordered(size)
    model = change(model)
    lin = engine.linearise(model, point, loss)
    twin = dense(model, point, loss)
    if size.k == 0 and size.shared:
        step = LevenbergMarquardt().step(engine, lin, damping, 1e-13)
    else:
        step = border_step(engine, lin, damping, 0.0)
    d = twin.step(damping)
    assert step.outcome is Outcome.SOLVED
    found = np.concatenate([step.delta.local.ravel(), step.delta.shared, step.delta.border])
    np.testing.assert_allclose(found, d, rtol=1e-9, atol=1e-9 * np.abs(d).max())
    decrease = -twin.gradient @ d - 0.5 * d @ twin.N @ d
    assert step.predicted == pytest.approx(decrease, rel=1e-9)


@pytest.mark.parametrize(("size", "change"), [c for c in CASES if c.values[0].k > 0])
def test_covariances_are_those_of_the_dense_inverse(size: Size, change: Change) -> None:
    engine, model, point = bordered(size)
    model = change(model)
    loss = Loss("huber", 1.0)
    lin = engine.linearise(model, point, loss)
    twin = dense(model, point, loss)
    found, V = exact(engine, lin), twin.covariance()
    n, p = lin.g.shape
    at = np.arange(n * p).reshape(n, p)
    np.testing.assert_allclose(
        found.local, V[at[:, :, None], at[:, None, :]], rtol=1e-9, atol=1e-9 * V.max()
    )
    k = size.k
    border = found.border.copy()
    layout = model.layout
    assert layout.border is not None
    silent = layout.border.free & ~twin.used[-k:]
    assert np.isinf(border[silent, silent]).all()
    border[silent, silent] = 0.0
    np.testing.assert_allclose(border, V[-k:, -k:], rtol=1e-9, atol=1e-9 * V.max())
    if size.shared:
        own = np.divide(1.0, lin.D, out=np.zeros_like(lin.D), where=lin.D > 0)
        shared = np.diag(V)[n * p : n * p + size.shared]
        np.testing.assert_allclose(own + found.from_local, shared, rtol=1e-9)


@pytest.mark.parametrize("name", ["local", "no local", "many columns", "shared"])
def test_same_bits_at_one_to_four_ranks_and_one_or_two_threads(name: str) -> None:
    """A solve, and covariances of its end."""

    def work(comm: Any, threads: int = 1) -> tuple[Any, ...]:
        engine, model, start = bordered(SIZES[name], comm, threads)
        result = LevenbergMarquardt(loss=Loss("huber", 1.0)).solve(engine, model, start)
        found = exact(engine, engine.linearise(result.model, result.point, Loss()))
        table = [(i.objective, i.chi2, i.damping, i.predicted) for i in result.iterations]
        told = (result.objective, result.n_parameters, result.n_residuals, result.gauge, table)
        return result.point, found.local, found.border, found.from_local, told

    ((point, local, border, from_local, told),) = on_ranks(1, work)
    for size in (1, 2, 3, 4):
        parts = on_ranks(size, lambda comm: work(comm, threads=2))
        np.testing.assert_array_equal(np.concatenate([p[0].local for p in parts]), point.local)
        np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), local)
        for part in parts:
            np.testing.assert_array_equal(part[0].shared, point.shared)
            np.testing.assert_array_equal(part[0].border, point.border)
            np.testing.assert_array_equal(part[2], border)
            np.testing.assert_array_equal(part[3], from_local)
            assert part[4] == told


@pytest.mark.parametrize("name", ["local", "no local", "shared"])
@pytest.mark.parametrize("solver", ["schur-cg", "schur-dense"])
def test_a_solve_ends_at_the_minimum(name: str, solver: str) -> None:
    engine, model, start = bordered(SIZES[name])
    result = SOLVERS[solver](loss=Loss(), max_iterations=50, tolerance=1e-14).solve(
        engine, model, start
    )
    assert result.converged
    assert result.gauge == ()
    twin = dense(model, result.point, Loss())
    assert result.n_parameters == len(twin.N) == twin.used.sum()
    step = twin.step(0.0)
    assert -twin.gradient @ step < 1e-3  # what is left is next to nothing of a σ
    assert result.chi2 / result.dof == pytest.approx(1.0, abs=5.0 / np.sqrt(result.dof))


def test_without_common_parameters_it_is_the_same_problem_with_the_same_bits() -> None:
    """k = 0: the kernels that know no border."""
    engine, model, start = bordered(SIZES["k = 0, shared"])
    lin = engine.linearise(model, start, Loss())
    assert lin.border is None

    class Plain:
        layout = replace(model.layout, border=None)
        deviances = model.deviances

        def rows(self, point: Point, first: int, last: int, *out: np.ndarray) -> None:
            model.rows(point, first, last, *out, np.zeros((len(out[0]), 2)))

        def retract(self, point: Point, local: np.ndarray, shared: np.ndarray) -> Point:
            return Point(point.local + local, point.shared + shared)

        def refreshed(self, point: Point) -> Plain:
            return self

    found = LevenbergMarquardt().solve(engine, model, start)
    other = LevenbergMarquardt().solve(engine, Plain(), Point(start.local, start.shared))
    np.testing.assert_array_equal(found.point.local, other.point.local)
    np.testing.assert_array_equal(found.point.shared, other.point.shared)
    assert len(found.iterations) == len(other.iterations)


# ---- what fails is told ------------------------------------------------------------------------


def with_negative_block(engine: Engine, model: BorderedModel, point: Point) -> Any:
    lin = engine.linearise(model, point, Loss())
    C = lin.C.copy()
    C[7] = -C[7]
    return replace(lin, C=C)


@pytest.mark.parametrize("name", ["local", "shared"])
def test_what_is_indefinite_is_told(name: str) -> None:
    engine, model, point = bordered(SIZES[name])
    lin = with_negative_block(engine, model, point)
    step = border_step(engine, lin, 1e-3, 0.0)
    assert step.outcome is Outcome.INDEFINITE
    assert not flat(step.delta).any()
    with pytest.raises(DataError, match="cannot be worked out"):
        exact(engine, lin)


def test_an_indefinite_border_is_told() -> None:
    engine, model, point = bordered(SIZES["no local"])
    lin = engine.linearise(model, point, Loss())
    assert lin.border is not None
    H = lin.border.H.copy()
    H[1] = 2.0 * np.sqrt(H[0] * H[2])  # of the first two columns
    lin = replace(lin, border=replace(lin.border, H=H))
    assert border_step(engine, lin, 1e-3, 0.0).outcome is Outcome.INDEFINITE
    with pytest.raises(DataError, match="cannot be worked out"):
        exact(engine, lin)


class WithoutSlope(BorderedModel):
    """A derivative with respect to a common parameter is no number; the objective is finite."""

    def rows(self, point: Point, first: int, last: int, *out: np.ndarray) -> None:
        super().rows(point, first, last, *out)
        out[4][3] = np.nan


def test_what_cannot_be_solved_does_not_converge() -> None:
    engine, model, start = bordered(SIZES["local"])
    broken = WithoutSlope(model.layout, model.x, model.a, model.c, model.f)
    result = LevenbergMarquardt(max_iterations=100).solve(engine, broken, start)
    assert not result.converged
    assert "indefinite" in result.termination
    np.testing.assert_array_equal(flat(result.point), flat(start))


def test_a_local_parameter_that_only_its_block_could_tell_has_an_infinite_variance() -> None:
    """Two parameters of a block that only occur as their sum, and others."""
    engine, model, point = bordered(SIZES["local"])
    a = model.a.copy()
    rows = slice(*model.layout.start[4:6])
    a[rows, 1] = a[rows, 0]
    model = replace(model, a=a)
    lin = engine.linearise(model, point, Loss())
    found = exact(engine, lin)
    diagonal = np.diag(found.local[4])
    assert np.isinf(diagonal[:2]).all()
    assert np.isfinite(diagonal[2])
    assert np.isfinite(np.delete(found.local, 4, axis=0)).all()
    step = border_step(engine, lin, 1e-3, 0.0)
    d = dense(model, point, Loss()).step(1e-3)
    np.testing.assert_allclose(flat(step.delta), d, rtol=1e-7, atol=1e-7 * np.abs(d).max())


def test_with_shared_parameters_too_what_nothing_determines_has_an_infinite_variance() -> None:
    """A block whose rows all have shared parameters of their own, and one without weight."""
    engine, model, point = bordered(Size(shared=11, p=1))
    layout = model.layout
    own, silent = slice(*layout.start[4:6]), slice(*layout.start[9:11])
    shared = layout.shared.copy()
    shared[own] = 11 + np.arange(own.stop - own.start)
    layout = replace(layout, shared=shared, n_shared=int(shared.max()) + 1)
    a = model.a.copy()
    a[silent] = 0.0
    model = replace(model, layout=layout, a=a)
    c, f = model.c.copy(), model.f.copy()
    f[own] = 0.0
    model = replace(model, c=c, f=f)
    point = point._replace(shared=np.concatenate([point.shared, np.ones(layout.n_shared - 11)]))
    found = exact(engine, engine.linearise(model, point, Loss()))
    assert np.isinf(found.local[[4, 9], 0, 0]).all()
    assert np.isfinite(np.delete(found.local, [4, 9], axis=0)).all()
    assert np.isinf(found.from_local[11:]).all()
    assert np.isfinite(found.from_local[:11]).all()
    assert np.isfinite(found.border).all()


@pytest.mark.parametrize("name", [n for n in SOLVERS if n not in ("schur-cg", "schur-dense")])
def test_other_solvers_refuse_what_they_do_not_know(name: str) -> None:
    engine, model, start = bordered(SIZES["local"])
    with pytest.raises(DataError, match="common parameters"):
        SOLVERS[name](loss=Loss(), max_iterations=5, tolerance=1e-8).solve(engine, model, start)


def test_so_do_samples_and_refits() -> None:
    engine, model, start = bordered(SIZES["shared"])
    lin = engine.linearise(model, start, Loss())
    with pytest.raises(DataError, match="common parameters"):
        sampled(engine, model, start, lin, Loss(), np.zeros(11, dtype=np.int32))
    with pytest.raises(DataError, match="common parameters"):
        refit_local(engine, model, start, Loss())


def test_many_panels_and_batches_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, model, point = bordered(SIZES["many columns"])
    d = dense(plain(model), point, Loss()).step(1e-3)
    monkeypatch.setattr("sfxproc.lsq.engine.BATCH_ROWS", 20)
    monkeypatch.setattr("sfxproc.lsq.border.direct.PANEL", 7)
    step = border_step(engine, engine.linearise(model, point, Loss()), 1e-3, 0.0)
    np.testing.assert_allclose(flat(step.delta), d, rtol=1e-9, atol=1e-9 * np.abs(d).max())
