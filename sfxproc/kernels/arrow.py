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

from sfxproc.kernels.compiled import compiled
from sfxproc.kernels.splitmix64 import FIRST, GOLDEN, mixed

NO_LOSS, HUBER, CAUCHY = 0, 1, 2


@compiled(inline="always")
def rho_and_weight(d, loss, k):
    """ρ(d) and the weight that makes weighted least squares descend it."""
    if loss == HUBER and abs(d) > k:
        return 2.0 * k * abs(d) - k * k, k / abs(d)
    if loss == CAUCHY:
        z = (d / k) ** 2
        return k * k * np.log1p(z), 1.0 / (1.0 + z)
    return d * d, 1.0


@compiled
def sum_rho(d, loss, k):
    """Σ ρ(dᵢ)."""
    total = 0.0
    for i in range(len(d)):
        total += rho_and_weight(d[i], loss, k)[0]
    return total


@compiled
def rho_by_block(start, first, last, d, loss, k, out):
    """out[m] = Σ ρ(dᵢ) over the rows of local blocks first … last−1, of which d holds the rows."""
    base = start[first]
    for m in range(first, last):
        out[m] = sum_rho(d[start[m] - base : start[m + 1] - base], loss, k)


@compiled
def dot_by_chunk(chunk, a, b, out):
    """out[c, k] = Σ_{m in chunk c} a[m, k]·b[m, k], in order of m."""
    for c in range(len(chunk) - 1):
        for k in range(a.shape[1]):
            out[c, k] = 0.0
        for m in range(chunk[c], chunk[c + 1]):
            for k in range(a.shape[1]):
                out[c, k] += a[m, k] * b[m, k]


@compiled
def sum_by_component(chunk, component, a, out):
    """out[c, component[m], k] += a[m, k] over the blocks m of chunk c; negative is no component."""
    for c in range(len(chunk) - 1):
        for m in range(chunk[c], chunk[c + 1]):
            if component[m] >= 0:
                for k in range(a.shape[1]):
                    out[c, component[m], k] += a[m, k]


@compiled
def invert_blocks(blocks, free, smallest, out):
    """out[m] = inverse of blocks[m] over its free parameters, zero elsewhere, by Cholesky.

    In unit diagonal; a block with a pivot below `smallest` is taken as its diagonal.
    """
    n, p = free.shape
    scale, L, x = np.empty(p), np.empty((p, p)), np.empty(p)
    for m in range(n):
        for s in range(p):
            diagonal = abs(blocks[m, s, s])
            scale[s] = 1.0 / np.sqrt(diagonal) if free[m, s] and diagonal > 0.0 else 0.0
        definite = True
        for s in range(p):
            for t in range(s + 1):
                v = blocks[m, s, t] * scale[s] * scale[t]
                for u in range(t):
                    v -= L[s, u] * L[t, u]
                if t < s:
                    L[s, t] = v / L[t, t]
                elif scale[s] == 0.0:
                    L[s, s] = 1.0
                elif v >= smallest:
                    L[s, s] = np.sqrt(v)
                else:
                    definite = False
                    L[s, s] = 1.0
        for s in range(p):
            if not definite:
                out[m, s, s] = scale[s] * scale[s]
                continue
            for t in range(p):  # L x = column s of 1, then Lᵀ x = that
                v = 1.0 if t == s else 0.0
                for u in range(t):
                    v -= L[t, u] * x[u]
                x[t] = v / L[t, t]
            for t in range(p - 1, -1, -1):
                v = x[t]
                for u in range(t + 1, p):
                    v -= L[u, t] * x[u]
                x[t] = v / L[t, t]
                out[m, s, t] = x[t] * scale[s] * scale[t]


@compiled(inline="always")
def random_bit(seed, block, row):
    """A bit that looks random, of three numbers."""
    z = np.uint64(seed) * GOLDEN + np.uint64(block) * FIRST + np.uint64(row)
    return (mixed(z + GOLDEN) >> np.uint64(33)) & np.uint64(1) == np.uint64(1)


class ArrowKernels(NamedTuple):
    """The loops compiled for p local parameters (p known to the compiler: half the time)."""

    accumulate: Callable[..., Any]
    scatter: Callable[..., Any]
    gather: Callable[..., Any]
    outer: Callable[..., Any]
    noise: Callable[..., Any]
    spread: Callable[..., Any]


@cache
def arrow_kernels(p: int) -> ArrowKernels:
    """Kernels for local blocks of p parameters."""

    @compiled
    def accumulate(start, shared, first, last, r, d, a, c, loss, k, C, g, e, D, q):
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

    @compiled
    def scatter(start, shared, first, last, e, v, t):
        """t[h] += eᵢ·v_m over the rows of blocks first … last−1."""
        for m in range(first, last):
            for i in range(start[m], start[m + 1]):
                total = 0.0
                for s in range(p):
                    total += e[i, s] * v[m, s]
                t[shared[i]] += total

    @compiled
    def gather(start, shared, first, last, e, u, out):
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

    @compiled
    def outer(start, shared, first, last, e, u, out):
        """out[m] = Σᵢ eᵢ eᵢᵀ u[h] over the rows of blocks first … last−1."""
        for m in range(first, last):
            out[m, :, :] = 0.0
            for i in range(start[m], start[m + 1]):
                uh = u[shared[i]]
                for s in range(p):
                    for t in range(p):
                        out[m, s, t] += e[i, s] * e[i, t] * uh

    @compiled
    def noise(start, shared, first, last, d, a, c, loss, k, prior, seed, before, g, q):
        """g[m] = Σ √w a ε + √prior ε and q[h] += Σ √w c ε with ε = ±1 at random, of blocks
        first … last−1.

        ε depends on the seed, the block's number in the whole job (before + m) and the row's
        place in the block. Buffers d, a, c begin at first's row.
        """
        origin = start[first]
        for m in range(first, last):
            n = start[m + 1] - start[m]
            for s in range(p):  # a prior is one more row
                sign = 1.0 if random_bit(seed, before + m, n + s) else -1.0
                g[m, s] = sign * np.sqrt(prior[m, s])
            for i in range(start[m], start[m + 1]):
                j = i - origin
                sign = 1.0 if random_bit(seed, before + m, i - start[m]) else -1.0
                v = sign * np.sqrt(rho_and_weight(d[j], loss, k)[1])
                q[shared[i]] += v * c[j]
                for s in range(p):
                    g[m, s] += v * a[j, s]

    @compiled
    def spread(start, shared, first, last, e, V, t):
        """t[h] += eᵢᵀ V_m eᵢ over the rows of blocks first … last−1."""
        for m in range(first, last):
            for i in range(start[m], start[m + 1]):
                total = 0.0
                for s in range(p):
                    for u in range(p):
                        total += e[i, s] * V[m, s, u] * e[i, u]
                t[shared[i]] += total

    return ArrowKernels(accumulate, scatter, gather, outer, noise, spread)
