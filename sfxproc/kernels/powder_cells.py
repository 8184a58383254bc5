"""Loops over the lines and the bases of one cell.

    G* = Σ x_i B_i,   q²(h) = hᵀ G* h = f(h)·x,   f_i(h) = hᵀ B_i h   whole numbers

Lines are the different f(h) of all h within |q| ≤ q_max that the centring allows, one h of each:
that of greatest h + k + l, the last of these in the order of h, k, l.

A metric G fits a symmetry if its lengths are within a share p, and its angles within ω, of those
of the mean N of Rᵀ G R over the symmetry's rotations R. Then, cos being no steeper than 1,

    |G_ii − N_ii| ≤ (2p + p²) N_ii,   |G_ij − N_ij| ≤ (ω + 2p + p²) (N_ii N_jj)^½

which tells quickly most of those that do not.
"""

from __future__ import annotations

import numpy as np

from sfxproc.kernels.compiled import compiled

# ---- the metric ----------------------------------------------------------------------------


@compiled
def direct_metric(basis, x, out):
    """The inverse of G* into out (3, 3), for basis (p, 3, 3) and x (p,); returns det G*, 0 if G*
    is not finite and positive definite: out is not set then."""
    for i in range(3):
        for j in range(3):
            v = 0.0
            for s in range(len(x)):
                v += x[s] * basis[s, i, j]
            out[i, j] = v
    a, b, c, d, e, f = out[0, 0], out[1, 1], out[2, 2], out[0, 1], out[0, 2], out[1, 2]
    area = a * b - d * d
    det = area * c + 2.0 * d * e * f - a * f * f - b * e * e
    if not (a > 0.0 and area > 0.0 and 0.0 < det < np.inf):
        return 0.0
    out[0, 0], out[1, 1], out[2, 2] = (b * c - f * f) / det, (a * c - e * e) / det, area / det
    out[0, 1] = out[1, 0] = (e * f - d * c) / det
    out[0, 2] = out[2, 0] = (d * f - e * b) / det
    out[1, 2] = out[2, 1] = (d * e - a * f) / det
    return det


@compiled
def determinants(basis, x, out):
    """det G* of cells x (c, p) into out (c,), 0 of what is no cell; basis (p, 3, 3)."""
    work = np.empty((3, 3))
    for i in range(len(x)):
        out[i] = direct_metric(basis, x[i], work)


@compiled
def shortest(basis, x, vectors):
    """Length of the shortest of the vectors (n, 3) in the cell x (p,); NaN if it is none."""
    metric = np.empty((3, 3))
    if direct_metric(basis, x, metric) == 0.0:
        return np.nan
    least = np.inf
    for v in vectors:
        square = 0.0
        for i in range(3):
            for j in range(3):
                square += v[i] * metric[i, j] * v[j]
        least = min(least, square)
    return np.sqrt(least)


@compiled
def nearly_symmetric(metric, axes, turns, length, angle, out):
    """Which of the n axes (n, 3, 3), in columns, may fit a symmetry within p = length, ω = angle in
    rad: out (n,). metric (3, 3); turns (9, 9) is the right factor that makes of G, as a row, N."""
    G, N = np.empty(9), np.empty(9)
    off = (2.0 * length + length**2) * (1.0 + 1e-9) + 1e-12
    for c in range(len(axes)):
        a = axes[c]
        for i in range(3):
            u, v, w = a[0, i], a[1, i], a[2, i]
            x = metric[0, 0] * u + metric[0, 1] * v + metric[0, 2] * w
            y = metric[1, 0] * u + metric[1, 1] * v + metric[1, 2] * w
            z = metric[2, 0] * u + metric[2, 1] * v + metric[2, 2] * w
            for j in range(3):
                G[3 * i + j] = x * a[0, j] + y * a[1, j] + z * a[2, j]
        N[:] = 0.0
        for e in range(9):
            for d in range(9):
                N[d] += G[e] * turns[e, d]
        fits = True
        for i in range(3):
            for j in range(i + 1):
                most = off if i == j else off + angle
                size = np.sqrt(N[4 * i] * N[4 * j])
                fits &= abs(G[3 * i + j] - N[3 * i + j]) <= most * size
        out[c] = fits


