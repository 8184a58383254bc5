"""The simulator against what it promises: geometry, statistics, noise, reproducibility."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from sfxproc.data import ReferenceSet, packed_hkl
from sfxproc.errors import ConfigError, DataError
from sfxproc.simulate.intensities import anomalous_factor, wilson
from sfxproc.simulate.sense import expected_reflections
from sfxproc.simulate.stills import Simulated, StillsSettings, Truth, simulate_stills
from sfxproc.symmetry import (
    absent,
    cells_from_A,
    possible,
    reciprocal_matrix,
    space_group,
    unique_keys,
)

SMALL = StillsSettings(
    n_crystals=8, unit_cell=(50.0, 50.0, 70.0, 90.0, 90.0, 90.0), d_min_A=2.2, profile_radius=0.003
)


def changed(**values: object) -> StillsSettings:
    return msgspec.structs.replace(SMALL, **values)


def true_counts(result: Simulated, *, outside: bool = False) -> np.ndarray:
    """y of every observation, recomputed from the truth by hand."""
    truth, o = result.truth, result.stills.observations
    sg = space_group(truth.settings.space_group)
    anomalous = truth.settings.anomalous_fraction > 0
    table = truth.reflections
    sign = np.where(table.friedel < 0, -1, 1)[:, None]
    keys = unique_keys(sg, table.hkl * sign.astype(np.int16), anomalous)
    order = np.argsort(keys)
    row = order[np.searchsorted(keys[order], unique_keys(sg, o.hkl, anomalous))]
    q = np.einsum("nij,nj->ni", truth.A[o.crystal], o.hkl.astype(float))
    s2 = (q**2).sum(axis=1) / 4
    k0 = 1 / truth.settings.wavelength_A
    r_h = np.sqrt(q[:, 0] ** 2 + q[:, 1] ** 2 + (q[:, 2] + k0) ** 2) - k0
    ratio = r_h / truth.settings.profile_radius
    if not outside:
        assert np.abs(ratio).max() <= 1 + 1e-9
    P = 1 - ratio**2 if truth.settings.partiality == "sphere" else np.ones(len(ratio))
    P[np.abs(ratio) > 1] = 0
    G = np.exp(truth.ln_G[o.crystal])
    return P * G * np.exp(-2 * truth.B_A2[o.crystal] * s2) * table.intensity[row]


def test_number_of_reflections_follows_the_formula() -> None:
    for settings in (
        changed(n_crystals=20),
        changed(n_crystals=20, space_group="C 1 2 1", unit_cell=(70, 50, 60, 90, 105, 90)),
        changed(n_crystals=20, space_group="R 3:R", unit_cell=(50, 50, 50, 70, 70, 70)),
    ):
        result = simulate_stills(settings)
        n = len(result.stills.observations) / settings.n_crystals
        assert n == pytest.approx(expected_reflections(settings), rel=0.03)


def test_defaults_show_1600_reflections() -> None:
    assert expected_reflections(StillsSettings()) == pytest.approx(1600, rel=0.01)


def test_wilson_moments() -> None:
    """⟨I²⟩/⟨I⟩² is 2 for acentric and 3 for centric reflections, ⟨I⟩ = ε exp(−2 B s²)."""
    table = possible(space_group("P 21 21 21"), [150, 160, 170, 90, 90, 90], 2.0, 30.0, False)
    intensity = wilson(table, 20.0, seed=3)
    scaled = intensity / (table.epsilon * np.exp(-40.0 * table.s2))
    for centric, moment in ((False, 2.0), (True, 3.0)):
        e2 = scaled[table.centric == centric]
        assert e2.mean() == pytest.approx(1, abs=4 * np.sqrt((moment - 1) / len(e2)))
        assert (e2**2).mean() == pytest.approx(moment, abs=0.12 * moment)


def test_intensities_depend_on_nothing_but_seed_and_indices() -> None:
    sg, cell = space_group(96), [79.1, 79.1, 38.2, 90, 90, 90]
    wide = possible(sg, cell, 2.0, None, False)
    narrow = possible(sg, cell, 2.5, 10.0, False)
    row = np.searchsorted(packed_hkl(wide.hkl), packed_hkl(narrow.hkl))
    np.testing.assert_array_equal(wilson(wide, 15, 1)[row], wilson(narrow, 15, 1))
    other = wilson(narrow, 15, 2)
    assert abs(np.corrcoef(other, wilson(narrow, 15, 1))[0, 1]) < 0.1


def test_anomalous_differences() -> None:
    table = possible(space_group(96), [79.1, 79.1, 38.2, 90, 90, 90], 2.0, None, True)
    factor = anomalous_factor(table, 0.1, seed=1)
    assert (factor[table.centric] == 1).all()
    plus, minus = factor[table.friedel == 1], factor[table.friedel == -1]
    np.testing.assert_allclose(plus + minus, 2)
    assert np.sqrt(np.mean((plus - minus) ** 2)) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("partiality", ["unity", "sphere"])
def test_noise(partiality: str) -> None:
    """I_obs − y has mean 0 and variance y + b + b/ρ, which the reported one estimates."""
    result = simulate_stills(
        changed(partiality=partiality, n_crystals=20, anomalous_fraction=0.3, photons=300.0)
    )
    o, y = result.stills.observations, true_counts(result)
    expected = y + 20.0 + 20.0 / 4.0
    z = (o.intensity - y) / np.sqrt(expected)
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert z.var() == pytest.approx(1, abs=4 * np.sqrt(2.5 / len(z)))
    assert (o.variance.astype(float) / expected).mean() == pytest.approx(1, abs=0.01)
    assert not result.truth.outlier.any()


def test_recorded_partialities() -> None:
    o = simulate_stills(changed(partiality="sphere")).stills.observations
    assert o.partiality is not None
    assert (o.partiality >= 0).all()
    assert (o.partiality <= 1).all()
    assert o.partiality.mean() == pytest.approx(2 / 3, abs=0.02)  # r_h uniform in ±r_s
    assert simulate_stills(SMALL).stills.observations.partiality is None


def test_gain_scales_intensities_and_variances() -> None:
    one, ten = simulate_stills(SMALL), simulate_stills(changed(gain=10.0))
    a, b = one.stills.observations, ten.stills.observations
    np.testing.assert_allclose(b.intensity, 10 * a.intensity, rtol=1e-6)
    np.testing.assert_allclose(b.variance, 100 * a.variance, rtol=1e-6)


def test_a_crystal_is_the_same_in_any_set() -> None:
    long = simulate_stills(changed(n_crystals=6))
    short = simulate_stills(changed(n_crystals=2, first_crystal=3))
    a = long.stills.observations
    a = a.take((a.crystal == 3) | (a.crystal == 4))
    b = short.stills.observations
    for name in ("hkl", "intensity", "variance", "x_px", "y_px"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.crystal - 3, b.crystal)
    assert long.stills.crystals.identity[3:5] == short.stills.crystals.identity
    np.testing.assert_array_equal(long.truth.A[3:5], short.truth.A)


def test_seeds_differ() -> None:
    one, two = simulate_stills(SMALL), simulate_stills(changed(seed=2))
    assert not np.allclose(one.truth.A, two.truth.A)
    assert not np.allclose(one.truth.reflections.intensity, two.truth.reflections.intensity)


def test_limits_absences_and_order() -> None:
    result = simulate_stills(SMALL)
    o, sg = result.stills.observations, space_group(SMALL.space_group)
    assert not absent(sg, o.hkl).any()
    assert (np.diff(o.crystal) >= 0).all()
    assert len(np.unique(packed_hkl(o.hkl) * 8 + o.crystal)) == len(o)
    length = np.linalg.norm(o.hkl @ reciprocal_matrix(SMALL.unit_cell).T, axis=1)
    assert length.min() >= 1 / SMALL.d_max_A
    assert length.max() <= 1 / SMALL.d_min_A
    assert length.max() > 0.99 / SMALL.d_min_A


def test_a_small_detector_loses_the_outer_reflections() -> None:
    all_, few = simulate_stills(SMALL), simulate_stills(changed(panel_px=1000))
    o = few.stills.observations
    assert 0 < len(o) < 0.8 * len(all_.stills.observations)
    assert o.x_px.min() >= 0
    assert max(o.x_px.max(), o.y_px.max()) < 1000
    # The positions are where the rays go: Bragg's law at the distance of the panel.
    radius = 0.075 * np.hypot(o.x_px - 500, o.y_px - 500)
    two_theta = np.arctan2(radius, SMALL.detector_distance_mm)
    length = np.linalg.norm(o.hkl @ reciprocal_matrix(SMALL.unit_cell).T, axis=1)
    bragg = 2 * np.arcsin(0.5 * SMALL.wavelength_A * length)
    assert np.abs(two_theta - bragg).max() < 2 * SMALL.profile_radius / length.min()
    assert np.median(np.abs(two_theta - bragg)) < 1e-3


def test_orientation_error() -> None:
    exact = simulate_stills(SMALL)
    np.testing.assert_array_equal(exact.stills.crystals.A, exact.truth.A)
    settings = changed(orientation_error_mrad=1.0, n_crystals=200, d_min_A=8.0, partiality="sphere")
    result = simulate_stills(settings)
    turn = result.stills.crystals.A @ np.linalg.inv(result.truth.A)
    angle = 1e3 * turn[:, [2, 0, 1], [1, 2, 0]]
    assert angle.std() == pytest.approx(1, rel=0.1)
    assert abs(angle.mean()) < 0.2
    y = true_counts(result, outside=True)
    assert (y == 0).any()  # predicted by the recorded orientation, but not there
    z = (result.stills.observations.intensity - y) / np.sqrt(y + 25)
    assert z.std() == pytest.approx(1, abs=0.05)


def test_spread_of_cells_keeps_the_symmetry() -> None:
    result = simulate_stills(changed(cell_sigma_percent=0.5, n_crystals=100, d_min_A=8.0))
    cell = result.truth.cell
    np.testing.assert_allclose(cells_from_A(result.truth.A), cell, rtol=1e-9)
    np.testing.assert_array_equal(cell[:, 0], cell[:, 1])
    assert cell[:, 2].std() / 70 == pytest.approx(0.005, rel=0.25)
    assert (cell[:, 3:] == 90).all()


def test_crystal_parameters_have_the_asked_spread() -> None:
    truth = simulate_stills(changed(n_crystals=300, d_min_A=9.0, mean_B_A2=3.0)).truth
    assert truth.ln_G.std() == pytest.approx(0.4, rel=0.15)
    assert truth.B_A2.std() == pytest.approx(5.0, rel=0.15)
    assert truth.B_A2.mean() == pytest.approx(3.0, abs=1.2)
    assert truth.reflections.intensity.mean() == pytest.approx(SMALL.photons)
    c_axis = truth.A[:, :, 2] / np.linalg.norm(truth.A[:, :, 2], axis=1)[:, None]
    assert np.abs(c_axis.mean(axis=0)).max() < 0.15  # no preferred orientation
    assert (c_axis**2).mean(axis=0) == pytest.approx(1 / 3, abs=0.08)


def test_outliers_are_marked_and_large() -> None:
    result = simulate_stills(changed(outlier_fraction=0.05))
    o, marked = result.stills.observations, result.truth.outlier
    assert marked.mean() == pytest.approx(0.05, abs=0.01)
    excess = o.intensity - true_counts(result)
    assert excess[marked].min() > 2 * SMALL.photons
    assert np.abs(excess[~marked]).max() < 2 * SMALL.photons


def reference_of(truth: Truth) -> ReferenceSet:
    shuffled = truth.reflections.take(np.random.default_rng(0).permutation(len(truth.ln_G) * 50))
    return ReferenceSet("given.mtz", "P 43 21 2", np.array(SMALL.unit_cell), shuffled)


def test_given_intensities() -> None:
    reference = reference_of(simulate_stills(SMALL).truth)
    values = reference.reflections.intensity
    assert values is not None
    values[:2] = np.nan, -5.0
    result = simulate_stills(SMALL, reference)
    table = result.truth.reflections
    key, given = packed_hkl(table.hkl), packed_hkl(reference.reflections.hkl)
    assert np.array_equal(np.sort(given[1:]), key)
    order = np.argsort(given[1:])
    ratio = table.intensity / np.maximum(values[1:][order], 1e-300)
    assert table.intensity[key == given[1]] == 0
    np.testing.assert_allclose(ratio[key != given[1]], np.median(ratio))
    observed = unique_keys(space_group(96), result.stills.observations.hkl, False) >> 2
    assert np.isin(observed, key).all()


def test_a_reference_without_overlap() -> None:
    reference = reference_of(simulate_stills(SMALL).truth)
    with pytest.raises(DataError, match=r"given\.mtz holds no intensity .* between 1 and 1\.1"):
        simulate_stills(changed(d_min_A=1, d_max_A=1.1, panel_px=10), reference)
    empty = replace(reference, reflections=reference.reflections.take(slice(0, 0)))
    with pytest.raises(DataError, match="holds no intensity"):
        simulate_stills(SMALL, empty)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"partiality": "cube"}, "Choose one of: sphere, unity"),
        ({"space_group": "P 44"}, "no space group 'P 44'"),
        ({"unit_cell": (50.0, 60.0, 70.0, 90.0, 90.0, 90.0)}, "requires a = b"),
        ({"d_min_A": 40.0}, "must be less than d_max_A"),
        ({"d_min_A": 0.6}, "half of wavelength_A"),
    ],
)
def test_mistakes_are_told(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        simulate_stills(changed(**values))


def test_columns_of_the_truth() -> None:
    result = simulate_stills(SMALL)
    columns = result.truth.columns()
    assert all(isinstance(c, np.ndarray) for c in columns.values())
    assert len(columns["crystals/ln_G"]) == len(columns["crystals/number"]) == SMALL.n_crystals
    assert len(columns["reflections/hkl"]) == len(columns["reflections/intensity"])
    assert len(columns["observations/outlier"]) == len(result.stills.observations)
    assert msgspec.json.decode(msgspec.json.encode(SMALL), type=StillsSettings) == SMALL


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="photon"):
        msgspec.convert({"photon": 3}, StillsSettings)
