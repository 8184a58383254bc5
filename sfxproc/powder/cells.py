"""Cells of the Bravais lattices: parameters x, standard settings, comparison, multiples.

    G* = Σᵢ xᵢ Bᵢ  (`lattices`),    G = (aᵢ·aⱼ) = G*⁻¹,    V = det(G)^½

Standard setting: among all settings of a lattice the one that makes

    (1 + 2ε) a + (1 + ε) b + c + ε V^⅓ (cos α + cos β + cos γ),    ε = 10⁻⁴,

least: the shortest axes, in rising order where the lattice leaves a choice, β obtuse. Triclinic
cells are Niggli cells instead. Settings are walked through by the unimodular matrices that map
every cell of the lattice to another cell of it.

Lattices are compared and their symmetry is found over all bases near a reduced one
(`reduction.NEAR_BASES`), which measured cells at the boundaries of reduction conditions need.
Lattices of index n above or below one have as bases its own times Hermite's normal forms of
determinant n.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from sfxproc.data import Floats, Ints, Mask
from sfxproc.kernels import powder_cells as kernels
from sfxproc.powder.lattices import LATTICES, Lattice
from sfxproc.reduction import NEAR_BASES, niggli_cell
from sfxproc.symmetry import cells_from_metric, metric_tensors

ORDER_WEIGHT = 1e-4  # ε of the standard setting
SETTING_ROUNDS = 50
MARGIN = 1e-9  # relative; rounding must not cost a lattice
STEPS = np.array([v for v in product(range(-2, 3), repeat=3) if v > (0, 0, 0)], dtype=np.float64)


# ---- parameters ----------------------------------------------------------------------------


def reciprocal_metric(lattice: Lattice, x: Floats) -> Floats:
    """G* (..., 3, 3) in Å⁻² of x (..., p)."""
    return np.asarray(np.einsum("...p,pij->...ij", x, lattice.basis))


def cells_from_x(lattice: Lattice, x: Floats) -> Floats:
    """Cells (..., 6), Å and degrees, of x (..., p); x must be valid."""
    return cells_from_metric(np.linalg.inv(reciprocal_metric(lattice, x)))


def x_from_cells(lattice: Lattice, cells: ArrayLike) -> Floats:
    """x (..., p) of cells (..., 6); what the lattice does not allow in a cell is dropped."""
    reciprocal = np.linalg.inv(metric_tensors(np.asarray(cells, dtype=np.float64)))
    inverse = np.linalg.pinv(lattice.basis.reshape(-1, 9))
    return np.asarray(reciprocal.reshape(*reciprocal.shape[:-2], 9) @ inverse)


def is_valid(lattice: Lattice, x: Floats) -> Mask:
    """(...,) whether x (..., p) is finite and describes a cell: G* is positive definite."""
    return np.asarray(_determinants(lattice, x) > 0.0)


def volumes(lattice: Lattice, x: Floats) -> Floats:
    """Volumes (...,) in Å³ of the conventional cells of x (..., p); NaN where x is no cell."""
    determinant = _determinants(lattice, x)
    return np.where(determinant > 0.0, determinant, np.nan) ** -0.5


def _determinants(lattice: Lattice, x: Floats) -> Floats:
    """det G* (...,) of x (..., p), 0 where x is no cell."""
    rows = np.ascontiguousarray(x, dtype=np.float64)
    out = np.empty(rows.shape[:-1])
    kernels.determinants(lattice.basis, rows.reshape(-1, rows.shape[-1]), out.reshape(-1))
    return out


def shortest(lattice: Lattice, x: Floats) -> float:
    """Length in Å of the shortest vector of the lattice of x (p,), of those that take each
    primitive axis -2 to 2 times: of any there is, unless the cell is far from reduced."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    return float(kernels.shortest(lattice.basis, x, STEPS @ lattice.primitive.T))


def primitive_cells(lattice: Lattice, cells: ArrayLike) -> Floats:
    """Cells (..., 6) on the primitive axes of the table; of hR, the rhombohedral cell."""
    return cells_from_metric(_changed(metric_tensors(np.asarray(cells)), lattice.primitive))


