"""Partialities of stills from orientation, size, cell and wavelength of each crystal.

    q = R(θ) A₀ (1 + Σⱼ eⱼ Tⱼ) h,  θ = θ₁ e₁ + θ₂ e₂   a rotation about axes normal to the beam ŝ
    z = q·ŝ,  n = |q + kŝ| = √(q² + k² + 2kz),  r = n − k            excitation error
    R = r₀ + m |q|,  w = β k |(k + z)/n − 1|                  size; spread of r by bandwidth β
    k = k₀ exp(κ)                                              wavenumber
    P = f(r, R, w), times r₀/R where the model says so

Tⱼ are strains that leave the cell within its crystal system. A change dq of q means

    dn = dr = (q + kŝ)·dq/n,  dz = ŝ·dq,  dw = ±β k (dz − dn (k + z)/n)/n,  dR = m q·dq/|q|

A rotation leaves |q| alone: dq = (J(θ) eⱼ) × q, J the left Jacobian of the rotation group (J = 1 at
θ = 0); a strain has dq = R A₀ Tⱼ h. The wavenumber moves n too: with dk = k,

    dn = (k + z)/n k,  dr = dn − k,  dw = w ± β k (k − dn (k + z)/n)/n

A rotation about the beam changes nothing. Units Å⁻¹ and rad.

Further parameters change the numbers that f takes (kernels.changes): r + Δ, R exp(a), w exp(b), the
last two then in place of R and w in r₀/R, too. Δ, a and b depend on no other parameter, so the
derivatives by these have ∂P/∂R exp(a) for ∂P/∂R and ∂P/∂w exp(b) for ∂P/∂w.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from sfxproc.kernels.changes import CHANGE_TYPE, as_recorded, own_axes
from sfxproc.kernels.compiled import compiled

LN_G, B, THETA_1, THETA_2, LN_SIZE = range(5)
N_LOCAL = 5  # and then strains, κ and what changes r, R and w, as many as there are
_FOUR: Any = types.Tuple([types.float64] * 4)  # type: ignore[no-untyped-call]
PROFILE_TYPE: Any = types.FunctionType(_FOUR(types.float64, types.float64, types.float64))
"""A compiled profile(r, R, w) -> (P, ∂P/∂r, ∂P/∂R, ∂P/∂w) as an argument of loops."""

SMALLEST_ANGLE = 1e-6  # rad; below, series


@compiled
def rotation_of(theta_1, theta_2, axes, turn, about):
    """turn (3, 3) = R(θ₁ e₁ + θ₂ e₂) and about[j] = J(θ) eⱼ, with the orthonormal axes (2, 3)."""
    v = np.empty(3)
    for i in range(3):
        v[i] = theta_1 * axes[0, i] + theta_2 * axes[1, i]
    angle2 = theta_1 * theta_1 + theta_2 * theta_2
    if angle2 < SMALLEST_ANGLE * SMALLEST_ANGLE:
        s, c, d = 1.0 - angle2 / 6.0, 0.5 - angle2 / 24.0, 1.0 / 6.0 - angle2 / 120.0
    else:
        angle = np.sqrt(angle2)
        s, c = np.sin(angle) / angle, (1.0 - np.cos(angle)) / angle2
        d = (1.0 - s) / angle2
    # R = 1 + s [v] + c [v]², with [v]² = v vᵀ − v²
    for i in range(3):
        for j in range(3):
            turn[i, j] = c * v[i] * v[j]
        turn[i, i] += 1.0 - c * angle2
    turn[0, 1] -= s * v[2]
    turn[1, 0] += s * v[2]
    turn[0, 2] += s * v[1]
    turn[2, 0] -= s * v[1]
    turn[1, 2] -= s * v[0]
    turn[2, 1] += s * v[0]
    # J e = e + c v × e + d v × (v × e), with v × (v × e) = v (v·e) − v² e
    for j in range(2):
        e = axes[j]
        dot = v[0] * e[0] + v[1] * e[1] + v[2] * e[2]
        about[j, 0] = e[0] + c * (v[1] * e[2] - v[2] * e[1]) + d * (v[0] * dot - angle2 * e[0])
        about[j, 1] = e[1] + c * (v[2] * e[0] - v[0] * e[2]) + d * (v[1] * dot - angle2 * e[1])
        about[j, 2] = e[2] + c * (v[0] * e[1] - v[1] * e[0]) + d * (v[2] * dot - angle2 * e[2])


@cache
def partiality_kernel(changing: bool) -> Callable[..., Any]:
    """`fill_partialities`, compiled with or without a change: one machine code for all models, kept
    on disk. When first asked for, not when imported, as many ranks may import at once."""
    f8 = types.float64
    change = CHANGE_TYPE if changing else types.none  # what only a change needs is then cut out
    arrays = (
        types.int16[:, ::1],
        f8[:, :, ::1],
        f8[:, ::1],
        f8[:, :, ::1],
        f8[::1],
        f8[::1],
        f8[::1],
        f8[:, :, ::1],
    )
    stills: Any = types.Tuple(arrays)  # type: ignore[no-untyped-call]
    signature = types.void(
        PROFILE_TYPE,
        types.boolean,
        change,
        types.int64,
        stills,
        types.int64[::1],
        types.int64,
        types.int64,
        f8[:, :],
        f8[::1],
        f8[:, ::1],
    )
    return compiled(signature=signature, error_model="numpy")(fill_partialities)


def fill_partialities(
    profile, over_size, change, n_changing, stills, start, first, last, local, P, relative
):
    """P (rows,) of crystals first … last−1 and, unless it is empty, relative (rows, 3 + n_strains +
    κ + n_changing) = ∂ ln P/∂(θ₁, θ₂, ln r₀, e, κ, …), both from the first crystal's first row on;
    relative is 0 where P is 0.

    profile : of PROFILE_TYPE; over_size : whether P is multiplied by r₀/R; change : of CHANGE_TYPE,
    by the last n_changing parameters, or None by 0. stills : hkl (rows, 3) int16, A (n, 3, 3), beam
    (n, 3), axes (n, 2, 3), k₀, m and β (n,), T (n_strains, 3, 3). local : (n, 5 + n_strains +
    n_changing), or one more for κ.
    """
    hkl, A, beam, axes, k_of, slope, bandwidth, strains = stills
    origin = start[first]
    n_strains = len(strains)
    at_wave = N_LOCAL + n_strains
    at_change = local.shape[1] - n_changing
    waves = at_change > at_wave
    values, own = np.empty(n_changing), np.empty((3, 3))
    q_own, normal, by_value = np.empty(3), np.empty(3), np.zeros((n_changing, 3))
    turn, M, about = np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3))
    along, deformed = np.empty((n_strains, 3, 3)), np.empty((3, 3))
    wanted = relative.size > 0
    for m in range(first, last):
        rotation_of(local[m, THETA_1], local[m, THETA_2], axes[m], turn, about)
        product(turn, A[m], M)
        for s in range(n_strains):
            product(M, strains[s], along[s])
        deformed[:] = M
        for s in range(n_strains):
            for i in range(3):
                for j in range(3):
                    deformed[i, j] += local[m, N_LOCAL + s] * along[s, i, j]
        s0, s1, s2 = beam[m, 0], beam[m, 1], beam[m, 2]
        k = k_of[m]
        if waves:
            k *= np.exp(local[m, at_wave])
        r0 = np.exp(local[m, LN_SIZE])
        spread = bandwidth[m] * k
        if change is not None:
            values[:] = local[m, at_change:]
            own_axes(A[m], own)
        for i in range(start[m], start[m + 1]):
            h0, h1, h2 = float(hkl[i, 0]), float(hkl[i, 1]), float(hkl[i, 2])
            x = deformed[0, 0] * h0 + deformed[0, 1] * h1 + deformed[0, 2] * h2
            y = deformed[1, 0] * h0 + deformed[1, 1] * h1 + deformed[1, 2] * h2
            t = deformed[2, 0] * h0 + deformed[2, 1] * h1 + deformed[2, 2] * h2
            q2 = x * x + y * y + t * t
            z = x * s0 + y * s1 + t * s2
            n = np.sqrt(q2 + k * k + 2.0 * k * z)
            # n − k without cancellation
            r = (q2 + 2.0 * k * z) / (n + k)
            q = np.sqrt(q2)
            R = r0 + slope[m] * q
            cosine = (k + z) / n
            off = cosine - 1.0
            w = spread * abs(off)
            R_changed, w_changed = R, w
            if change is not None:
                as_recorded(hkl[i], A[m], beam[m], k_of[m], own, q_own, normal)
                shift, ln_R, ln_w = change(values, q_own, normal, by_value)
                r += shift
                R_changed, w_changed = R * np.exp(ln_R), w * np.exp(ln_w)
            p, by_r, by_R, by_w = profile(r, R_changed, w_changed)
            amplitude = r0 / R_changed if over_size else 1.0
            j = i - origin
            P[j] = p * amplitude
            if not wanted:
                continue
            if p <= 0.0:
                for a in range(relative.shape[1]):
                    relative[j, a] = 0.0
                continue
            per_z = spread / n if off >= 0.0 else -spread / n
            if change is not None:
                by_ln_R = R_changed * by_R / p - (1.0 if over_size else 0.0)
                for a in range(n_changing):
                    relative[j, at_change - 2 + a] = (
                        by_r / p * by_value[a, 0]
                        + by_ln_R * by_value[a, 1]
                        + w_changed * by_w / p * by_value[a, 2]
                    )
                by_R *= np.exp(ln_R)
                by_w *= np.exp(ln_w)
            # ln P by z at constant |q|, and by q·dq beyond that
            by_z = (by_r * k / n + by_w * per_z * (1.0 - cosine * k / n)) / p
            # q × ŝ
            c0, c1, c2 = y * s2 - t * s1, t * s0 - x * s2, x * s1 - y * s0
            for a in range(2):
                relative[j, a] = by_z * (c0 * about[a, 0] + c1 * about[a, 1] + c2 * about[a, 2])
            relative[j, 2] = r0 * by_R / p
            if over_size:
                relative[j, 2] += 1.0 - r0 / R
            if n_strains > 0:
                by_qq = (by_r - by_w * per_z * cosine) / (n * p)
                if slope[m] > 0.0:
                    by_qq += (by_R / p - (1.0 / R if over_size else 0.0)) * slope[m] / q
                g0, g1, g2 = by_qq * x + by_z * s0, by_qq * y + by_z * s1, by_qq * t + by_z * s2
                for s in range(n_strains):
                    T = along[s]
                    relative[j, 3 + s] = (
                        g0 * (T[0, 0] * h0 + T[0, 1] * h1 + T[0, 2] * h2)
                        + g1 * (T[1, 0] * h0 + T[1, 1] * h1 + T[1, 2] * h2)
                        + g2 * (T[2, 0] * h0 + T[2, 1] * h1 + T[2, 2] * h2)
                    )
            if waves:
                by_k = by_r * k * off + by_w * (w + per_z * k * (1.0 - cosine * cosine))
                relative[j, 3 + n_strains] = by_k / p


@compiled(inline="always")
def product(a, b, out):
    """out = a b, all (3, 3)."""
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]


@compiled
def extend_rows(a, relative):
    """a[:, 2:] = ∂r/∂(θ₁, θ₂, ln r₀, …) from a[:, 0] = ∂r/∂ ln G, which is ∂r/∂ ln P too."""
    for i in range(len(a)):
        for j in range(relative.shape[1]):
            a[i, 2 + j] = a[i, LN_G] * relative[i, j]
