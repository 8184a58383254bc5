"""Covariances against the inverse of the whole Fisher matrix in the gauge subspace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.linalg import null_space

from sfxproc.lsq import Engine, Layout, LevenbergMarquardt, Linearisation, Loss, Point
from sfxproc.lsq.covariance import Covariance, exact
from sfxproc.lsq.sampled import sampled
from sfxproc.lsq.schur_dense import Factor
from tests.lsq.changes import CHANGES, in_two_parts, with_priors, without_gauge
from tests.problems import LampModel, lamp_data, lamp_problem, on_ranks, written_out

LOSS = Loss("huber", 2.0)
Change = Callable[[LampModel], LampModel]


def linearised(change: Change) -> tuple[Engine, LampModel, Point, Linearisation]:
    engine, model, start = lamp_problem(lamp_data())
    model = change(model)
    extra = np.ones(model.layout.n_shared - len(start.shared))
    point = Point(start.local, np.concatenate([start.shared, extra]))
    return engine, model, point, engine.linearise(model, point, LOSS)


def fisher_inverse(model: LampModel, point: Point) -> np.ndarray:
    """(n, n) Z (ZᵀHZ)⁻¹Zᵀ, Z a basis of what may move with the gauge held."""
    w = written_out(model, point, LOSS)
    N = w.N[:, w.used] if len(w.N) else np.zeros((0, int(w.used.sum())))
    Z = null_space(N) if N.any() else np.eye(N.shape[1])
    V = np.zeros_like(w.H)
    inside = np.linalg.pinv(Z.T @ w.H[np.ix_(w.used, w.used)] @ Z, hermitian=True)
    V[np.ix_(w.used, w.used)] = Z @ inside @ Z.T
    return V


def shared_variance(lin: Linearisation, found: Covariance) -> np.ndarray:
    return np.divide(1.0, lin.D, out=np.zeros_like(lin.D), where=lin.D > 0) + found.from_local


@pytest.mark.parametrize("change", CHANGES)
def test_exact_covariances_are_those_of_the_whole_fisher_matrix(change: Change) -> None:
    engine, model, point, lin = linearised(change)
    found, V = exact(engine, lin), fisher_inverse(model, point)
    n, p = lin.g.shape
    index = np.arange(n * p).reshape(n, p)
    blocks = V[index[:, :, None], index[:, None, :]]
    np.testing.assert_allclose(found.local, blocks, rtol=1e-7, atol=1e-10 * blocks.max())
    assert not found.local[~model.layout.free].any()
    np.testing.assert_allclose(
        shared_variance(lin, found), np.diag(V)[n * p :], rtol=1e-8, atol=1e-14
    )
    assert found.relative_error == 0.0


@pytest.mark.parametrize("size", [2, 3, 9])
def test_exact_covariances_on_ranks(size: int) -> None:
    data = lamp_data()

    def work(comm: Any) -> Covariance:
        engine, model, start = lamp_problem(data, comm)
        return exact(engine, engine.linearise(model, start, LOSS))

    (serial,), parts = on_ranks(1, work), on_ranks(size, work)
    np.testing.assert_array_equal(np.concatenate([p.local for p in parts]), serial.local)
    for part in parts:
        np.testing.assert_array_equal(part.from_local, serial.from_local)


def test_covariances_are_the_spread_of_the_answers() -> None:
    """Over 200 repeats of the same measurement: standard deviations within 15 % (3 of their own
    errors, 1/√400), on the average within 2 %."""
    data = lamp_data(photographs=15, lamps=12, each=10)
    engine, model, _ = lamp_problem(data)
    n = model.layout.n_local
    clean = np.zeros(model.layout.n_rows)
    model = replace(model, x=clean)  # r = −y w
    model.rows(data.truth, 0, n, clean, np.empty(0), np.empty((len(clean), 3)), clean.copy())
    clean = -clean * data.sigma
    rng = np.random.default_rng(5)
    solver = LevenbergMarquardt(cg_tolerance=1e-6)
    answers = []
    for _ in range(200):
        noisy = replace(model, x=clean + rng.normal(0.0, data.sigma, len(clean)))
        answers.append(solver.solve(engine, noisy, data.truth).point)
    lin = engine.linearise(replace(model, x=clean), data.truth, Loss())
    found = exact(engine, lin)
    for spread, expected in [
        (np.std([a.shared for a in answers], axis=0), np.sqrt(shared_variance(lin, found))),
        (np.std([a.local for a in answers], axis=0), np.sqrt(np.einsum("mii->mi", found.local))),
    ]:
        ratio = spread / expected
        assert np.mean(ratio) == pytest.approx(1.0, abs=0.02)
        assert np.abs(ratio - 1.0).max() < 0.2


@pytest.mark.parametrize("change", [c for c in CHANGES if c is not without_gauge])
def test_sampled_covariances_tend_to_the_exact_ones(change: Change) -> None:
    """400 samples: sums over a stratum to a few of 1/√400, a value to how alike a stratum is.

    A direction that only a weak prior holds is beyond the accuracy of its conjugate gradients.
    """
    engine, model, point, lin = linearised(change)
    whole = exact(engine, lin)
    strata = (np.arange(model.layout.n_shared) % 2).astype(np.int32)
    found = sampled(engine, model, point, lin, LOSS, strata, samples=400)
    assert 0.0 < found.relative_error < 0.1
    for stratum in (0, 1):
        at = strata == stratum
        ratio = (found.from_local * lin.D)[at].sum() / (whole.from_local * lin.D)[at].sum()
        assert ratio == pytest.approx(1.0, abs=4.0 * found.relative_error)
    used = whole.from_local > 0
    np.testing.assert_allclose(
        np.sqrt(found.from_local[used] / whole.from_local[used]), 1.0, atol=0.4
    )
    diagonal = [np.einsum("mii->mi", c.local) for c in (found, whole)]
    free = model.layout.free
    assert not diagonal[0][~free].any()
    for k in range(free.shape[1]):
        at = free[:, k]
        if at.any():
            ratio = np.sqrt(diagonal[0][at, k] / diagonal[1][at, k])
            assert np.mean(ratio) == pytest.approx(1.0, abs=0.06)


def test_the_error_of_sampling_falls_with_the_number_of_samples() -> None:
    """It falls with the square root of their number."""
    engine, model, point, lin = linearised(in_two_parts)
    strata = np.zeros(model.layout.n_shared, dtype=np.int32)
    many = sampled(engine, model, point, lin, LOSS, strata, samples=160)
    one = sampled(engine, model, point, lin, LOSS, strata, samples=16)
    assert one.relative_error / many.relative_error == pytest.approx(np.sqrt(10.0), rel=0.5)


@pytest.mark.parametrize("size", [2, 3, 9])
def test_sampled_covariances_have_the_same_bits_on_ranks(size: int) -> None:
    data = lamp_data()

    def work(comm: Any) -> Covariance:
        engine, model, start = lamp_problem(data, comm, threads=comm.size)
        model = with_priors_of_the_whole(model, engine)
        lin = engine.linearise(model, start, LOSS)
        strata = (np.arange(model.layout.n_shared) % 2).astype(np.int32)
        return sampled(engine, model, start, lin, LOSS, strata)

    (serial,), parts = on_ranks(1, work), on_ranks(size, work)
    np.testing.assert_array_equal(np.concatenate([p.local for p in parts]), serial.local)
    for part in parts:
        np.testing.assert_array_equal(part.from_local, serial.from_local)
        assert part.relative_error == serial.relative_error


def with_priors_of_the_whole(model: LampModel, engine: Engine) -> LampModel:
    """Priors that depend on the block's number in the whole job."""
    first = engine.sums.place(model.layout.n_local)
    number = first + np.arange(model.layout.n_local)
    weight = np.outer(number, [0.0, 1.0, 2.0])
    return replace(model, layout=replace(model.layout, prior_weight=weight))


