"""Loops over the rows of a bordered problem against the same in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.kernels.arrow import CAUCHY, HUBER, NO_LOSS
from sfxproc.kernels.border import (
    FIXED,
    UNDETERMINED,
    USED,
    border_kernels,
    factor_blocks,
    solve_rows,
    subtract_packed,
    touched,
    unpack,
)
from tests.twins.arrow import blocks_of, rho_and_weight

N, P, W, K, PATTERNS = 9, 3, 4, 11, 6
START = np.array([0, 5, 5, 12, 20, 23, 31, 40, 44, 50])
Array = np.ndarray


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def columns_of(rng: np.random.Generator) -> Array:
    columns = np.stack([rng.permutation(K)[:W] for _ in range(PATTERNS)]).astype(np.int32)
    columns[2, 1] = -1
    columns[3, 2] = columns[3, 0]
    return columns


def dense_f(columns: Array, pattern: Array, f: Array) -> Array:
    """(rows, K) derivatives by column: the twin of all that scatters."""
    out = np.zeros((len(f), K + 1))
    np.add.at(out, (np.arange(len(f))[:, None], columns[pattern]), f)
    return out[:, :K]


def packed(A: Array) -> Array:
    return np.asarray(A[np.tril_indices(len(A))])


def positive(rng: np.random.Generator, n: int, p: int) -> Array:
    A = rng.normal(size=(n, p, p + 2))
    return np.asarray(A @ A.transpose(0, 2, 1))


@pytest.mark.parametrize("loss", [NO_LOSS, HUBER, CAUCHY])
def test_accumulate_and_add_patterns(loss: int, rng: np.random.Generator) -> None:
    first, last = 2, 7  # of a chunk that begins with block 1
    columns, pattern = columns_of(rng), rng.integers(0, PATTERNS, 50).astype(np.int32)
    free = np.arange(K) != 5
    begin = np.zeros(N, dtype=np.int64)
    for column in (np.empty(0, np.int32), np.empty(200, np.int32)):
        scratch = np.full(PATTERNS, -1), np.full(K, -1)
        touched(START, pattern, columns, free, 1, N, *scratch, begin, column)
    for m in range(1, N):
        own = columns[pattern[START[m] : START[m + 1]]]
        expected = set(own[own >= 0].tolist()) - {5}
        found = column[begin[m - 1] : begin[m]].tolist()
        assert len(found) == len(set(found))
        assert set(found) == expected
    rows = slice(START[first], START[last])
    n = rows.stop - rows.start
    r, a, f = rng.normal(size=n), rng.normal(size=(n, P)), rng.normal(size=(n, W))
    C, g, F = np.zeros((N, P, P)), np.zeros((N, P)), np.zeros((int(begin[-1]), P))
    weight = np.empty(n)
    kernels = border_kernels(P, W)
    objective, chi2 = kernels.accumulate(
        START,
        pattern,
        columns,
        first,
        last,
        r,
        np.abs(r),
        a,
        f,
        loss,
        0.8,
        1,
        begin,
        column,
        np.full(K, -1),
        C,
        g,
        F,
        weight,
    )
    rho, w = rho_and_weight(np.abs(r), loss, 0.8)
    assert (objective, chi2) == pytest.approx((rho.sum(), r @ r))
    np.testing.assert_allclose(weight, w)
    full, block = dense_f(columns, pattern[rows], f), blocks_of(START, first, last)
    for m in range(first, last):
        at = block == m
        np.testing.assert_allclose(C[m], (a[at].T * w[at]) @ a[at], atol=1e-13)
        np.testing.assert_allclose(g[m], a[at].T @ (w[at] * r[at]), atol=1e-13)
        own = slice(begin[m - 1], begin[m])
        expected = (full[at].T * w[at]) @ a[at]
        np.testing.assert_allclose(F[own], expected[column[own]], atol=1e-13)
    assert not F[: begin[first - 1]].any()
    H, q = np.ones(K * (K + 1) // 2), np.ones(K)
    order = np.argsort(pattern[rows], kind="stable")
    kernels.add_patterns(order, pattern[rows], columns, weight, r, f, H, q)
    np.testing.assert_allclose(H - 1.0, packed((full.T * w) @ full), atol=1e-12)
    np.testing.assert_allclose(q - 1.0, full.T @ (w * r), atol=1e-12)


def test_factors_solve_and_make_panels(rng: np.random.Generator) -> None:
    C, free = positive(rng, N, P), np.ones((N, P), dtype=bool)
    free[3, 1] = free[6] = False
    C[4] = np.outer(v := np.array([1.0, -2.0, 3.0]), v) + np.diag([0.0, 0.0, 1.0])
    L, state = np.empty_like(C), np.empty((N, P), dtype=np.int8)
    assert factor_blocks(C, free, 1.0, 1e-10, L, state) == 0
    assert state[4].tolist() == [USED, UNDETERMINED, USED]
    assert state[3].tolist() == [USED, FIXED, USED]
    assert (state[6] == FIXED).all()
    inverse = np.zeros_like(C)
    for m in range(N):
        used = np.flatnonzero(state[m] == USED)
        at = np.ix_(used, used)
        inverse[m][at] = np.linalg.inv(C[m][at])
        own = np.eye(P)
        solve_rows(L[m], state[m], own)
        np.testing.assert_allclose(own, inverse[m], atol=1e-11 * np.abs(inverse[m]).max())
    first, last, chunk = 2, 6, 1
    count = rng.integers(0, 6, N - chunk)
    begin = np.concatenate([[0], np.cumsum(count)])
    column = np.concatenate([rng.permutation(K)[:n] for n in count]).astype(np.int32)
    F, g, z = rng.normal(size=(len(column), P)), rng.normal(size=(N, P)), rng.normal(size=K)
    kernels = border_kernels(P, W)
    X, y = np.zeros((K, (last - first) * P)), np.empty((last - first) * P)
    kernels.panel(L, state, begin, column, F, g, first, last, chunk, np.arange(K), X, y)
    left, right = np.zeros((K, K)), np.zeros(K)
    for m in range(first, last):
        own = np.zeros((K, P))
        own[column[begin[m - chunk] : begin[m - chunk + 1]]] = F[
            begin[m - chunk] : begin[m - chunk + 1]
        ]
        left += own @ inverse[m] @ own.T
        right += own @ inverse[m] @ g[m]
    np.testing.assert_allclose(X @ X.T, left, atol=1e-10 * np.abs(left).max())
    np.testing.assert_allclose(X @ y, right, atol=1e-10 * np.abs(right).max())
    x = np.full((N, P), np.nan)
    kernels.back(L, state, begin, column, F, g, z, chunk, N, x)
    for m in range(chunk, N):
        at = slice(begin[m - chunk], begin[m - chunk + 1])
        expected = -inverse[m] @ (g[m] + F[at].T @ z[column[at]])
        np.testing.assert_allclose(x[m], expected, atol=1e-10 * (1.0 + np.abs(expected).max()))


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
def test_blocks_that_are_indefinite_are_counted(value: float, rng: np.random.Generator) -> None:
    C, free = positive(rng, N, P), np.ones((N, P), dtype=bool)
    C[2, 1, 1] = value if value != np.inf else C[2, 1, 1]
    C[5, 2, 0] = C[5, 0, 2] = 100.0
    L, state = np.empty_like(C), np.empty((N, P), dtype=np.int8)
    assert factor_blocks(C, free, 1.0, 1e-10, L, state) == (1 if value == np.inf else 2)
    free[[2, 5]] = False  # what is fixed does no harm
    assert factor_blocks(C, free, 1.0, 1e-10, L, state) == 0


def test_damping_stretches_the_diagonal(rng: np.random.Generator) -> None:
    C, free = positive(rng, 1, P), np.ones((1, P), dtype=bool)
    L, state = np.empty_like(C), np.empty((1, P), dtype=np.int8)
    factor_blocks(C, free, 1.5, 1e-10, L, state)
    np.testing.assert_allclose(L[0] @ L[0].T, C[0] + 0.5 * np.diag(np.diag(C[0])))


def test_packed_matrices(rng: np.random.Generator) -> None:
    A = positive(rng, 1, K)[0]
    out = np.empty((K, K))
    unpack(packed(A), out)
    np.testing.assert_array_equal(out, A)
    columns = np.array([1, 4, 7])
    R = positive(rng, 1, 3)[0]
    left = packed(A)
    subtract_packed(R, columns, left)
    A[np.ix_(columns, columns)] -= R
    np.testing.assert_allclose(left, packed(A))
