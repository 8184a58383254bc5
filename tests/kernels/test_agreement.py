"""Agreement of crystals against NumPy twins that really take each crystal out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from sfxproc.kernels import agreement as kernels
from sfxproc.kernels.arrow import CAUCHY, NO_LOSS
from sfxproc.kernels.scale import TOLD, Scaling
from tests.twins.arrow import rho_and_weight
from tests.twins.scale import deviance

GAIN, C2 = 1.5, 0.01
N_SHARED, N_SHELLS = 40, 3
LOSSES = [(NO_LOSS, 3.0), (CAUCHY, 2.0)]


def stills(partial: bool) -> SimpleNamespace:
    """Ten crystals of 0 … 60 sorted rows, many reflections twice, one row that shows nothing."""
    rng = np.random.default_rng(3)
    number = np.array([30, 0, 60, 1, 25, 40, 2, 50, 35, 20])
    n, size = int(number.sum()), len(number)
    crystal = np.repeat(np.arange(size), number)
    shared = np.concatenate([np.sort(rng.integers(0, N_SHARED, k)) for k in number])
    P = rng.uniform(0.02, 1.0, n).astype(np.float32)
    P[3] = 0.0
    I, s2 = rng.exponential(80.0, N_SHARED), rng.uniform(0.001, 0.07, N_SHARED)
    local = np.stack([rng.normal(0, 0.5, size), rng.normal(0, 10, size)], axis=1)
    f = np.exp(local[crystal, 0] - 2.0 * local[crystal, 1] * s2[shared]) * (P if partial else 1.0)
    half = (np.arange(size) % 2).astype(np.int8)
    half[5] = -1
    x = SimpleNamespace(
        start=np.concatenate([[0], np.cumsum(number)]).astype(np.int64),
        shared=shared.astype(np.int32),
        crystal=crystal,
        local=local,
        I=I,
        s2=s2,
        P=P if partial else P[:0],
        f=f,
        half=half,
        size=size,
        observed=(f * I[shared] * rng.uniform(0.3, 2, n) + rng.normal(0, 6, n)).astype(np.float32),
        background=rng.uniform(5, 50, n).astype(np.float32),
        share=rng.uniform(0.5, 1.0, N_SHARED),
        shell=rng.integers(0, N_SHELLS, N_SHARED),
        mean=rng.uniform(60, 100, N_SHELLS),
        variance=rng.uniform(3000, 9000, N_SHELLS),
    )
    x.told = (P >= TOLD) if partial else np.ones(n, dtype=bool)
    return x


def first_arguments(x: SimpleNamespace) -> tuple[Any, ...]:
    return Scaling(
        x.start, x.shared, 0, x.size, x.local, x.I, x.s2, x.P, x.observed, x.background, GAIN, C2
    ), x.half


def row_values(x: SimpleNamespace, loss: tuple[int, float]) -> tuple[np.ndarray, ...]:
    """J − I, w, ψ, d and V(y) of all rows; w = 0 where a row does not count."""
    y = x.f * x.I[x.shared]
    V = x.background + y * (GAIN + C2 * y)
    d = np.sqrt(deviance(x.observed.astype(float), y, x.background.astype(float), GAIN, C2))
    psi = rho_and_weight(d, *loss)[1]
    w = np.where(x.told, psi * x.f**2 / V, 0.0)
    e = np.divide(x.observed, x.f, out=np.zeros(len(y)), where=x.f > 0) - x.I[x.shared]
    return e, w, psi, d, V


def sums_of(x: SimpleNamespace, loss: tuple[int, float], rows: np.ndarray) -> np.ndarray:
    e, w, *_ = row_values(x, loss)
    columns = w, w * e, w * e**2, w > 0
    return np.stack([np.bincount(x.shared[rows], c[rows], N_SHARED) for c in columns])


def y_and_v(x: SimpleNamespace, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    W, E, Q, n = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return x.I + E / W, 2.0 * (Q - E**2 / W) / ((n - 1) * W)


def mean_cc_half(x: SimpleNamespace, sums: np.ndarray, counts: np.ndarray) -> float:
    """CC½ of all shells, over the reflections that count."""
    y, v = y_and_v(x, sums)
    total = 0.0
    for t in range(N_SHELLS):
        rows = counts & (x.shell == t)
        N = int(rows.sum())
        totals = np.array([N * y[rows].var(), v[rows].sum()])
        total += N / counts.sum() * cc_half(N, totals)
    return total


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("partial", [False, True])
def test_moments(partial: bool, loss: tuple[int, float]) -> None:
    x = stills(partial)
    out = np.zeros((4, N_SHARED))
    kernels.moments(*first_arguments(x), *loss, out)
    expected = sums_of(x, loss, x.half[x.crystal] >= 0)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-9)


def cc_half(N: int, totals: np.ndarray) -> float:
    a, e = totals[0] / (N - 1), totals[1] / N
    return float((a - e / 2) / (a + e / 2))


def agreements(x: SimpleNamespace, loss: tuple[int, float]) -> dict[str, np.ndarray]:
    sums = np.zeros((4, N_SHARED))
    kernels.moments(*first_arguments(x), *loss, sums)
    y, v = y_and_v(x, sums)
    counts = sums[3] >= kernels.FEWEST
    centre, totals, slopes = np.zeros(N_SHELLS), np.zeros((N_SHELLS, 3)), np.zeros((N_SHELLS, 2))
    for t in range(N_SHELLS):
        rows = counts & (x.shell == t)
        if rows.sum() < 2:
            continue
        N, centre[t] = rows.sum(), y[rows].mean()
        totals[t] = N, np.sum((y[rows] - centre[t]) ** 2), v[rows].sum()
        step = 1e-6 * totals[t, 1:]
        for i, to in enumerate(step * np.eye(2)):
            change = cc_half(N, totals[t, 1:] + to) - cc_half(N, totals[t, 1:] - to)
            slopes[t, i] = N / counts.sum() * change / (2.0 * step[i])
    out = np.empty((x.size, len(kernels.COLUMNS)))
    kernels.agreement(
        *first_arguments(x),
        *loss,
        x.share,
        sums,
        kernels.Shells(x.shell, x.mean, x.variance, centre, totals, slopes),
        out,
    )
    return dict(zip(kernels.COLUMNS, out.T, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("partial", [False, True])
def test_change_of_cc_half_is_that_without_the_crystal(
    partial: bool, loss: tuple[int, float]
) -> None:
    x = stills(partial)
    found = agreements(x, loss)
    merged = x.half[x.crystal] >= 0
    everything = sums_of(x, loss, merged)
    counts = everything[3] >= kernels.FEWEST
    whole = mean_cc_half(x, everything, counts)
    compared = 0
    for m in range(x.size):
        without = sums_of(x, loss, merged & (x.crystal != m))
        # where fewer than two others are left, the reflection is kept as it was
        kept = without[3] >= kernels.FEWEST - 1
        without = np.where(kept, without, everything)
        if np.isfinite(found["delta_cc_half"][m]):
            expected = whole - mean_cc_half(x, without, counts)
            assert found["delta_cc_half"][m] == pytest.approx(expected, rel=1e-5, abs=1e-9)
            parts = [  # reflection by reflection
                whole - mean_cc_half(x, np.where(one, without, everything), counts)
                for one in np.eye(N_SHARED, dtype=bool)[np.unique(x.shared[x.crystal == m])]
            ]
            sigma = np.std(parts, ddof=1) * np.sqrt(len(parts))
            assert found["delta_sigma"][m] == pytest.approx(sigma, rel=0.5)  # it is linearised
            compared += 1
    assert compared == 7  # not the empty one, not the one left out, not that of one row
    assert np.isnan(found["delta_cc_half"][5])


def twin(x: SimpleNamespace, loss: tuple[int, float], m: int) -> dict[str, float]:
    """All but CC½, from the sums without crystal m."""
    _, w, psi, d, V = row_values(x, loss)
    sums = sums_of(x, loss, (x.half[x.crystal] >= 0) & (x.crystal != m))
    mean, _ = y_and_v(x, sums)
    rows = (x.crystal == m) & (w > 0) & (sums[3][x.shared] > 0)
    h, f, b, seen = x.shared[rows], x.f[rows], x.background[rows], x.observed[rows].astype(float)
    mu, tau2 = x.mean[x.shell[h]], x.variance[x.shell[h]]

    def s2(k: float) -> np.ndarray:
        return b + k * f * mu * (GAIN + C2 * k * f * mu) + k**2 * f**2 * tau2

    def q(k: float) -> np.ndarray:
        return np.clip((seen - k * f * mu) / np.sqrt(s2(k)), -3.0, 3.0)

    def balance(k: float) -> float:
        return float(np.sum(f * mu / np.sqrt(s2(k)) * q(k)))

    k = brentq(balance, 1e-3, 1e3, rtol=1e-12)
    weight = f * mu / np.sqrt(s2(k))
    k_error = np.sqrt(np.sum((weight * q(k)) ** 2)) / np.sum(weight**2) / k
    reliable = tau2 / (tau2 + 1.0 / sums[0][h])
    p = np.clip(k * f * reliable * (mean[h] - mu) / np.sqrt(s2(k)), -3.0, 3.0)
    left = 1.0 - k**2 * f**2 * tau2 * reliable / s2(k)
    shown = np.sum(p**2 + left)
    p, shows = p - p.mean(), q(k) - q(k).mean()
    pp = np.sum(p**2)
    error2 = max(np.sum(p**2 * shows**2), pp) / pp**2 + k_error**2
    residual2 = (x.observed - x.f * x.I[x.shared]) ** 2 / V
    return {
        "n": rows.sum(),
        "chi2": np.sum((psi * residual2)[rows]),
        "expected_chi2": np.sum((psi * x.share[x.shared])[rows]),
        "n_outliers": np.sum(d[rows] > 5.0),
        "cc": np.corrcoef(p, shows)[0, 1],
        "cc_expected": np.sqrt(pp / shown),
        "signal": np.sum(p * shows) / pp,
        "signal_sigma": np.sqrt(error2),
    }


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("partial", [False, True])
def test_agreement_with_the_others(partial: bool, loss: tuple[int, float]) -> None:
    x = stills(partial)
    found = agreements(x, loss)
    for m in (0, 2, 4, 5, 7, 8, 9):
        for name, expected in twin(x, loss, m).items():
            # the scale is found to a thousandth
            assert found[name][m] == pytest.approx(expected, rel=3e-3, abs=1e-3), (m, name)


def test_nothing_is_said_of_a_crystal_that_tells_nothing() -> None:
    found = agreements(stills(False), LOSSES[1])
    assert found["n"][1] == 0
    assert found["n"][3] == 1
    for name in ("cc", "cc_expected", "signal", "signal_sigma", "delta_cc_half", "delta_sigma"):
        assert np.isnan(found[name][[1, 3]]).all()


def test_a_reflection_that_nobody_else_shows_does_not_count() -> None:
    x = stills(False)
    x.half[:] = -1
    x.half[[0, 9]] = 0  # crystals in the merge are compared with the other one, the rest with both
    found = agreements(x, LOSSES[1])
    of = [set(x.shared[x.crystal == m]) for m in range(x.size)]
    for m, others in ((0, of[9]), (9, of[0]), (2, of[0] | of[9])):
        expected = sum(h in others for h in x.shared[x.crystal == m])
        assert found["n"][m] == expected
        assert expected > 0


@pytest.mark.parametrize("factor", [1e-4, 0.1, 1.0, 30.0])
def test_own_scale(factor: float) -> None:
    """Whatever scale the rows come with, and with a hundredth of gross outliers."""
    rng = np.random.default_rng(8)
    m = rng.uniform(0.5, 2.0, 2000) * 50.0
    x = rng.poisson(rng.exponential(m) + 10.0) - 10.0
    x[::100] = 5000.0
    k, error = kernels.own_scale(x, factor * m, np.full(2000, 10.0), (factor * m) ** 2, 1.0, 0.0)
    assert k * factor == pytest.approx(1.0, abs=0.06)
    assert error == pytest.approx(1.0 / np.sqrt(2000), rel=0.2)


def test_no_scale_without_signal() -> None:
    m, b = np.full(20, 10.0), np.full(20, 10.0)
    assert kernels.own_scale(np.full(20, -1.0), m, b, m**2, 1.0, 0.0) == (0.0, np.inf)
    assert kernels.own_scale(np.full(20, 1.0), 0.0 * m, b, m**2, 1.0, 0.0) == (0.0, np.inf)
