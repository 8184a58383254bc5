"""Candidate cells refined, weighed against all others and ranked.

A candidate is refined against the complete list of its lines,

    x ← x + (Σ w f fᵀ)⁻¹ Σ w f Δ,    w = (s σ)⁻²/(1 + (Δ/3sσ)²)²,

and its score is the evidence E of `merit`, averaged over the factors s by which all σ may be wrong
and summed over the superstructures that it may be (`superstructures`), plus the logarithm of how
rare its lattice and its volume are among known structures, in nats. Its parameters are known
beforehand to `span`, from the entropy of the cells of that lattice that have as many lines as were
observed. Where errors are unknown the lines tell them: where all of them agree far better than σ, s
is small and a cell that explains only most of them falls behind.

Lattices of points are compared by their reduced cells, whatever Bravais lattice they were found in;
each is listed once, in the one of highest score. Of the best ones the lattices they nearly fit and
the sub- and superlattices that could do better are tried, too. The confidence in a
cell is its share of the sum of exp(score) over all and over what chance comes to in a search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sfxproc.data import Floats, Ints, Mask
from sfxproc.kernels import powder_fit as kernels
from sfxproc.powder.cells import (
    Fit,
    cells_from_x,
    fitting_lattices,
    hermite_forms,
    highest_fit,
    is_valid,
    is_whole,
    n_rotations,
    primitive_cells,
    reciprocal_metric,
    same_lattice,
    shortest,
    volumes,
    x_from_cells,
)
from sfxproc.powder.lattices import LATTICES, Lattice
from sfxproc.powder.merit import ratios, weigh
from sfxproc.powder.references import lines_of_cell
from sfxproc.powder.superlattices import promising
from sfxproc.powder.superstructures import likely_sublattices, ratios_of_two
from sfxproc.reduction import niggli_cell
from sfxproc.symmetry import cells_from_metric

ROUNDS = 10
USUAL_A3, RANGE = 1000.0, 1.0  # median volume of primitive cells, and half the width of its ln
MOST_PER_LINE = 20.0  # calculated lines per observed one: of a larger cell nothing can be learned
SHORTEST_A = 2.0  # no crystal is known that repeats at less
SHORT_A, SHORT_RANGE_A = 2.5, 0.15  # few do below: graphite at 2.46, beryllium at 2.29
LIMIT = 1.06  # calculated lines beyond the last observed one are looked at up to here
SCALES_KNOWN = 2.0 ** np.arange(-1.0, 1.1, 0.5)
SCALES_UNKNOWN = 2.0 ** np.arange(-11.0, 1.6, 0.5)  # 1e-7 Å⁻² at least: lists of seven digits
# calculated lists are that exact, and few of their lines are false; in measured ones some lines
# may have been calculated from others, and a cell that has those alone proves nothing
MEASURED, NEARLY_ALL = 2.0**-7, 0.8  # least scale of measured lists; share of lines explained
STARTS = (0.5, 0.3)  # quantiles of |Δ|/σ that the first weights are made with
QUANTILES = {0.5: 0.6745, 0.3: 0.3853}  # of |z|, z normal
SAME_PERCENT, SAME_DEG = 0.5, 0.5
NEAR_PERCENT, NEAR_DEG = 1.5, 1.0  # of a lattice that a cell may have
EXACT_PERCENT, EXACT_DEG = 0.01, 0.01
N_RELATED = 3
INDICES = (2, 3, 4)
LOST = 3  # lines a sublattice may lose to be tried
SPARE = 3.0  # nats; lattices that fit as well but for so much are told as alternatives


@dataclass(frozen=True, eq=False)
class Lines:
    """The lines to be indexed, ascending: q2 and sigma (n,) in Å⁻².

    known : whether sigma was measured; if not, only its course with q² is trusted.  outliers : the
    share of lines that is thought to be false.
    """

    q2: Floats
    sigma: Floats
    known: bool = False
    outliers: float = 0.05

    @property
    def scales(self) -> Floats:
        """Factors of sigma that are thought possible."""
        return SCALES_KNOWN if self.known else SCALES_UNKNOWN

    def first(self, n: int) -> Lines:
        """The first n of them."""
        return replace(self, q2=self.q2[:n], sigma=self.sigma[:n])


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell of a lattice and how it explains the lines.

    x (p,) in Å⁻², sigma_x (p,). score : in nats. scale : most likely factor of the σ of lines.
    hkl (n, 3), delta (n,): the calculated line nearest to each line, and how far it is, Å⁻².
    right (n,) : probability that the line is this one. n_calculated : up to the last line.
    superstructure : index of the sublattice that most lines belong to (`superstructures`); 1: none.
    alternatives : other Bravais lattices that the same points may have.
    """

    lattice: Lattice
    x: Floats
    sigma_x: Floats
    score: float
    scale: float
    hkl: Ints
    delta: Floats
    right: Floats
    n_calculated: int
    superstructure: int = 1
    alternatives: tuple[str, ...] = field(default=())

    @cached_property
    def conventional(self) -> Floats:
        """The cell (6,) in the lattice's standard setting as far as its start was, Å and °."""
        return cells_from_x(self.lattice, self.x)

    @cached_property
    def primitive(self) -> Floats:
        """A primitive cell (6,)."""
        return primitive_cells(self.lattice, self.conventional)

    @cached_property
    def volume(self) -> float:
        """Of the conventional cell, Å³."""
        return float(volumes(self.lattice, self.x))

    @cached_property
    def volume_of_point(self) -> float:
        """Of the primitive cell, Å³."""
        return self.volume / self.lattice.points_per_cell

    @property
    def explained(self) -> Mask:
        """(n,) which lines are probably the cell's."""
        return np.asarray(self.right > 0.5)


