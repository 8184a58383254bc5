"""The table of a crystal's parameters."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.kernels import postrefine as kernel
from sfxproc.models import scale
from sfxproc.models.parameters import (
    TABLE,
    ParameterSettings,
    among,
    columns_of,
    groups_of,
    named,
    names_of,
    parameters_of,
)
from sfxproc.refine.start import local_of

ALL = ParameterSettings(cell=True, wavelength=True)


def test_columns_of_local_parameters_are_those_of_the_kernels() -> None:
    names = names_of(parameters_of(ALL, n_strains=2))
    places = kernel.LN_G, kernel.B, kernel.THETA_1, kernel.THETA_2, kernel.LN_SIZE
    assert [names[place] for place in places] == ["ln_G", "B_A2", "theta_1", "theta_2", "ln_size"]
    assert names[kernel.N_LOCAL :] == ("strain_1", "strain_2", "ln_wavenumber")
    assert (names[scale.LN_G], names[scale.B]) == ("ln_G", "B_A2")


def test_what_is_not_refined_is_held_or_absent() -> None:
    held = ParameterSettings(orientation=False, refine_size=False)
    parameters = parameters_of(held, n_strains=6)
    assert names_of(parameters) == ("ln_G", "B_A2", "theta_1", "theta_2", "ln_size")
    assert [p.free(held) for p in parameters] == [True, True, False, False, False]


def test_priors_in_units_of_the_parameters() -> None:
    chosen = ParameterSettings(
        theta_prior_mrad=3.0,
        size_prior=0.7,
        cell=True,
        cell_prior_percent=0.4,
        wavelength=True,
        wavelength_prior_percent=0.2,
    )
    found = {p.name: p.prior_sigma for p in parameters_of(chosen, n_strains=1)}
    told = {name: prior and prior(chosen) for name, prior in found.items()}
    assert told["B_A2"] is None  # that of scaling
    del told["ln_G"], told["B_A2"]
    expected = {
        "theta_1": 3e-3,
        "theta_2": 3e-3,
        "ln_size": 0.7,
        "strain_1": 4e-3,
        "ln_wavenumber": 2e-3,
    }
    assert told == pytest.approx(expected)


def test_columns_and_back() -> None:
    names = names_of(parameters_of(ALL, n_strains=2))
    rng = np.random.default_rng(2)
    local, sigma = rng.normal(size=(2, 7, len(names)))
    columns = columns_of(names, local, np.abs(sigma))
    assert list(columns)[:4] == ["ln_G", "sigma_ln_G", "B_A2", "sigma_B_A2"]
    np.testing.assert_allclose(columns["theta_2_mrad"], 1e3 * local[:, 3])
    np.testing.assert_allclose(columns["sigma_theta_2_mrad"], 1e3 * np.abs(sigma[:, 3]))
    np.testing.assert_allclose(columns["size"], np.exp(local[:, 4]))
    step = 1e-6  # σ follows by the slope
    ahead, behind = (columns_of(names, local + h, sigma)["size"] for h in (step, -step))
    slope = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(columns["sigma_size"], slope * np.abs(sigma[:, 4]), rtol=1e-8)
    np.testing.assert_array_equal(columns["strain_2"], local[:, 6])
    np.testing.assert_allclose(local_of(columns, names, 7), local, rtol=1e-14)


def test_what_an_earlier_job_did_not_refine_is_not_known() -> None:
    scaled = {"ln_G": np.zeros(3), "B_A2": np.ones(3), "cc_to_merge": np.ones(3)}
    local = local_of(scaled, names_of(parameters_of(ALL, n_strains=1)), 3)
    np.testing.assert_array_equal(local[:, 1], 1.0)
    assert np.isnan(local[:, 2:]).all()


def test_groups_take_turns_in_the_order_of_the_table() -> None:
    assert groups_of(("ln_G", "B_A2", "theta_1", "theta_2", "ln_size")) == [[0, 1], [2, 3], [4]]
    names = names_of(parameters_of(ALL, n_strains=2))
    assert groups_of(names)[3:] == [[5, 6, 7]]


def test_a_parameter_is_known_by_its_name_and_by_its_column() -> None:
    assert [p.title for p in named(("strain_12", "theta_1"))] == ["strain 12", "θ₁ / mrad"]
    found = among(["status", "theta_1_mrad", "sigma_theta_1_mrad", "size", "strain_1", "cc"])
    assert names_of(found) == ("theta_1", "ln_size", "strain_1")
    with pytest.raises(KeyError, match="mosaicity"):
        named(("ln_G", "mosaicity"))


@pytest.mark.parametrize("key", ["name", "column"])
def test_no_line_takes_what_is_another_s(key: str) -> None:
    texts = [getattr(line.numbered(1), key) for line in TABLE]
    assert len(set(texts)) == len(texts)
