"""Sums that tell what variances observations have, beyond what was counted.

With r = I_obs − y and V(y) = v₀ b + v₁ y₊ + v₂ y₊² (kernels.scale), two ways to fit: V's last term
alone, so that Σ r²/V is the number of degrees of freedom; or all three v by likelihood. The score
of −2 ln L = Σ ln V + r²/V is that of a linear regression of r² on φ = (b, y₊, y₊²) with weights
1/V², whose normal equations are F v = t with

    F = Σ e φ φᵀ/V²,   t = Σ φ r²/V²

e : what part of an observation's variance its residual keeps (the reflection's mean has taken the
rest). Large r² count as what normal deviates of the present V could just be.
"""

from __future__ import annotations

import numpy as np

from sfxproc.kernels.compiled import compiled
from sfxproc.kernels.scale import longest, scale_factors, variance_of


@compiled(error_model="numpy")
def chi2_of_scatter(data, cap):
    """Σ z and Σ ∂z/∂c² with z = (I_obs − y)²/σ², over the observations with z ≤ cap[h] (the
    others count as cap[h])."""
    start, shared, first, last, local, I, s2, P, observed, background, gain, c2 = data
    chi2 = 0.0
    slope = 0.0
    n = longest(start, first, last)
    work, y_all = np.empty((2, n)), np.empty(n)
    for m in range(first, last):
        i, n = start[m], start[m + 1] - start[m]
        h, y = shared[i : i + n], y_all[:n]
        scale_factors(local[m, 0], local[m, 1], s2, P[i : i + n], h, y, work)
        for k in range(n):
            y[k] *= I[h[k]]
            v = variance_of(y[k], background[i + k], gain, c2)
            z = (observed[i + k] - y[k]) ** 2 / v
            if z <= cap[h[k]]:
                chi2 += z
                slope -= z * max(y[k], 0.0) ** 2 / v
            else:
                chi2 += cap[h[k]]
    return chi2, slope


@compiled(error_model="numpy")
def variance_sums(data, v, share, most, out):
    """out (10,) = the six of F (00 01 02 11 12 22), the three of t, and Σ e.

    background : b as it was given; v : (3,) at present. share : (n_shared,) e. r² counts up to
    most·e·V.
    """
    start, shared, first, last, local, I, s2, P, observed, background, _, _ = data
    n = longest(start, first, last)
    work, y_all = np.empty((2, n)), np.empty(n)
    phi = np.empty(3)
    for m in range(first, last):
        i, n = start[m], start[m + 1] - start[m]
        h, y = shared[i : i + n], y_all[:n]
        scale_factors(local[m, 0], local[m, 1], s2, P[i : i + n], h, y, work)
        for k in range(n):
            e = share[h[k]]
            modelled = y[k] * I[h[k]]
            phi[0], phi[1] = background[i + k], max(modelled, 0.0)
            phi[2] = phi[1] * phi[1]
            V = v[0] * phi[0] + v[1] * phi[1] + v[2] * phi[2]
            if not np.isfinite(V) or V <= 0.0 or e <= 0.0:
                continue
            w = 1.0 / (V * V)
            square = min((observed[i + k] - modelled) ** 2, most * e * V)
            at = 0
            for a in range(3):
                for b in range(a, 3):
                    out[at] += e * w * phi[a] * phi[b]
                    at += 1
                out[6 + a] += w * phi[a] * square
            out[9] += e


@compiled(error_model="numpy")
def ln_variances(data):
    """Σ ln V of the rows of blocks first … last−1."""
    start, shared, first, last, local, I, s2, P, _, background, gain, c2 = data
    total = 0.0
    n = longest(start, first, last)
    work, y = np.empty((2, n)), np.empty(n)
    for m in range(first, last):
        i, n = start[m], start[m + 1] - start[m]
        h = shared[i : i + n]
        scale_factors(local[m, 0], local[m, 1], s2, P[i : i + n], h, y[:n], work)
        for k in range(n):
            total += np.log(variance_of(y[k] * I[h[k]], background[i + k], gain, c2))
    return total


@compiled(error_model="numpy")
def pulls(data, share, most, per_decade, lowest, by_intensity, by_partiality):
    """Adds to each bin (bins, 4) the number of observations, Σ y, Σ z/e with z = (I_obs − y)²/V up
    to most·e, and Σ of the pull (I_obs − y)/√V within ±√most.

    Bins of y : per_decade to a decade from 10^lowest on, what is beyond in the outermost. Bins of
    P : equal parts of 0 … 1.
    """
    start, shared, first, last, local, I, s2, P, observed, background, gain, c2 = data
    n = longest(start, first, last)
    work, y = np.empty((2, n)), np.empty(n)
    ends = len(by_intensity) - 1, len(by_partiality) - 1
    for m in range(first, last):
        i, n = start[m], start[m + 1] - start[m]
        h = shared[i : i + n]
        scale_factors(local[m, 0], local[m, 1], s2, P[i : i + n], h, y[:n], work)
        for k in range(n):
            e = share[h[k]]
            if e <= 0.0:
                continue
            modelled = y[k] * I[h[k]]
            V = variance_of(modelled, background[i + k], gain, c2)
            pull = (observed[i + k] - modelled) / np.sqrt(V)
            z = min(pull * pull, most * e) / e
            pull = min(max(pull, -np.sqrt(most)), np.sqrt(most))
            decade = np.log10(modelled) - lowest if modelled > 0.0 else 0.0
            a = min(max(int(per_decade * decade), 0), ends[0])
            p = P[i + k] if P.size > 0 else 1.0
            b = min(max(int(p * len(by_partiality)), 0), ends[1])
            by_intensity[a, 0] += 1.0
            by_intensity[a, 1] += modelled
            by_intensity[a, 2] += z
            by_intensity[a, 3] += pull
            by_partiality[b, 0] += 1.0
            by_partiality[b, 1] += modelled
            by_partiality[b, 2] += z
            by_partiality[b, 3] += pull
