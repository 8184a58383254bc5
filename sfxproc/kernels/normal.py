"""Compiled loops that fill normal matrices over all parameters.

Letters as in `kernels.arrow`: row i of local block m couples its p local parameters with the
shared parameter h = shared[i] by eᵢ = w a c. That, C_m and D_h are all a row adds: (p+1)(p+2)/2
numbers, whatever the size of the matrix.
"""

from __future__ import annotations

from sfxproc.kernels.compiled import compiled


@compiled
def add_couplings_dense(start, shared, e, H):
    """H[(m, s), h] and H[h, (m, s)] += eᵢ[s]; H (n, n) holds the local parameters first."""
    p = e.shape[1]
    n_local = (len(start) - 1) * p
    for m in range(len(start) - 1):
        for i in range(start[m], start[m + 1]):
            column = n_local + shared[i]
            for s in range(p):
                H[m * p + s, column] += e[i, s]
                H[column, m * p + s] += e[i, s]


@compiled
def add_couplings_sparse(start, place, e, free, values):
    """values[place[i] + s] += eᵢ[s] for the free parameters s of the row's block."""
    for m in range(len(start) - 1):
        for i in range(start[m], start[m + 1]):
            for s in range(e.shape[1]):
                if free[m, s]:
                    values[place[i] + s] += e[i, s]
