"""The loops over an arrow's rows against their NumPy twins."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sfxproc.kernels import arrow, covariance
from tests.twins import arrow as arrow_numpy

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
LOSSES = [arrow.NO_LOSS, arrow.HUBER, arrow.CAUCHY]
N_SHARED = 7


def rows_of(p: int, seed: int = 1) -> SimpleNamespace:
    """Nine blocks of 0 … 15 rows."""
    rng = np.random.default_rng(seed)
    number = np.array([3, 0, 15, 1, 8, 2, 0, 5, 4])
    n = int(number.sum())
    return SimpleNamespace(
        start=np.concatenate([[0], np.cumsum(number)]).astype(np.int64),
        shared=rng.integers(0, N_SHARED, n).astype(np.int32),
        r=rng.normal(size=n) * 3.0,
        d=np.abs(rng.normal(size=n)) * 3.0,
        a=rng.normal(size=(n, p)),
        c=rng.normal(size=n),
        e=rng.normal(size=(n, p)),
        v=rng.normal(size=(len(number), p)),
        u=rng.normal(size=N_SHARED),
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("k", [0.5, 3.0])
def test_rho_and_weight(loss: int, k: float) -> None:
    """ρ and its weight agree with the twin, and the weight is ρ′(d)/2d."""
    d = np.concatenate([np.linspace(-8, 8, 41), [1e-9, k, np.nextafter(k, 9), 1e150]])
    got = np.array([arrow.rho_and_weight(x, loss, k) for x in d]).T
    np.testing.assert_allclose(got, arrow_numpy.rho_and_weight(d, loss, k), rtol=1e-14)
    assert arrow.sum_rho(d, loss, k) == pytest.approx(got[0].sum(), rel=1e-14)
    x, step = np.array([0.2, 0.7, 2.0, 2.9, 5.0]), 1e-6
    ends = [arrow_numpy.rho_and_weight(x + s, loss, k)[0] for s in (-step, step)]
    slope = (ends[1] - ends[0]) / (2 * step)
    np.testing.assert_allclose(
        arrow_numpy.rho_and_weight(x, loss, k)[1], slope / (2 * x), rtol=1e-8
    )


@pytest.mark.parametrize("loss", [arrow.NO_LOSS, arrow.HUBER, arrow.CAUCHY])
def test_rho_by_block(loss: int) -> None:
    start = np.array([0, 3, 3, 8, 12])
    d = np.random.default_rng(5).normal(scale=4.0, size=9)
    out = np.full(4, -1.0)
    arrow.rho_by_block(start, 1, 4, d, loss, 2.0, out)
    twin = arrow_numpy.rho_by_block(start, 1, 4, d, loss, 2.0)
    np.testing.assert_allclose(out, [-1.0, *twin], rtol=1e-14)
    assert twin[0] == 0.0


def test_dot_by_chunk() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 11, 3))
    chunk, out = np.array([0, 4, 4, 9, 11]), np.full((4, 3), np.nan)
    arrow.dot_by_chunk(chunk, a, b, out)
    np.testing.assert_allclose(out, arrow_numpy.dot_by_chunk(chunk, a, b), **CLOSE)
    assert not out[1].any()


def test_sum_by_component() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(11, 2))
    chunk = np.array([0, 4, 4, 11])
    component = np.array([0, 1, 1, -1, 0, 2, 0, 0, -1, 1, 2], dtype=np.int32)
    out = np.zeros((3, 3, 2))
    arrow.sum_by_component(chunk, component, a, out)
    np.testing.assert_allclose(out, arrow_numpy.sum_by_component(chunk, component, a, 3), **CLOSE)


@pytest.mark.parametrize("p", [1, 2, 5])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("storage", [np.float32, np.float64])
def test_accumulate(p: int, loss: int, storage: type) -> None:
    x = rows_of(p)
    n = len(x.start) - 1
    C, g = np.full((n, p, p), np.nan), np.full((n, p), np.nan)
    e, D, q = np.full((len(x.r), p), np.nan, storage), np.zeros(N_SHARED), np.zeros(N_SHARED)
    totals = np.zeros(2)
    for first, last in [(0, 4), (4, 9)]:  # as batches do
        at = slice(x.start[first], x.start[last])
        totals += arrow.arrow_kernels(p).accumulate(
            x.start, x.shared, first, last, x.r[at], x.d[at], x.a[at], x.c[at], loss, 1.5,
            C, g, e, D, q,
        )  # fmt: skip
    twin = arrow_numpy.accumulate(
        x.start, x.shared, 0, n, x.r, x.d, x.a, x.c, loss, 1.5, N_SHARED, storage
    )
    for got, expected in zip((C, g, D, q), (twin.C, twin.g, twin.D, twin.q), strict=True):
        np.testing.assert_allclose(got, expected, **CLOSE)
    np.testing.assert_array_equal(e, twin.e)
    np.testing.assert_allclose(totals, [twin.objective, twin.chi2], rtol=1e-13)


@pytest.mark.parametrize("p", [1, 2, 5])
@pytest.mark.parametrize("storage", [np.float32, np.float64])
def test_scatter_gather_outer(p: int, storage: type) -> None:
    x = rows_of(p)
    e, n = x.e.astype(storage), len(x.start) - 1
    kernels = arrow.arrow_kernels(p)
    t, out, blocks = np.zeros(N_SHARED), np.full((n, p), np.nan), np.full((n, p, p), np.nan)
    for first, last in [(0, 4), (4, n)]:
        kernels.scatter(x.start, x.shared, first, last, e, x.v, t)
        kernels.gather(x.start, x.shared, first, last, e, x.u, out)
        kernels.outer(x.start, x.shared, first, last, e, x.u, blocks)
    rows = (x.start, x.shared, 0, n, e)
    np.testing.assert_allclose(t, arrow_numpy.scatter(*rows, x.v, N_SHARED), **CLOSE)
    np.testing.assert_allclose(out, arrow_numpy.gather(*rows, x.u), **CLOSE)
    np.testing.assert_allclose(blocks, arrow_numpy.outer(*rows, x.u), **CLOSE)


def test_scatter_and_gather_are_adjoint() -> None:
    """(Eᵀv)·u = v·(Eu)."""
    x = rows_of(3)
    rows = (x.start, x.shared, 0, len(x.start) - 1, x.e)
    t, out = np.zeros(N_SHARED), np.empty_like(x.v)
    arrow.arrow_kernels(3).scatter(*rows, x.v, t)
    arrow.arrow_kernels(3).gather(*rows, x.u, out)
    assert t @ x.u == pytest.approx((out * x.v).sum(), rel=1e-12)


@pytest.mark.parametrize("p", [1, 3])
def test_spread(p: int) -> None:
    x = rows_of(p)
    n = len(x.start) - 1
    V, t = np.random.default_rng(4).normal(size=(n, p, p)), np.zeros(N_SHARED)
    for first, last in [(0, 4), (4, n)]:
        arrow.arrow_kernels(p).spread(x.start, x.shared, first, last, x.e, V, t)
    expected = arrow_numpy.spread(x.start, x.shared, 0, n, x.e, V, N_SHARED)
    np.testing.assert_allclose(t, expected, **CLOSE)


@pytest.mark.parametrize("loss", LOSSES)
def test_noise(loss: int) -> None:
    """Does not depend on how the blocks are dealt out."""
    p, x = 2, rows_of(2)
    n = len(x.start) - 1
    prior = np.random.default_rng(4).uniform(0, 2, (n, p))
    g, q = np.full((n, p), np.nan), np.zeros(N_SHARED)
    for first, last in [(0, 4), (4, n)]:
        at = slice(x.start[first], x.start[last])
        arrow.arrow_kernels(p).noise(
            x.start, x.shared, first, last, x.d[at], x.a[at], x.c[at], loss, 1.5, prior, 3, 100,
            g, q,
        )  # fmt: skip
    expected = arrow_numpy.noise(
        x.start, x.shared, x.d, x.a, x.c, loss, 1.5, prior, 3, 100, N_SHARED
    )
    np.testing.assert_allclose(g, expected[0], **CLOSE)
    np.testing.assert_allclose(q, expected[1], **CLOSE)


def test_noise_has_no_pattern() -> None:
    """Signs of 20,000 rows: mean and neighbours' correlation within 4 of their errors, 0.007."""
    start = np.arange(0, 20_001, 20)
    found = [arrow_numpy.signs(start, 2, seed, 0)[0] for seed in (0, 1)]
    for a in (found[0], found[1], found[0] * found[1]):
        assert abs(a.mean()) < 0.028
        assert abs(np.mean(a[1:] * a[:-1])) < 0.028
        assert abs(np.mean(a[20:] * a[:-20])) < 0.028