# ---- one cell ------------------------------------------------------------------------------


def assessed(lattice: Lattice, x: Floats, lines: Lines, refine: bool = True) -> Cell | None:
    """The cell x (p,) refined and weighed; None if it is none, or far too large for the lines."""
    if not bool(is_valid(lattice, x)) or shortest(lattice, x) < SHORTEST_A:
        return None
    points = 4.0 / 3.0 * np.pi * float(volumes(lattice, x)) * lines.q2[-1] ** 1.5
    if points / lattice.points_per_cell / len(lattice.rotations) > MOST_PER_LINE * len(lines.q2):
        return None
    hkl, forms = lines_of_cell(lattice, x, LIMIT * lines.q2[-1])
    if len(forms) < lattice.n_parameters:
        return None
    starts = STARTS if refine else ()
    refined = [_refined(x, forms, lines, quantile) for quantile in starts] or [x]
    cells = [_weighed(lattice, r, hkl, forms, lines) for r in refined if is_valid(lattice, r)]
    return max(cells, key=lambda cell: cell.score, default=None)


def _refined(x: Floats, forms: Floats, lines: Lines, quantile: float) -> Floats:
    at, normal = round(quantile * (len(lines.q2) - 1)), QUANTILES[quantile]
    scales = lines.scales[[0, -1]]
    refined = np.array(x, dtype=np.float64)
    kernels.refine(forms, lines.q2, lines.sigma, scales, at, normal, ROUNDS, refined)
    return refined


def _weighed(lattice: Lattice, x: Floats, hkl: Ints, forms: Floats, lines: Lines) -> Cell:
    calculated = forms @ x
    near, delta = nearest(calculated, lines.q2)
    inside = calculated <= lines.q2[-1] + lines.sigma[-1]
    sigma = lines.scales[:, None] * lines.sigma
    rows = forms[near]
    judged = [_judged(lattice, rows, lines, ratios(np.sort(calculated), lines.q2, sigma))]
    seen = near[(judged[0].right > 0.5) & inside[near]]
    for likely in likely_sublattices(lattice.symbol, hkl, inside, seen):
        r = ratios_of_two(calculated, likely.member, lines.q2, sigma)
        each = _judged(lattice, rows, lines, r)
        evidence = each.evidence + likely.log_prior
        judged.append(each._replace(evidence=evidence, superstructure=likely.of_index))
    best = max(judged, key=lambda each: each.evidence)
    evidence = float(np.logaddexp.reduce([each.evidence for each in judged]))
    step, variance = np.empty_like(x), np.empty_like(x)
    weight = best.right / (best.scale * lines.sigma) ** 2
    kernels.least_squares(rows, weight, delta, step, variance)
    return Cell(
        lattice=lattice,
        x=x,
        sigma_x=np.sqrt(variance),
        score=evidence + log_prior(lattice, x),
        scale=best.scale,
        hkl=hkl[near],
        delta=delta,
        right=best.right,
        n_calculated=int(np.count_nonzero(inside)),
        superstructure=best.superstructure,
    )


