"""Wilson plot, expected intensities and second moment of simulated intensities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sfxproc.data import Reflections
from sfxproc.merging.wilson import (
    expected_intensity,
    intensity_shells,
    second_moment,
    wilson_line,
)
from sfxproc.simulate.intensities import wilson
from sfxproc.symmetry import possible, space_group

CELL = (79.1, 79.1, 38.2, 90.0, 90.0, 90.0)


@pytest.fixture(scope="module")
def table() -> Reflections:
    return possible(space_group("P 43 21 2"), CELL, 2.0, 30.0, False)


def measured(
    table: Reflections, B: float, sigma: float, seed: int, k: float = 500.0, twin: bool = False
) -> Reflections:
    """True intensities k ε exp(−2 B s²) E² with noise of σ = `sigma` k, a tenth not measured."""
    rng = np.random.default_rng(seed)
    true = k * wilson(table, B, seed)
    if twin:
        true = 0.5 * (true + k * wilson(table, B, seed + 1000))
    noise = k * sigma * np.exp(rng.normal(0, 0.5, len(table)))
    value = true + noise * rng.normal(size=len(table))
    gone = rng.random(len(table)) < 0.1
    return replace(
        table,
        intensity=np.where(gone, np.nan, value),
        sigma=np.where(gone, np.nan, noise),
        n_observations=np.where(gone, 0, 5).astype(np.int32),
    )


@pytest.mark.parametrize(("sigma", "B"), [(0.01, 15.0), (0.3, 15.0), (0.3, 40.0), (0.05, -5.0)])
def test_b_and_scale_are_found_within_their_errors(
    table: Reflections, sigma: float, B: float
) -> None:
    """Also where the mean of many a shell is negative."""
    pulls = []
    for seed in range(12):
        line = wilson_line(intensity_shells(measured(table, B, sigma, seed)))
        assert line is not None
        pulls.append(
            [(line.B_A2 - B) / line.sigma_B_A2, (line.ln_k - np.log(500)) / line.sigma_ln_k]
        )
        assert line.sigma_B_A2 < 8
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 1.2)
    assert np.all(np.sqrt(np.mean(np.square(pulls), axis=0)) < 2.0)


def test_shells_hold_every_measured_reflection_once(table: Reflections) -> None:
    data = measured(table, 15.0, 0.1, 1)
    shells = intensity_shells(data)
    assert data.n_observations is not None
    assert shells.n.sum() == np.sum(data.n_observations > 0)
    assert len(shells.n) == 60
    assert np.ptp(shells.n) <= 1
    assert np.all(np.diff(shells.s2) > 0)


def test_a_reflection_of_huge_sigma_does_not_count(table: Reflections) -> None:
    data = measured(table, 15.0, 0.1, 1)
    before = intensity_shells(data)
    row = int(np.flatnonzero(np.isfinite(data.sigma))[4000])
    assert data.intensity is not None
    assert data.sigma is not None
    data.intensity[row], data.sigma[row] = 1e8, 1e8
    after = intensity_shells(data)
    np.testing.assert_allclose(after.mean, before.mean, rtol=0.1)
    assert after.n.sum() == before.n.sum() - 1


def test_expected_intensity_follows_the_truth(table: Reflections) -> None:
    shells = intensity_shells(measured(table, 15.0, 0.1, 2))
    ratio = expected_intensity(shells, table.s2) / (500.0 * np.exp(-30.0 * table.s2))
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.04)
    assert np.std(ratio) < 0.12


def test_expected_intensity_is_positive_where_all_is_negative(table: Reflections) -> None:
    n = len(table)
    data = replace(table, intensity=np.full(n, -3.0), sigma=np.full(n, 1.0))
    shells = intensity_shells(data)
    expected = expected_intensity(shells, table.s2)
    # the error of the mean of a shell
    np.testing.assert_allclose(expected, 1.0 / np.sqrt(shells.n.mean()), rtol=0.2)
    assert wilson_line(shells) is None
    assert second_moment(data, shells) is None


@pytest.mark.parametrize("n", [0, 1, 3, 150, 250])
def test_few_reflections(table: Reflections, n: int) -> None:
    few = measured(table, 15.0, 0.1, 3).take(slice(0, n))
    shells = intensity_shells(few)
    expected = expected_intensity(shells, few.s2)
    if len(shells.n):
        assert len(shells.n) == max(shells.n.sum() // 100, 1)
        assert np.all(expected > 0)
    else:
        assert np.isnan(expected).all()
    assert wilson_line(shells) is None
    assert n > 100 or second_moment(few, shells) is None


def test_data_to_low_resolution_have_no_line(table: Reflections) -> None:
    data = measured(table, 15.0, 0.1, 4)
    assert wilson_line(intensity_shells(data.take(np.asarray(data.d_A > 4.2)))) is None


@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_second_moment_tells_a_twin(table: Reflections, sigma: float) -> None:
    for twin, expected in ((False, 2.0), (True, 1.5)):
        values = []
        for seed in range(4):
            data = measured(table, 15.0, sigma, seed, twin=twin)
            values.append(second_moment(data, intensity_shells(data)))
        assert np.mean(np.array(values, float)) == pytest.approx(expected, abs=0.06)
