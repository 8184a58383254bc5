"""A merge against the truth: figures by hand, σ that mean something, CC* beside CC."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sfxproc.data import Reflections
from sfxproc.merging.compare_truth import TruthComparison, compare_with_truth

N = 4000


def table(intensity: np.ndarray, sigma: np.ndarray | float | None) -> Reflections:
    n = len(intensity)
    hkl = np.stack([np.arange(n) % 50, np.arange(n) // 50, np.ones(n)], axis=1).astype(np.int16)
    return Reflections(
        hkl=hkl,
        friedel=np.zeros(n, np.int8),
        s2=np.linspace(0.001, 0.06, n),
        centric=np.zeros(n, bool),
        epsilon=np.ones(n, np.int16),
        intensity=intensity,
        sigma=None if sigma is None else np.broadcast_to(sigma, n).copy(),
    )


@pytest.fixture(scope="module")
def true() -> Reflections:
    return table(np.random.default_rng(1).exponential(100.0, N), None)


def noisy(true: Reflections, sigma: float, seed: int) -> Reflections:
    assert true.intensity is not None
    noise = sigma * np.random.default_rng(seed).normal(size=N)
    return replace(true, intensity=true.intensity + noise, sigma=np.full(N, sigma))


def scaled(data: Reflections, k: float, B_A2: float) -> Reflections:
    g = k * np.exp(-2 * B_A2 * data.s2)
    assert data.intensity is not None
    assert data.sigma is not None
    return replace(data, intensity=g * data.intensity, sigma=g * data.sigma)


def compared(true: Reflections, sigma: float, told: float = 1.0) -> TruthComparison:
    """Half sets of noise σ√2, merged, with σ said to be `told` times what it is."""
    halves = [noisy(true, sigma * np.sqrt(2.0), seed) for seed in (2, 3)]
    merged = replace(
        true,
        intensity=0.5 * (halves[0].intensity + halves[1].intensity),
        sigma=np.full(N, sigma * told),
    )
    merged, *halves = (scaled(t, 0.02, 8.0) for t in (merged, *halves))
    return compare_with_truth(merged, true, noisy(true, 0.5 * sigma, 4), halves, 5)


def test_figures_are_those_of_the_noise(true: Reflections) -> None:
    overall = compared(true, 5.0).overall
    expected = 5.0 * np.sqrt(2 / np.pi) / 100.0  # mean of |noise| over the mean of I
    assert overall.n_common == N
    assert overall.r == pytest.approx(expected, rel=0.05)
    assert overall.r_ideal == pytest.approx(0.5 * expected, rel=0.05)
    assert overall.r_ratio == pytest.approx(2.0, rel=0.05)
    assert overall.rms_z == pytest.approx(1.0, abs=0.05)
    assert overall.rms_z_strong == pytest.approx(1.0, abs=0.08)


def test_sigmas_that_are_too_small_show_in_z(true: Reflections) -> None:
    assert compared(true, 5.0, told=0.5).overall.rms_z == pytest.approx(2.0, abs=0.1)


def test_cc_star_tells_the_correlation_with_the_truth(true: Reflections) -> None:
    for sigma in (30.0, 100.0):
        overall = compared(true, sigma).overall
        assert overall.cc == pytest.approx(1 / np.hypot(1, sigma / 100), abs=0.02)
        assert overall.cc_star is not None
        assert overall.sigma_cc is not None
        assert abs(overall.cc - overall.cc_star) < 3.5 * overall.sigma_cc
        assert 0 < overall.sigma_cc < 0.02


def test_the_error_of_cc_star_is_its_scatter(true: Reflections) -> None:
    differences, errors = [], []
    for seed in range(20):
        halves = [noisy(true, 100.0, 2 * seed + k + 10) for k in (0, 1)]
        assert halves[0].intensity is not None
        mean = 0.5 * (halves[0].intensity + halves[1].intensity)
        merged = replace(true, intensity=mean, sigma=np.full(N, 70.0))
        overall = compare_with_truth(merged, true, merged, halves, 1).overall
        differences.append(overall.cc - overall.cc_star)
        errors.append(overall.sigma_cc)
    assert np.std(differences) == pytest.approx(np.mean(errors), rel=0.4)


def test_the_ideal_itself_is_as_good_as_the_ideal(true: Reflections) -> None:
    ideal = noisy(true, 5.0, 2)
    comparison = compare_with_truth(scaled(ideal, 3.0, -5.0), true, ideal, [], 4)
    assert comparison.overall.r_ratio == pytest.approx(1.0, abs=1e-5)
    assert [shell.r_ratio for shell in comparison.shells] == pytest.approx([1.0] * 4, abs=1e-5)
    assert comparison.overall.cc_star is None
    assert comparison.overall.sigma_cc is None
    assert comparison.scale is not None
    assert comparison.scale.k == pytest.approx(1 / 3, rel=0.01)


def test_reflections_count_that_all_have(true: Reflections) -> None:
    merged, ideal = noisy(true, 5.0, 2), noisy(true, 5.0, 3)
    assert merged.intensity is not None
    merged.intensity[:100] = np.nan
    comparison = compare_with_truth(merged.take(slice(0, 3000)), true, ideal.take(slice(50, N)), [])
    assert comparison.overall.n_common == 2900
    assert sum(shell.n_common for shell in comparison.shells) == 2900
    with pytest.raises(ValueError, match="no reflection in common"):
        compare_with_truth(merged.take(slice(0, 50)), true, ideal, [])


def test_too_few_reflections_for_errors(true: Reflections) -> None:
    few = noisy(true, 5.0, 2).take(slice(0, 60))
    overall = compare_with_truth(few, true, few, [few, few], 1).overall
    assert overall.cc_star == pytest.approx(1.0)
    assert overall.sigma_cc is None