def _changed(metric: Floats, axes: Floats) -> Floats:
    """Metric tensors on new axes, the columns of `axes`; both broadcast."""
    return np.asarray(np.swapaxes(axes, -1, -2) @ metric @ axes)


# ---- standard setting ----------------------------------------------------------------------


@cache
def _mean_of_turns(symbol: str) -> Floats:
    """(9, 9): right factor that replaces a metric tensor, as a row, by the mean of Rᵀ G R."""
    turns = LATTICES[symbol].rotations.astype(np.float64)
    return np.asarray(np.einsum("nij,nkl->ikjl", turns, turns).reshape(9, 9) / len(turns))


def _symmetrised(lattice: Lattice, metric: Floats) -> Floats:
    rows = metric.reshape(-1, 9) @ _mean_of_turns(lattice.symbol)
    return rows.reshape(metric.shape)


@cache
def _settings(symbol: str) -> Floats:
    """(m, 3, 3) axes of the other settings near one, the present one first.

    Those that act alike on all cells of the lattice, as its own rotations do, are kept once.
    """
    lattice = LATTICES[symbol]
    start, back = lattice.primitive, np.linalg.inv(lattice.primitive)
    axes = start @ NEAR_BASES.astype(np.float64) @ back
    generic = _symmetrised(lattice, metric_tensors(np.array([7.0, 11.0, 13.0, 81.0, 97.0, 106.0])))
    metrics = _changed(generic, axes)
    kept = np.abs(metrics - _symmetrised(lattice, metrics)).max(axis=(1, 2)) < 1e-6
    _, first = np.unique(np.round(metrics[kept], 6), axis=0, return_index=True)
    others = axes[kept][first]
    return np.concatenate([np.eye(3)[None], others])


def _untidiness(metric: Floats) -> Floats:
    """What the standard setting makes least (...,), for metric tensors (..., 3, 3)."""
    lengths = np.sqrt(np.einsum("...ii->...i", metric))
    a, b, c = np.moveaxis(lengths, -1, 0)
    cosines = (
        metric[..., 0, 1] / (a * b) + metric[..., 0, 2] / (a * c) + metric[..., 1, 2] / (b * c)
    )
    size = np.abs(np.linalg.det(metric)) ** (1 / 6)
    return np.asarray(a + b + c + ORDER_WEIGHT * (2 * a + b + size * cosines))


def standard_cells(lattice: Lattice, cells: ArrayLike) -> Floats:
    """Cells (n, 6) or (6,) of the lattice in their standard setting."""
    given = np.asarray(cells, dtype=np.float64)
    flat = given.reshape(-1, 6)
    if lattice.n_parameters == 6:
        return np.array([niggli_cell(c) for c in flat]).reshape(given.shape)
    axes = _settings(lattice.symbol)
    metric = _symmetrised(lattice, metric_tensors(flat))
    active = np.arange(len(flat))
    for _ in range(SETTING_ROUNDS):
        if len(active) == 0:
            break
        tried = _changed(metric[active, None], axes[None])
        score = _untidiness(tried)
        best = np.argmin(score, axis=1)
        rows = np.arange(len(active))
        moved = score[rows, best] < score[:, 0] * (1.0 - 1e-12)
        metric[active[moved]] = tried[rows, best][moved]
        active = active[moved]
    return cells_from_metric(_symmetrised(lattice, metric)).reshape(given.shape)


# ---- comparison and symmetry ---------------------------------------------------------------


def reduced_cell(lattice: Lattice, cell: ArrayLike) -> Floats:
    """The Niggli cell (6,) of the lattice's cell (6,)."""
    return niggli_cell(cell, lattice.centring)


def same_lattice(
    a: ArrayLike,
    b: ArrayLike,
    length_tolerance_percent: float = 1.0,
    angle_tolerance_deg: float = 1.0,
) -> bool:
    """Whether two primitive cells (6,), each in any basis, are of one lattice.

    That is: in some pair of reduced bases all lengths and angles agree within the tolerances.
    """
    metric, second = metric_tensors(niggli_cell(a)), niggli_cell(b)
    squares, share = second[:3] ** 2, 0.01 * length_tolerance_percent
    near = _with_axes(metric, squares, (2.0 * share + share**2) * squares * (1.0 + MARGIN))
    cells = cells_from_metric(_changed(metric, near))
    off = _largest_off(cells, second, length_tolerance_percent, angle_tolerance_deg)
    return bool(off.min(initial=np.inf) <= 1.0)


