"""What variances observations have: from what was counted to what they scatter.

    V(y) = v₀ b + γ y₊ + (c y₊)²

b : background variance as the file has it, y : the modelled intensity. With σ² = b + γ₀ y what
counting makes of it, this is σ'² = a² (σ² + b' y + (c' y)²) with a² = v₀, b' = γ/v₀ − γ₀,
c'² = c²/v₀.

Fitted, if at all, is c alone, so that χ² equals the degrees of freedom, or all three by likelihood
(kernels.variances). Where outliers are expected, squared residuals count up to a bound only, and
what is aimed at is what normal deviates give then: a few outliers must not be taken for scatter of
all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]

BOUND = 4.0
BOUNDED_MEAN = 0.9205  # E[min(z, BOUND)] of z ~ χ² with one degree of freedom
PULL_CAP = 36.0  # squared pull beyond which an observation says nothing more about the scatter
SMALLEST_SCATTER, LARGEST_SCATTER = 1e-3, 10.0
SCATTER_ACCURACY = 1e-4  # of χ²/dof
AT_REST = 1e-3  # relative change of the scatter, or of variances
MOST_REFITS = 12
FITTED = ("scatter", "likelihood")  # error models that are found while refining
LEAST_BACKGROUND, MOST_BACKGROUND = 1.0 / 9.0, 9.0  # of v₀, a third and three times σ
PRIOR_ROWS = 10.0  # observations that the error model as it was begun with is worth


def refits_of(variances: str) -> int:
    """How often the error model of this name is found anew at most; 0 if it is given."""
    return MOST_REFITS if variances in FITTED else 0


@dataclass(frozen=True)
class ErrorModel:
    """gain : γ. scatter : c. background : v₀. counted : γ₀, what γ began with.

    Found anew at each refresh as long as refits are left: a solver that is to converge needs an
    error model that comes to rest. likelihood : whether all three are, not only the scatter.
    outliers : whether some are to be expected.
    """

    gain: float = 1.0
    scatter: float = 0.0
    refits: int = 0
    outliers: bool = False
    background: float = 1.0
    likelihood: bool = False
    counted: float = 1.0

    @property
    def v(self) -> F8:
        """(3,) factors of b, y and y²."""
        return np.array([self.background, self.gain, self.scatter**2])

    @property
    def most(self) -> float:
        """Squared pull up to which an observation counts."""
        return BOUND if self.outliers else PULL_CAP

    @property
    def mean(self) -> float:
        """What a squared pull is in the mean, if it counts up to `most` only."""
        return BOUNDED_MEAN if self.outliers else 1.0

    def as_dict(self) -> dict[str, float]:
        """Plain numbers: as fitted, and as a, b, c of σ'² = a² (σ² + b⟨I⟩ + (c⟨I⟩)²)."""
        return {
            "gain": self.gain,
            "scatter": self.scatter,
            "background": self.background,
            "a": float(np.sqrt(self.background)),
            "b": self.gain / self.background - self.counted,
            "c": self.scatter / float(np.sqrt(self.background)),
        }


def nearer(c2: float, chi2: float, slope: float, target: float) -> float:
    """A squared scatter nearer to χ² = target, by a Newton step on 1/χ², which is nearly linear in
    c² where the scatter dominates."""
    return min(max(c2 - (chi2 / target - 1.0) * chi2 / slope, 0.1 * c2), LARGEST_SCATTER**2)


def spent(errors: ErrorModel, refits: int, at_rest: bool) -> ErrorModel:
    """The error model with one of its refits spent; at rest, none is left."""
    return replace(errors, refits=0 if at_rest else refits - 1)


def degrees_of_freedom(n_rows: float, n_parameters: float) -> float:
    """What squared pulls sum up to, of observations and free parameters of the whole job."""
    return max(float(n_rows - n_parameters), 1.0)


def next_errors(errors: ErrorModel, sums: F8, dof: float) -> ErrorModel:
    """The error model one step nearer to what fits the whole job, from `error_sums` over it."""
    if errors.refits <= 0:
        return errors
    if errors.likelihood:
        return fitted(errors, sums, dof)[0]
    without, chi2, slope = (float(v) for v in sums)
    target = errors.mean * dof
    c2 = max(errors.scatter, SMALLEST_SCATTER) ** 2
    if without <= target:
        scatter = 0.0
    else:
        scatter = (
            float(np.sqrt(nearer(c2, chi2, slope, target))) if slope != 0.0 else errors.scatter
        )
    at_rest = abs(scatter - errors.scatter) <= AT_REST * scatter
    return spent(replace(errors, scatter=scatter), errors.refits, at_rest)


def fitted(errors: ErrorModel, sums: F8, dof: float) -> tuple[ErrorModel, float]:
    """The likelier error model, a step of Fisher's scoring away, and by how much it changes the
    variances, relative.

    sums : (10,) of kernels.variances.variance_sums. As many observations as PRIOR_ROWS for what
    background and counts began with hold them where they are next to nothing, or all alike.
    """
    F = np.empty((3, 3))
    F[np.triu_indices(3)] = sums[:6]
    F[np.tril_indices(3, -1)] = F.T[np.tril_indices(3, -1)]
    n = max(float(sums[9]), 1.0)
    t = sums[6:9] / (errors.mean * dof / n)
    begun = np.array([1.0, errors.counted, 0.0])
    hold = np.diag(PRIOR_ROWS * np.array([1.0, 1.0 / max(errors.counted, 1e-30) ** 2, 0.0]))
    v = within_bounds(F + hold, t + hold @ begun)
    change = float(np.abs(v - errors.v) @ F @ errors.v / n)
    new = replace(
        errors,
        background=float(v[0]),
        gain=float(v[1]),
        scatter=min(float(np.sqrt(v[2])), LARGEST_SCATTER),
    )
    return spent(new, errors.refits, change <= AT_REST), change


def within_bounds(F: F8, t: F8) -> F8:
    """The v (3,) that makes ½ vᵀF v − tᵀv least, none below 0 and the first within its bounds: a
    background that is next to nothing must not be blown up to explain what is something else."""
    best: F8 = np.array([1.0, 0.0, 0.0])
    value = np.inf
    scale = np.sqrt(np.maximum(np.diag(F), 1e-300))
    A, b = F / np.outer(scale, scale), t / scale
    held_at = (None, LEAST_BACKGROUND, MOST_BACKGROUND)
    for first, *others in product(held_at, (None, 0.0), (None, 0.0)):
        held = [first, *others]
        free = np.array([h is None for h in held]) & (np.diag(F) > 0.0)
        v: F8 = np.array([0.0 if h is None else h for h in held])
        if free.any():
            right = (b - A @ (v * scale))[free]
            v[free] = np.linalg.lstsq(A[np.ix_(free, free)], right, rcond=None)[0] / scale[free]
        found = float(0.5 * v @ F @ v - t @ v)
        inside = LEAST_BACKGROUND <= v[0] <= MOST_BACKGROUND and (v >= 0.0).all()
        if inside and found < value:
            best, value = v, found
    return best
