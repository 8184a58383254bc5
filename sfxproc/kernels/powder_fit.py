"""Loops over the observed lines of one cell: least squares, and what the lines tell.

With f the linear forms of calculated lines, q² = f·x, and Δ_k the distance of the observed line k
to the nearest of them, least squares are

    x ← x + (Σ w f fᵀ)⁻¹ Σ w f Δ,    w = (s σ)⁻²/(1 + (Δ/3sσ)²)²,    s = quantile of |Δ|/σ

From all calculated lines j near it, N of them up to the last observed one,

    r_k = Σ_j N(q²_k − q²_j; σ_k)/ρ(q²_k),     ρ(q²) = (α N/q²_n)(q²/q²_n)^(α − 1)
    α = (N + n_0)/(Σ_j ln(q²_n/q²_j) + n_0/α_0)

and what the parameters cost is −½ ln det(S² Σ w f fᵀ/2π + u 1), S the span of x.
"""

from __future__ import annotations

import numpy as np

from sfxproc.kernels.compiled import compiled

BINS = 256
RIDGE = 1e-9  # relative; what the rows do not fix stays
NEGLIGIBLE = 40.0  # exp(−40) of the greatest term is below its rounding


# ---- least squares -------------------------------------------------------------------------


@compiled
def bins(q2):
    """How many of q2 (n,), ascending, lie below each of BINS equal bins up to the last."""
    below = np.zeros(BINS + 1, np.int64)
    for b in range(BINS + 1 if len(q2) > 0 else 0):
        below[b] = np.searchsorted(q2, b * q2[-1] / BINS)
    return below


@compiled
def nearest(calculated, q2, below, near, delta):
    """Number near[k] of the calculated line (m,), in any order, nearest to each of q2 (n,),
    ascending, and delta[k] = q²_k − q²_near; of two as near the lower one. below : `bins`. m > 0.

    Of equal calculated lines it is the last if they are below q²_k, else the first.
    """
    n = len(q2)
    if n == 0:
        return
    low, high = np.full(n + 1, -1), np.full(n + 1, -1)  # of the calculated between q2[i - 1], q2[i]
    scale = BINS / q2[-1]
    for j in range(len(calculated)):
        v = calculated[j]
        i = n
        if v < q2[-1]:
            i = below[np.int64(v * scale)] if v > 0.0 else 0
            while i > 0 and q2[i - 1] > v:
                i -= 1
            while q2[i] <= v:
                i += 1
        if low[i] < 0 or v < calculated[low[i]]:
            low[i] = j
        if high[i] < 0 or v >= calculated[high[i]]:
            high[i] = j
    for k in range(n - 1, -1, -1):
        if low[k] < 0:
            low[k] = low[k + 1]
    lower = -1
    for k in range(n):
        if high[k] >= 0:
            lower = high[k]
        upper = low[k + 1]
        if lower < 0 or (upper >= 0 and not q2[k] - calculated[lower] <= calculated[upper] - q2[k]):
            near[k] = upper
        else:
            near[k] = lower
        delta[k] = q2[k] - calculated[near[k]]


@compiled
def cholesky(A):
    """The lower triangle of A (p, p) becomes that of its factor."""
    for i in range(len(A)):
        for j in range(i + 1):
            v = A[i, j]
            for k in range(j):
                v -= A[i, k] * A[j, k]
            A[i, j] = np.sqrt(max(v, 1e-300)) if i == j else v / A[j, j]


@compiled
def curvature(rows, weight, A):
    """The lower triangle of Σ w f fᵀ into A (p, p), of rows f (n, p) and weight w (n,)."""
    A[:] = 0.0
    for k in range(len(rows)):
        for i in range(len(A)):
            v = weight[k] * rows[k, i]
            for j in range(i + 1):
                A[i, j] += v * rows[k, j]


@compiled
def least_squares(rows, weight, delta, step, variance):
    """step (p,) that makes Σ w (Δ − f·step)² least, and the variances (p,) of its elements; rows f
    (n, p), weight w and delta Δ (n,)."""
    p = rows.shape[1]
    A, L, size, side = np.empty((p, p)), np.zeros((p, p)), np.empty(p), np.zeros(p)
    curvature(rows, weight, A)
    for k in range(len(rows)):
        for i in range(p):
            side[i] += rows[k, i] * (weight[k] * delta[k])
    for i in range(p):
        size[i] = np.sqrt(max(A[i, i], 1e-30))
    for i in range(p):
        for j in range(i + 1):
            A[i, j] /= size[i] * size[j]
        A[i, i] += RIDGE
    cholesky(A)
    for j in range(p):  # L: the inverse of the factor
        for i in range(j, p):
            v = 1.0 if i == j else 0.0
            for k in range(j, i):
                v -= A[i, k] * L[k, j]
            L[i, j] = v / A[i, i]
    step[:] = 0.0
    variance[:] = 0.0
    for i in range(p):
        v = 0.0
        for j in range(i + 1):
            v += L[i, j] * side[j] / size[j]
        for j in range(i + 1):
            step[j] += L[i, j] * v / size[j]
            variance[j] += (L[i, j] / size[j]) ** 2


