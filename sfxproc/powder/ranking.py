"""Candidate cells refined against complete lists of lines, weighed, compared and ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sfxproc.data import Floats, Ints
from sfxproc.powder.cells import (
    Fit,
    cells_from_x,
    derivative_cells,
    fitting_lattices,
    is_valid,
    primitive_cells,
    same_lattice,
    volumes,
    x_from_cells,
)
from sfxproc.powder.lattices import LATTICES, Lattice
from sfxproc.powder.merit import weigh
from sfxproc.powder.references import lines_of_cell

OUTLIERS = 0.05
MOST_INDICES = 400.0  # calculated lines per observed one, above which a cell is refused
ROUNDS = 10
SCALES_UNKNOWN = 2.0 ** np.arange(-7.0, 1.6, 0.5)
SCALES_KNOWN = 2.0 ** np.arange(-1.0, 1.1, 0.5)


@dataclass(frozen=True, eq=False)
class Lines:
    """The lines to be indexed, ascending: q2 and sigma (n,) in Å⁻²; known : whether sigma was
    measured, else only its course is trusted."""

    q2: Floats
    sigma: Floats
    known: bool

    @property
    def scales(self) -> Floats:
        """Factors of sigma that are thought possible."""
        return SCALES_KNOWN if self.known else SCALES_UNKNOWN


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell of a lattice and how it explains the lines."""

    lattice: Lattice
    x: Floats
    score: float
    scale: float
    hkl: Ints
    delta: Floats
    right: Floats
    n_calculated: int

    @property
    def conventional(self) -> Floats:
        return cells_from_x(self.lattice, self.x)

    @property
    def primitive(self) -> Floats:
        return primitive_cells(self.lattice, self.conventional)

    @property
    def primitive_volume(self) -> float:
        return float(volumes(self.lattice, self.x)) / self.lattice.points_per_cell


def assessed(lattice: Lattice, x: Floats, lines: Lines) -> Cell | None:
    """The cell refined and weighed; None if there is no sense in it."""
    q2 = lines.q2
    if not bool(is_valid(lattice, x)):
        return None
    limit = 1.06 * q2[-1] + 3 * lines.sigma[-1]
    hkl, forms = lines_of_cell(lattice, x, limit)
    if not 4 <= len(forms) <= MOST_INDICES * len(q2):
        return None
    least, most = lines.scales[0], lines.scales[-1]
    for _ in range(ROUNDS):
        near, delta = nearest(forms @ x, q2)
        scale = np.clip(1.4826 * np.median(np.abs(delta) / lines.sigma), least, most)
        weight = (scale * lines.sigma) ** -2.0
        weight = weight / (1.0 + (delta**2 * weight) / 9.0) ** 2
        rows = forms[near]
        A = (rows * weight[:, None]).T @ rows
        diagonal = np.sqrt(np.diag(A)) + 1e-30
        A = A / np.outer(diagonal, diagonal) + 1e-9 * np.eye(len(x))
        step = np.linalg.solve(A, rows.T @ (weight * delta) / diagonal) / diagonal
        x = x + step
        if not bool(is_valid(lattice, x)):
            return None
        if np.abs(rows @ step).max() < 1e-9 * q2[-1]:
            break
    near, delta = nearest(forms @ x, q2)
    sigma = lines.scales[:, None] * lines.sigma
    calculated = forms @ x
    n_calculated = int(np.count_nonzero(calculated <= q2[-1] + lines.sigma[-1]))
    n = len(lines.scales)
    weighed = weigh(np.tile(delta, (n, 1)), np.full(n, n_calculated), q2, sigma, OUTLIERS)
    evidence = weighed.evidence(np.broadcast_to(forms[near], (n, *forms[near].shape)), sigma, q2)
    best = int(np.argmax(evidence))
    total = float(np.logaddexp.reduce(evidence) - np.log(n))
    return Cell(
        lattice, x, total + float(np.log(lattice.prior)), float(lines.scales[best]),
        hkl[near], delta, weighed.right[best], n_calculated,
    )  # fmt: skip


def nearest(calculated: Floats, q2: Floats) -> tuple[Ints, Floats]:
    """Number of the calculated line nearest to each of q2, and the differences."""
    order = np.argsort(calculated, kind="stable")
    at = np.searchsorted(calculated[order], q2).clip(1, len(order) - 1)
    below, above = order[at - 1], order[at]
    near = np.where(q2 - calculated[below] <= calculated[above] - q2, below, above)
    return near, q2 - calculated[near]


def same(a: Cell, b: Cell) -> bool:
    """Whether two cells are of one lattice of points."""
    if abs(a.primitive_volume / b.primitive_volume - 1.0) > 0.02:
        return False
    return same_lattice(a.primitive, b.primitive, 0.5, 0.5)


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """Best first, each lattice of points once."""
    kept: list[Cell] = []
    for cell in sorted(cells, key=lambda c: -c.score):
        if not any(same(cell, other) for other in kept):
            kept.append(cell)
    return kept


def relatives(cell: Cell, lines: Lines) -> list[Cell]:
    """The cell in all lattices it fits."""
    fits = fitting_lattices(cell.primitive, 0.5, 0.5)
    found = [assessed(f.lattice, x_from_cells(f.lattice, f.cell), lines) for f in fits]
    return [c for c in found if c is not None]


def derivatives(cell: Cell, lines: Lines, margin: float) -> list[Cell]:
    cells, _ = derivative_cells(cell.primitive)
    aP = LATTICES["aP"]
    out = []
    for each in cells:
        found = assessed(aP, x_from_cells(aP, each), lines)
        if found is not None and found.score > cell.score - margin:
            out += relatives(found, lines)
    return out


def ranked(found: Sequence[tuple[Lattice, Floats]], lines: Lines, n: int = 20, deep: bool = True) -> list[Cell]:
    """Ranked."""
    cells = [assessed(lattice, x, lines) for lattice, x in found]
    best = distinct(c for c in cells if c is not None)[:n]
    if not deep:
        return best
    done: list[Cell] = []
    for _ in range(3):
        new = [c for c in best[:3] if not any(c is d for d in done)]
        if not new:
            break
        done += new
        more = [c for cell in new for c in (*relatives(cell, lines), *derivatives(cell, lines, 30.0))]
        best = distinct([*best, *more])[:n]
    return best