def _with_axes(metric: Floats, squares: Floats, most: Floats) -> Floats:
    """Those of NEAR_BASES (n, 3, 3) whose axes have these squares (3,), within most (3,), Å²."""
    axes, axes_of = _near_axes()
    off = np.abs(np.einsum("ni,ij,nj->n", axes, metric, axes)[:, None] - squares)
    good = off <= most
    return np.asarray(NEAR_BASES[good[axes_of, [0, 1, 2]].all(axis=1)], dtype=np.float64)


@cache
def _near_axes() -> tuple[Floats, Ints]:
    """The different axes (m, 3) of NEAR_BASES, and which are those of each, (n, 3)."""
    columns = np.swapaxes(NEAR_BASES, 1, 2).reshape(-1, 3)
    axes, place = np.unique(columns, axis=0, return_inverse=True)
    return axes.astype(np.float64), place.reshape(-1, 3)


def _largest_off(cells: Floats, target: Floats, percent: float, degrees: float) -> Floats:
    """Largest deviation (...,) of cells (..., 6) from target, in units of the tolerances."""
    off = np.abs(cells - target)
    off[..., :3] /= 0.01 * percent * target[..., :3]
    off[..., 3:] /= degrees
    return np.asarray(off.max(axis=-1))


@dataclass(frozen=True)
class Fit:
    """A Bravais lattice that a primitive cell fits: conventional cell (6,) in standard setting,
    and the largest change this took, in units of the tolerances."""

    lattice: Lattice
    cell: Floats
    deviation: float


def fit_lattice(
    lattice: Lattice,
    primitive: ArrayLike,
    length_tolerance_percent: float = 1.0,
    angle_tolerance_deg: float = 1.0,
) -> Fit | None:
    """How a primitive cell (6,) fits the lattice; None if not within the tolerances."""
    reduced = metric_tensors(niggli_cell(primitive))
    axes = _axes(lattice.symbol)
    length, angle = 0.01 * length_tolerance_percent, np.radians(angle_tolerance_deg)
    near = np.empty(len(axes), dtype=np.bool_)
    kernels.nearly_symmetric(reduced, axes, _mean_of_turns(lattice.symbol), length, angle, near)
    if not near.any():
        return None
    metric = _changed(reduced, axes[near])
    nearest = _symmetrised(lattice, metric)
    off = _largest_off(
        cells_from_metric(metric),
        cells_from_metric(nearest),
        length_tolerance_percent,
        angle_tolerance_deg,
    )
    best = int(np.argmin(off))
    if off[best] > 1.0:
        return None
    cell = standard_cells(lattice, cells_from_metric(nearest[best]))
    return Fit(lattice, cell, float(off[best]))


@cache
def _axes(symbol: str) -> Floats:
    """(n, 3, 3) the conventional axes on all bases near a reduced one; any will do for aP."""
    bases = NEAR_BASES[:1] if symbol == "aP" else NEAR_BASES
    return np.asarray(bases.astype(np.float64) @ np.linalg.inv(LATTICES[symbol].primitive))


def fitting_lattices(
    primitive: ArrayLike, length_tolerance_percent: float = 1.0, angle_tolerance_deg: float = 1.0
) -> list[Fit]:
    """All Bravais lattices a primitive cell (6,) fits, the one of highest symmetry first.

    The last is always aP: the cell itself, reduced.
    """
    tolerances = (length_tolerance_percent, angle_tolerance_deg)
    fits = [fit_lattice(lattice, primitive, *tolerances) for lattice in LATTICES.values()]
    return sorted(
        (fit for fit in fits if fit is not None),
        key=lambda fit: (-len(fit.lattice.rotations), -fit.lattice.points_per_cell, fit.deviation),
    )