def test_pairs_of_rows() -> None:
    """The dense Schur complement and the variances it implies; a block may hold h twice."""
    rng = np.random.default_rng(5)
    p, n = 2, 6
    begin = np.array([0, 4, 4, 9, 10])
    block = np.array([0, 2, 2, 5, 1, 1, 3, 4, 5, 0])
    e = rng.normal(size=(10, p))
    inverse_D = rng.uniform(0.5, 2.0, 4)
    S = rng.normal(size=(n * p, n * p))
    S = S + S.T
    expected = arrow_numpy.subtract_pairs(begin, block, e, inverse_D, S)
    for first, last in [(0, 3), (3, 3), (3, n)]:  # as threads do
        covariance.subtract_pairs(begin, block, e, inverse_D, first, last, S)
    index = np.arange(n * p) // p
    lower = index[:, None] >= index  # whole blocks on the diagonal
    np.testing.assert_allclose(S[lower], expected[lower], **CLOSE)
    covariance.mirror(S)
    np.testing.assert_allclose(S, expected, **CLOSE)
    V, out = S @ S.T, np.full(4, np.nan)
    for first, last in [(0, 1), (1, 4)]:
        covariance.quadratic_forms(begin, block, e, inverse_D, V, first, last, out)
    np.testing.assert_allclose(
        out, arrow_numpy.quadratic_forms(begin, block, e, inverse_D, V), **CLOSE
    )


