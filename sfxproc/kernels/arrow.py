"""Compiled loops over the rows of an arrow-shaped least-squares problem.

Row i belongs to local block m (rows start[m] … start[m+1]−1) and touches one shared parameter
h = shared[i]. With residual rᵢ, deviance residual dᵢ (= |rᵢ| in least squares), Jacobian pieces
aᵢ ∈ Rᵖ (local) and cᵢ (shared) and weight wᵢ of the robust loss, the objective is ½ Σ ρ(dᵢ) and
the normal equations are made of

    C_m = Σ w a aᵀ   e_i = w a c   D_h = Σ w c²   g_m = Σ w a r   q_h = Σ w c r

and a product with the Schur complement streams e twice: t_h = Σᵢ eᵢ·v_m, then Σᵢ eᵢ u_h.

Loss ρ(d), weight w = ρ′(d)/(2d): none d², 1; Huber d² or 2k|d| − k², min(1, k/|d|);
Cauchy k² ln(1 + d²/k²), 1/(1 + d²/k²).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

NO_LOSS, HUBER, CAUCHY = 0, 1, 2


@njit(cache=True, nogil=True, inline="always")
def rho_and_weight(d, loss, k):  # type: ignore[no-untyped-def]
    """ρ(d) and the weight that makes weighted least squares descend it."""
    if loss == HUBER and abs(d) > k:
        return 2.0 * k * abs(d) - k * k, k / abs(d)
    if loss == CAUCHY:
        z = (d / k) ** 2
        return k * k * np.log1p(z), 1.0 / (1.0 + z)
    return d * d, 1.0


@njit(cache=True, nogil=True)
def sum_rho(d, loss, k):  # type: ignore[no-untyped-def]
    """Σ ρ(dᵢ)."""
    total = 0.0
    for i in range(len(d)):
        total += rho_and_weight(d[i], loss, k)[0]
    return total


@njit(cache=True, nogil=True)
def dot_by_chunk(chunk, a, b, out):  # type: ignore[no-untyped-def]
    """out[c, k] = Σ_{m in chunk c} a[m, k]·b[m, k], in order of m."""
    for c in range(len(chunk) - 1):
        for k in range(a.shape[1]):
            out[c, k] = 0.0
        for m in range(chunk[c], chunk[c + 1]):
            for k in range(a.shape[1]):
                out[c, k] += a[m, k] * b[m, k]


class ArrowKernels(NamedTuple):
    """The loops compiled for p local parameters (p known to the compiler: half the time)."""

    accumulate: Callable[..., Any]
    scatter: Callable[..., Any]
    gather: Callable[..., Any]
    outer: Callable[..., Any]


@cache
def arrow_kernels(p: int) -> ArrowKernels:
    """Kernels for local blocks of p parameters."""

    @njit(cache=True, nogil=True)
    def accumulate(  # type: ignore[no-untyped-def]
        start, shared, first, last, r, d, a, c, loss, k, C, g, e, D, q
    ):
        """Add the rows of local blocks first … last−1 (buffers r, d, a, c begin at first's row).

        Writes C, g and e of those blocks, adds to D and q. Returns Σ ρ and Σ r².
        """
        objective = 0.0
        chi2 = 0.0
        origin = start[first]
        block = np.empty((p, p))
        gradient = np.empty(p)
        for m in range(first, last):
            block[:] = 0.0
            gradient[:] = 0.0
            for i in range(start[m], start[m + 1]):
                j = i - origin
                ri = r[j]
                rho, w = rho_and_weight(d[j], loss, k)
                objective += rho
                chi2 += ri * ri
                h = shared[i]
                cw = w * c[j]
                D[h] += cw * c[j]
                q[h] += cw * ri
                for s in range(p):
                    e[i, s] = cw * a[j, s]
                    wa = w * a[j, s]
                    gradient[s] += wa * ri
                    for t in range(s + 1):
                        block[s, t] += wa * a[j, t]
            for s in range(p):
                g[m, s] = gradient[s]
                for t in range(s + 1):
                    C[m, s, t] = block[s, t]
                    C[m, t, s] = block[s, t]
        return objective, chi2

    @njit(cache=True, nogil=True)
    def scatter(start, shared, first, last, e, v, t):  # type: ignore[no-untyped-def]
        """t[h] += eᵢ·v_m over the rows of blocks first … last−1."""
        for m in range(first, last):
            for i in range(start[m], start[m + 1]):
                total = 0.0
                for s in range(p):
                    total += e[i, s] * v[m, s]
                t[shared[i]] += total

    @njit(cache=True, nogil=True)
    def gather(start, shared, first, last, e, u, out):  # type: ignore[no-untyped-def]
        """out[m] = Σᵢ eᵢ u[h] over the rows of blocks first … last−1."""
        total = np.empty(p)
        for m in range(first, last):
            total[:] = 0.0
            for i in range(start[m], start[m + 1]):
                uh = u[shared[i]]
                for s in range(p):
                    total[s] += e[i, s] * uh
            for s in range(p):
                out[m, s] = total[s]

    @njit(cache=True, nogil=True)
    def outer(start, shared, first, last, e, u, out):  # type: ignore[no-untyped-def]
        """out[m] = Σᵢ eᵢ eᵢᵀ u[h] over the rows of blocks first … last−1."""
        for m in range(first, last):
            out[m, :, :] = 0.0
            for i in range(start[m], start[m + 1]):
                uh = u[shared[i]]
                for s in range(p):
                    for t in range(p):
                        out[m, s, t] += e[i, s] * e[i, t] * uh

    return ArrowKernels(accumulate, scatter, gather, outer)
