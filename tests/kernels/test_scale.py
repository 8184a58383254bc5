"""The rows of the scaling model against their NumPy twins; the deviance against quadrature."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.integrate import quad

from sfxproc.kernels import arrow, scale
from sfxproc.kernels.exponential import exponential
from sfxproc.kernels.variances import chi2_of_scatter
from tests.twins import scale as scale_numpy

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
ERRORS = [(0.0, 0.0), (1.0, 0.0), (2.0, 0.01), (0.0, 0.09), (0.3, 1e-6)]
"""(gain, c²)"""
N_SHARED = 40


def stills(partial: bool = False, seed: int = 1) -> SimpleNamespace:
    """Six crystals of 0 … 30 sorted rows, some reflections twice; some I below zero."""
    rng = np.random.default_rng(seed)
    number = np.array([10, 0, 30, 1, 25, 12])
    n = int(number.sum())
    shared = np.concatenate([np.sort(rng.integers(0, N_SHARED, k)) for k in number])
    P = rng.uniform(0.1, 1.0, n).astype(np.float32)
    I = rng.exponential(100.0, N_SHARED)
    I[::9] *= -0.05
    I[4] = 0.0
    return SimpleNamespace(
        start=np.concatenate([[0], np.cumsum(number)]).astype(np.int64),
        shared=shared.astype(np.int32),
        local=np.stack([rng.normal(0, 0.5, 6), rng.normal(0, 10, 6)], axis=1),
        I=I,
        s2=rng.uniform(0.001, 0.07, N_SHARED),
        P=P if partial else P[:0],
        observed=(I[shared] * rng.uniform(0.3, 2, n) + rng.normal(0, 9, n)).astype(np.float32),
        background=rng.uniform(5, 50, n).astype(np.float32),
        n=n,
    )


def with_nothing_shown(x: SimpleNamespace) -> SimpleNamespace:
    """Rows 3 and 40 show nothing of their reflection, row 41 next to nothing."""
    x.P[[3, 40, 41]] = 0.0, 0.0, 0.01
    return x


def model_of(x: SimpleNamespace, first: int, last: int, gain: float, c2: float) -> scale.Scaling:
    return scale.Scaling(
        x.start, x.shared, first, last, x.local, x.I, x.s2, x.P, x.observed, x.background, gain, c2
    )


def cells(n: int, seed: int) -> tuple[np.ndarray, ...]:
    """Random (x, y, b): both signs, tiny and large differences, many orders of magnitude."""
    rng = np.random.default_rng(seed)
    b = 10.0 ** rng.uniform(-1, 3, n)
    y = 10.0 ** rng.uniform(-2, 5, n) * rng.choice([1, 1, 1, -0.01], n)
    near = y * (1.0 + 10.0 ** rng.uniform(-8, -0.5, n) * rng.choice([-1, 1], n))
    noisy = y + rng.normal(size=n) * 3.0 * np.sqrt(b + np.maximum(y, 0))
    far = 10.0 ** rng.uniform(-2, 5, n) * rng.choice([1, 1, -0.01], n)
    return np.choose(rng.integers(0, 3, n), [near, noisy, far]), y, b


# ---- the deviance ------------------------------------------------------------------------------


def integrated(x: float, y: float, b: float, gain: float, c2: float) -> float:
    """2 ∫_y^x (x − t)/V(t) dt by adaptive quadrature in u = asinh(t/t₀), where V is smooth."""
    t0 = b / (gain + np.sqrt(b * c2) + 1e-9 * b)

    def integrand(u: float) -> float:
        t = t0 * np.sinh(u)
        v = b + gain * max(t, 0.0) + c2 * max(t, 0.0) ** 2
        return (x - t) / v * t0 * np.cosh(u)

    ends = sorted((np.arcsinh(y / t0), np.arcsinh(x / t0)))
    cuts = [ends[0], *(c for c in np.arange(-30.0, 31.0, 2.0) if ends[0] < c < ends[1]), ends[1]]
    parts = [quad(integrand, a, z, epsrel=1e-12)[0] for a, z in pairwise(cuts)]
    return 2.0 * abs(sum(parts))


@pytest.mark.parametrize(("gain", "c2"), ERRORS)
def test_deviance_is_the_integral(gain: float, c2: float) -> None:
    x, y, b = cells(60, seed=3)
    expected = np.array([integrated(*v, gain, c2) for v in zip(x, y, b, strict=True)])
    got = np.array([scale.deviance(*v, gain, c2) for v in zip(x, y, b, strict=True)])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(scale_numpy.deviance(x, y, b, gain, c2), expected, rtol=1e-6)


@pytest.mark.parametrize(("gain", "c2"), ERRORS)
def test_deviance_is_its_numpy_twin(gain: float, c2: float) -> None:
    x, y, b = cells(3000, seed=4)
    expected = scale_numpy.deviance(x, y, b, gain, c2)
    one_by_one = np.array([scale.deviance(*v, gain, c2) for v in zip(x, y, b, strict=True)])
    d = np.empty(len(x))
    scale.deviance_residuals(x, y, b, gain, c2, d)
    for got in (one_by_one, d**2):
        np.testing.assert_allclose(got, expected, rtol=5e-7)
        # far from where the closed form cancels (c² y ≪ gain) it is much better
        assert np.median(np.abs(got / expected - 1.0)) < 1e-12


@pytest.mark.parametrize(("gain", "c2"), ERRORS)
def test_deviance_where_there_is_no_difference(gain: float, c2: float) -> None:
    for y in (-3.0, 0.0, 1e-30, 2.0, 1e6):
        assert scale.deviance(y, y, 10.0, gain, c2) == 0.0
    near = scale.deviance(100.0, 100.0 + 1e-6, 10.0, gain, c2)
    assert near == pytest.approx(1e-12 / (10.0 + 100.0 * gain + 1e4 * c2), rel=1e-6)


@pytest.mark.parametrize("constant", ["by its parameters", "below zero"])
def test_deviance_for_constant_variance_is_the_square(constant: str) -> None:
    gain, c2 = (0.0, 0.0) if constant == "by its parameters" else (1.0, 0.01)
    for x, y in [(-1.0, -5.0), (-5.0, -1.0), (-2.0, -2.5)]:
        assert scale.deviance(x, y, 10.0, gain, c2) == pytest.approx((x - y) ** 2 / 10.0)


@pytest.mark.parametrize(("gain", "c2"), ERRORS)
def test_deviance_is_continuous(gain: float, c2: float) -> None:
    """Across x = 0, y = 0, and the borders between the formulas."""
    t = np.concatenate([np.linspace(-20, 20, 2001), np.linspace(50, 150, 5001)])
    for x in (-4.0, 0.0, 3.0, 100.0):
        d = np.empty(len(t))
        full = np.full(len(t), x)
        scale.deviance_residuals(full, t, np.full(len(t), 10.0), gain, c2, d)
        steps = np.abs(np.diff(d))[np.diff(t) < 1.0]
        # |∂d/∂y| = |x − y|/(V(y) d) ≤ √V_max/V_min
        v_max = scale.variance_of(max(x, 150.0), 10.0, gain, c2)
        assert steps.max() < 0.021 * np.sqrt(v_max) / 10.0
        assert np.all(d[t == x] == 0.0)


@pytest.mark.parametrize(("gain", "c2"), ERRORS)
def test_gradient_of_the_deviance_is_that_of_least_squares(gain: float, c2: float) -> None:
    """∂(½ d²)/∂y = −(x − y)/V(y), on both sides of zero."""
    for x, y in [(50.0, 30.0), (50.0, 49.0), (-3.0, 20.0), (5.0, -7.0), (-6.0, -2.0), (1e3, 1.0)]:
        step = 1e-5 * (1.0 + abs(y))
        ends = [0.5 * scale.deviance(x, y + s, 10.0, gain, c2) for s in (-step, step)]
        slope = (ends[1] - ends[0]) / (2.0 * step)
        expected = -(x - y) / scale.variance_of(y, 10.0, gain, c2)
        assert slope == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("c2", [0.0, 1e-6, 0.01])
@pytest.mark.parametrize("y", [1e12, 1e18, 1e40, 1e75, 1e120, 1e160, np.inf, np.nan])
def test_an_absurd_prediction_never_looks_good(y: float, c2: float) -> None:
    """A trial step may overflow: its deviance must be large or not a number, never small."""
    d2 = scale.deviance(100.0, y, 10.0, 1.0, c2)
    d = np.empty(1)
    scale.deviance_residuals(np.array([100.0]), np.array([y]), np.array([10.0]), 1.0, c2, d)
    for found in (d2, d[0] ** 2):
        assert not found < min(1e4, 1.0 / max(c2, 1e-300)), found


# ---- exp ---------------------------------------------------------------------------------------


def test_exponential() -> None:
    x = np.concatenate([np.linspace(-690, 690, 5000), [0.0, -0.0, 1e-300, 1e-17, 0.5, -0.3466]])
    work, out = np.empty_like(x), np.empty_like(x)
    exponential(x, work, out)
    np.testing.assert_allclose(out, np.exp(x), rtol=1e-14)
    assert out[5000:5004].tolist() == [1.0, 1.0, 1.0, 1.0]


def test_exponential_does_not_hide_a_parameter_that_is_not_a_number() -> None:
    x = np.array([np.nan, 1.0])
    work, out = np.empty_like(x), np.empty_like(x)
    exponential(x, work, out)
    assert np.isnan(out[0])
    assert np.isfinite(out[1])


# ---- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "c2"), ERRORS)
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(("first", "last"), [(0, 6), (2, 5)])
def test_rows_and_deviances(gain: float, c2: float, partial: bool, first: int, last: int) -> None:
    x = stills(partial)
    arguments = model_of(x, first, last, gain, c2)
    n = x.start[last] - x.start[first]
    r, d, a, c = np.empty(n), np.empty(n), np.empty((n, 2)), np.empty(n)
    scale.rows(tuple(arguments), r, d, a, c)
    twin = scale_numpy.rows(*arguments)
    for got, expected in zip((r, a, c), (twin[0], *twin[2:]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(d, twin[1], rtol=1e-7, atol=1e-9)
    again = np.empty(n)
    scale.deviances(tuple(arguments), again)
    np.testing.assert_array_equal(again, d)
    # an empty d is left alone, the rest is the same
    other = np.empty(n), np.empty((n, 2)), np.empty(n)
    scale.rows(tuple(arguments), other[0], np.empty(0), *other[1:])
    for got, expected in zip(other, (r, a, c), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_deviance_is_the_residual_for_constant_variance(gain: float) -> None:
    """d² = r² where V does not change: gain 0, or intensities below zero."""
    x = stills()
    if gain:
        x.I[:], x.observed[:] = -1.0, -np.abs(x.observed)
    r, d, a, c = np.empty(x.n), np.empty(x.n), np.empty((x.n, 2)), np.empty(x.n)
    scale.rows(tuple(model_of(x, 0, 6, gain, 0.0)), r, d, a, c)
    np.testing.assert_allclose(d**2, r**2, rtol=1e-10)


def test_partiality_multiplies_the_prediction() -> None:
    full, partial = stills(), stills(partial=True)
    c = [np.empty(full.n), np.empty(full.n)]
    for x, into in zip((full, partial), c, strict=True):
        rest = np.empty(full.n), np.empty(0), np.empty((full.n, 2))
        scale.rows(tuple(model_of(x, 0, 6, 0.0, 0.0)), *rest, into)
    np.testing.assert_allclose(c[1] / c[0], partial.P, rtol=1e-6)


@pytest.mark.parametrize(("gain", "c2"), ERRORS)
def test_chi2_of_scatter(gain: float, c2: float) -> None:
    x = stills(partial=True)
    arguments = model_of(x, 0, 6, gain, c2)
    cap = np.linspace(1.0, 4.0, len(x.I))
    expected = scale_numpy.chi2_of_scatter(*arguments, cap)
    np.testing.assert_allclose(chi2_of_scatter(arguments, cap), expected, rtol=1e-12)
    uncapped = scale_numpy.chi2_of_scatter(*arguments, np.full(len(x.I), np.inf))[0]
    assert expected[0] < uncapped  # the cap is met


def test_slope_of_chi2_in_the_scatter() -> None:
    x = stills()
    cap = np.full(len(x.I), np.inf)
    ends = [chi2_of_scatter(model_of(x, 0, 6, 1.0, c2), cap)[0] for c2 in (0.0099, 0.0101)]
    slope = chi2_of_scatter(model_of(x, 0, 6, 1.0, 0.01), cap)[1]
    assert slope == pytest.approx((ends[1] - ends[0]) / 2e-4, rel=1e-3)


@pytest.mark.parametrize("partial", [False, True])
def test_crystal_ratios(partial: bool) -> None:
    x = stills(partial)
    x.observed[x.start[4] : x.start[5]] *= -1.0  # no signal
    expected = np.abs(x.I)
    out = np.full(6, -1.0)
    scale.crystal_ratios(x.start, x.shared, 0, 6, x.observed, x.P, expected, out)
    twin = scale_numpy.crystal_ratios(x.start, x.shared, 0, 6, x.observed, x.P, expected)
    np.testing.assert_allclose(out, twin, rtol=1e-12)
    assert np.isnan(out[[1, 4]]).all()
    assert np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize("partial", [False, True])
def test_reflection_sums_and_overlaps(partial: bool) -> None:
    x = stills(partial)
    x.local[3, 0] = np.nan  # a crystal without signal
    out = np.zeros((3, N_SHARED))
    for first, last in [(0, 2), (2, 6)]:
        scale.reflection_sums(x.start, x.shared, first, last, x.local, x.s2, x.P, x.observed, out)
    twin = scale_numpy.reflection_sums(x.start, x.shared, 0, 6, x.local, x.s2, x.P, x.observed)
    np.testing.assert_allclose(out, twin, **CLOSE)
    counted = [m for m in range(6) if m != 3]
    holders = sum(
        np.isin(np.arange(N_SHARED), x.shared[x.start[m] : x.start[m + 1]]) for m in counted
    )
    np.testing.assert_array_equal(out[2], holders)
    n = np.empty(6, dtype=np.int64)
    scale.overlaps(x.start, x.shared, 0, 6, out[2], n)
    np.testing.assert_array_equal(n, scale_numpy.overlaps(x.start, x.shared, 0, 6, out[2]))


def test_gain_sums() -> None:
    rng = np.random.default_rng(6)
    observed = rng.normal(50, 100, 500).astype(np.float32)
    variance = rng.uniform(10, 200, 500).astype(np.float32)
    out = np.zeros(6)
    scale.gain_sums(observed, variance, 5.0, out)
    np.testing.assert_allclose(out, scale_numpy.gain_sums(observed, variance, 5.0), rtol=1e-12)
    assert 50 < out[0] < 450


@pytest.mark.parametrize("loss", [arrow.NO_LOSS, arrow.HUBER, arrow.CAUCHY])
@pytest.mark.parametrize(("gain", "c2"), ERRORS)
def test_weighted_sums(loss: int, gain: float, c2: float) -> None:
    x = with_nothing_shown(stills(partial=True))
    half = np.array([0, 1, 1, 0, -1, 0], dtype=np.int8)
    out = np.zeros((3, 2, N_SHARED))
    for first, last in [(0, 3), (3, 6)]:
        scale.weighted_sums(model_of(x, first, last, gain, c2), half, loss, 1.5, *out)
    twin = scale_numpy.weighted_sums(*model_of(x, 0, 6, gain, c2), half, loss, 1.5)
    np.testing.assert_allclose(out, twin, rtol=1e-8, atol=1e-10)
    assert out[2].sum() == x.n - (x.start[5] - x.start[4]) - 2


def test_deviations() -> None:
    x = with_nothing_shown(stills(partial=True))
    half = np.array([0, 1, 1, 0, -1, 0], dtype=np.int8)
    mean = x.I.copy()
    mean[::7] = np.nan
    sums, moments = np.zeros((2, N_SHARED)), np.full((6, 6), np.nan)
    for first, last in [(0, 3), (3, 6)]:
        scale.deviations(model_of(x, first, last, 1.0, 0.0), mean, half, *sums, moments)
    twin = scale_numpy.deviations(
        x.start, x.shared, 0, 6, x.local, x.s2, x.P, x.observed, mean, half
    )
    for got, expected in zip((*sums, moments), twin, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-8)