@pytest.mark.parametrize("n", [1, 5, 64, 65, 200])
def test_mirror(n: int) -> None:
    S = np.random.default_rng(n).normal(size=(n, n))
    expected = np.tril(S) + np.tril(S, -1).T
    covariance.mirror(S)
    np.testing.assert_array_equal(S, expected)


@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_inverses_of_blocks(p: int) -> None:
    rng = np.random.default_rng(p)
    J = rng.normal(size=(50, 8, p))
    blocks = np.einsum("nij,nik->njk", J, J)
    free = rng.random((50, p)) < 0.8
    found = np.zeros_like(blocks)
    arrow.invert_blocks(blocks, free, 1e-9, found)
    for block, used, inverse in zip(blocks, free, found, strict=True):
        f = np.flatnonzero(used)
        expected = np.zeros((p, p))
        expected[np.ix_(f, f)] = np.linalg.inv(block[np.ix_(f, f)])
        np.testing.assert_allclose(inverse, expected, rtol=1e-8, atol=1e-12)


def test_a_block_that_is_not_definite_is_taken_as_its_diagonal() -> None:
    blocks = np.array([[[1.0, 2.0], [2.0, 4.0]], [[0.0, 0.0], [0.0, 4.0]]])
    found = np.zeros_like(blocks)
    arrow.invert_blocks(blocks, np.ones((2, 2), dtype=bool), 1e-6, found)
    np.testing.assert_array_equal(found[0], np.diag([1.0, 0.25]))
    np.testing.assert_array_equal(found[1], np.diag([0.0, 0.25]))
