"""Cells drawn from zones: where the lowest lines belong to one plane of the reciprocal lattice.

A zone is a plane lattice of lines

    Q(h, k) = h² A + k² B + h k R,    |R| ≤ A ≤ B if oblique, R = 0 if rectangular

(Visser, J. Appl. Cryst. 2 (1969) 89; dominant zones: Werner, Eriksson & Westdahl, J. Appl. Cryst.
18 (1985) 367). A, B and R are solved from two or three of the lowest lines with low indices. With
N lines of the zone up to q²_n, spread evenly over q² as those of a plane are, and p parameters it
is worth

    J = Σ_k ln(1 + 1/t_k) − p ⟨ln(1 + q²_n/(2 N δ_k))⟩,    t_k = (2 N/q²_n) (|Δ_k| + δ_k)

in nats: the lines it explains but for p, which any zone does. Zones are drawn in proportion to
exp(J/T). The third axis has either the height that gives a volume and a lean within the range that
other choices of axes do not repeat, or is solved from lines that the zone does not explain, taken
for lines of the next layer.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from sfxproc.data import Floats, Ints, Mask
from sfxproc.powder.cells import volumes
from sfxproc.powder.lattices import LATTICES, Lattice

LEAST_LINES = 4
N_TRIED = 4000  # zones of a batch
N_LOWEST = 12  # lines that zones are solved from
N_JUDGED = 20  # lines that zones are judged by
TEMPERATURE = 3.0  # T, nats
FLOOR, FLOOR_RELATIVE = 2.5e-5, 3e-4  # δ = FLOOR Å⁻² + FLOOR_RELATIVE q²
NEAR = 3.0  # of δ: such a line is the zone's
LEAST_SINE = 0.3  # of the angle between the two vectors a zone is solved for
SHARE_OF_LINES = 0.5  # of the third axes are solved from lines
LATE = 0.3  # a line or an index is as much less likely, logarithm, as the one before
H_MOST, K_MOST = 8, 5  # indices of a zone's lines that are looked at
LAYER = 2  # as many first reflections either way of the layer above a zone

Kind = Literal["oblique", "rectangular", "centred"]


class Plane(NamedTuple):
    """A plane of a lattice. axes : two in it, and the third.  kind : of its zone.  multiples : of
    the axes, which are the first allowed reflections on them; those of the first two span the zone,
    but for "centred" ones, where h + k is even.  lean : of the third axis towards the others, in
    units of these, at most."""

    axes: tuple[int, int, int]
    kind: Kind
    multiples: tuple[int, int, int] = (1, 1, 1)
    lean: tuple[float, float] = (0.0, 0.0)


PLANES: dict[str, tuple[Plane, ...]] = {
    "aP": (Plane((0, 1, 2), "oblique", lean=(0.5, 0.5)),),
    "mP": (Plane((0, 2, 1), "oblique"), Plane((0, 1, 2), "rectangular", lean=(0.5, 0.0))),
    "mC": (
        Plane((0, 2, 1), "oblique", (2, 1, 2)),
        Plane((0, 1, 2), "centred", lean=(1.0, 0.0)),
        Plane((1, 2, 0), "rectangular", (2, 1, 2), lean=(0.0, 0.5)),
    ),
    "oP": (Plane((0, 1, 2), "rectangular"),),
    "oC": (Plane((0, 1, 2), "centred"), Plane((0, 2, 1), "rectangular", (2, 1, 2))),
    "oI": (Plane((0, 1, 2), "centred", (1, 1, 2)),),
    "oF": (Plane((0, 1, 2), "rectangular", (2, 2, 2)),),
}
"""By lattice, without those that an exchange of axes makes of others."""

_H = {(1, 0): 0.7, (2, 0): 0.25, (3, 0): 0.05}
GUESSES: dict[Kind, list[dict[tuple[int, int], float]]] = {
    "oblique": [
        _H,
        {(0, 1): 0.7, (0, 2): 0.25, (0, 3): 0.05},
        {(1, 1): 0.6, (1, 2): 0.15, (2, 1): 0.15, (2, 2): 0.1},
    ],
    "rectangular": [_H, {(0, 1): 0.5, (0, 2): 0.2, (1, 1): 0.2, (2, 1): 0.1}],
    "centred": [
        {(2, 0): 0.7, (4, 0): 0.3},
        {(1, 1): 0.6, (0, 2): 0.2, (3, 1): 0.1, (2, 2): 0.1},
    ],
}
"""Indices of the lines that a zone is solved from, and how often each is tried."""


def zone_cells(lattice: Lattice, q2: Floats, x: Floats, rng: np.random.Generator) -> Floats:
    """Cells (n, p) of a lattice of `PLANES` in place of the cells x (n, p), Å⁻².

    Each has a zone that explains low ones of the lines q2 (m,), ascending, Å⁻², and the volume of
    the cell it replaces, or one within the range of them all. Cells stay as they are if there are
    fewer than LEAST_LINES lines, or no zone of them.
    """
    if len(q2) < LEAST_LINES:
        return x
    planes, lines = PLANES[lattice.symbol], q2[:N_JUDGED]
    plane, zone, worth = zones(lattice, lines, rng)
    if len(zone) == 0:
        return x
    odds = np.exp((worth - worth.max()) / TEMPERATURE)
    drawn = rng.choice(len(zone), size=len(x), p=odds / odds.sum())
    volume = volumes(lattice, x)
    metric = np.empty((len(x), 3, 3))
    for number, each in enumerate(planes):
        rows = np.flatnonzero(plane[drawn] == number)
        chosen = zone[drawn[rows]]
        flat = _on_axes(each, chosen, rng)
        high = _by_volume(each, flat, volume[rows], rng)
        solved = _by_lines(lattice, each, flat, _unexplained(each, chosen, lines), lines, rng)
        fits = _within(solved, volume) & (rng.random(len(rows)) < SHARE_OF_LINES)
        metric[rows] = np.where(fits[:, None, None], solved, high)
    inverse = np.linalg.pinv(lattice.basis.reshape(-1, 9))
    return np.asarray(metric.reshape(-1, 9) @ inverse)


# ---- zones ---------------------------------------------------------------------------------


def zones(lattice: Lattice, q2: Floats, rng: np.random.Generator) -> tuple[Ints, Floats, Floats]:
    """Zones that some of the lines q2 (k,) fit: number (m,) of the plane in `PLANES`, A, B, R
    (m, 3) in Å⁻², reduced if oblique, and worth J (m,) in nats."""
    kinds = [plane.kind for plane in PLANES[lattice.symbol]]
    found = [_solved(kind, q2, N_TRIED // len(kinds), rng) for kind in kinds]
    worth = [worths(kind, zone, q2) for kind, zone in zip(kinds, found, strict=True)]
    number = np.repeat(np.arange(len(kinds)), [len(zone) for zone in found])
    return number, np.concatenate(found), np.concatenate(worth)


def _solved(kind: Kind, q2: Floats, n: int, rng: np.random.Generator) -> Floats:
    """n zones (m, 3), less those that are none, from lines drawn with weights 1/(2 + rank)."""
    guesses = GUESSES[kind]
    p, low = len(guesses), min(N_LOWEST, len(q2))
    keys = rng.random((n, low)) ** (2.0 + np.arange(low))
    values = q2[np.argsort(-keys, axis=1)[:, :p]]
    indices = [
        np.array(list(guess))[rng.choice(len(guess), n, p=list(guess.values()))]
        for guess in guesses
    ]
    forms = _forms(np.stack(indices, axis=1))[..., :p]
    zone = np.zeros((n, 3))
    zone[:, :p] = np.linalg.solve(forms, values[..., None])[..., 0]
    A, B, R = zone.T
    limit = 4.0 * (1.0 - LEAST_SINE**2)
    zone = zone[(A > 0.0) & (B > 0.0) & (limit * A * B > R * R)]
    return reduced(zone) if kind == "oblique" else zone


def _forms(hk: Ints) -> Floats:
    """(..., 3) h², k² and h k of indices (..., 2)."""
    h, k = hk[..., 0], hk[..., 1]
    return np.stack([h * h, k * k, h * k], axis=-1).astype(np.float64)


def reduced(zone: Floats) -> Floats:
    """Oblique zones (n, 3) on their two shortest vectors: |R| ≤ A ≤ B."""
    A, B, R = zone.T
    for _ in range(10):
        A, B = np.minimum(A, B), np.maximum(A, B)
        turns = np.rint(0.5 * R / A)
        B, R = B - turns * R + turns**2 * A, R - 2.0 * turns * A
    return np.stack([np.minimum(A, B), np.maximum(A, B), R], axis=1)


@cache
def _lines_of(kind: Kind) -> Floats:
    """Forms (m, 3) of the lines of a zone that are looked at."""
    k_least, k_most = (-K_MOST, K_MOST) if kind == "oblique" else (0, H_MOST)
    h, k = np.meshgrid(np.arange(H_MOST + 1), np.arange(k_least, k_most + 1), indexing="ij")
    hk = np.stack([h.ravel(), k.ravel()], axis=1)
    kept = (hk > 0).any(axis=1)
    if kind == "centred":
        kept &= hk.sum(axis=1) % 2 == 0
    return _forms(hk[kept])


def worths(kind: Kind, zone: Floats, q2: Floats) -> Floats:
    """J (n,) of zones (n, 3), nats."""
    off, count = distances(kind, zone, q2)
    density, floor = 2.0 * np.maximum(count, 1)[:, None] / q2[-1], _floor(q2)
    gained = np.log1p(1.0 / (density * (off + floor))).sum(axis=1)
    free = np.log1p(1.0 / (density * floor)).mean(axis=1)
    return np.asarray(gained - len(GUESSES[kind]) * free)


def distances(kind: Kind, zone: Floats, q2: Floats) -> tuple[Floats, Ints]:
    """|Δ| (n, k) of lines q2 (k,) from the nearest line of each zone (n, 3), or from 0; how many
    lines (n,) of the zone lie up to the last of them."""
    limit = 1.1 * q2[-1]
    values = np.sort(np.minimum(zone @ _lines_of(kind).T, limit), axis=1)
    n, m = values.shape
    start = 2.0 * limit * np.arange(n)[:, None]  # zones one behind the other: one search for all
    at = np.searchsorted((values + start).ravel(), (q2 + start).ravel()).reshape(n, len(q2))
    above = at - m * np.arange(n)[:, None]  # at most m − 1: lines stay below the limit
    padded = np.concatenate([np.zeros((n, 1)), values, np.full((n, 1), limit)], axis=1)
    below = q2 - np.take_along_axis(padded, above, axis=1)
    off = np.minimum(below, np.take_along_axis(padded, above + 1, axis=1) - q2)
    return off, (values <= q2[-1]).sum(axis=1)


def _floor(q2: Floats) -> Floats:
    return np.asarray(FLOOR + FLOOR_RELATIVE * q2)


def _unexplained(plane: Plane, zone: Floats, q2: Floats) -> Mask:
    """(n, k) which lines q2 (k,) are not those of zones (n, 3)."""
    return np.asarray(distances(plane.kind, zone, q2)[0] > NEAR * _floor(q2))


# ---- third axis ----------------------------------------------------------------------------


def _on_axes(plane: Plane, zone: Floats, rng: np.random.Generator) -> Floats:
    """G* (n, 3, 3) of zones (n, 3) on the axes of the plane, 0 along the third."""
    A, B, R = zone.T
    # the axes of a rectangular zone differ, and in an oblique one of mC any of the three shortest
    # vectors may be 2 a*
    i, j, _ = plane.axes
    several = plane.kind != "oblique" or plane.multiples[0] != plane.multiples[1]
    choice = rng.integers((3 if plane.kind == "oblique" else 2) if several else 1, size=len(zone))
    A, B, R = (
        np.choose(choice, [A, B, A + B - np.abs(R)]),
        np.choose(choice, [B, A, A]),
        np.choose(choice, [R, R, 2.0 * A - np.abs(R)]),
    )
    metric = np.zeros((len(zone), 3, 3))
    metric[:, i, i], metric[:, j, j] = A / plane.multiples[0] ** 2, B / plane.multiples[1] ** 2
    metric[:, i, j] = metric[:, j, i] = 0.5 * R / (plane.multiples[0] * plane.multiples[1])
    return metric


def _by_volume(plane: Plane, flat: Floats, volume: Floats, rng: np.random.Generator) -> Floats:
    """G* (n, 3, 3) of cells of these volumes (n,), Å³, with the third axis in a random lean."""
    i, j, k = plane.axes
    lean = np.zeros((len(flat), 3))
    lean[:, i] = rng.uniform(-plane.lean[0], plane.lean[0], len(flat))
    lean[:, j] = rng.uniform(-plane.lean[1], plane.lean[1], len(flat))
    along = np.einsum("nij,nj->ni", flat, lean)
    metric = flat.copy()
    metric[:, k, :] = metric[:, :, k] = along
    area = flat[:, i, i] * flat[:, j, j] - flat[:, i, j] ** 2
    metric[:, k, k] = np.einsum("ni,ni->n", along, lean) + volume**-2.0 / area
    return metric


def _by_lines(
    lattice: Lattice,
    plane: Plane,
    flat: Floats,
    free: Mask,
    q2: Floats,
    rng: np.random.Generator,
) -> Floats:
    """G* (n, 3, 3) with the third axis such that some of the lines that are free, (n, k), belong to
    the first layer; 0 along it where this cannot be solved."""
    _, _, k = plane.axes
    leaning = [axis for axis, most in zip(plane.axes, plane.lean, strict=False) if most]
    p = 1 + len(leaning)
    keys = np.where(free, rng.gumbel(size=free.shape) - LATE * np.cumsum(free, axis=1), -np.inf)
    lines = q2[np.argsort(-keys, axis=1)[:, :p]]
    layer = layer_above(lattice.symbol, plane)
    height = np.einsum("mi,nij,mj->nm", layer, flat, layer)
    rank = np.argsort(np.argsort(height, axis=1), axis=1)
    keys = rng.gumbel(size=rank.shape) - LATE * rank
    hkl = layer[np.argsort(-keys, axis=1)[:, :p]]
    rows = np.stack(
        [hkl[..., k] ** 2.0, *(2.0 * hkl[..., k] * hkl[..., axis] for axis in leaning)], axis=2
    )
    good = (np.abs(np.linalg.det(rows)) > 0.5) & (free.sum(axis=1) >= p)
    rows[~good] = np.eye(p)
    rest = lines - np.einsum("nmi,nij,nmj->nm", hkl, flat, hkl)
    solved = np.where(good, np.linalg.solve(rows, rest[..., None])[..., 0].T, 0.0)
    metric = flat.copy()
    for axis, value in zip((k, *leaning), solved, strict=True):
        metric[:, k, axis] = metric[:, axis, k] = value
    return metric


@cache
def layer_above(symbol: str, plane: Plane) -> Ints:
    """Low hkl (m, 3), allowed, of the first layer, and of the second if the first lacks 001."""
    i, j, k = plane.axes
    most = np.zeros(3, dtype=np.int64)
    most[[i, j, k]] = LAYER * plane.multiples[0], LAYER * plane.multiples[1], plane.multiples[2]
    hkl = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij"), axis=-1)
    hkl = hkl.reshape(-1, 3)
    return np.asarray(hkl[(hkl[:, k] > 0) & LATTICES[symbol].allowed(hkl)])


def _within(metric: Floats, volume: Floats) -> Mask:
    """(n,) whether G* (n, 3, 3), positive definite in the plane, has a volume in the range of
    volume (m,), Å³."""
    determinant = np.linalg.det(metric)
    return np.asarray((determinant >= volume.max() ** -2.0) & (determinant <= volume.min() ** -2.0))
