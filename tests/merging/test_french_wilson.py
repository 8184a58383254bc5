"""Amplitudes against brute-force integration, limits in closed form, and simulated truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
from scipy.special import erfcx, gamma

from sfxproc.data import Floats
from sfxproc.merging.french_wilson import Posterior, french_wilson
from sfxproc.merging.wilson import expected_intensity, intensity_shells, wilson_line
from sfxproc.symmetry import reflections, space_group, unique_keys

RATIOS = [-20.0, -8.0, -4.0, -1.0, 0.0, 0.5, 1.0, 3.0, 10.0, 100.0, 1e4, 1e6]


def moments(found: Posterior) -> Floats:
    return np.stack(
        [found.intensity, found.sigma_intensity, found.amplitude, found.sigma_amplitude]
    )


def one(intensity: float, sigma: float, expected: float, centric: bool) -> Floats:
    columns = (np.array([v]) for v in (intensity, sigma, expected))
    return moments(french_wilson(*columns, np.array([centric])))[:, 0]


def integrated(intensity: float, sigma: float, expected: float, centric: bool) -> Floats:
    """The same by Simpson's rule over J = t², as the density is written down."""
    slope = (0.5 if centric else 1.0) / expected
    top = max(intensity - sigma**2 * slope, 0.0)
    width = 12 * sigma if top > 0 else min(12 * sigma, 60 / (slope - intensity / sigma**2))
    t = np.linspace(np.sqrt(max(top - width, 0.0)), np.sqrt(top + width), 200_001)
    J = t * t
    log_p = -((J - intensity) ** 2) / (2 * sigma**2) - J * slope
    p = np.exp(log_p - log_p.max()) * (1.0 if centric else t)
    p[1:-1:2] *= 4
    p[2:-1:2] *= 2
    p /= p.sum()
    J_mean, F_mean = (p * J).sum(), (p * t).sum()
    spreads = [np.sqrt((p * (v - m) ** 2).sum()) for v, m in ((J, J_mean), (t, F_mean))]
    return np.array([J_mean, spreads[0], F_mean, spreads[1]])