# ---- lines of a cell -----------------------------------------------------------------------


@compiled
def lines_within(basis, primitive, x, q, most, mix):
    """The lines of the cell x (p,) up to |q|, in no order: hkl (m, 3); forms f (m, p); key (m,),
    Σ f_i mix_i without regard to overflow; count (m,) how many allowed h share the line.

    basis (p, 3, 3).  primitive (3, 3) : h is allowed if h @ primitive is a multiple of 6.  most :
    greatest index.  mix (p,) : odd numbers, whose sums of products tell forms apart.
    """
    p = len(x)
    metric, bound = np.empty((3, 3)), np.zeros(3, np.int64)
    if direct_metric(basis, x, metric) > 0.0:
        for i in range(3):
            bound[i] = min(np.int64(np.floor(q * np.sqrt(metric[i, i]))), most)
    each = np.empty((p, 6))
    for s in range(p):
        B = basis[s]
        each[s, 0], each[s, 1], each[s, 2] = B[0, 0], B[1, 1], B[2, 2]
        each[s, 3], each[s, 4], each[s, 5] = 2.0 * B[0, 1], 2.0 * B[0, 2], 2.0 * B[1, 2]
    each = np.rint(each)
    g = np.zeros(6)
    for s in range(p):
        g += x[s] * each[s]
    inside = points_within(g, bound, primitive, q * q)
    bits = 4
    while (1 << bits) < 2 * len(inside):
        bits += 1
    shift, last = np.uint64(64 - bits), (1 << bits) - 1
    table = np.full(1 << bits, -1, np.int32)
    hkl, count = np.empty((len(inside), 3), np.int64), np.empty(len(inside), np.int64)
    key, forms = np.empty(len(inside), np.uint64), np.empty((len(inside), p))
    form = np.empty(p)
    n = 0
    for row in inside:
        h, k, l = row[0], row[1], row[2]
        own = np.uint64(0)
        for s in range(p):
            e = each[s]
            form[s] = (
                h * h * e[0]
                + k * k * e[1]
                + l * l * e[2]
                + h * k * e[3]
                + h * l * e[4]
                + k * l * e[5]
            )
            own += np.uint64(np.int64(form[s])) * mix[s]
        place = np.int64(own >> shift)
        while table[place] >= 0 and key[table[place]] != own:
            place = (place + 1) & last
        line = table[place]
        if line < 0:
            line = table[place] = n
            key[n], forms[n], count[n] = own, form, 0
            hkl[n] = row
            n += 1
        count[line] += 1 if h == 0 else 2
        if h + k + l >= hkl[line].sum():
            hkl[line] = row
    return hkl[:n].copy(), forms[:n].copy(), key[:n].copy(), count[:n].copy()


@compiled
def points_within(g, bound, primitive, q2):
    """Allowed h (n, 3) of h ≥ 0, without 000, of q² = Σ g (h², k², l², hk, hl, kl) up to q2, in
    the order of h, k, l; |h| up to bound (3,)."""
    n = 0
    found = np.empty((256, 3), np.int64)
    for h in range(bound[0] + 1):
        for k in range(-bound[1], bound[1] + 1):
            constant = h * h * g[0] + k * k * g[1] + h * k * g[3]
            slope = h * g[4] + k * g[5]
            for l in range(-bound[2], bound[2] + 1):
                if constant + l * (slope + l * g[2]) > q2 or (h == 0 and k == 0 and l == 0):
                    continue
                allowed = True
                for i in range(3):
                    v = h * primitive[0, i] + k * primitive[1, i] + l * primitive[2, i]
                    allowed &= v % 6 == 0
                if allowed:
                    if n == len(found):
                        found = np.concatenate((found, np.empty_like(found)))
                    found[n, 0], found[n, 1], found[n, 2] = h, k, l
                    n += 1
    return found[:n]
