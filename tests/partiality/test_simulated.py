"""The simulation records what each model says of the true crystals."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from sfxproc.errors import ConfigError
from sfxproc.partiality import PARTIALITIES, values
from sfxproc.simulate.sense import expected_reflections
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills

SMALL = StillsSettings(
    n_crystals=8, unit_cell=(50.0, 50.0, 70.0, 90.0, 90.0, 90.0), d_min_A=2.6, profile_radius=0.003
)


def changed(**settings: object) -> StillsSettings:
    return msgspec.structs.replace(SMALL, **settings)


def lengths(A: np.ndarray, result: Simulated) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r_h, |q| and z = q·ŝ0 of every observation, by hand."""
    o, k = result.stills.observations, 1 / result.truth.settings.wavelength_A
    q = np.einsum("nij,nj->ni", A[o.crystal], o.hkl.astype(float))
    r_h = np.sqrt(q[:, 0] ** 2 + q[:, 1] ** 2 + (q[:, 2] + k) ** 2) - k
    return r_h, np.linalg.norm(q, axis=1), q[:, 2]


@pytest.mark.parametrize("name", sorted(PARTIALITIES))
def test_recorded_partialities_are_those_of_the_true_orientation(name: str) -> None:
    model = PARTIALITIES[name]
    settings = changed(
        partiality=name,
        profile_radius_m=0.004,
        predict_within=1.5,
        bandwidth=2e-3 if model.uses_bandwidth else 0.0,
        orientation_error_mrad=0.5,
    )
    result = simulate_stills(settings)
    assert (result.stills.crystals.bandwidth == settings.bandwidth).all()
    found = result.stills.observations.partiality
    if name == "unity":
        assert found is None
        return
    r_h, q, z = lengths(result.truth.A, result)
    size, k = 0.003 + 0.004 * q, 1 / settings.wavelength_A
    w = settings.bandwidth * k * np.abs((k + z) / (r_h + k) - 1)
    expected = values(model, r_h, size, w) * (0.003 / size if name == "eta_deff" else 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert found.std() > 0.1


@pytest.mark.parametrize("partiality", ["lorentzian", "unity"])
@pytest.mark.parametrize(("m", "within"), [(0.0, 1.0), (0.0, 2.5), (0.004, 0.5), (0.004, 2.0)])
def test_reflections_are_predicted_within_so_many_radii(
    partiality: str, m: float, within: float
) -> None:
    settings = changed(
        partiality=partiality,
        profile_radius_m=m,
        predict_within=within,
        n_crystals=20,
        orientation_error_mrad=1.0,
    )
    result = simulate_stills(settings)
    r_h, q, _ = lengths(result.stills.crystals.A, result)
    ratio = np.abs(r_h) / (0.003 + m * q)
    assert 0.99 * within < ratio.max() <= within * (1 + 1e-9)
    n = len(result.stills.observations) / settings.n_crystals
    assert n == pytest.approx(expected_reflections(settings), rel=0.04)


def test_widening_the_prediction_keeps_the_crystals() -> None:
    few, many = (simulate_stills(changed(predict_within=f)) for f in (1.0, 2.0))
    np.testing.assert_array_equal(few.truth.A, many.truth.A)
    assert len(many.truth.outlier) > 1.9 * len(few.truth.outlier)


def test_a_bandwidth_without_effect_is_refused() -> None:
    text = "bandwidth = 0.001 has no effect .* 'sphere'. Set partiality to xsphere or gaussian_ga"
    with pytest.raises(ConfigError, match=text):
        simulate_stills(changed(partiality="sphere", bandwidth=1e-3))


def test_mistakes_name_every_model() -> None:
    with pytest.raises(ConfigError) as raised:
        simulate_stills(changed(partiality="cube"))
    assert all(name in str(raised.value) for name in PARTIALITIES)