@pytest.mark.parametrize("centric", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("expected", [0.05, 1.0, 300.0])
def test_moments_follow_brute_force(ratio: float, expected: float, centric: bool) -> None:
    sigma = 2.5
    found = one(ratio * sigma, sigma, expected, centric)
    np.testing.assert_allclose(
        found, integrated(ratio * sigma, sigma, expected, centric), rtol=1e-6
    )


def test_mean_of_a_truncated_normal_distribution() -> None:
    """Acentric: J is normal with mean σh and σ, cut off at 0."""
    ratio = np.linspace(-20, 30, 101)
    found = french_wilson(ratio, np.ones(101), np.full(101, 4.0), np.zeros(101, bool))
    h = ratio - 0.25
    expected = h + np.sqrt(2 / np.pi) / erfcx(-h / np.sqrt(2))
    np.testing.assert_allclose(found.intensity, expected, rtol=1e-9)


@pytest.mark.parametrize("centric", [False, True])
def test_what_tells_nothing_leaves_the_prior(centric: bool) -> None:
    """⟨F⟩ of Wilson's distribution: √(πΣ)/2 acentric, √(2Σ/π) centric."""
    found = one(0.0, 1e7, 4.0, centric)
    mean_F = np.sqrt(4.0) * (np.sqrt(2 / np.pi) if centric else gamma(1.5))
    sigma_J, sigma_F = 4.0 * np.sqrt(2 if centric else 1), np.sqrt(4.0 - mean_F**2)
    np.testing.assert_allclose(found, [4.0, sigma_J, mean_F, sigma_F], rtol=1e-5)


@pytest.mark.parametrize("centric", [False, True])
@pytest.mark.parametrize("ratio", [1e5, 1e7, 1e12])
def test_strong_reflections_are_square_roots(ratio: float, centric: bool) -> None:
    expected = [ratio, 1.0, np.sqrt(ratio), 0.5 / np.sqrt(ratio)]
    np.testing.assert_allclose(one(ratio, 1.0, 1e3 * ratio, centric), expected, rtol=1e-8)


def test_amplitudes_grow_with_intensity_without_a_step() -> None:
    ratio = np.concatenate([np.linspace(-50, 50, 4001), np.geomspace(50, 1e8, 4001)[1:]])
    for centric in (False, True):
        n = len(ratio)
        found = french_wilson(ratio, np.ones(n), np.full(n, 5.0), np.full(n, centric))
        assert np.all(np.diff(found.amplitude) > 0)
        assert np.all(found.sigma_amplitude > 0)
        assert np.all(np.diff(np.log(found.sigma_amplitude[:4001])) < 0.02)


def test_units_scale() -> None:
    base, scaled = one(-1.5, 2.0, 3.0, False), one(-1.5e6, 2e6, 3e6, False)
    np.testing.assert_allclose(scaled, base * [1e6, 1e6, 1e3, 1e3], rtol=1e-12)


def test_what_is_not_known_is_nan_and_no_warning() -> None:
    nan = np.nan
    intensity = np.array([1.0, nan, 1.0, 1.0, 1.0, 1.0])
    sigma = np.array([1.0, 1.0, nan, 0.0, 1.0, 1.0])
    expected = np.array([1.0, 1.0, 1.0, 1.0, 0.0, nan])
    found = moments(french_wilson(intensity, sigma, expected, np.zeros(6, bool)))
    assert np.isfinite(found[:, 0]).all()
    assert np.isnan(found[:, 1:]).all()
    assert moments(french_wilson(*np.zeros((3, 0)), np.zeros(0, bool))).shape == (4, 0)


@pytest.mark.parametrize("centric", [False, True])
def test_no_bias_at_any_strength_and_honest_errors(centric: bool) -> None:
    """True amplitudes drawn from Wilson's distribution, found again from noisy intensities."""
    rng = np.random.default_rng(11)
    n, expected = 60_000, 3.0
    true = expected * (rng.normal(size=n) ** 2 if centric else rng.exponential(size=n))
    sigma = np.exp(rng.normal(0.0, 1.2, n))
    intensity = true + sigma * rng.normal(size=n)
    found = french_wilson(intensity, sigma, np.full(n, expected), np.full(n, centric))
    off = found.amplitude - np.sqrt(true)
    strength = np.digitize(intensity / sigma, [-1, 0, 1, 2, 4, 8])
    for k in range(7):
        here = off[strength == k]
        assert abs(np.mean(here)) < 4 * np.std(here) / np.sqrt(len(here))
        assert np.mean((here / found.sigma_amplitude[strength == k]) ** 2) == pytest.approx(
            1, abs=0.1
        )
    naive = np.sqrt(np.maximum(intensity, 0.0)) - np.sqrt(true)
    assert np.mean(naive**2) > 1.3 * np.mean(off**2)


def test_amplitudes_of_another_program(shared_data: Path) -> None:
    """CuNiR merged elsewhere: F(+) by another prior mean, which matters where I is weak only."""
    mtz = gemmi.read_mtz_file(str(shared_data / "reference" / "CuNiR_xia2ssx_merged.mtz"))
    sg = space_group(mtz.spacegroup.xhm())
    keys, row = np.unique(
        unique_keys(sg, mtz.make_miller_array(), anomalous=False), return_index=True
    )

    def column(label: str) -> Floats:
        return np.array(mtz.column_with_label(label), dtype=float)[row]

    table = reflections(sg, mtz.cell.parameters, keys)
    shells = intensity_shells(replace(table, intensity=column("IMEAN"), sigma=column("SIGIMEAN")))
    line = wilson_line(shells)
    assert line is not None
    assert abs(line.B_A2 - 27) < 2
    expected = table.epsilon * expected_intensity(shells, table.s2)
    intensity, sigma = column("I(+)"), column("SIGI(+)")
    found = french_wilson(intensity, sigma, expected, table.centric)
    other, ratio = column("F(+)"), intensity / sigma
    for low, high, play in ((-9, 1, 0.05), (1, 10, 0.03), (10, 1e9, 0.001)):
        both = np.isfinite(other) & (ratio >= low) & (ratio < high)
        assert both.sum() > 5000
        assert found.amplitude[both].sum() == pytest.approx(other[both].sum(), rel=play)
