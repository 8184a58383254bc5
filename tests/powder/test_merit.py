"""Figures of merit: by hand, and what they prefer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sfxproc.errors import DataError
from sfxproc.powder.merit import merits, ratios, ratios_of_nearest, weigh

BASIS = np.array([np.diag(row) for row in np.eye(3)])
H = np.array(list(itertools.product(range(13), repeat=3)))[1:] ** 2.0
X = np.array([0.0041, 0.0027, 0.0063])
Q2 = np.sort(H @ X)[[0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 18, 19, 20, 22, 23, 25]]
SIGMA = 1e-4 + 1e-3 * Q2


def test_by_hand() -> None:
    q2 = Q2 + np.where(np.arange(20) % 2, 0.5, -0.5) * SIGMA * 0.1
    found = merits(H, BASIS, q2, SIGMA, X[None])
    delta = np.abs(q2[:, None] - H @ X).min(axis=1)
    n = int(np.sum(q2[-1] + SIGMA[-1] >= H @ X))
    np.testing.assert_allclose(np.abs(found.delta[0]), delta, atol=1e-15)
    np.testing.assert_allclose(H[found.near[0]] @ X, q2 - found.delta[0], atol=1e-15)
    assert found.n_calculated[0] == n
    assert found.n_explained[0] == 20
    # errors are below the floor, so that M20 is that of errors as large as σ
    assert found.m20[0] == pytest.approx(q2[-1] / (2 * SIGMA.mean() * n))
    t = 3 * n * np.sqrt(q2 / q2[-1]) / q2[-1] * (delta + SIGMA)
    assert found.information[0] == pytest.approx(np.log(1 + 1 / t).sum())
    # density of the distance if the line is right, and to the nearest of lines at random
    right = 2 / np.sqrt(2 * np.pi) / SIGMA * np.exp(-((delta / SIGMA) ** 2) / 2)
    rho = 1.5 * n / q2[-1] * np.sqrt(q2 / q2[-1])
    random = 2 * rho * np.exp(-2 * rho * delta)
    ratio = np.minimum(right / random, 2 / np.sqrt(2 * np.pi) / SIGMA / (2 * rho))
    expected = np.log(0.05 + 0.95 * ratio).sum()
    assert found.likelihood_ratio[0] == pytest.approx(expected)
    assert 3 * 4 < found.likelihood_ratio[0] - found.evidence[0] < 3 * 9


def test_exact_lines_do_not_make_it_infinite_nor_false_ones_ruin_it() -> None:
    lines = np.sort(H @ X)[:26]
    gap = int(np.argmax(np.diff(lines) / (1e-4 + 1e-3 * lines[1:])))
    false = np.sort(np.append(Q2[:-1], lines[gap : gap + 2].mean()))
    exact = merits(H, BASIS, Q2, SIGMA, X[None])
    one_false = merits(H, BASIS, false, 1e-4 + 1e-3 * false, X[None])
    assert np.isfinite(exact.m20[0])
    assert one_false.n_explained[0] == 19
    assert exact.evidence[0] - 12 < one_false.evidence[0] < exact.evidence[0]
    assert one_false.m20[0] < exact.m20[0]


def test_the_cell_is_above_its_multiples_parts_and_strangers() -> None:
    """An axis doubled explains every line as well, one halved loses some."""
    cells = X * np.array([[1, 1, 1], [0.25, 1, 1], [1, 0.25, 1], [1, 1, 4], [1.1, 0.93, 1.05]])
    found = merits(H, BASIS, Q2, SIGMA, cells)
    assert found.n_explained[1] == found.n_explained[2] == 20
    for figure in (found.m20, found.information, found.likelihood_ratio, found.evidence):
        assert figure.argmax() == 0
    np.testing.assert_array_less(found.evidence[1:], found.evidence[0] - 5)
    assert found.evidence[4] < 5


def test_higher_symmetry_wins_at_equal_fit() -> None:
    """A tetragonal pattern in the tetragonal and in the orthorhombic lattice."""
    basis = np.array([np.diag([1.0, 1.0, 0.0]), np.diag([0.0, 0.0, 1.0])])
    forms = np.unique(np.stack([H[:, 0] + H[:, 1], H[:, 2]], axis=1), axis=0)
    x = np.array([[0.0041, 0.0063]])
    q2 = np.unique((forms @ x[0]).round(12))[:20]
    sigma = 1e-4 + 1e-3 * q2
    high = merits(forms, basis, q2, sigma, x)
    low = merits(H, BASIS, q2, sigma, x[:, [0, 0, 1]])
    assert high.n_explained[0] == low.n_explained[0] == 20
    assert low.n_calculated[0] > 1.3 * high.n_calculated[0]
    assert high.evidence[0] > low.evidence[0] + 5


@pytest.mark.parametrize(
    ("q2", "sigma", "message"),
    [
        (Q2[:1], SIGMA[:1], "1 lines"),
        (Q2[::-1], SIGMA, "ascending"),
        (Q2, -SIGMA, "standard errors"),
        (Q2, SIGMA[:3], "standard errors"),
    ],
)
def test_bad_lines_are_refused(q2: np.ndarray, sigma: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        merits(H, BASIS, q2, sigma, X[None])


@pytest.mark.parametrize("scale", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("spacing", ["even", "clusters", "triclinic"])
def test_lines_anywhere_are_not_explained(spacing: str, scale: float) -> None:
    rng = np.random.default_rng(5)
    even = np.arange(1.0, 140.0) / 120.0
    calculated = {
        "even": even,
        "clusters": np.sort(np.repeat(even[::4], 4) + 1e-3 * rng.standard_normal(140)),
        "triclinic": (np.arange(0.5, 170.0) / 120.0) ** (2 / 3),
    }[spacing]
    places = np.sort(rng.uniform(0.05, 1.0, (200, 40)), axis=1)
    sigma = np.full((1, 40), scale / 120.0)
    r = np.array([ratios(calculated, np.append(q2[:-1], 1.0), sigma)[0, :-1] for q2 in places])
    assert r.mean() == pytest.approx(1.0, abs=0.2 if scale < 0.1 else 0.1)
    gained = weigh(r, 0.05).gained.sum(axis=1)
    assert gained.max() < 8.0
    assert gained.mean() < 0.5


def test_all_lines_tell_as_the_nearest_does_where_it_is_alone() -> None:
    calculated = (np.arange(0.5, 170.0) / 120.0) ** (2 / 3)
    rng = np.random.default_rng(6)
    q2 = np.sort(rng.choice(calculated[20:110:2], 30, replace=False))
    sigma = np.full(30, 2e-4)
    delta = sigma * rng.standard_normal(30)
    density = 1.5 * 120.0 * np.sqrt(q2)
    nearest = ratios_of_nearest(delta[None], density[None], sigma)[0]
    every = ratios(calculated, q2 + delta, sigma[None])[0]
    assert np.log(every / nearest) == pytest.approx(0.0, abs=0.35)
