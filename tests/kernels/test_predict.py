"""Prediction of stills against its NumPy twin and against geometry."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.kernels import predict
from tests.twins import reflections

S0 = np.array([0.0, 0.0, 1 / 1.3])


def orientation(seed: int) -> np.ndarray:
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return rotation @ np.diag([1 / 30.0, 1 / 40.0, 1 / 25.0])


def predicted(A: np.ndarray, r_s: float, room: int) -> tuple[int, np.ndarray, ...]:
    hkl, r_h, s1 = np.zeros((room, 3), np.int16), np.zeros(room), np.zeros((room, 3))
    h_max = np.array([15, 20, 13])
    n = predict.predict_still(A, S0, r_s, 0.051, 0.493, h_max, hkl, r_h, s1)
    return n, hkl, r_h, s1


@pytest.mark.parametrize("seed", range(3))
def test_kernel_agrees_with_numpy(seed: int) -> None:
    A = orientation(seed)
    n, hkl, r_h, s1 = predicted(A, 0.01, 1000)
    expected = reflections.predict_still(A, S0, 0.01, 0.051, 0.493, np.array([15, 20, 13]))
    assert 100 < n < 1000
    for got, want in zip((hkl, r_h, s1), expected, strict=True):
        np.testing.assert_allclose(got[:n], want, atol=1e-12)


def test_too_small_arrays_are_not_overrun() -> None:
    A = orientation(0)
    n, hkl, *_ = predicted(A, 0.01, 1000)
    fewer, first, *_ = predicted(A, 0.01, 10)
    assert fewer == n
    np.testing.assert_array_equal(first, hkl[:10])


def test_a_node_on_the_ewald_sphere() -> None:
    """A node with 2θ = 90° along x is reached by q = (1, 0, −1)/λ; raising z lengthens s1."""
    A = np.diag([1 / 1.3, 1.0, -1 / 1.3])
    assert predict.excitation_errors(A, S0, np.array([[1, 0, 1]])) == pytest.approx(0, abs=1e-12)
    A[2, 2] += 0.001
    assert predict.excitation_errors(A, S0, np.array([[1, 0, 1]]))[0] > 0
