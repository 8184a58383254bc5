"""Scaled observations, row by row: what can be told of one I_obs with all parameters known.

    J = I_obs/f,   σ(J) = √V(y)/f,   f = P·exp(ln G − 2 B s²),   y = f·I

with V and the robust weight ψ of `kernels.scale` and `kernels.arrow`.
"""

from __future__ import annotations

import numpy as np

from sfxproc.kernels.arrow import rho_and_weight
from sfxproc.kernels.compiled import compiled
from sfxproc.kernels.scale import longest, modelled, variance_of


@compiled(error_model="numpy")
def scaled_rows(data, loss, k, out):
    """out (4, n_rows) = J, σ(J), scale P/f and ψ in the rows of blocks first … last−1."""
    start, _, first, last, _, _, _, P, observed, background, gain, c2 = data
    n = longest(start, first, last)
    work, f_all, y_all, d_all = np.empty((2, n)), np.empty(n), np.empty(n), np.empty(n)
    for m in range(first, last):
        i, n = start[m], start[m + 1] - start[m]
        f, y, d = f_all[:n], y_all[:n], d_all[:n]
        x, b = observed[i : i + n], background[i : i + n]
        modelled(data, m, work, f, y, d)
        for j in range(n):
            out[0, i + j] = x[j] / f[j]
            out[1, i + j] = np.sqrt(variance_of(y[j], b[j], gain, c2)) / f[j]
            out[2, i + j] = (P[i + j] if P.size > 0 else 1.0) / f[j]
            out[3, i + j] = rho_and_weight(d[j], loss, k)[1]