def highest_fit(
    primitive: ArrayLike, length_tolerance_percent: float = 1.0, angle_tolerance_deg: float = 1.0
) -> Fit:
    """The first of `fitting_lattices`, without looking at the others; aP in doubt."""
    cell = niggli_cell(primitive)
    n = n_rotations(cell, length_tolerance_percent)
    own = [lattice for lattice in LATTICES.values() if len(lattice.rotations) == n]
    tolerances = (length_tolerance_percent, angle_tolerance_deg)
    fits = [fit_lattice(lattice, cell, *tolerances) for lattice in own]
    found = [fit for fit in fits if fit is not None]
    return min(found, key=lambda fit: fit.deviation, default=Fit(LATTICES["aP"], cell, 0.0))


def n_rotations(primitive: ArrayLike, percent: float) -> int:
    """How many rotations, proper and improper, map a primitive cell (6,) onto itself, as far as
    its metric is known within `percent`: 2 of a triclinic one, 48 of a cubic one."""
    metric = metric_tensors(niggli_cell(primitive))
    squares = np.diag(metric)
    size = np.sqrt(squares)
    near = _with_axes(metric, squares, 0.02 * percent * squares * (1.0 + MARGIN))
    off = np.abs(_changed(metric, near) - metric) / np.outer(size, size)
    return 2 * int(np.count_nonzero(off.max(axis=(1, 2)) < 0.02 * percent))


# ---- multiples of cells ---------------------------------------------------------------------


def is_whole(indices: Floats) -> Mask:
    """(...,) whether indices (..., 3) are whole numbers: reflections, or axes, of a lattice."""
    return np.asarray((np.abs(indices - np.rint(indices)) < 1e-6).all(axis=-1))


@cache
def hermite_forms(index: int) -> Ints:
    """(m, 3, 3) all upper triangular normal forms of determinant `index`: 7, 13, 35 for 2, 3, 4."""
    found = []
    for a in range(1, index + 1):
        for b in range(1, index // a + 1):
            if index % (a * b):
                continue
            c = index // (a * b)
            for u in range(a):
                for v in range(a):
                    for w in range(b):
                        found.append([[a, u, v], [0, b, w], [0, 0, c]])
    return np.array(found)


def multiple(
    a: ArrayLike,
    b: ArrayLike,
    length_tolerance_percent: float = 1.0,
    angle_tolerance_deg: float = 1.0,
    most: int = 8,
) -> float | None:
    """How many times as large a primitive cell a (6,) is as b, if all points of the one lattice are
    points of the other: 2 … most or ½ … 1/most. None if they are not, or it is more."""
    metrics = [metric_tensors(niggli_cell(cell)) for cell in (a, b)]
    ratio = float(np.sqrt(np.linalg.det(metrics[0]) / np.linalg.det(metrics[1])))
    small, large, index = (1, a, round(ratio)) if ratio > 1.0 else (0, b, round(1.0 / ratio))
    off = max(ratio, 1.0 / ratio) / index - 1.0
    if not 2 <= index <= most or abs(off) > 0.03 * length_tolerance_percent:
        return None
    forms = hermite_forms(index).astype(np.float64)
    tolerances = (length_tolerance_percent, angle_tolerance_deg)
    found = any(
        same_lattice(cell, large, *tolerances)
        for cell in cells_from_metric(_changed(metrics[small], forms))
    )
    return (float(index) if small == 1 else 1.0 / index) if found else None


# ---- random cells --------------------------------------------------------------------------


def random_cells(lattice: Lattice, n: int, rng: np.random.Generator) -> Floats:
    """Cells (n, 6) of random shapes and of about 1 Å³ in standard setting.

    Axes are log-normal, of σ 0.35 for most and of 0.8 for every fifth cell; angles are uniform
    between 60 and 120° before the lattice's constraints are put on.
    """
    spread = np.where(np.arange(n) % 5 == 4, 0.8, 0.35)[:, None]
    lengths = np.exp(spread * rng.standard_normal((n, 3)))
    angles = rng.uniform(60.0, 120.0, (n, 3))
    flat = 360.0 - angles.sum(axis=1) < 5.0  # no cell has such angles
    angles[flat] = 90.0
    return standard_cells(lattice, np.concatenate([lengths, angles], axis=1))
