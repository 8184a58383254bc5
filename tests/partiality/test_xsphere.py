"""The closed form of xsphere against quadrature, of its own integral and of the one over k."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from sfxproc.partiality import PARTIALITIES, derivatives, values, width_at

XSPHERE = PARTIALITIES["xsphere"]
R = 0.005
K = 1 / 1.3


def section(r: float, w: float) -> float:
    """F(r) by quadrature."""
    low, high = max(-5.0, (-R - r) / w), min(5.0, (R - r) / w)
    if high <= low:
        return 0.0

    def inside(z: float) -> float:
        return float(np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * (1 - ((r + w * z) / R) ** 2))

    return float(quad(inside, low, high, epsabs=1e-15, epsrel=1e-13, limit=200)[0])


@pytest.mark.parametrize("share", [1e-4, 0.02, 0.3, 0.49, 0.51, 1.0, 3.0, 8.0, 100.0])
def test_closed_form(share: float) -> None:
    """At any R/w, on both sides of the switch to quadrature at ½."""
    w = R / share
    for r in np.linspace(0, R + 5.1 * w, 21):
        expected = section(r, w) / section(0.0, w)
        assert values(XSPHERE, r, R, w) == pytest.approx(expected, rel=1e-9, abs=2e-12)


@pytest.mark.parametrize("w", [2 * R, 1e-11 * R])
def test_no_steps_at_the_switches(w: float) -> None:
    r = np.concatenate([np.linspace(0, R + 6 * w, 2001), R + w * np.linspace(-6, 6, 2001)])
    below, above = w * (1 - 1e-13), w * (1 + 1e-13)
    np.testing.assert_allclose(
        values(XSPHERE, r, R, below), values(XSPHERE, r, R, above), rtol=0, atol=1e-10
    )
    if w < R:  # the slope of the edge has a step without bandwidth
        r = r[np.abs(r - R) > 6 * w]
    for one, other in zip(
        derivatives(XSPHERE, r, R, below), derivatives(XSPHERE, r, R, above), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 / R)


def test_without_bandwidth_it_is_the_sphere() -> None:
    r = np.linspace(-2, 2, 101) * R
    sphere = PARTIALITIES["sphere"]
    np.testing.assert_array_equal(values(XSPHERE, r, R), values(sphere, r, R))
    np.testing.assert_array_equal(derivatives(XSPHERE, r, R), derivatives(sphere, r, R))


def test_a_point_much_smaller_than_the_width_shows_the_spectrum() -> None:
    w = 0.001
    r = np.linspace(-4.9, 4.9, 99) * w
    np.testing.assert_allclose(
        values(XSPHERE, r, 1e-9, w), np.exp(-0.5 * (r / w) ** 2), rtol=1e-8, atol=0
    )
    assert (values(XSPHERE, 5.001 * w, 1e-9, w)) == 0


def over_spectrum(q: float, z: float, size: float, sigma: float) -> float:
    """∫ E(k) (1 − (t(k)/R)²) dk over the part inside, unnormalised, E of width σ cut at ±5σ."""

    def t(k: float) -> float:
        return float(np.sqrt(q * q + k * k + 2 * z * k) - k)

    def inside(k: float) -> float:
        return float(np.exp(-0.5 * ((k - K) / sigma) ** 2) * (1 - (t(k) / size) ** 2))

    ends = [K - 5 * sigma, K + 5 * sigma]
    roots = [(size**2 - q * q) / (2 * (z + sign * size)) for sign in (-1, 1)]  # |t| = R there
    ends = sorted(ends + [k for k in roots if ends[0] < k < ends[1]])
    pieces = [(a, b) for a, b in pairwise(ends) if abs(t((a + b) / 2)) < size]
    return sum(quad(inside, a, b, epsabs=1e-13 * sigma, epsrel=1e-11)[0] for a, b in pieces)


@pytest.mark.parametrize(
    ("bandwidth", "error"), [(0.0, 1e-12), (1e-4, 3e-6), (1e-3, 2e-4), (5e-3, 2e-3)]
)
def test_error_of_taking_t_as_linear(bandwidth: float, error: float) -> None:
    """Against the definition by an integral over k, for protein crystals."""
    worst = 0.0
    for q in (0.05, 0.2, 0.3, 0.5):
        z0 = -0.5 * q * q / K  # the point is on the nominal sphere
        for size in (0.002, 0.005, 0.01):
            full = size + 5 * width_at(bandwidth, K, q * q, z0)
            centre = over_spectrum(q, z0, size, bandwidth * K) if bandwidth else 1.0
            for r in np.linspace(-full, full, 12):
                z = ((K + r) ** 2 - K**2 - q * q) / (2 * K)
                if bandwidth:
                    exact = over_spectrum(q, z, size, bandwidth * K) / centre
                else:
                    exact = max(1 - (r / size) ** 2, 0.0)
                w = width_at(bandwidth, K, q * q, z)
                worst = max(worst, abs(float(values(XSPHERE, r, size, w)) - exact))
    assert worst < error
    assert worst > 0.1 * error or bandwidth == 0  # or the docstring may promise more
