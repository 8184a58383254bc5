"""How well each crystal agrees with all the others, row by row.

e = J − I_h with J = I_obs/f; weights w = ψ f²/V(y) are those of merging (kernels.scale). From
W = Σw, E = Σwe, Q = Σwe² and n of a reflection those without one crystal follow by subtraction,
and with them the mean of the others, I_h + E/W, and its variance 1/W.

**Signal.** In a shell of resolution true intensities have mean μ and variance τ². A crystal's own
scale k is fitted to the means alone, m = k f μ, which is right whatever the crystal shows; then

    q = (I_obs − m)/s,   s² = V(m) + (k f τ)²,   p = k f r (I_others − μ)/s,   r = τ²/(τ² + 1/W)

are, both clipped at ±CLIP, what it shows beyond the mean and what it should show. p is the matched
filter: Σpq/Σp² is 1 ± σ for a crystal that measures these intensities, 0 ± σ for any other,

    σ² = max(Σp²q², Σp²)/(Σp²)² + (σ_k/k)²

**CC½** of a shell is (σ²_y − ½σ²_ε)/(σ²_y + ½σ²_ε) (Assmann, Brehm & Diederichs, J. Appl. Cryst. 49
(2016) 1021): σ²_y the variance of the means I_h + E/W of its N reflections, σ²_ε the mean of

    v = 2 (Q − E²/W) / ((n − 1) W),

the variance of a half set's mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sfxproc.kernels.arrow import rho_and_weight
from sfxproc.kernels.compiled import compiled
from sfxproc.kernels.scale import TOLD, Array, longest, modelled, variance_of

CLIP = 3.0
OUTLIER_PULL = 5.0
FEWEST = 3  # observations of a reflection that counts for CC½
RESIDUE = 1e-9  # of W: less than this is what rounding leaves of nothing
MOST_SCALE_STEPS, SCALE_ACCURACY = 20, 1e-3
COLUMNS = (
    "n",
    "chi2",
    "expected_chi2",
    "n_outliers",
    "cc",
    "cc_expected",
    "signal",
    "signal_sigma",
    "delta_cc_half",
    "delta_sigma",
)
N, CHI2, EXPECTED_CHI2, N_OUTLIERS, CC, CC_EXPECTED, SIGNAL, SIGNAL_SIGMA, DELTA, DELTA_SIGMA = (
    range(len(COLUMNS))
)


class Shells(NamedTuple):
    """Shells of resolution.

    of_reflection : (n_shared,) which one each is in. mean, variance : (n_shells,) μ and τ² of true
    intensities. centre : (n_shells,) mean of the y of the reflections of FEWEST observations or
    more, totals : (n_shells, 3) their N, Σ(y − centre)² and Σv, slopes : (n_shells, 2) derivatives
    of the mean CC½ by these two sums.
    """

    of_reflection: Array
    mean: Array
    variance: Array
    centre: Array
    totals: Array
    slopes: Array


@compiled(error_model="numpy")
def weighed(data, m, loss, k, work, f, y, d, psi, w):
    """Factors f, models y, deviance residuals d, robust weights ψ and weights w of the rows of
    block m; w = 0 for those that tell too little (TOLD)."""
    modelled(data, m, work, f, y, d)
    rows = slice(data.start[m], data.start[m + 1])
    b, P = data.background[rows], data.P[rows]
    for j in range(len(f)):
        psi[j] = rho_and_weight(d[j], loss, k)[1]
        w[j] = psi[j] * f[j] * f[j] / variance_of(y[j], b[j], data.gain, data.c2)
        if P.size > 0 and P[j] < TOLD:
            w[j] = 0.0


@compiled(error_model="numpy")
def moments(data, half, loss, k, out):
    """out (4, n_shared) += W, E, Q and n. half : (blocks,), negative for a block left out."""
    start, shared, first, last, _, I, _, _, observed, _, _, _ = data
    n = longest(start, first, last)
    work, columns = np.empty((2, n)), np.empty((5, n))
    for m in range(first, last):
        if half[m] < 0:
            continue
        i, n = start[m], start[m + 1] - start[m]
        f, y, d, psi, w = columns[:, :n]
        h, x = shared[i : i + n], observed[i : i + n]
        weighed(data, m, loss, k, work, f, y, d, psi, w)
        for j in range(n):
            if w[j] > 0.0:
                e = x[j] / f[j] - I[h[j]]
                out[0, h[j]] += w[j]
                out[1, h[j]] += w[j] * e
                out[2, h[j]] += w[j] * e * e
                out[3, h[j]] += 1.0


@compiled(inline="always")
def half_set_variance(W, E, Q, n):
    """v of a reflection."""
    return 2.0 * max(Q - E * E / W, 0.0) / ((n - 1.0) * W)


@compiled(inline="always")
def cc_half(n, sum_y, sum_y2, sum_v):
    """CC½ from N, Σy, Σy², Σv."""
    a = (sum_y2 - sum_y * sum_y / n) / (n - 1.0)
    e = sum_v / n
    return (a - 0.5 * e) / (a + 0.5 * e)


@compiled(inline="always")
def clipped(q):
    """q within ±CLIP."""
    return min(max(q, -CLIP), CLIP)


@compiled(error_model="numpy")
def own_scale(x, m, b, t2, gain, c2):
    """k and σ_k/k of one crystal against the means of shells; 0 and ∞ if it shows nothing.

    x observed, m expected at k = 1, t2 = (f τ)². Solves Σ (m/s) clip(q) = 0, from above if it can:
    from far below it climbs by at most 1 + CLIP a step.
    """
    total = 0.0
    expected = 0.0
    for j in range(len(x)):
        total += x[j]
        expected += m[j]
    k = total / expected if expected > 0.0 else 0.0
    if not k > 0.0:
        return 0.0, np.inf
    error = np.inf
    for _ in range(MOST_SCALE_STEPS):
        above = 0.0
        below = 0.0
        squares = 0.0
        for j in range(len(x)):
            s = np.sqrt(variance_of(k * m[j], b[j], gain, c2) + k * k * t2[j])
            q = clipped((x[j] - k * m[j]) / s)
            p = m[j] / s
            above += p * q
            below += p * p
            squares += p * p * q * q
        step = above / below
        if not k + step > 0.0:
            return 0.0, np.inf
        k += step
        error = np.sqrt(squares) / (below * k)
        if abs(step) < SCALE_ACCURACY * k:
            break
    return k, error


@compiled(error_model="numpy")
def signal(judged, gain, c2, own):
    """CC, what it should be, the signal and its σ of one crystal, into `own`.

    judged : (6, rows) I_obs, background, and at k = 1 the mean m, (fτ)², p·s and what part of τ²
    the others leave open. Overwrites the first two with p and q.
    """
    x, b, m, t2, contrast, left = judged
    k, k_error = own_scale(x, m, b, t2, gain, c2)
    if k == 0.0:
        return
    n = len(x)
    shown = 0.0  # Σq² of a crystal that belongs
    for j in range(n):
        noise = variance_of(k * m[j], b[j], gain, c2)
        s2 = noise + k * k * t2[j]
        q = clipped((x[j] - k * m[j]) / np.sqrt(s2))
        p = clipped(k * contrast[j] / np.sqrt(s2))
        shown += p * p + (noise + k * k * t2[j] * left[j]) / s2
        judged[0, j] = p
        judged[1, j] = q
    p, q = judged[0], judged[1]
    p -= p.mean()
    q -= q.mean()
    pp = np.sum(p * p)
    qq = np.sum(q * q)
    if pp > 0.0 and qq > 0.0:
        pq = np.sum(p * q)
        own[CC] = pq / np.sqrt(pp * qq)
        own[CC_EXPECTED] = np.sqrt(pp / shown)
        own[SIGNAL] = pq / pp
        error2 = max(np.sum(p * p * q * q), pp) / (pp * pp)
        own[SIGNAL_SIGMA] = np.sqrt(error2 + k_error * k_error)


@compiled(error_model="numpy")
def without_own(h, I, x, f, w, merged, sums, shell, centre, slopes, others, change):
    """What the others say of the reflections of one crystal, row by row, and what they say of
    CC½ without it.

    others : (2, rows) their mean and its weight, 0 where nobody else shows the reflection or the
    row tells too little. change : (n_shells, 3) of Σy, Σy² and Σv. Returns Δ = CC½ with − without
    the crystal, to first order, as its reflections' number, Σδ and Σδ².
    """
    change[:] = 0.0
    n = 0.0
    delta = 0.0
    squares = 0.0
    j = 0
    while j < len(h):
        g = h[j]
        t = shell[g]
        W = 0.0
        E = 0.0
        Q = 0.0
        number = 0.0
        begin = j
        while j < len(h) and h[j] == g:  # all of the crystal's observations of a reflection
            if merged and w[j] > 0.0:
                e = x[j] / f[j] - I[g]
                W += w[j]
                E += w[j] * e
                Q += w[j] * e * e
                number += 1.0
            j += 1
        n_others = sums[3, g] - number
        W_others = sums[0, g] - W
        E_others = sums[1, g] - E
        there = n_others > 0.5 and W_others > RESIDUE * sums[0, g]
        for row in range(begin, j):
            others[1, row] = W_others if there and w[row] > 0.0 else 0.0
            others[0, row] = I[g] + E_others / W_others if others[1, row] > 0.0 else 0.0
        if there and number > 0.0 and sums[3, g] >= FEWEST and n_others >= FEWEST - 1:
            y = I[g] + sums[1, g] / sums[0, g] - centre[t]
            y_others = I[g] + E_others / W_others - centre[t]
            dy2 = y_others * y_others - y * y
            dv = half_set_variance(W_others, E_others, sums[2, g] - Q, n_others)
            dv -= half_set_variance(sums[0, g], sums[1, g], sums[2, g], sums[3, g])
            change[t, 0] += y_others - y
            change[t, 1] += dy2
            change[t, 2] += dv
            part = -(slopes[t, 0] * dy2 + slopes[t, 1] * dv)
            n += 1.0
            delta += part
            squares += part * part
    return n, delta, squares


@compiled(error_model="numpy")
def agreement(data, half, loss, k, share, sums, shells, out):
    """out (blocks, len(COLUMNS)) of blocks first … last−1; see `models.agreement.Agreement`.

    share : (n_shared,) about what part of an observation's variance its residual keeps. sums :
    what `moments` makes. Rows of a block must be sorted by reflection.
    """
    start, shared, first, last, _, I, _, _, observed, background, gain, c2 = data
    shell, mean, variance, centre, totals, slopes = shells
    n = longest(start, first, last)
    work, columns, judged = np.empty((2, n)), np.empty((5, n)), np.empty((8, n))
    change = np.empty((len(mean), 3))
    n_totals = totals[:, 0].sum()
    for block in range(first, last):
        own = out[block]
        own[:] = np.nan
        own[: N_OUTLIERS + 1] = 0.0
        i, n = start[block], start[block + 1] - start[block]
        f, y, d, psi, w = columns[:, :n]
        others = judged[6:, :n]
        h, x, b = shared[i : i + n], observed[i : i + n], background[i : i + n]
        weighed(data, block, loss, k, work, f, y, d, psi, w)
        parts, delta, squares = without_own(
            h, I, x, f, w, half[block] >= 0, sums, shell, centre, slopes, others, change
        )
        if parts > 1.5:
            own[DELTA] = 0.0
            for t in range(len(mean)):
                size, y2, v = totals[t]
                if size > 1.5 and change[t].any():
                    less = cc_half(size, change[t, 0], y2 + change[t, 1], v + change[t, 2])
                    own[DELTA] += size / n_totals * (cc_half(size, 0.0, y2, v) - less)
            spread = max(squares - delta * delta / parts, 0.0)
            own[DELTA_SIGMA] = np.sqrt(spread * parts / (parts - 1.0))

        number = 0
        for j in range(n):
            if others[1, j] == 0.0:
                continue
            g = h[j]
            t = shell[g]
            v = variance_of(y[j], b[j], gain, c2)
            own[CHI2] += psi[j] * (x[j] - y[j]) ** 2 / v
            own[EXPECTED_CHI2] += psi[j] * share[g]
            own[N_OUTLIERS] += d[j] > OUTLIER_PULL
            judged[0, number] = x[j]
            judged[1, number] = b[j]
            judged[2, number] = f[j] * mean[t]
            judged[3, number] = f[j] * f[j] * variance[t]
            reliable = variance[t] / (variance[t] + 1.0 / others[1, j])
            judged[4, number] = f[j] * reliable * (others[0, j] - mean[t])
            judged[5, number] = 1.0 - reliable
            number += 1
        own[N] = number
        if number > 1:
            signal(judged[:6, :number], gain, c2, own)
