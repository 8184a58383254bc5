"""Compiled loops over the rows of a problem whose arrow has a dense border.

Beside its local block m (letters of `kernels.arrow`) row i touches the common parameters
columns[t, 0 … w−1], t = pattern[i] its pattern (−1 is an unused slot), with derivatives fᵢ ∈ Rʷ.
The border adds to the normal equations

    H = Σ w f fᵀ (k, k)      q = Σ w f r (k)      F_m = Σ w a fᵀ (p, k)

F_m is held for the u columns that block m touches, as (u, p), so that memory follows the rows.
H is packed: its lower triangle row by row, H_ij at i(i + 1)/2 + j. Eliminating the local blocks,
C_m = L Lᵀ, leaves H − Σ XᵀX and q − Σ Xᵀ L⁻¹g with X = L⁻¹F_m.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from sfxproc.kernels.arrow import rho_and_weight
from sfxproc.kernels.compiled import compiled

USED, FIXED, UNDETERMINED = 0, 1, 2
"""What a local parameter is to the factor of its block."""


@compiled
def touched(start, pattern, columns, free, first, last, seen, met, begin, out):
    """The free columns that each block first … last−1 touches, in order of appearance: those of
    the n-th of them are out[begin[n]:begin[n + 1]]. An empty `out` is left alone.

    seen (n_patterns,), met (k,) : scratch, −1 before.
    """
    n = 0
    begin[0] = 0
    for m in range(first, last):
        for i in range(start[m], start[m + 1]):
            t = pattern[i]
            if seen[t] == m:
                continue
            seen[t] = m
            for v in range(columns.shape[1]):
                h = columns[t, v]
                if h >= 0 and free[h] and met[h] != m:
                    met[h] = m
                    if out.size > 0:
                        out[n] = h
                    n += 1
        begin[m - first + 1] = n


@compiled
def factor_blocks(C, free, stretch, smallest, L, state):
    """L (n, p, p) = Cholesky factors of C with the diagonal times `stretch`, state (n, p) what
    each parameter is to them. Returns how many blocks are indefinite or not finite.

    A parameter whose pivot is below `smallest` of its diagonal is UNDETERMINED: the block is
    factored without it, which is an exact solution where the equations are consistent.
    """
    n, p = free.shape
    bad = 0
    for m in range(n):
        fine = True
        for s in range(p):
            diagonal = stretch * C[m, s, s]
            state[m, s] = USED if free[m, s] else FIXED
            for t in range(s):
                v = 0.0
                if state[m, s] == USED and state[m, t] == USED:
                    v = C[m, s, t]
                    for u in range(t):
                        v -= L[m, s, u] * L[m, t, u]
                    v /= L[m, t, t]
                L[m, s, t] = v
            for t in range(s + 1, p):
                L[m, s, t] = 0.0
            L[m, s, s] = 1.0
            if state[m, s] == FIXED:
                continue
            pivot = diagonal
            for u in range(s):
                pivot -= L[m, s, u] * L[m, s, u]
            if pivot > smallest * diagonal:
                L[m, s, s] = np.sqrt(pivot)
                continue
            state[m, s] = UNDETERMINED
            for t in range(s):
                L[m, s, t] = 0.0
            if not (diagonal >= 0.0 and pivot >= -smallest * diagonal):
                fine = False
        if not fine:
            bad += 1
    return bad


@compiled
def solve_rows(L, state, B):
    """Each row b of B (n, p) becomes (L Lᵀ)⁻¹b over the used parameters, zero elsewhere."""
    p = len(state)
    for n in range(len(B)):
        for s in range(p):
            v = B[n, s]
            for u in range(s):
                v -= L[s, u] * B[n, u]
            B[n, s] = v / L[s, s] if state[s] == USED else 0.0
        for s in range(p - 1, -1, -1):
            v = B[n, s]
            for u in range(s + 1, p):
                v -= L[u, s] * B[n, u]
            B[n, s] = v / L[s, s] if state[s] == USED else 0.0


@compiled
def subtract_packed(R, columns, out):
    """out (packed) −= R (n, n) at some columns, in ascending order."""
    for i in range(len(columns)):
        h = columns[i]
        at = h * (h + 1) // 2
        for j in range(i + 1):
            out[at + columns[j]] -= R[i, j]


@compiled
def unpack(packed, out):
    """out (k, k) = the symmetric matrix, both triangles."""
    at = 0
    for i in range(len(out)):
        for j in range(i + 1):
            out[i, j] = packed[at]
            out[j, i] = packed[at]
            at += 1


class BorderKernels(NamedTuple):
    """The loops compiled for p local parameters and w slots a pattern."""

    accumulate: Callable[..., Any]
    add_patterns: Callable[..., Any]
    panel: Callable[..., Any]
    back: Callable[..., Any]


@cache
def border_kernels(p: int, w: int) -> BorderKernels:
    """Kernels for local blocks of p parameters and patterns of w columns."""

    @compiled
    def accumulate(
        start,
        pattern,
        columns,
        first,
        last,
        r,
        d,
        a,
        f,
        loss,
        k,
        chunk,
        begin,
        column,
        place,
        C,
        g,
        F,
        weight,
    ):
        """Write C and g of local blocks first … last−1 and the weights of their rows, add to F.

        Buffers r, d, a, f and weight begin at first's row. chunk : the block whose columns begin
        and column hold first; place (k,) : scratch, −1 for fixed columns. Returns Σ ρ and Σ r².
        """
        objective = 0.0
        chi2 = 0.0
        origin = start[first]
        block = np.empty((p, p))
        gradient = np.empty(p)
        for m in range(first, last):
            block[:] = 0.0
            gradient[:] = 0.0
            for at in range(begin[m - chunk], begin[m - chunk + 1]):
                place[column[at]] = at
            for i in range(start[m], start[m + 1]):
                j = i - origin
                ri = r[j]
                rho, wi = rho_and_weight(d[j], loss, k)
                objective += rho
                chi2 += ri * ri
                weight[j] = wi
                if p == 0:
                    continue
                for s in range(p):
                    wa = wi * a[j, s]
                    gradient[s] += wa * ri
                    for t in range(s + 1):
                        block[s, t] += wa * a[j, t]
                for v in range(w):
                    h = columns[pattern[i], v]
                    if h >= 0 and place[h] >= 0:
                        wf = wi * f[j, v]
                        at = place[h]
                        for s in range(p):
                            F[at, s] += wf * a[j, s]
            for s in range(p):
                g[m, s] = gradient[s]
                for t in range(s + 1):
                    C[m, s, t] = block[s, t]
                    C[m, t, s] = block[s, t]
        return objective, chi2

    @compiled
    def add_patterns(order, pattern, columns, weight, r, f, H, q):
        """Add rows to H (packed) and q, those of a pattern together; order sorts them by it."""
        block = np.empty((w, w))
        gradient = np.empty(w)
        row, weighted = np.empty((4, w)), np.empty((4, w))
        n = len(order)
        i = 0
        while i < n:
            t = pattern[order[i]]
            block[:] = 0.0
            gradient[:] = 0.0
            while i < n and pattern[order[i]] == t:
                together = 0  # rows at once, so that `block` is read and written once for them
                while together < 4 and i < n and pattern[order[i]] == t:
                    j = order[i]
                    for u in range(w):
                        row[together, u] = f[j, u]
                        weighted[together, u] = weight[j] * f[j, u]
                        gradient[u] += weighted[together, u] * r[j]
                    together += 1
                    i += 1
                row[together:] = 0.0
                weighted[together:] = 0.0
                for u in range(w):
                    a, b, c, d = weighted[0, u], weighted[1, u], weighted[2, u], weighted[3, u]
                    for v in range(w):
                        block[u, v] += (a * row[0, v] + b * row[1, v]) + (
                            c * row[2, v] + d * row[3, v]
                        )
            for u in range(w):
                h = columns[t, u]
                if h < 0:
                    continue
                q[h] += gradient[u]
                for v in range(w):
                    other = columns[t, v]
                    if 0 <= other <= h:
                        H[h * (h + 1) // 2 + other] += block[u, v]

    @compiled
    def panel(L, state, begin, column, F, g, first, last, chunk, where, X, y):
        """X[where[h], rows of m] = L⁻¹F_m and y[rows of m] = L⁻¹g_m of blocks first … last−1."""
        z = np.empty(p)
        for m in range(first, last):
            base = (m - first) * p
            for at in range(begin[m - chunk], begin[m - chunk + 1]):
                row = where[column[at]]
                for s in range(p):
                    v = F[at, s]
                    for u in range(s):
                        v -= L[m, s, u] * z[u]
                    z[s] = v / L[m, s, s] if state[m, s] == USED else 0.0
                    X[row, base + s] = z[s]
            for s in range(p):
                v = g[m, s]
                for u in range(s):
                    v -= L[m, s, u] * z[u]
                z[s] = v / L[m, s, s] if state[m, s] == USED else 0.0
                y[base + s] = z[s]

    @compiled
    def back(L, state, begin, column, F, g, z, first, last, out):
        """out[m] = −(L Lᵀ)⁻¹(g_m + F_m z) of blocks first … last−1, all of a chunk."""
        for m in range(first, last):
            for s in range(p):
                out[m, s] = -g[m, s]
            for at in range(begin[m - first], begin[m - first + 1]):
                zh = z[column[at]]
                for s in range(p):
                    out[m, s] -= F[at, s] * zh
            solve_rows(L[m], state[m], out[m : m + 1])

    return BorderKernels(accumulate, add_patterns, panel, back)