@compiled
def refine(forms, q2, sigma, scales, at, normal, rounds, x):
    """Improve x (p,) of the lines with forms (m, p) on the observed ones q2, sigma (n,).

    scales : least and most s.  at, normal : the |Δ|/σ at this place among all, ascending, is what
    it is for s = 1 and normal errors.  It ends after so many rounds, or as soon as no line moves
    by a thousandth of the least error.
    """
    n, p = len(q2), len(x)
    below, near, delta = bins(q2), np.empty(n, np.int64), np.empty(n)
    calculated, rows, weight = np.empty(len(forms)), np.empty((n, p)), np.empty(n)
    step, variance = np.empty(p), np.empty(p)
    for _ in range(rounds):
        for j in range(len(forms)):
            v = 0.0
            for s in range(p):
                v += forms[j, s] * x[s]
            calculated[j] = v
        nearest(calculated, q2, below, near, delta)
        z = np.abs(delta) / sigma
        scale = min(max(np.sort(z)[at] / normal, scales[0]), scales[1])
        for k in range(n):
            rows[k] = forms[near[k]]
            t = z[k] / (3.0 * scale)
            weight[k] = (scale * sigma[k]) ** -2.0 / (1.0 + t * t) ** 2
        least_squares(rows, weight, delta, step, variance)
        x += step
        moved = 0.0
        for k in range(n):
            v = 0.0
            for s in range(p):
                v += rows[k, s] * step[s]
            moved = max(moved, abs(v))
        if moved < 1e-3 * scales[0] * sigma[0]:
            break


# ---- evidence ------------------------------------------------------------------------------


@compiled
def ratios(calculated, q2, sigma, neighbours, alpha, n_alpha, out):
    """r into out (s, n), of q2 (n,) with sigma (s, n), from the calculated lines (m,), both
    ascending: `neighbours` of them on either side. alpha, n_alpha : α_0, n_0; N is n at least."""
    n, m, last = len(q2), len(calculated), q2[-1]
    limit = last + sigma[:, n - 1].min()
    inside, logs = 0, 0.0
    while inside < m and calculated[inside] <= limit:
        logs += np.log(last / min(calculated[inside], last))
        inside += 1
    slope = (inside + n_alpha) / (logs + n_alpha / alpha)
    above = 0
    for k in range(n):
        density = slope * max(inside, n) / last * (q2[k] / last) ** (slope - 1.0)
        while above < m and calculated[above] < q2[k]:
            above += 1
        gap = np.inf
        if above > 0:
            gap = q2[k] - calculated[above - 1]
        if above < m:
            gap = min(gap, calculated[above] - q2[k])
        for s in range(len(sigma)):
            most = 0.5 * (gap / sigma[s, k]) ** 2 + NEGLIGIBLE
            total = 0.0
            for j in range(above - 1, max(above - neighbours, 0) - 1, -1):
                z = (q2[k] - calculated[j]) / sigma[s, k]
                if 0.5 * z * z > most:
                    break
                total += np.exp(-0.5 * z * z)
            for j in range(above, min(above + neighbours, m)):
                z = (q2[k] - calculated[j]) / sigma[s, k]
                if 0.5 * z * z > most:
                    break
                total += np.exp(-0.5 * z * z)
            out[s, k] = total / (np.sqrt(2.0 * np.pi) * sigma[s, k] * density)


@compiled
def occam(rows, weight, span, unfixed, out):
    """−½ ln det(S² Σ w f fᵀ/2π + u 1) into out (c,), of rows f (c, n, p), or (1, n, p) for all,
    and weight w (c, n); span : S.  unfixed : u."""
    p = rows.shape[2]
    A = np.empty((p, p))
    for c in range(len(weight)):
        curvature(rows[c if len(rows) > 1 else 0], weight[c], A)
        A *= span**2 / (2.0 * np.pi)
        for i in range(p):
            A[i, i] += unfixed
        cholesky(A)
        total = 0.0
        for i in range(p):
            total += np.log(A[i, i])
        out[c] = -total