class _Judged(NamedTuple):
    """Evidence for a cell in nats; scale and right (n,) as of `Cell`."""

    evidence: float
    scale: float
    right: Floats
    superstructure: int = 1


def _judged(lattice: Lattice, rows: Floats, lines: Lines, r: Floats) -> _Judged:
    """Evidence averaged over r (s, n), which are of all scales, once or several times, and what the
    best of them tells, for a cell with the forms `rows` (n, p) at its lines."""
    scales = np.resize(lines.scales, len(r))
    weighed = weigh(r, lines.outliers)
    sigma = scales[:, None] * lines.sigma
    evidence = weighed.evidence(rows[None], sigma, span(lattice, lines))
    evidence[(scales < MEASURED) & (weighed.right.mean(axis=1) < NEARLY_ALL)] = -np.inf
    best = int(np.argmax(evidence))
    mean = float(np.logaddexp.reduce(evidence) - np.log(len(r)))
    return _Judged(mean, float(scales[best]), weighed.right[best])


def log_prior(lattice: Lattice, x: Floats) -> float:
    """Logarithm of the lattice's share among known structures, and of how much rarer than the
    commonest are the volume of the primitive cell, Student's t, of 4, of ln V, and a vector as
    short as its shortest, half a normal distribution."""
    t = np.log(float(volumes(lattice, x)) / lattice.points_per_cell / USUAL_A3) / RANGE
    short = max(SHORT_A - shortest(lattice, x), 0.0) / SHORT_RANGE_A
    return float(np.log(lattice.prior) - 2.5 * np.log1p(t * t / 4.0) - 0.5 * short**2)


def span(lattice: Lattice, lines: Lines) -> float:
    """How well x is known beforehand, Å⁻²: `spread` V^(−2/3) of the cell with as many lines."""
    per_line = len(lattice.rotations) * lattice.points_per_cell
    density = 4.0 / 3.0 * np.pi / (per_line * len(lines.q2))
    return float(lattice.spread * lines.q2[-1] * density ** (2.0 / 3.0))


def nearest(calculated: Floats, q2: Floats) -> tuple[Ints, Floats]:
    """Number of the calculated line (m,), in any order, nearest to each of q2 (n,), ascending, and
    the differences (n,)."""
    near, delta = np.empty(len(q2), dtype=np.int64), np.empty(len(q2))
    kernels.nearest(calculated, q2, kernels.bins(q2), near, delta)
    return near, delta


# ---- cells beside each other ---------------------------------------------------------------


def same_points(a: Cell, b: Cell) -> bool:
    """Whether two cells, of whatever Bravais lattices, are of one lattice of points."""
    if abs(a.volume_of_point / b.volume_of_point - 1.0) > 0.03 * SAME_PERCENT:
        return False
    return same_lattice(a.primitive, b.primitive, SAME_PERCENT, SAME_DEG)


def distinct(cells: Iterable[Cell], n: int) -> list[Cell]:
    """The n best, best first, each lattice of points once."""
    kept: list[Cell] = []
    for cell in sorted(cells, key=lambda c: -c.score):
        if len(kept) == n:
            break
        if not any(same_points(cell, other) for other in kept):
            kept.append(cell)
    return kept


def relatives(cell: Cell, lines: Lines) -> list[Cell]:
    """The cell in all Bravais lattices that it fits."""
    fits = fitting_lattices(cell.primitive, NEAR_PERCENT, NEAR_DEG)
    found = [assessed(f.lattice, x_from_cells(f.lattice, f.cell), lines) for f in fits]
    return [c for c in found if c is not None]


