"""Scaling of stills: ln G and B of every crystal, I of every unique reflection.

    yᵢ = Pᵢ · G_m · exp(−2 B_m s_h²) · I_h                       (kernels.scale has the rows)

The shared unknowns are the intensities themselves, so the work is linear in the number of
observations. Two exact null directions are declared as gauge: ln G + c with I·e^{−c}, and B + b
with I·e^{2 b s²}; the solver keeps mean ln G and mean B where they started, `gauged` sets them.

Variances are expectation-based (kernels.scale). What the file calls σ² is split as
σ² = background + gain·I_obs: the background is kept as it is, the counting part follows the
model. The scatter that remains unexplained (partiality, above all) is c·y; c is refitted after
each accepted step so that χ² equals the degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels import scale as kernels
from sfxproc.lsq import Engine, Layout, Point

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]

Arguments = tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any, Any, Any, Any]

LN_G, B = 0, 1
BOUND = 4.0
BOUNDED_MEAN = 0.9205  # E[min(z, BOUND)] of z ~ χ² with one degree of freedom
PULL_CAP = 36.0  # squared pull beyond which an observation says nothing more about the scatter
SMALLEST_SCATTER, LARGEST_SCATTER = 1e-3, 10.0
SCATTER_ACCURACY = 1e-4  # of χ²/dof
MOST_SCATTER_STEPS = 30
AT_REST = 1e-3  # relative change of the scatter


@dataclass(frozen=True)
class ErrorModel:
    """gain: counts' variance per unit of intensity. scatter: c, the unexplained relative scatter,
    found anew at each refresh as long as refits are left: a solver that is to converge needs an
    error model that comes to rest. outliers : whether some are to be expected."""

    gain: float = 1.0
    scatter: float = 0.0
    refits: int = 0
    outliers: bool = False

    def target(self, dof: float) -> float:
        """What the capped χ² of a whole job should be."""
        return BOUNDED_MEAN * dof if self.outliers else dof


@dataclass(frozen=True, eq=False)
class ScaleModel:
    """The scaling model of this process's crystals.

    observed, background : (n_rows,) float32. partiality : (n_rows,) float32 or empty for full
    intensities. s2 : (n_shared,). set_of_reflection : (n_shared,) the connected set it is in.
    share : (n_shared,) about what part of an observation's variance its residual keeps.
    dof : of the whole job.
    """

    layout: Layout
    engine: Engine
    observed: F4
    background: F4
    partiality: F4 | F8
    s2: F8
    set_of_reflection: NDArray[np.int32]
    share: F8
    dof: float
    errors: ErrorModel

    def rows(self, point: Point, first: int, last: int, r: F8, d: F8, a: F8, c: F8) -> None:
        """Residuals, deviance residuals and Jacobian of crystals first … last−1."""
        kernels.rows(*self.arguments(point, first, last), r, d, a, c)

    def deviances(self, point: Point, first: int, last: int, d: F8) -> None:
        """Deviance residuals only."""
        kernels.deviances(*self.arguments(point, first, last), d)

    def arguments(self, point: Point, first: int, last: int) -> Arguments:
        """What all kernels of the model begin with, for crystals first … last−1."""
        return (
            self.layout.start, self.layout.shared, first, last, *point, self.s2, self.partiality,
            self.observed, self.background, self.errors.gain, self.errors.scatter**2,
        )  # fmt: skip

    def retract(self, point: Point, local: F8, shared: F8) -> Point:
        """Parameters plus step."""
        return Point(point.local + local, point.shared + shared)

    def with_errors(self, errors: ErrorModel) -> Self:
        """The model with another error model."""
        return replace(self, errors=errors)

    def at(self, point: Point) -> Self:
        """The scaling model of a point: itself."""
        return self

    def refreshed(self, point: Point) -> Self:
        """The model with the scatter that fits this point."""
        old = self.errors
        if old.refits <= 0:
            return self
        scatter = self._fitted_scatter(point)
        at_rest = abs(scatter - old.scatter) <= AT_REST * scatter
        refits = 0 if at_rest else old.refits - 1
        return replace(self, errors=replace(old, scatter=scatter, refits=refits))

    def gauged(self, point: Point, ln_k: F8, b: F8) -> Point:
        """The same model values with ln G shifted by ln_k and B by b.

        ln_k, b : (n_components,), one each for every connected set of crystals.
        """
        sets = self.layout.component, self.set_of_reflection
        return shifted(point, np.stack([ln_k, b], axis=1), *sets, self.s2)

    def centred(self, point: Point) -> Point:
        """In the gauge mean ln G = 0, mean B = 0 over the crystals of each connected set."""
        total = self.engine.component_sums(self.layout, point.local)
        count = self.engine.component_sums(self.layout, np.ones_like(point.local))
        mean = total / np.maximum(count, 1.0)
        return self.gauged(point, -mean[:, LN_G], -mean[:, B])

    def _fitted_scatter(self, point: Point) -> float:
        """c with χ²(c) = dof; 0 if the counting statistics explain everything, LARGEST_SCATTER if
        nothing does (strong observations where the model has y ≤ 0).

        Where outliers are expected, squared pulls count up to BOUND only, and the target is what
        normal deviates give then: a few outliers must not be taken for scatter of all.

        Newton's method on 1/χ², which is nearly linear in c² where the scatter dominates.
        """
        target = self.errors.target(self.dof)
        if self._chi2(point, 0.0)[0] <= target:
            return 0.0
        c2 = max(self.errors.scatter, SMALLEST_SCATTER) ** 2
        for _ in range(MOST_SCATTER_STEPS):
            chi2, slope = self._chi2(point, c2)
            if abs(chi2 / target - 1.0) < SCATTER_ACCURACY or slope == 0.0:
                break
            c2 = nearer(c2, chi2, slope, target)
        return float(np.sqrt(c2))

    def scatter_sums(self, point: Point) -> F8:
        """(3,) χ² without scatter, χ² and its slope at the present one, for `next_errors`; those
        of several blocks of crystals can be added."""
        c2 = max(self.errors.scatter, SMALLEST_SCATTER) ** 2
        return np.array([self._chi2(point, 0.0)[0], *self._chi2(point, c2)])

    def _chi2(self, point: Point, c2: float) -> tuple[float, float]:
        """χ² of the whole job at squared scatter c2, large pulls capped, and its slope in c2."""
        cap = BOUND * self.share
        if not self.errors.outliers:
            cap = np.full(len(self.share), PULL_CAP)
        model = replace(self, errors=replace(self.errors, scatter=float(np.sqrt(c2))))
        bounds = self.layout.chunk

        def chunk(c: int) -> tuple[float, float]:
            arguments = model.arguments(point, bounds[c], bounds[c + 1])
            found: tuple[float, float] = kernels.chi2_of_scatter(*arguments, cap)
            return found

        per_chunk = np.array(self.engine.map(chunk, len(bounds) - 1)).reshape(-1, 2)
        chi2, slope = self.engine.sums.scalars(per_chunk)
        return float(chi2), float(slope)


def shifted(point: Point, shift: F8, of_crystal: Any, of_reflection: Any, s2: F8) -> Point:
    """The same model values with ln G and B of each connected set of crystals shifted.

    shift : (n_sets, 2) of ln G and B. of_crystal (n_crystals,), of_reflection (n_shared,) : the
    set each is in; −1, of crystals, for none.
    """
    local = point.local.copy()
    local[:, : B + 1] += np.where(of_crystal[:, None] >= 0, shift[of_crystal], 0.0)
    ln_k, b = shift[of_reflection].T
    return Point(local, point.shared * np.exp(2.0 * b * s2 - ln_k))


def nearer(c2: float, chi2: float, slope: float, target: float) -> float:
    """A squared scatter nearer to χ² = target, by a Newton step on 1/χ²."""
    return min(max(c2 - (chi2 / target - 1.0) * chi2 / slope, 0.1 * c2), LARGEST_SCATTER**2)


def next_errors(errors: ErrorModel, sums: F8, dof: float) -> ErrorModel:
    """The error model one step nearer to χ² = dof of the whole job, from `scatter_sums` over it."""
    if errors.refits <= 0:
        return errors
    without, chi2, slope = (float(v) for v in sums)
    target = errors.target(dof)
    c2 = max(errors.scatter, SMALLEST_SCATTER) ** 2
    if without <= target:
        scatter = 0.0
    else:
        scatter = (
            float(np.sqrt(nearer(c2, chi2, slope, target))) if slope != 0.0 else errors.scatter
        )
    at_rest = abs(scatter - errors.scatter) <= AT_REST * scatter
    return replace(errors, scatter=scatter, refits=0 if at_rest else errors.refits - 1)
