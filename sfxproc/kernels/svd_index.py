"""Compiled inner loop of SVD-Index (Coelho, J. Appl. Cryst. 36 (2003) 86).

A trial cell x is improved in rounds. Each observed line is assigned the nearest calculated one, and

    x ← x + (Σ w² f fᵀ)⁻¹ Σ w² f Δ,    Δ_k = q²_k − f_k·x,    w_k = d_k^m |Δ(2θ)_k|

over all lines, with m drawn from [0, 4] in each round; Δ(2θ) ≈ λ d Δ/2 (small angles), so that
w² is proportional to Δ²/(q²)^(m+1). The x of most information (`kernels.powder`) is kept.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sfxproc.kernels.powder import (
    GOLDEN,
    add_row,
    assign,
    determinant,
    information_of,
    mixed,
    solve,
    stream,
    unit,
    workspace,
)

LARGEST_EXPONENT = 4.0


@njit(cache=True, nogil=True)
def trials(reference, lines, rounds, starts, seed, first, out, information):  # type: ignore[no-untyped-def]
    """Improve the cells `starts` (c, p), numbered from `first`, by at most so many rounds: out
    (c, p) and its information (c,) in nats, −1 where the start is no cell."""
    each, n = reference.each, len(lines.q2)
    p = len(each)
    work = workspace(reference.columns.shape[1], n)
    near, delta = np.zeros(n, np.int64), np.zeros(n)
    A, x = np.zeros((p, p + 1)), np.zeros(p)
    for c in range(len(starts)):
        x[:] = starts[c]
        out[c] = x
        information[c] = -1.0
        for iteration in range(rounds):
            if determinant(reference.basis, x, each) <= 0.0:
                break
            count = assign(reference, lines, x, work, near, delta)
            now = information_of(lines, count, delta)
            if now > information[c]:
                information[c] = now
                out[c] = x
            m = LARGEST_EXPONENT * unit(mixed(stream(seed, first + c, iteration) + GOLDEN))
            A[:] = 0.0
            for k in range(n):
                w2 = (delta[k] / lines.q2[k]) ** 2 * (lines.q2[n - 1] / lines.q2[k]) ** (m - 1.0)
                add_row(A, reference.forms[near[k]], w2, delta[k], each)
            solve(A, x, each)
