"""Loops over the observed lines of one cell against plain NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sfxproc.kernels import powder_fit as kernels

COEFFICIENTS = {  # of h², k², l², hk, hl, kl in q², for each parameter
    1: [[1, 1, 1, 0, 0, 0]],
    2: [[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]],
    3: [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]],
    6: np.eye(6, dtype=int).tolist(),
}
CELL = {
    1: [0.0041],
    2: [0.0041, 0.0027],
    3: [0.0041, 0.0027, 0.0063],
    6: [0.0041, 0.0027, 0.0063, 0.0007, 0.0013, -0.0009],
}


def forms(p: int) -> np.ndarray:
    """(m, p) of the lines of CELL up to 0.3 Å⁻²."""
    h, k, l = np.array(list(itertools.product(range(-12, 13), repeat=3)), dtype=float).T
    products = np.stack([h * h, k * k, l * l, h * k, h * l, k * l], axis=1)
    found = np.unique(products @ np.array(COEFFICIENTS[p]).T, axis=0)
    q2 = found @ CELL[p]
    return found[(q2 > 0.0) & (q2 <= 0.3)]


def cells(p: int, n: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng([p, n])
    return np.array(CELL[p]) * np.exp(spread * rng.standard_normal((n, p)))


def nearest(calculated, q2):
    """Twin of `nearest`."""
    order = np.argsort(calculated, kind="stable")
    at = np.searchsorted(calculated[order], q2).clip(1, max(len(order) - 1, 1))
    below, above = order[at - 1], order[np.minimum(at, len(order) - 1)]
    near = np.where(q2 - calculated[below] <= calculated[above] - q2, below, above)
    return near, q2 - calculated[near]


def least_squares(rows, weight, delta):
    """Twin of `least_squares`."""
    A = (rows * weight[:, None]).T @ rows
    size = np.sqrt(np.maximum(np.diag(A), 1e-30))
    A = A / np.outer(size, size) + 1e-9 * np.eye(len(A))
    inverse = np.linalg.inv(A) / np.outer(size, size)
    return inverse @ (rows.T @ (weight * delta)), np.diag(inverse)


def refined(forms, q2, sigma, scales, at, normal, rounds, x):
    """Twin of `refine`."""
    for _ in range(rounds):
        near, delta = nearest(forms @ x, q2)
        z = np.abs(delta) / sigma
        scale = (np.partition(z, at)[at] / normal).clip(*scales)
        weight = (scale * sigma) ** -2.0 / (1.0 + (z / (3.0 * scale)) ** 2) ** 2
        step, _ = least_squares(forms[near], weight, delta)
        x = x + step
        if np.abs(forms[near] @ step).max() < 1e-3 * scales[0] * sigma[0]:
            break
    return x


def ratios(calculated, q2, sigma, neighbours, alpha, n_alpha):
    """Twin of `ratios`."""
    last = q2[-1]
    inside = calculated[calculated <= last + sigma.min(axis=0)[-1]]
    logs = np.log(last / np.minimum(inside, last)).sum()
    slope = (len(inside) + n_alpha) / (logs + n_alpha / alpha)
    density = slope * max(len(inside), len(q2)) / last * (q2 / last) ** (slope - 1.0)
    beyond = np.full(neighbours, np.inf)
    padded = np.concatenate([-beyond, calculated, beyond])
    near = padded[np.searchsorted(calculated, q2)[:, None] + np.arange(2 * neighbours)]
    z = (q2[:, None] - near) / sigma[:, :, None]
    return np.exp(-0.5 * z * z).sum(axis=2) / (np.sqrt(2.0 * np.pi) * sigma * density)


def occam(rows, weight, span, unfixed):
    """Twin of `occam`."""
    every = np.broadcast_to(rows, (len(weight), *rows.shape[1:]))
    A = np.einsum("cnp,cn,cnq->cpq", every, weight, every) * (span**2 / (2.0 * np.pi))
    return -0.5 * np.linalg.slogdet(A + unfixed * np.eye(rows.shape[2]))[1]


def observed(p: int, n: int, error: float) -> tuple[np.ndarray, np.ndarray]:
    """n of the first lines of CELL with errors, in σ; a tenth of them false."""
    rng = np.random.default_rng([p, n])
    q2 = np.unique((forms(p) @ CELL[p]).round(9))[: 3 * n // 2]
    q2 = np.sort(rng.permutation(q2)[:n])
    sigma = 9e-5 + 9e-4 * q2
    q2 = q2 + error * sigma * rng.standard_normal(len(q2))
    q2[::10] += 8.0 * sigma[::10]
    return np.sort(q2), sigma


def near(calculated, q2):
    """The kernel."""
    found, delta = np.empty(len(q2), np.int64), np.empty(len(q2))
    kernels.nearest(calculated, q2, kernels.bins(q2), found, delta)
    return found, delta


@pytest.mark.parametrize("m", [1, 2, 30, 2000])
def test_nearest(m: int) -> None:
    rng = np.random.default_rng(m)
    for _ in range(30):
        calculated = rng.uniform(-0.1, 1.3, m)
        q2 = np.sort(rng.uniform(0.05, 1.0, 40))
        for a, b in zip(near(calculated, q2), nearest(calculated, q2), strict=True):
            np.testing.assert_array_equal(a, b)


def test_nearest_of_equal_lines_and_at_equal_distances() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        calculated = rng.integers(-2, 40, rng.integers(1, 60)) / 32.0
        q2 = np.sort(rng.integers(1, 64, 20)) / 64.0
        for a, b in zip(near(calculated, q2), nearest(calculated, q2), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(near(calculated, q2[:0])[0]) == 0


@pytest.mark.parametrize("p", CELL)
def test_least_squares(p: int) -> None:
    rng = np.random.default_rng(p)
    rows = rng.integers(-9, 9, (30, p)).astype(float)
    weight, delta = rng.uniform(0.0, 1e7, 30), 1e-4 * rng.standard_normal(30)
    step, variance = np.empty(p), np.empty(p)
    kernels.least_squares(rows, weight, delta, step, variance)
    for a, b in zip((step, variance), least_squares(rows, weight, delta), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_what_no_row_fixes_stays() -> None:
    rows = np.array([[1.0, 0.0], [4.0, 0.0]])
    step, variance = np.empty(2), np.empty(2)
    kernels.least_squares(rows, np.ones(2), np.array([1.0, 4.0]), step, variance)
    np.testing.assert_allclose(step, [1.0, 0.0], rtol=1e-8)
    assert np.isfinite(variance).all()


@pytest.mark.parametrize("p", CELL)
@pytest.mark.parametrize("error", [0.03, 1.0])
@pytest.mark.parametrize(("quantile", "normal"), [(0.5, 0.6745), (0.3, 0.3853)])
def test_refinement(p: int, error: float, quantile: float, normal: float) -> None:
    n = 12 if p == 1 else 40
    q2, sigma = observed(p, n, error)
    scales, at = np.array([0.01, 1.4]), round(quantile * (n - 1))
    for start in cells(p, 10, 0.003):
        found = start.copy()
        kernels.refine(forms(p), q2, sigma, scales, at, normal, 10, found)
        expected = refined(forms(p), q2, sigma, scales, at, normal, 10, start)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


def test_a_cell_that_is_not_finite_stays_so() -> None:
    q2, sigma = observed(3, 20, 0.1)
    x = np.array([np.nan, 0.003, 0.006])
    kernels.refine(forms(3), q2, sigma, np.array([0.01, 1.4]), 9, 0.6745, 10, x)
    assert not np.isfinite(x).all()


@pytest.mark.parametrize("m", [0, 1, 30, 600])
def test_ratios(m: int) -> None:
    rng = np.random.default_rng(m)
    calculated = np.sort(rng.uniform(0.01, 1.1, m))
    q2 = np.sort(rng.uniform(0.02, 1.0, 50))
    sigma = 2.0 ** np.arange(-9.0, 2.0)[:, None] * (1e-3 + 1e-2 * q2)
    found = np.empty(sigma.shape)
    kernels.ratios(calculated, q2, sigma, 8, 1.5, 8.0, found)
    expected = ratios(calculated, q2, sigma, 8, 1.5, 8.0)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-290)


@pytest.mark.parametrize("p", CELL)
def test_occam(p: int) -> None:
    rng = np.random.default_rng(p)
    rows = rng.integers(-9, 9, (7, 30, p)).astype(float)
    weight = rng.uniform(0.0, 1e9, (7, 30))
    weight[3] = 0.0
    for given in (rows, rows[:1]):
        found = np.empty(7)
        kernels.occam(given, weight, 0.02, np.exp(10.0), found)
        np.testing.assert_allclose(found, occam(given, weight, 0.02, np.exp(10.0)), rtol=1e-12)
