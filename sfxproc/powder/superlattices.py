"""Larger cells for the lines that a cell leaves out.

A cell m times as large has a reciprocal lattice m times as dense: the points h of the cell itself
and m − 1 more classes h + r, the components of r multiples of 1/m. Which lines q²_k each class can
explain is found once for all larger cells of that index,

    |(h + r)ᵀ G* (h + r) − q²_k| < REACH s σ_k  for an h,

and a larger cell explains those that any of its classes does. Chance would have it so with the
probability

    p_k = 1 − exp(−2 REACH s σ_k ρ),   ρ = 2π V q_k (m − 1)/n

for V the volume of the primitive cell and n equivalent points to a line, and the larger cells worth
trying are those with the largest Σ −ln p_k over the lines they explain.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from sfxproc.data import Floats, Ints, Mask
from sfxproc.powder.cells import hermite_forms
from sfxproc.powder.lattices import LATTICES

INDICES = (2, 3, 4, 5, 6, 7, 8)
REACH = 3.0
TRIED = 6  # of all indices together
LEAST = 1.0  # nats


class Superlattices(NamedTuple):
    """Those of one index m, of such as symmetry makes alike one. forms (f, 3, 3): columns are axes
    in terms of the primitive ones. classes (c, 3): r, again one of such as are alike. has (f, c):
    which classes belong to which superlattice. alike (f,): rotations of the lattice that leave the
    superlattice alone, n."""

    forms: Ints
    classes: Floats
    has: Mask
    alike: Ints


@cache
def superlattices(symbol: str, index: int) -> Superlattices:
    """The superlattices of a Bravais lattice that have cells `index` times as large."""
    turns = LATTICES[symbol].primitive_rotations
    # r in units of 1/m, as one number; the least of those that symmetry makes alike stands for all
    digits = np.array([index * index, index, 1])
    every = np.stack(np.meshgrid(*[np.arange(index)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    leader = ((every @ turns) % index @ digits).min(axis=0)
    classes = np.unique(leader[1:])  # the first of all is r = 0
    forms, has, alike = [], [], []
    seen: set[bytes] = set()
    for form in hermite_forms(index):
        # h' F⁻¹ with h' whole: exactly those with r F whole
        inside = every[(every @ form % index == 0).all(axis=1)]
        turned = np.sort(inside @ turns % index @ digits, axis=1)
        names = {row.tobytes() for row in turned}
        if names & seen:
            continue
        seen |= names
        forms.append(form)
        has.append(np.isin(classes, leader[inside @ digits]))
        alike.append(int((turned == np.sort(inside @ digits)).all(axis=1).sum()))
    return Superlattices(
        np.array(forms), every[classes] / index, np.array(has), np.array(alike, dtype=np.int64)
    )


def promising(symbol: str, reciprocal: Floats, q2: Floats, sigma: Floats) -> list[Ints]:
    """Forms (3, 3) of the superlattices, TRIED at most, that explain most of the lines q2 (k,) that
    the lattice does not, with errors sigma (k,), Å⁻²; the best first.

    reciprocal : (3, 3) metric G* of the primitive axes, Å⁻².
    """
    if len(q2) == 0:
        return []
    whole = _whole_within(reciprocal, float(q2[-1] + REACH * sigma[-1]))
    own = np.einsum("ni,ij,nj->n", whole, reciprocal, whole)
    volume = float(np.linalg.det(reciprocal)) ** -0.5
    found: list[tuple[float, int, Ints]] = []
    for index in INDICES:
        of = superlattices(symbol, index)
        turned = of.classes @ reciprocal
        values = own + 2.0 * turned @ whole.T + (turned * of.classes).sum(axis=1)[:, None]
        explained = of.has @ _near(values, q2, REACH * sigma)
        density = 2.0 * np.pi * volume * np.sqrt(q2) * (index - 1) / of.alike[:, None]
        gain = -np.log(-np.expm1(-2.0 * REACH * sigma * density))
        worth = np.where(explained, gain, 0.0).sum(axis=1)
        rows = np.flatnonzero(worth > LEAST)
        found += [(-float(worth[row]), index, of.forms[row]) for row in rows]
    found.sort(key=lambda each: each[:2])
    return [form for *_, form in found[:TRIED]]


def _whole_within(reciprocal: Floats, q2_max: float) -> Floats:
    """Whole h (n, 3) that have a point h + r, 0 ≤ r < 1, within q2_max Å⁻²."""
    most = np.floor(np.sqrt(q2_max * np.diag(np.linalg.inv(reciprocal)))).astype(np.int64)
    axes = [np.arange(-m - 1, m + 1) for m in most]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float64)


def _near(values: Floats, q2: Floats, reach: Floats) -> Mask:
    """(c, k) which of the lines q2 (k,), ascending, have one of values (c, n) within reach (k,)."""
    out = np.zeros((len(values), len(q2)), dtype=bool)
    at = np.searchsorted(q2, values)
    for side in (at - 1, at):
        line = side.clip(0, len(q2) - 1)
        row, column = np.nonzero(np.abs(values - q2[line]) < reach[line])
        out[row, line[row, column]] = True
    return out
