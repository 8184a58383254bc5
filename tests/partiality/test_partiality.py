"""What every partiality model must obey, and the values of each."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.partiality import PARTIALITIES, Partiality

R_S = 0.004


@pytest.fixture(params=sorted(PARTIALITIES))
def model(request: pytest.FixtureRequest) -> Partiality:
    return PARTIALITIES[request.param]


def test_derivatives_are_those_of_the_value(model: Partiality) -> None:
    r_h = np.linspace(-1.5, 1.5, 62) * R_S  # no point on the surface, where P has a kink
    r_s = np.full_like(r_h, R_S)
    step = 1e-6 * R_S
    by_r_h = (model.value(r_h + step, r_s) - model.value(r_h - step, r_s)) / (2 * step)
    by_r_s = (model.value(r_h, r_s + step) - model.value(r_h, r_s - step)) / (2 * step)
    d_r_h, d_r_s = model.derivatives(r_h, r_s)
    np.testing.assert_allclose(d_r_h, by_r_h, atol=1e-6 / R_S)
    np.testing.assert_allclose(d_r_s, by_r_s, atol=1e-6 / R_S)


def test_bounds_and_symmetry(model: Partiality) -> None:
    r_h = np.linspace(-2, 2, 101) * R_S
    p = model.value(r_h, np.array(R_S))
    assert ((p >= 0) & (p <= 1)).all()
    assert model.value(np.array(0.0), np.array(R_S)) == 1
    np.testing.assert_allclose(p, p[::-1], atol=1e-12)
    assert (p[np.abs(r_h) > 1.01 * R_S] == 0).all()
    assert (p[np.abs(r_h) < 0.99 * R_S] > 0).all()


def test_values() -> None:
    r_h = np.array([0.0, 0.5, -0.5, 1.2]) * R_S
    r_s = np.array(R_S)
    np.testing.assert_allclose(PARTIALITIES["sphere"].value(r_h, r_s), [1, 0.75, 0.75, 0])
    np.testing.assert_array_equal(PARTIALITIES["unity"].value(r_h, r_s), [1, 1, 1, 0])