def damped_layout(n: int, gauge: bool) -> Layout:
    """n local blocks of one parameter each, all free."""
    _, model, _ = lamp_problem(lamp_data())
    zeros = np.zeros((n, 1))
    return replace(
        model.layout,
        start=np.zeros(n + 1, dtype=np.int64),
        free=zeros == 0,
        prior_centre=zeros,
        prior_weight=zeros,
        component=np.zeros(n, dtype=np.int32),
        gauge=(0,) if gauge else (),
    )


def test_factor() -> None:
    """Solutions and inverses in the gauge subspace, A regular or singular along the gauge."""
    rng = np.random.default_rng(1)
    A = rng.normal(size=(8, 8))
    A = A @ A.T * np.outer(s := 10.0 ** rng.uniform(-2, 2, 8), s)
    N, b = np.ones((1, 8)), rng.normal(size=8)
    Z = null_space(N)
    flat = A - A @ N.T @ N @ A / (N @ A @ N.T)
    for S, gauge in [(A, False), (A, True), (flat, True)]:
        expected = Z @ np.linalg.inv(Z.T @ S @ Z) @ Z.T if gauge else np.linalg.inv(S)
        size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        factor = Factor.of(np.tril(S), damped_layout(8, gauge))
        np.testing.assert_allclose(factor.held(b), expected @ b, atol=1e-6 * np.abs(expected).max())
        V = factor.covariance()
        np.testing.assert_allclose(V / size, expected / size, atol=1e-6)


def test_what_the_data_do_not_determine_has_a_very_large_variance() -> None:
    """Two parameters of which only the sum is known, and another."""
    S = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 4.0]])
    V = Factor.of(S, damped_layout(3, gauge=False)).covariance()
    assert V[2, 2] == pytest.approx(0.25)
    assert V[0, 0] > 1e6
    assert V[1, 1] > 1e6


def test_priors_are_used() -> None:
    """More is known with a prior than without."""
    free = exact(linearised(CHANGES[0])[0], linearised(CHANGES[0])[3])
    held = exact(linearised(with_priors)[0], linearised(with_priors)[3])
    assert held.from_local.sum() < free.from_local.sum()
