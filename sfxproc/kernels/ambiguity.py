"""Compiled loops over crystals that may have been indexed in several settings.

Crystal c has the observations start[c] … start[c+1] − 1; each has a value zᵢ and, in setting s, is
one of the reflection h = row[i, s], −1 where the merge does not know that. The merge of other
crystals is m_h = Σz_h/(n_h + shrinkage), from sums (n_reflections,) of the values and their number.
A crystal agrees in setting s with it by

    f_s = Σᵢ zᵢ m_h(i, s)                                   score
    c_s = f_s / √(Σᵢ zᵢ² Σᵢ m²)      over i with n_h > 0    correlation

and its best setting is better than another by (f_best − f_s)/√Σᵢ zᵢ²(m_best − m_s)², what the sum
would be in standard errors if each term had as well its other sign.
"""

from __future__ import annotations

import math

import numpy as np

from sfxproc.kernels.compiled import compiled


@compiled
def add_crystal(first, last, row, z, setting, sign, total, number):
    """Add (sign 1) or take off (−1) observations first … last − 1 in a setting."""
    for i in range(first, last):
        h = row[i, setting]
        total[h] += sign * z[i]
        number[h] += sign


@compiled
def settle(start, row, z, shrinkage, setting, total, number):
    """Put each crystal in turn into the setting (n_crystals,) that agrees best with the merge of
    the others, which total and number (n_reflections,) follow. Equal ones: stay.

    Returns how many crystals moved, and Σ f over all.
    """
    moved = 0
    objective = 0.0
    for c in range(len(start) - 1):
        first, last, before = start[c], start[c + 1], setting[c]
        add_crystal(first, last, row, z, before, -1.0, total, number)
        chosen, best = before, -math.inf
        for k in range(row.shape[1]):
            s = (before + k) % row.shape[1]
            score = 0.0
            for i in range(first, last):
                h = row[i, s]
                score += z[i] * total[h] / (number[h] + shrinkage)
            if score > best:
                chosen, best = s, score
        moved += chosen != before
        objective += best
        setting[c] = chosen
        add_crystal(first, last, row, z, chosen, 1.0, total, number)
    return moved, objective


@compiled
def agreements(start, row, z, shrinkage, own, total, number, setting, cc, margin):
    """Write each crystal's best setting (n_crystals,), its correlations cc (n_crystals, 2) in the
    best and the next best one, and its margin (n_crystals,) in standard errors.

    own : (n_crystals,) the setting in which the crystal is in the merge, whose part is left out
    while it is looked at; −1 if it is not. Without any reflection in common: setting 0 and zeros.
    """
    n_settings = row.shape[1]
    score, c = np.empty(n_settings), np.empty(n_settings)
    for crystal in range(len(start) - 1):
        first, last = start[crystal], start[crystal + 1]
        if own[crystal] >= 0:
            add_crystal(first, last, row, z, own[crystal], -1.0, total, number)
        for s in range(n_settings):
            zm, zz, mm = 0.0, 0.0, 0.0
            for i in range(first, last):
                h = row[i, s]
                if h >= 0 and number[h] > 0.0:
                    m = total[h] / (number[h] + shrinkage)
                    zm += z[i] * m
                    zz += z[i] * z[i]
                    mm += m * m
            score[s] = zm
            c[s] = zm / math.sqrt(zz * mm) if zz * mm > 0.0 else 0.0
        best = np.argmax(score)
        least = math.inf
        for s in range(n_settings):
            if s == best:
                continue
            square = 0.0
            for i in range(first, last):
                h, g = row[i, best], row[i, s]
                m = total[h] / (number[h] + shrinkage) if h >= 0 and number[h] > 0.0 else 0.0
                if g >= 0 and number[g] > 0.0:
                    m -= total[g] / (number[g] + shrinkage)
                square += z[i] * z[i] * m * m
            off = (score[best] - score[s]) / math.sqrt(square) if square > 0.0 else 0.0
            if off < least:
                least, next_best = off, s
        setting[crystal], margin[crystal] = best, least
        cc[crystal, 0], cc[crystal, 1] = c[best], c[next_best]
        if own[crystal] >= 0:
            add_crystal(first, last, row, z, own[crystal], 1.0, total, number)


@compiled
def group_ranks(start, order, size, z):
    """Replace intensities z (n,) by their ranks within groups of observations of one crystal and
    about one resolution: (2 r + 1)/n − 1, r = 0 … n − 1, hence in (−1, 1) with mean 0.

    order : (n,) the observations crystal by crystal and by resolution within one. size : of a
    group, at least. Equal intensities take the order of their resolution.
    """
    for c in range(len(start) - 1):
        n = start[c + 1] - start[c]
        n_groups = max(n // size, 1)
        for g in range(n_groups):
            rows = order[start[c] + g * n // n_groups : start[c] + (g + 1) * n // n_groups]
            ranked = rows[np.argsort(z[rows], kind="mergesort")]
            for r in range(len(ranked)):
                z[ranked[r]] = (2.0 * r + 1.0) / len(ranked) - 1.0
