"""The scaling model, row by row.

    yᵢ = Pᵢ · exp(ln G_m − 2 B_m s_h²) · I_h
    ∂y/∂ln G = y    ∂y/∂B = −2 s² y    ∂y/∂I = y/I

The variance of an observation is what the model says it should be, not what was counted (√I_obs
pulls weak intensities down): a background part, counting in proportion to the intensity, and the
scatter that the model leaves unexplained:

    V(y) = b + γ y₊ + (c y₊)²,   y₊ = max(y, 0)

A variance that moves with the parameters is no least-squares weight; what is minimised is half
the quasi-likelihood deviance (Wedderburn, Biometrika 61 (1974) 439),

    d² = 2 ∫_y^I_obs (I_obs − t) / V(t) dt,

whose gradient −(I_obs − y)/V ∂y is that of least squares with the weight 1/V at the current y,
and whose expected curvature is ∂y ∂yᵀ/V: rows r = (I_obs − y)/√V, a = −∂y/√V. For constant V,
d = r. On [y, e] where V is quadratic, with Δ = γ² − 4 b c² and M = 2b + γ(y + e) + 2c² y e,

    ∫ (x − t)/V dt = −ln(V_e/V_y) / 2c² + (x + γ/2c²) · (2/√Δ) artanh(√Δ (e − y)/M)

(arctan for Δ < 0), and −(e − y)/γ + (x + b/γ) ln(V_e/V_y)/γ for c = 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.arrow import rho_and_weight
from sfxproc.kernels.compiled import compiled
from sfxproc.kernels.exponential import exponential

Array = NDArray[Any]

TOLD = 0.1  # partiality from which on an observation tells how well the data agree
SMOOTH = 0.5  # relative change of V between y and I_obs up to which quadrature is exact enough
# nodes and weights of 6-point Gauss–Jacobi quadrature for ∫₀¹ (1 − u) F(u) du
U1, U2, U3, U4, U5, U6 = (
    0.029316427159784893, 0.14807859966848430, 0.33698469028115430,
    0.55867151877155010, 0.76923386203005450, 0.92694567131974110,
)  # fmt: skip
W1, W2, W3, W4, W5, W6 = (
    0.072310330725508683, 0.13554249723151867, 0.14079255378819890,
    0.098661150890655270, 0.043955165550508975, 0.0087383018136095318,
)  # fmt: skip


@compiled(inline="always")
def variance_of(y, b, gain, c2):
    """V(y)."""
    t = max(y, 0.0)
    return b + t * (gain + c2 * t)


@compiled(error_model="numpy")
def positive_part(x, y, e, b, gain, c2):
    """∫_y^e (x − t)/V(t) dt for 0 ≤ y, e."""
    v = b + y * (gain + c2 * y)
    step = e - y
    linear = step * (gain + 2.0 * c2 * y) / v
    square = c2 * step * step / v
    if abs(linear) + square < 1e-3:  # V hardly changes: its series, for the sake of rounding
        q = linear * linear - square
        return (step / v) * (
            (x - y) * (1.0 - linear / 2.0 + q / 3.0) - step * (0.5 - linear / 3.0 + q / 4.0)
        )
    v_e = b + e * (gain + c2 * e)
    log_ratio = np.log1p(linear + square) if linear + square > -0.5 else np.log(v_e / v)
    if c2 * max(y, e) < 1e-9 * gain:  # the scatter does not count here
        return -step / gain + (x + b / gain) * log_ratio / gain
    delta = gain * gain - 4.0 * b * c2
    middle = 2.0 * b + gain * (y + e) + 2.0 * c2 * y * e
    root = np.sqrt(abs(delta))
    z = root * step / middle
    if abs(z) < 1e-6:
        integral = 2.0 * step / middle
    elif delta > 0.0 and abs(z) < 0.5:
        integral = 2.0 * np.arctanh(z) / root
    elif delta > 0.0:  # middle² − Δ step² = 4 V_y V_e: the same without 1 − |z|
        ends = np.sqrt(v) * np.sqrt(v_e)
        integral = np.copysign(2.0 * np.log((middle + root * abs(step)) / (2.0 * ends)), z) / root
    else:
        integral = 2.0 * np.arctan(z) / root
    return -0.5 * log_ratio / c2 + (x + 0.5 * gain / c2) * integral


@compiled(error_model="numpy")
def deviance(x, y, b, gain, c2):
    """d² of an observation x that should be y."""
    if x < 0.0 and y < 0.0:
        return (x - y) ** 2 / b
    if y < 0.0:
        half = (x * x - (x - y) ** 2) / (-2.0 * b) + positive_part(x, 0.0, x, b, gain, c2)
    elif x < 0.0:
        half = positive_part(x, y, 0.0, b, gain, c2) + 0.5 * x * x / b
    else:
        half = positive_part(x, y, x, b, gain, c2)
    return 2.0 * max(half, 0.0)


@compiled(error_model="numpy")
def deviance_residuals(x, y, b, gain, c2, d):
    """d of observations x that should be y.

    With V(y + u(x − y)) = V(y) (1 + k₁u + k₂u²), d² = 2 (x − y)²/V ∫₀¹ (1 − u)/(1 + k₁u + k₂u²)
    du: by quadrature (in vectors, relative error below 1e-7) where V changes by less than SMOOTH,
    in closed form elsewhere.
    """
    for i in range(len(y)):
        t = max(y[i], 0.0)
        v = b[i] + t * (gain + c2 * t)
        s = x[i] - y[i]
        p = s * (gain + 2.0 * c2 * t) / v
        q = c2 * s * s / v
        mean = W1 / (1.0 + U1 * (p + U1 * q)) + W2 / (1.0 + U2 * (p + U2 * q))
        mean += W3 / (1.0 + U3 * (p + U3 * q)) + W4 / (1.0 + U4 * (p + U4 * q))
        mean += W5 / (1.0 + U5 * (p + U5 * q)) + W6 / (1.0 + U6 * (p + U6 * q))
        d[i] = np.sqrt(max(2.0 * s * s / v * mean, 0.0))
    if gain == 0.0 and c2 == 0.0:
        return
    for i in range(len(y)):
        t = max(y[i], 0.0)
        s = x[i] - y[i]
        change = abs(s) * (gain + c2 * (2.0 * t + abs(s)))
        if x[i] < 0.0 or y[i] < 0.0 or change > SMOOTH * (b[i] + t * (gain + c2 * t)):
            d[i] = np.sqrt(deviance(np.float64(x[i]), y[i], np.float64(b[i]), gain, c2))


@compiled(error_model="numpy")
def scale_factors(ln_g, b, s2, P, h, f, work):
    """f = ∂y/∂I = P·exp(ln G − 2 B s²) of one crystal's rows; an empty P means full intensities.

    h : the rows' reflections. work : (2, ≥ rows) scratch.
    """
    n = len(h)
    for i in range(n):
        work[0, i] = ln_g - 2.0 * b * s2[h[i]]
    exponential(work[0, :n], work[1, :n], f)
    if P.size > 0:
        for i in range(n):
            f[i] *= P[i]


@compiled
def longest(start, first, last):
    """Most rows of any of blocks first … last−1."""
    n = 0
    for m in range(first, last):
        n = max(n, start[m + 1] - start[m])
    return n


class Scaling(NamedTuple):
    """What the kernels of the scaling model look at.

    start (n + 1,) first row of each block. shared (rows,) the reflection of each row. first, last :
    blocks first … last−1 are meant. local (n, 2 or more) ln G and B, I (n_shared,) : the point.
    s2 (n_shared,) Å⁻². P (rows,) partialities, empty for full intensities. observed, background
    (rows,) I_obs and b. gain, c2 : γ and c².
    """

    start: Array
    shared: Array
    first: int
    last: int
    local: Array
    I: Array
    s2: Array
    P: Array
    observed: Array
    background: Array
    gain: float
    c2: float


@compiled(error_model="numpy")
def rows(data, r, d, a, c):
    """Residuals r, deviance residuals d, Jacobian a (rows, 2), c (rows,) of first … last−1.

    d is left alone if it is empty. data : a `Scaling` as a plain tuple: its types are told in 1 µs,
    those of a named one in 6, and there are many calls.
    """
    start, shared, first, last, local, I, s2, P, observed, background, gain, c2 = data
    origin = start[first]
    n = longest(start, first, last)
    work, y_all, w_all = np.empty((2, n)), np.empty(n), np.empty(n)
    for m in range(first, last):
        i, j, n = start[m], start[m] - origin, start[m + 1] - start[m]
        h, x, b = shared[i : i + n], observed[i : i + n], background[i : i + n]
        f, y, w = c[j : j + n], y_all[:n], w_all[:n]
        scale_factors(local[m, 0], local[m, 1], s2, P[i : i + n], h, f, work)
        for k in range(n):
            y[k] = f[k] * I[h[k]]
        for k in range(n):
            t = max(y[k], 0.0)
            w[k] = 1.0 / np.sqrt(b[k] + t * (gain + c2 * t))
        if d.size > 0:
            deviance_residuals(x, y, b, gain, c2, d[j : j + n])
        for k in range(n):
            r[j + k] = (x[k] - y[k]) * w[k]
            f[k] *= -w[k]
        for k in range(n):
            a[j + k, 0] = -y[k] * w[k]
            a[j + k, 1] = 2.0 * s2[h[k]] * y[k] * w[k]


@compiled(error_model="numpy")
def deviances(data, d):
    """Deviance residuals only; data as for `rows`."""
    start, shared, first, last, local, I, s2, P, observed, background, gain, c2 = data
    origin = start[first]
    n = longest(start, first, last)
    work, y_all = np.empty((2, n)), np.empty(n)
    for m in range(first, last):
        i, j, n = start[m], start[m] - origin, start[m + 1] - start[m]
        h, y = shared[i : i + n], y_all[:n]
        scale_factors(local[m, 0], local[m, 1], s2, P[i : i + n], h, y, work)
        for k in range(n):
            y[k] *= I[h[k]]
        deviance_residuals(observed[i : i + n], y, background[i : i + n], gain, c2, d[j : j + n])


@compiled
def crystal_ratios(start, shared, first, last, observed, P, expected, out):
    """out[m] = Σ I_obs / Σ P·expected[h] of each crystal, a start value of G; NaN if not > 0."""
    for m in range(first, last):
        above = 0.0
        below = 0.0
        for i in range(start[m], start[m + 1]):
            above += observed[i]
            e = expected[shared[i]]
            below += e * P[i] if P.size > 0 else e
        out[m] = above / below if above > 0.0 and below > 0.0 else np.nan


@compiled
def reflection_sums(start, shared, first, last, local, s2, P, observed, out):
    """out (3, n_shared) += Σ I_obs, Σ f, and the number of crystals that hold the reflection.

    Rows of a crystal must be sorted by reflection. Crystals with a NaN scale are passed over.
    """
    n = longest(start, first, last)
    work, f = np.empty((2, n)), np.empty(n)
    for m in range(first, last):
        if np.isnan(local[m, 0]):
            continue
        before = -1
        i0, i1 = start[m], start[m + 1]
        scale_factors(local[m, 0], local[m, 1], s2, P[i0:i1], shared[i0:i1], f[: i1 - i0], work)
        for i in range(i0, i1):
            h = shared[i]
            out[0, h] += observed[i]
            out[1, h] += f[i - i0]
            if h != before:
                out[2, h] += 1.0
            before = h


@compiled
def log_sums(start, shared, first, last, local, s2, P, observed, background, out):
    """out (2, n_shared) += Σ ln(max(I_obs, √b)/f) and the number of observations."""
    n = longest(start, first, last)
    work, f = np.empty((2, n)), np.empty(n)
    for m in range(first, last):
        i0, i1 = start[m], start[m + 1]
        scale_factors(local[m, 0], local[m, 1], s2, P[i0:i1], shared[i0:i1], f[: i1 - i0], work)
        for i in range(i0, i1):
            h = shared[i]
            out[0, h] += np.log(max(observed[i], np.sqrt(background[i])) / f[i - i0])
            out[1, h] += 1.0


@compiled
def overlaps(start, shared, first, last, n_crystals, out):
    """out[m] = number of reflections of crystal m that other crystals hold too."""
    for m in range(first, last):
        n = 0
        before = -1
        for i in range(start[m], start[m + 1]):
            h = shared[i]
            if h != before and n_crystals[h] > 1.0:
                n += 1
            before = h
        out[m] = n


@compiled
def gain_sums(observed, variance, signal, out):
    """out (6,) += n, Σw, ΣwI, ΣwI², Σwσ², ΣwIσ² with w = 1/σ⁴, over I > signal·σ."""
    for i in range(len(observed)):
        x = np.float64(observed[i])  # float() would keep it single
        v = np.float64(variance[i])
        if x > 0.0 and x * x > signal * signal * v:
            w = 1.0 / (v * v)
            out[0] += 1.0
            out[1] += w
            out[2] += w * x
            out[3] += w * x * x
            out[4] += w * v
            out[5] += w * x * v


@compiled
def modelled(data, m, work, f, y, d):
    """Factors f, models y = f·I and deviance residuals d of the rows of block m."""
    rows = slice(data.start[m], data.start[m + 1])
    h = data.shared[rows]
    scale_factors(data.local[m, 0], data.local[m, 1], data.s2, data.P[rows], h, f, work)
    for j in range(len(h)):
        y[j] = f[j] * data.I[h[j]]
    deviance_residuals(data.observed[rows], y, data.background[rows], data.gain, data.c2, d)


@compiled
def weighted_sums(data, half, loss, k, weight, weighted, number):
    """Σ w, Σ wJ and the number of scaled observations J = I_obs/f, weight w = ψ f²/V(y).

    ψ is the robust weight. half : (blocks,) 0 or 1, or −1 for a block left out. weight,
    weighted, number : (2, n_shared).
    """
    start, shared, first, last, _, _, _, _, observed, background, gain, c2 = data
    n = longest(start, first, last)
    work, f_all, y_all, d_all = np.empty((2, n)), np.empty(n), np.empty(n), np.empty(n)
    for m in range(first, last):
        t = half[m]
        if t < 0:
            continue
        i, n = start[m], start[m + 1] - start[m]
        f, y, d = f_all[:n], y_all[:n], d_all[:n]
        h, x, b = shared[i : i + n], observed[i : i + n], background[i : i + n]
        modelled(data, m, work, f, y, d)
        for j in range(n):
            psi = rho_and_weight(d[j], loss, k)[1]
            w = psi * f[j] / variance_of(y[j], b[j], gain, c2)
            weight[t, h[j]] += w * f[j]
            weighted[t, h[j]] += w * x[j]
            if f[j] > 0.0:
                number[t, h[j]] += 1.0


@compiled
def deviations(data, mean, half, i_sum, d_sum, cc):
    """Σ J and Σ |J − ⟨I⟩| a reflection, and each block's six sums for CC(J, ⟨I⟩).

    cc : (blocks, 6) = n, Σx, Σy, Σx², Σy², Σxy with x = J, y = ⟨I⟩. Passed over are reflections
    without a mean (NaN), and observations of less than TOLD of a reflection: noise, divided by
    next to nothing, would be all there is to see.
    """
    start, shared, first, last, local, _, s2, P, observed, _, _, _ = data
    n = longest(start, first, last)
    work, f = np.empty((2, n)), np.empty(n)
    for m in range(first, last):
        cc[m, :] = 0.0
        i0, i1 = start[m], start[m + 1]
        scale_factors(local[m, 0], local[m, 1], s2, P[i0:i1], shared[i0:i1], f[: i1 - i0], work)
        for i in range(i0, i1):
            h = shared[i]
            y = mean[h]
            if not np.isfinite(y) or (P.size > 0 and P[i] < TOLD):
                continue
            x = observed[i] / f[i - i0]
            cc[m, 0] += 1.0
            cc[m, 1] += x
            cc[m, 2] += y
            cc[m, 3] += x * x
            cc[m, 4] += y * y
            cc[m, 5] += x * y
            if half[m] >= 0:
                i_sum[h] += x
                d_sum[h] += abs(x - y)
