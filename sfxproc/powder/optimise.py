"""Candidate cells improved until they explain the observed lines: the frame of `kernels.powder`.

The volume of a cell that explains n lines up to q²_n is (prior)

    V = f n/(K q_n³),   ln f uniform,   N(q²) ≈ K V q³

with N(q²) the number of calculated lines below q². f = 1 if all of them are observed. K depends on
the lattice (4π/3 by the lattice points in a cell and the mean multiplicity) and is taken from the
list of lines itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfxproc.data import Floats, Ints
from sfxproc.errors import DataError
from sfxproc.kernels import powder as kernels
from sfxproc.powder.settings import Accept

MOST_LINES = 64
N_SHAPES = 64  # that K is the mean of


@dataclass(frozen=True)
class Settings:
    """How a candidate is searched.

    iterations : of least squares and new assignment.  subset : lines in one least squares.
    accept : "always" every step, or "mala" with probability min(1, exp(I_after − I_before)).
    patience, hopeless : a candidate is given up if in iteration `patience` its best information
    is still below `hopeless`, nats (0: never).  least_fill, most_fill : range of f of the prior;
    a candidate whose volume leaves it by more than a factor `slack` begins anew elsewhere.
    """

    iterations: int = 60
    subset: int = 8
    accept: Accept = "always"
    patience: int = 0
    hopeless: float = 0.0
    least_fill: float = 0.9
    most_fill: float = 4.0
    slack: float = 1.5


SETTINGS: dict[int, Settings] = {
    # the lines of cubic cells become ever less dense beside q³, as sums of three squares repeat;
    # large ones of two parameters are found among few lines, and cost little
    1: Settings(iterations=30, subset=2, most_fill=12.0),
    2: Settings(iterations=30, subset=3, most_fill=24.0),
    3: Settings(iterations=50, subset=4),
    4: Settings(iterations=60, subset=5),
    6: Settings(iterations=60, subset=8),
}
"""By number of parameters; the subsets that found most cells in a CPU second."""


@dataclass(frozen=True, eq=False)
class Optimised:
    """Candidates at their best: x (n, p) in Å⁻², information (n,) in nats, iterations (n,) spent,
    number (n,) of the candidate."""

    x: Floats
    information: Floats
    iterations: Ints
    number: Ints


def optimise(
    forms: Floats,
    basis: Floats,
    q2: Floats,
    sigma: Floats,
    candidates: Floats,
    fresh: Floats,
    settings: Settings,
    seed: int,
    first: int = 0,
) -> Optimised:
    """The best x of each candidate over its iterations.

    forms (m, p) and basis (p, 3, 3) : of the lattice's calculated lines and reciprocal metric.
    q2, sigma (n,) : observed lines, ascending, and their standard errors, Å⁻².
    candidates (c, p) : starts, numbered from `first`; the result of a candidate depends on its own
    start and number, the seed and `fresh` only, however candidates are dealt out to calls.
    fresh (f, p) : cells in place of those that leave the range of volumes (`volume_scaled`).
    Raises DataError if the lines are not ascending, too few or too many.
    """
    q2, sigma = checked_lines(q2, sigma)
    p = forms.shape[1]
    volume = len(q2) / (line_density(forms, basis, fresh) * q2[-1] ** 1.5)
    rules = kernels.Rules(
        iterations=settings.iterations,
        subset=min(settings.subset, len(q2)),
        mala=settings.accept == "mala",
        patience=settings.patience,
        hopeless=settings.hopeless,
        det_min=(volume * settings.most_fill * settings.slack) ** -2.0,
        det_max=(volume * settings.least_fill / settings.slack) ** -2.0,
        fresh=np.ascontiguousarray(fresh, dtype=np.float64),
    )
    starts = np.ascontiguousarray(candidates, dtype=np.float64)
    n = len(starts)
    x, information, iterations = np.empty((n, p)), np.empty(n), np.empty(n, dtype=np.int64)
    kernels.search(
        kernels.reference_lines(forms, basis),
        kernels.observed_lines(q2, sigma),
        rules,
        starts,
        seed,
        first,
        x,
        information,
        iterations,
    )
    return Optimised(x, information, iterations, first + np.arange(n))


def checked_lines(q2: Floats, sigma: Floats) -> tuple[Floats, Floats]:
    """Lines and errors as float64. Raises DataError if no search can be made with them."""
    q2 = np.ascontiguousarray(q2, dtype=np.float64)
    sigma = np.ascontiguousarray(sigma, dtype=np.float64)
    if not 2 <= len(q2) <= MOST_LINES:
        raise DataError(
            f"{len(q2)} lines were given to the search for a cell, which takes 2 to {MOST_LINES}. "
            "Give the 20 of lowest angle."
        )
    if not (np.isfinite(q2).all() and q2[0] > 0.0 and (np.diff(q2) > 0.0).all()):
        raise DataError(
            "The lines given to the search for a cell are not positive and strictly ascending in "
            "q² = 1/d². Sort them and join those that coincide."
        )
    if sigma.shape != q2.shape or not (np.isfinite(sigma).all() and (sigma > 0.0).all()):
        raise DataError(
            "The standard errors of the lines given to the search for a cell are not one positive "
            "number a line. State them in Å⁻², or leave them to be estimated."
        )
    return q2, sigma


def distinct(x: Floats, figure: Floats, basis: Floats, n: int, relative: float = 1e-4) -> Ints:
    """Rows of the n cells x (c, p) of highest figure (c,), best first, without those that repeat a
    better one: volume the same within `relative` and figure within as many of its units or parts,
    as they are for one lattice in any axes."""
    order = np.argsort(-figure, kind="stable")
    value, volume = figure[order], _volumes(basis, x[order])
    kept: list[int] = []
    for i in range(len(order)):
        if len(kept) == n:
            break
        near = [k for k in kept if value[k] - value[i] <= relative * max(abs(value[k]), 1.0)]
        if not (np.abs(volume[near] / volume[i] - 1.0) < relative).any():
            kept.append(i)
    return np.asarray(order[kept])


def line_density(forms: Floats, basis: Floats, shapes: Floats) -> float:
    """K of N(q²) ≈ K V q³: the mean over cells of the given shapes (f, p), whatever their volume,
    at the 50th line, or earlier if the list is short."""
    rank = int(np.clip(len(forms) // 8, 10, 50))
    rank = min(rank, len(forms) - 1)
    few = shapes[:N_SHAPES]
    q2 = np.partition(few @ forms.T, rank, axis=1)[:, rank]
    return float(np.mean((rank + 0.5) / (_volumes(basis, few) * q2**1.5)))


def _volumes(basis: Floats, x: Floats) -> Floats:
    """Volumes (c,) in Å³ of cells x (c, p), which must be positive definite."""
    return np.asarray(np.linalg.det(np.einsum("cp,pij->cij", x, basis)) ** -0.5)


def volume_scaled(
    forms: Floats,
    basis: Floats,
    q2: Floats,
    shapes: Floats,
    settings: Settings,
    rng: np.random.Generator,
) -> Floats:
    """Cells (c, p) of the given shapes (c, p) with volumes drawn from the prior of the lines q2."""
    least, most = np.log(settings.least_fill), np.log(settings.most_fill)
    fill = np.exp(rng.uniform(least, most, len(shapes)))
    volume = fill * len(q2) / (line_density(forms, basis, shapes) * q2[-1] ** 1.5)
    return np.asarray(shapes * ((_volumes(basis, shapes) / volume) ** (2.0 / 3.0))[:, None])
