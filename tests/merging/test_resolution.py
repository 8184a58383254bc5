"""How far the data reach: the curve of CC½ and its error, and between shells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sfxproc.data import Floats
from sfxproc.merging.resolution import fit_cc_half, resolution_estimate


def shell_rows(cc: list[float | None]) -> list[dict[str, Any]]:
    edges: Floats = np.linspace(0.01, 0.06, len(cc) + 1)
    d = 0.5 / np.sqrt(edges)
    return [
        {
            "d_max_A": d[k],
            "d_min_A": d[k + 1],
            "cc_half": c,
            "sigma_cc_half": None if c is None else (1 - c**2) / 20,
        }
        for k, c in enumerate(cc)
    ]


def test_resolution_is_where_cc_half_falls_below_its_limit() -> None:
    def s2_at(cc: list[float | None]) -> float:
        d = resolution_estimate(shell_rows(cc))
        assert d is not None
        return 0.25 / d**2

    assert s2_at([0.9, 0.8, 0.5, 0.1, 0.0]) == pytest.approx(0.035 + 0.005)
    assert s2_at([0.9, 0.8, 0.5, 0.4, 0.3]) == pytest.approx(0.06)
    assert s2_at([0.9, 0.8, 0.5, None, 0.9]) == pytest.approx(0.04)
    assert s2_at([None, 0.2, 0.7, 0.5, -0.1]) == pytest.approx(0.045 + 0.01 / 3)
    assert resolution_estimate(shell_rows([0.2, None, -0.5])) is None


def curve(n: int, s0: float, r: float) -> Floats:
    edges = np.linspace(0.01, 0.06, n + 1)
    return 0.5 * (1 - np.tanh((0.5 * (edges[1:] + edges[:-1]) - s0) / r))


@pytest.mark.parametrize("n", [4, 10, 20])
def test_exact_curve_is_found(n: int) -> None:
    found = fit_cc_half(shell_rows(curve(n, 0.04, 0.012).tolist()))
    assert found is not None
    assert (found.s0, found.r) == (pytest.approx(0.04, rel=1e-5), pytest.approx(0.012, rel=1e-4))
    for c in (0.3, 0.143):
        place = found.d_at(c)
        assert place is not None
        s2 = 0.25 / place[0] ** 2
        assert 0.5 * (1 - np.tanh((s2 - 0.04) / 0.012)) == pytest.approx(c, abs=1e-5)


def test_error_is_the_spread_over_noisy_curves() -> None:
    rng = np.random.default_rng(3)
    cc = curve(20, 0.04, 0.012)
    places = []
    for _ in range(80):
        noisy = cc + (1 - cc**2) / 20 * rng.normal(size=20)
        found = fit_cc_half(shell_rows(noisy.tolist()))
        assert found is not None
        places.append(found.d_at(0.3))
    d, sigma = np.array(places).T
    assert np.mean(d) == pytest.approx(0.5 / np.sqrt(0.04 + 0.012 * np.arctanh(0.4)), abs=0.01)
    # somewhat larger, since no curve describes real data to 0.001
    assert 0.9 < np.mean(sigma) / np.std(d) < 1.6


def test_one_bad_shell_does_not_pull_the_curve_away() -> None:
    cc = curve(20, 0.04, 0.012)
    cc[8] = 0.1  # an ice ring
    found = fit_cc_half(shell_rows(cc.tolist()))
    assert found is not None
    assert found.s0 == pytest.approx(0.04, abs=0.002)


@pytest.mark.parametrize("s0", [0.2, -0.05])
def test_not_reached_within_the_data_is_none(s0: float) -> None:
    found = fit_cc_half(shell_rows(curve(10, s0, 0.05).tolist()))
    assert found is None or found.d_at(0.3) is None


@pytest.mark.parametrize("cc", [[0.9, 0.5, 0.1], [0.9, None, 0.5, 0.1], [None] * 8, []])
def test_too_few_shells_give_no_curve(cc: list[float | None]) -> None:
    assert fit_cc_half(shell_rows(cc)) is None


@pytest.mark.parametrize("value", [1.0, 0.5, 0.0, -1.0])
def test_a_level_curve_is_no_error(value: float) -> None:
    found = fit_cc_half(shell_rows([value] * 8))
    assert found is None or found.d_at(0.3) is None
