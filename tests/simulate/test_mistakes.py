"""What the simulation records wrongly when asked to, and nothing else when not."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from sfxproc.errors import ConfigError
from sfxproc.simulate.sense import expected_reflections, reindexing_of
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills
from sfxproc.symmetry import cells_from_A, space_group, unique_keys

SMALL = StillsSettings(
    n_crystals=60,
    unit_cell=(60.0, 60.0, 50.0, 90.0, 90.0, 120.0),
    space_group="P 63",
    d_min_A=4.0,
    profile_radius=0.003,
    partiality="sphere",
)


def simulated(**values: object) -> Simulated:
    return simulate_stills(msgspec.structs.replace(SMALL, **values))


def same_truth(a: Simulated, b: Simulated, *but: str) -> None:
    first, second = a.truth.columns(), b.truth.columns()
    for name in set(first) - {f"crystals/{n}" for n in but}:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture(scope="module")
def plain() -> Simulated:
    return simulated()


def test_without_mistakes_what_is_recorded_is_true(plain: Simulated) -> None:
    truth, crystals = plain.truth, plain.stills.crystals
    for name in ("A", "cell", "wavelength_A", "profile_radius"):
        np.testing.assert_array_equal(getattr(truth, name), getattr(crystals, name))
    assert not truth.wrong.any()
    assert not truth.reindexed.any()


def test_the_default_set_is_what_it_was() -> None:
    """Bits that other figures rest on, from before there were further streams."""
    o = simulate_stills(StillsSettings(n_crystals=3, d_min_A=4.0)).stills.observations
    assert len(o) == 1051
    assert o.intensity[:3].tolist() == [25.75, 15.0, 34.75]


def test_wrongly_indexed_crystals_exchange_their_counts(plain: Simulated) -> None:
    made = simulated(wrong_indexed_fraction=0.3)
    wrong = made.truth.wrong
    assert 0.1 < wrong.mean() < 0.5
    a, b = plain.stills.observations, made.stills.observations
    np.testing.assert_array_equal(a.hkl, b.hkl)
    np.testing.assert_array_equal(a.partiality, b.partiality)
    for crystal in range(60):
        rows = a.crystal == crystal
        moved = a.intensity[rows] != b.intensity[rows]
        assert moved.any() == wrong[crystal]
        order = [np.lexsort((o.variance[rows], o.intensity[rows])) for o in (a, b)]
        for name in ("intensity", "variance"):
            first, second = (getattr(o, name)[rows][i] for o, i in zip((a, b), order, strict=True))
            np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(made.truth.A, plain.truth.A)
    assert made.truth.ideal_weight.sum() < plain.truth.ideal_weight.sum()


def test_reindexed_crystals_show_the_same_in_another_setting(plain: Simulated) -> None:
    made = simulated(reindexed_fraction=0.5, reindexing="k,h,-l")
    turned = made.truth.reindexed
    assert 0.3 < turned.mean() < 0.7
    same_truth(plain, made, "reindexed")
    a, b = plain.stills, made.stills
    hkl = a.observations.hkl.copy()
    moved = turned[a.observations.crystal]
    hkl[moved] = hkl[moved][:, [1, 0, 2]] * np.array([1, 1, -1], dtype=np.int16)
    np.testing.assert_array_equal(b.observations.hkl, hkl)
    np.testing.assert_array_equal(a.observations.intensity, b.observations.intensity)
    q = [
        np.einsum("nij,nj->ni", s.crystals.A[s.observations.crystal], s.observations.hkl * 1.0)
        for s in (a, b)
    ]
    np.testing.assert_allclose(q[0], q[1], atol=1e-14)
    np.testing.assert_allclose(cells_from_A(b.crystals.A), b.crystals.cell, rtol=1e-9)


def test_recorded_cells_are_off_and_obey_the_group(plain: Simulated) -> None:
    made = simulated(recorded_cell_error_percent=0.5, n_crystals=200, d_min_A=8.0)
    truth, crystals = made.truth, made.stills.crystals
    np.testing.assert_array_equal(truth.cell, np.tile(SMALL.unit_cell, (200, 1)))
    np.testing.assert_array_equal(truth.A[:60], plain.truth.A)
    np.testing.assert_allclose(cells_from_A(crystals.A), crystals.cell, rtol=1e-9)
    np.testing.assert_array_equal(crystals.cell[:, 0], crystals.cell[:, 1])
    np.testing.assert_array_equal(crystals.cell[:, 3:], truth.cell[:, 3:])
    off = 100.0 * (crystals.cell / truth.cell - 1.0)
    assert off[:, 2].std() == pytest.approx(0.5, rel=0.2)
    assert off[:, 0].std() == pytest.approx(0.5 * np.sqrt(0.75), rel=0.2)  # a and b averaged
    assert np.corrcoef(off[:, 0], off[:, 2])[0, 1] > 0.3  # in part common to all lengths
    U = crystals.A @ np.linalg.inv(truth.A)
    np.testing.assert_allclose(U, np.swapaxes(U, 1, 2), atol=1e-12)  # no rotation


def test_recorded_wavelengths_are_off(plain: Simulated) -> None:
    made = simulated(wavelength_error_percent=0.1, n_crystals=200, d_min_A=8.0)
    assert (made.truth.wavelength_A == 1.3).all()
    off = 100.0 * (made.stills.crystals.wavelength_A / 1.3 - 1.0)
    assert off.std() == pytest.approx(0.1, rel=0.2)
    assert abs(off.mean()) < 0.03
    np.testing.assert_array_equal(made.truth.A[:60], plain.truth.A)
    excess = excitation_errors(made, made.stills.crystals.wavelength_A) / 0.003
    assert np.abs(excess).max() <= 1.0 + 1e-9  # predicted with the recorded wavelength
    assert np.abs(excitation_errors(made, made.truth.wavelength_A)).max() > 0.003


def excitation_errors(made: Simulated, wavelength_A: np.ndarray) -> np.ndarray:
    o, k = made.stills.observations, 1.0 / wavelength_A
    q = np.einsum("nij,nj->ni", made.truth.A[o.crystal], o.hkl.astype(float))
    k = k[o.crystal]
    return np.sqrt(q[:, 0] ** 2 + q[:, 1] ** 2 + (q[:, 2] + k) ** 2) - k


def test_true_sizes_vary_and_the_recorded_one_is_off() -> None:
    made = simulated(sigma_ln_size=0.2, size_factor=1.5, n_crystals=150, d_min_A=5.0)
    true = np.log(made.truth.profile_radius / 0.003)
    assert true.std() == pytest.approx(0.2, rel=0.2)
    np.testing.assert_allclose(made.stills.crystals.profile_radius, 0.0045)
    o = made.stills.observations
    ratio = excitation_errors(made, made.truth.wavelength_A)
    assert np.abs(ratio).max() == pytest.approx(0.0045, rel=0.01)
    P = np.maximum(1.0 - (ratio / made.truth.profile_radius[o.crystal]) ** 2, 0.0)
    np.testing.assert_allclose(o.partiality, P, atol=1e-6)
    assert len(o) / 150 == pytest.approx(expected_reflections(made.truth.settings), rel=0.05)


def test_a_crystal_has_its_mistakes_in_any_part_of_a_set() -> None:
    mistakes = {
        "wrong_indexed_fraction": 0.5,
        "recorded_cell_error_percent": 0.1,
        "sigma_ln_size": 0.1,
        "wavelength_error_percent": 0.1,
        "reindexed_fraction": 0.5,
        "reindexing": "k,h,-l",
    }
    whole, part = (
        simulated(**mistakes, n_crystals=8),
        simulated(**mistakes, n_crystals=3, first_crystal=4),
    )
    for name in ("wrong", "reindexed", "profile_radius"):
        np.testing.assert_array_equal(getattr(whole.truth, name)[4:7], getattr(part.truth, name))
    for name in ("A", "cell", "wavelength_A"):
        first, second = (getattr(m.stills.crystals, name) for m in (whole, part))
        np.testing.assert_array_equal(first[4:7], second)
    o = whole.stills.observations
    o = o.take((o.crystal >= 4) & (o.crystal < 7))
    np.testing.assert_array_equal(o.intensity, part.stills.observations.intensity)


def test_operators_are_read() -> None:
    hkl = np.array([1, 2, 5])
    for triplet, expected in (
        ("h,k,l", [1, 2, 5]),
        ("k,h,-l", [2, 1, -5]),
        ("-h-k, k, -l", [-3, 2, -5]),
        ("l,h,k", [5, 1, 2]),
    ):
        np.testing.assert_array_equal(hkl @ reindexing_of(triplet).matrix, expected)


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        ("", "Set reindexing to an operator"),
        ("k,h", "'k,h' is not an operator"),
        ("k,h,", "is not an operator"),
        ("k,h,2l", "is not an operator"),
        ("k,h,l", "determinant is not 1"),
        ("l,h,k", "makes the cell 50 60 60 120 90 90"),
    ],
)
def test_operators_that_make_no_sense(operator: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        simulated(reindexed_fraction=0.1, reindexing=operator)


# ---- the ideal merge -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [{}, {"partiality": "unity", "anomalous_fraction": 0.3}, {"reindexed_fraction": 0.5}]
)
def test_the_sums_of_the_ideal_merge(more: dict[str, object]) -> None:
    """Against the definition, from the stills and the true parameters alone."""
    made = simulated(
        gain=3.0,
        outlier_fraction=0.05,
        wrong_indexed_fraction=0.1,
        cell_sigma_percent=0.2,
        orientation_error_mrad=0.5,
        sigma_ln_size=0.1,
        reindexing="k,h,-l",
        **more,
    )
    truth, o, settings = made.truth, made.stills.observations, made.truth.settings
    hkl = o.hkl.copy()
    turned = truth.reindexed[o.crystal]
    hkl[turned] = hkl[turned][:, [1, 0, 2]] * np.array([1, 1, -1], dtype=np.int16)
    group, anomalous = space_group("P 63"), settings.anomalous_fraction > 0
    sign = np.where(truth.reflections.friedel < 0, -1, 1).astype(np.int16)[:, None]
    known = unique_keys(group, truth.reflections.hkl * sign, anomalous)
    order = np.argsort(known)
    row = order[np.searchsorted(known[order], unique_keys(group, hkl, anomalous))]
    assert truth.reflections.intensity is not None
    q = np.einsum("nij,nj->ni", truth.A[o.crystal], hkl.astype(float))
    k = 1.0 / 1.3
    r_h = np.sqrt(q[:, 0] ** 2 + q[:, 1] ** 2 + (q[:, 2] + k) ** 2) - k
    ratio = r_h / truth.profile_radius[o.crystal]
    P = (np.abs(ratio) <= 1.0) * (1.0 - ratio**2 if settings.partiality == "sphere" else 1.0)
    s2 = np.sum(q**2, axis=1) / 4
    f = 3.0 * P * np.exp(truth.ln_G[o.crystal] - 2 * truth.B_A2[o.crystal] * s2)  # in file units
    V = 9.0 * 20.0 * (1 + 1 / 4) + 3.0 * f * truth.reflections.intensity[row]
    good = ~truth.outlier & ~truth.wrong[o.crystal]
    n = len(truth.reflections)
    weight = np.bincount(row, np.where(good, f * f / V, 0.0), n)
    weighted = np.bincount(row, np.where(good, f * o.intensity / V, 0.0), n)
    np.testing.assert_allclose(truth.ideal_weight, weight, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(truth.ideal_weighted, weighted, rtol=1e-9, atol=1e-9)


def test_the_ideal_merge_is_as_good_as_it_says() -> None:
    truth = simulated(n_crystals=200, gain=2.0, outlier_fraction=0.02).truth
    seen = truth.ideal_weight > 0
    weight = truth.ideal_weight[seen]
    assert truth.reflections.intensity is not None
    z = (truth.ideal_weighted[seen] / weight - truth.reflections.intensity[seen]) * np.sqrt(weight)
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1.0, abs=0.07)


def test_sums_of_parts_are_those_of_the_whole() -> None:
    whole = simulated(n_crystals=10).truth
    parts = [simulated(n_crystals=5, first_crystal=i).truth for i in (0, 5)]
    for name in ("ideal_weight", "ideal_weighted"):
        total = sum(getattr(part, name) for part in parts)
        np.testing.assert_allclose(total, getattr(whole, name), rtol=1e-13, atol=1e-13)