def derivatives(cell: Cell, lines: Lines) -> list[Cell]:
    """The sub- and superlattices of a cell that may explain the lines better.

    A smaller cell has some of the lines of the cell, and is of use only if it keeps nearly all
    that are explained. A larger one has them all, and is if some are not, or if it is of higher
    symmetry: the cell may be one of few of its lines. Much larger ones are tried if they are known
    to explain lines that the cell does not (`superlattices`).
    """
    aP, start = LATTICES["aP"], cell.lattice.primitive
    metric = start.T @ np.linalg.inv(reciprocal_metric(cell.lattice, cell.x)) @ start
    explained = cell.explained
    mates = cell.hkl[explained] @ cell.lattice.rotations.astype(np.float64)
    hkl = np.rint(mates @ start)  # (rotations, lines, 3): any of a line's reflections may stay
    smaller, larger = [], []
    for index in INDICES:
        for form in hermite_forms(index).astype(np.float64):
            larger.append(form.T @ metric @ form)
            axes = np.linalg.inv(form).T
            if np.count_nonzero(~is_whole(hkl @ axes).any(axis=0)) <= LOST:
                smaller.append(axes.T @ metric @ axes)
    n_own = len(cell.lattice.rotations) if explained.all() else 0
    tried = [
        highest_fit(c, NEAR_PERCENT, NEAR_DEG)
        for c in _reduced(larger)
        if n_rotations(c, NEAR_PERCENT) > n_own
    ]
    left = lines.q2[~explained], cell.scale * lines.sigma[~explained]
    forms = promising(cell.lattice.symbol, np.linalg.inv(metric), *left)
    shares = _reduced([form.T @ metric @ form for form in forms])  # symmetry of the cell, exactly
    tried += [highest_fit(c, EXACT_PERCENT, EXACT_DEG) for c in shares]
    for c in _reduced(smaller):
        exact = highest_fit(c, EXACT_PERCENT, EXACT_DEG)
        fits = [Fit(aP, c, 0.0), exact, highest_fit(c, NEAR_PERCENT, NEAR_DEG)]
        tried += {f.lattice.symbol: f for f in fits}.values()  # each lattice once
    found = (assessed(f.lattice, x_from_cells(f.lattice, f.cell), lines) for f in tried)
    return [c for c in found if c is not None]


def _reduced(metrics: Sequence[Floats]) -> list[Floats]:
    """Niggli cells (6,) of metric tensors, each shape once."""
    if not metrics:
        return []
    cells = np.array([niggli_cell(c) for c in cells_from_metric(np.array(metrics))])
    _, first = np.unique(np.round(cells, 4), axis=0, return_index=True)
    return list(cells[np.sort(first)])


def same_lines(a: Cell, b: Cell, lines: Lines) -> bool:
    """Whether no line tells two cells apart: each calculated one of either is one of the other."""
    q2, other = (np.sort(lines_of_cell(c.lattice, c.x, lines.q2[-1])[1] @ c.x) for c in (a, b))
    error = max(a.scale, b.scale) * float(lines.sigma.min())
    return all(
        len(one) > 0 and len(two) > 1 and bool((np.abs(nearest(two, one)[1]) < error).all())
        for one, two in ((q2, other), (other, q2))
    )


def ranked(cells: Sequence[Cell], lines: Lines, n: int) -> list[Cell]:
    """The n best lattices of points, with those related to the best of them; each in the Bravais
    lattice of highest score. Alternatives of the best are the Bravais lattices that the same
    points fit as well, and those of others with the same lines."""
    best = distinct(cells, n)
    done: list[Cell] = []
    seen = list(cells)

    def new_ones() -> list[Cell]:
        """Of the best; also one that a lattice which was done turned into, and fits far better."""
        return [
            c
            for c in best[:N_RELATED]
            if not any(same_points(c, d) and c.score < d.score + SPARE for d in done)
        ]

    while new := new_ones():
        for cell in new:
            made = [cell, *derivatives(cell, lines)]
            close = sorted(made, key=lambda c: -c.score)[: N_RELATED + 1]
            seen += [c for each in close for c in relatives(each, lines)]
        done += new
        best = distinct([*best, *seen], n)
    return [_with_alternatives(c, best, seen, lines) for c in best[:N_RELATED]] + best[N_RELATED:]


def _with_alternatives(
    cell: Cell, best: Sequence[Cell], seen: Sequence[Cell], lines: Lines
) -> Cell:
    others = [c for c in seen if cell.score - c.score < SPARE and same_points(c, cell)]
    others += [c for c in best if c is not cell and same_lines(c, cell, lines)]
    symbols = {c.lattice.symbol for c in others} - {cell.lattice.symbol}
    return replace(cell, alternatives=tuple(s for s in LATTICES if s in symbols))
