"""Loops over pairs of rows that share a parameter, for a dense Schur complement.

Rows are sorted by shared parameter and then by local block: those of h are begin[h] …
begin[h+1]−1, each with its local block and coupling e (letters of `kernels.arrow`). Matrices
hold their lower triangle unless said otherwise.
"""

from __future__ import annotations

from sfxproc.kernels.compiled import compiled


@compiled
def subtract_pairs(begin, block, e, inverse_D, first, last, S):
    """S −= Σ_h e_a e_bᵀ / D_h over pairs of rows of h, for blocks first … last−1 of S's rows.

    Diagonal blocks are done whole.
    """
    p = e.shape[1]
    for h in range(len(begin) - 1):
        w = inverse_D[h]
        for a in range(begin[h], begin[h + 1]):
            m = block[a]
            if m < first:
                continue
            if m >= last:
                break
            for b in range(begin[h], begin[h + 1]):
                if block[b] > m:
                    break
                for s in range(p):
                    for t in range(p):
                        S[m * p + s, block[b] * p + t] -= w * e[a, s] * e[b, t]


@compiled
def quadratic_forms(begin, block, e, inverse_D, V, first, last, out):
    """out[h] = Σ_ab e_aᵀ V_ab e_b / D_h² for h = first … last−1; V holds both triangles."""
    p = e.shape[1]
    for h in range(first, last):
        total = 0.0
        for a in range(begin[h], begin[h + 1]):
            for b in range(begin[h], a + 1):
                part = 0.0
                for s in range(p):
                    for t in range(p):
                        part += e[a, s] * V[block[a] * p + s, block[b] * p + t] * e[b, t]
                total += part if a == b else 2.0 * part
        out[h] = total * inverse_D[h] ** 2


@compiled
def mirror(S):
    """Copy the lower triangle into the upper one, tile by tile."""
    n = len(S)
    tile = 64
    for i0 in range(0, n, tile):
        for j0 in range(0, i0 + 1, tile):
            for i in range(i0, min(i0 + tile, n)):
                for j in range(j0, min(j0 + tile, i)):
                    S[j, i] = S[i, j]
