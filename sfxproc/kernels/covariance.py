"""Loops over pairs of rows that share a parameter, for a dense Schur complement.

Rows are sorted by shared parameter: those of h are begin[h] … begin[h+1]−1, each with its local
block m and coupling e (letters of `kernels.arrow`).
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def subtract_pairs(begin, block, e, inverse_D, S):  # type: ignore[no-untyped-def]
    """S −= Σ_h e_a e_bᵀ / D_h over pairs a, b of rows of h; lower triangle of blocks only."""
    p = e.shape[1]
    for h in range(len(begin) - 1):
        w = inverse_D[h]
        for a in range(begin[h], begin[h + 1]):
            for b in range(begin[h], begin[h + 1]):
                if block[b] > block[a]:
                    continue
                for s in range(p):
                    for t in range(p):
                        S[block[a] * p + s, block[b] * p + t] -= w * e[a, s] * e[b, t]


@njit(cache=True, nogil=True)
def quadratic_forms(begin, block, e, inverse_D, V, out):  # type: ignore[no-untyped-def]
    """out[h] = Σ_ab e_aᵀ V_ab e_b / D_h²: the variance of a shared parameter due to V."""
    p = e.shape[1]
    for h in range(len(begin) - 1):
        total = 0.0
        for a in range(begin[h], begin[h + 1]):
            for b in range(begin[h], begin[h + 1]):
                for s in range(p):
                    for t in range(p):
                        total += e[a, s] * V[block[a] * p + s, block[b] * p + t] * e[b, t]
        out[h] = total * inverse_D[h] ** 2
