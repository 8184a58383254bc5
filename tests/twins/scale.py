"""NumPy twins of `kernels.scale`.

Same letters and arguments; what a kernel writes into arrays is returned. The deviance is
integrated numerically, by 200-point Gauss–Legendre in ln(t + t₀), t₀ the size at which V begins
to change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.scale import TOLD
from tests.twins.arrow import Array, blocks_of, rho_and_weight, summed

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


def variance_of(y: Array, b: Array, gain: float, c2: float) -> Array:
    """V(y)."""
    t = np.maximum(y, 0.0)
    return np.asarray(b + gain * t + c2 * t * t)


def positive_part(x: Array, y: Array, e: Array, b: Array, gain: float, c2: float) -> Array:
    """∫_y^e (x − t)/V(t) dt for 0 ≤ y, e."""
    with np.errstate(divide="ignore"):
        t0 = np.minimum(np.divide(b, gain), np.sqrt(np.divide(b, c2)))
    t0 = np.where(np.isfinite(t0), t0, np.maximum(y, e) + b)  # V is constant: any will do
    half = 0.5 * np.log1p((e - y) / (y + t0))  # of the range of ln(t + t₀)
    step = (y + t0)[..., None] * np.expm1(half[..., None] * (NODES + 1.0))  # t − y
    t = y[..., None] + step
    V = b[..., None] + gain * t + c2 * t * t
    f = ((x - y)[..., None] - step) / V * (t + t0[..., None])
    return np.asarray(half * (f @ WEIGHTS))


def deviance(x: Any, y: Any, b: Any, gain: float, c2: float) -> Array:
    """d² of observations x that should be y."""
    x, y, b = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (x, y, b)))
    below = np.minimum(x, 0.0) - np.minimum(y, 0.0)  # the way from y to x below zero, V = b
    middle = 0.5 * (np.minimum(x, 0.0) + np.minimum(y, 0.0))
    above = positive_part(x, np.maximum(y, 0.0), np.maximum(x, 0.0), b, gain, c2)
    return np.asarray(2.0 * (below * (x - middle) / b + above))


def scale_factors(ln_g: Array, B: Array, s2: Array, P: Array) -> Array:
    """f = P·exp(ln G − 2 B s²), row by row; an empty P means full intensities."""
    f = np.exp(ln_g - 2.0 * B * s2)
    return np.asarray(f * P if P.size else f)


class Rows:
    """The rows of blocks first … last−1 laid out flat: m, h, f, and y where I is given."""

    def __init__(
        self, start: Array, shared: Array, first: int, last: int, local: Array, s2: Array, P: Array
    ) -> None:
        self.at = slice(start[first], start[last])
        self.m, self.h = blocks_of(start, first, last), shared[self.at]
        ln_g, B = local[self.m].T
        self.f = scale_factors(ln_g, B, s2[self.h], P[self.at] if P.size else P)


def rows(
    start: Array,
    shared: Array,
    first: int,
    last: int,
    local: Array,
    I: Array,
    s2: Array,
    P: Array,
    observed: Array,
    background: Array,
    gain: float,
    c2: float,
) -> tuple[Array, Array, Array, Array]:
    """(r, d, a, c) of blocks first … last−1."""
    row = Rows(start, shared, first, last, local, s2, P)
    y, x = row.f * I[row.h], observed[row.at].astype(np.float64)
    b = background[row.at].astype(np.float64)
    w = 1.0 / np.sqrt(variance_of(y, b, gain, c2))
    d = np.sqrt(deviance(x, y, b, gain, c2))
    a = np.stack([-y * w, 2.0 * s2[row.h] * y * w], axis=1)
    return (x - y) * w, d, a, -row.f * w


def chi2_of_scatter(
    start: Array,
    shared: Array,
    first: int,
    last: int,
    local: Array,
    I: Array,
    s2: Array,
    P: Array,
    observed: Array,
    background: Array,
    gain: float,
    c2: float,
    cap: Array,
) -> tuple[float, float]:
    """Σ min(z, cap[h]) and Σ ∂z/∂c² over z ≤ cap[h]."""
    row = Rows(start, shared, first, last, local, s2, P)
    y = row.f * I[row.h]
    v = variance_of(y, background[row.at].astype(np.float64), gain, c2)
    z = (observed[row.at] - y) ** 2 / v
    slope = np.where(z <= cap[row.h], -z * np.maximum(y, 0.0) ** 2 / v, 0.0)
    return float(np.minimum(z, cap[row.h]).sum()), float(slope.sum())


def crystal_ratios(
    start: Array, shared: Array, first: int, last: int, observed: Array, P: Array, expected: Array
) -> Array:
    """Σ I_obs / Σ P·expected of each block; NaN if not > 0."""
    m, at = blocks_of(start, first, last) - first, slice(start[first], start[last])
    e = expected[shared[at]] * (P[at] if P.size else 1.0)
    above = summed(m, observed[at].astype(np.float64), last - first)
    below = summed(m, e, last - first)
    good = (above > 0.0) & (below > 0.0)
    return np.where(good, above / np.where(good, below, 1.0), np.nan)


def distinct(row: Rows) -> Array:
    """True at the first row of each (block, reflection) pair, rows sorted by it."""
    same = (np.diff(row.m) == 0) & (np.diff(row.h) == 0)
    return np.concatenate([[True], ~same])[: len(row.h)]


def reflection_sums(
    start: Array,
    shared: Array,
    first: int,
    last: int,
    local: Array,
    s2: Array,
    P: Array,
    observed: Array,
) -> Array:
    """(3, n_shared) Σ I_obs, Σ f, number of blocks, those of NaN scale passed over."""
    row = Rows(start, shared, first, last, local, s2, P)
    terms = np.stack([observed[row.at].astype(np.float64), row.f, distinct(row)], axis=1)
    known = ~np.isnan(local[row.m, 0])
    return summed(row.h[known], terms[known], len(s2)).T


def overlaps(start: Array, shared: Array, first: int, last: int, n_crystals: Array) -> Array:
    """Number of reflections of each block that others hold too."""
    pairs = np.stack([blocks_of(start, first, last), shared[start[first] : start[last]]], axis=1)
    m, h = np.unique(pairs, axis=0).T
    return np.bincount(m[n_crystals[h] > 1] - first, minlength=last - first)


def gain_sums(observed: Array, variance: Array, signal: float) -> Array:
    """n, Σw, ΣwI, ΣwI², Σwσ², ΣwIσ² with w = 1/σ⁴, over I > signal·σ."""
    x, v = observed.astype(np.float64), variance.astype(np.float64)
    strong = (x > 0) & (x * x > signal**2 * v)
    x, v = x[strong], v[strong]
    w = 1.0 / v**2
    return np.array([s.sum() for s in (np.ones_like(w), w, w * x, w * x * x, w * v, w * x * v)])


def weighted_sums(
    start: Array,
    shared: Array,
    first: int,
    last: int,
    local: Array,
    I: Array,
    s2: Array,
    P: Array,
    observed: Array,
    background: Array,
    gain: float,
    c2: float,
    half: NDArray[np.int8],
    loss: int,
    k: float,
) -> Array:
    """(3, 2, n_shared) Σ w, Σ wJ and number, by half set."""
    arguments = (local, I, s2, P, observed, background, gain, c2)
    _, d, _, c = rows(start, shared, first, last, *arguments)
    row = Rows(start, shared, first, last, local, s2, P)
    psi = rho_and_weight(d, loss, k)[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        J = np.where(row.f > 0, observed[row.at] / row.f, 0.0)
    terms = np.stack([psi * c * c, psi * c * c * J, row.f > 0])  # c² = f²/V
    out = np.zeros((3, 2, len(I)))
    for t in (0, 1):
        of_half = half[row.m] == t
        out[:, t] = summed(row.h[of_half], terms[:, of_half].T, len(I)).T
    return out


def deviations(
    start: Array,
    shared: Array,
    first: int,
    last: int,
    local: Array,
    s2: Array,
    P: Array,
    observed: Array,
    mean: Array,
    half: NDArray[np.int8],
) -> tuple[Array, Array, Array]:
    """(Σ J, Σ |J − ⟨I⟩|) by reflection and (last − first, 6) sums for CC(J, ⟨I⟩)."""
    row = Rows(start, shared, first, last, local, s2, P)
    known = np.isfinite(mean[row.h])
    if P.size:
        known &= P[row.at] >= TOLD
    m, h = row.m[known], row.h[known]
    x, y = observed[row.at][known] / row.f[known], mean[h]
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    kept = half[m] >= 0
    return (
        summed(h[kept], x[kept], len(s2)),
        summed(h[kept], np.abs(x - y)[kept], len(s2)),
        summed(m - first, moments, last - first),
    )
