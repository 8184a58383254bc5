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
from sfxproc.kernels.variances import chi2_of_scatter, pulls, variance_sums
from sfxproc.lsq import Engine, Layout, Point
from sfxproc.models.error_model import (
    AT_REST,
    SCATTER_ACCURACY,
    SMALLEST_SCATTER,
    ErrorModel,
    degrees_of_freedom,
    fitted,
    nearer,
    spent,
)

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]

LN_G, B = 0, 1
MOST_STEPS = 30  # of finding an error model
PER_DECADE, LOWEST_DECADE, PULL_BINS, PARTIALITY_BINS = 3, -1, 30, 10


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
        kernels.rows(tuple(self.arguments(point, first, last)), r, d, a, c)

    def deviances(self, point: Point, first: int, last: int, d: F8) -> None:
        """Deviance residuals only."""
        kernels.deviances(tuple(self.arguments(point, first, last)), d)

    def arguments(self, point: Point, first: int, last: int) -> kernels.Scaling:
        """What the kernels of the model look at, of crystals first … last−1."""
        layout, errors = self.layout, self.errors
        return kernels.Scaling(
            layout.start,
            layout.shared,
            first,
            last,
            point.local,
            point.shared,
            self.s2,
            self.partiality,
            self.observed,
            self.floor,
            errors.gain,
            errors.scatter**2,
        )

    def alone(self, point: Point, first: int, last: int, partiality: F8) -> kernels.Scaling:
        """The same of crystals first … last−1 alone, whose rows have these partialities."""
        start = self.layout.start[first : last + 1]
        rows = slice(start[0], start[-1])
        return self.arguments(point, 0, last - first)._replace(
            start=start - start[0],
            shared=self.layout.shared[rows],
            local=point.local[first:last],
            P=partiality,
            observed=self.observed[rows],
            background=self.floor[rows],
        )

    @property
    def floor(self) -> F4:
        """(n_rows,) variance of what is no signal."""
        return self.engine.times(self.background, self.errors.background)

    def retract(self, point: Point, local: F8, shared: F8) -> Point:
        """Parameters plus step."""
        return Point(point.local + local, point.shared + shared)

    def with_errors(self, errors: ErrorModel) -> Self:
        """The model with another error model."""
        return replace(self, errors=errors)

    def without(self, crystals: NDArray[np.bool_]) -> Self:
        """The model whose own crystals (n,) marked here have no observations; their parameters
        stay as they are."""
        layout = self.layout
        counts = np.diff(layout.start)
        kept = ~np.repeat(crystals, counts)
        free = layout.free & ~crystals[:, None]
        lost = np.stack([counts * crystals, (layout.free & ~free).sum(axis=1)], axis=1)
        n_rows, n_free = self.engine.dots(layout, lost.astype(np.float64), np.ones(lost.shape))
        start = np.concatenate([[0], np.cumsum(np.where(crystals, 0, counts))]).astype(np.int64)
        smaller = replace(
            layout,
            start=start,
            shared=layout.shared[kept],
            free=free,
            prior_weight=np.where(free, layout.prior_weight, 0.0),
        )
        return replace(
            self,
            layout=smaller,
            observed=self.observed[kept],
            background=self.background[kept],
            partiality=self.partiality[kept] if len(self.partiality) else self.partiality,
            dof=degrees_of_freedom(self.dof, n_rows - n_free),
        )

    def held(self) -> Self:
        """The model whose crystals keep their parameters; only intensities are free. Degrees of
        freedom stay what they were when the parameters were fitted to these observations."""
        nothing = np.zeros_like(self.layout.free)
        layout = replace(self.layout, free=nothing, prior_weight=np.zeros(nothing.shape))
        return replace(self, layout=layout)

    def at(self, point: Point) -> Self:
        """The scaling model of a point: itself."""
        return self

    def refreshed(self, point: Point) -> Self:
        """The model with the error model that fits this point."""
        old = self.errors
        if old.refits <= 0:
            return self
        if old.likelihood:
            return self.with_errors(self._likeliest(point))
        scatter = self._fitted_scatter(point)
        at_rest = abs(scatter - old.scatter) <= AT_REST * scatter
        return self.with_errors(spent(replace(old, scatter=scatter), old.refits, at_rest))

    def gauged(self, point: Point, ln_k: F8, b: F8) -> Point:
        """The same model values with ln G shifted by ln_k and B by b.

        ln_k, b : (n_components,), one each for every connected set of crystals.
        """
        sets = self.layout.component, self.set_of_reflection
        return shifted(point, np.stack([ln_k, b], axis=1), *sets, self.s2)

    def to_zero_mean(self, point: Point) -> F8:
        """(n_components, 2) what brings mean ln G and B of the crystals of each connected set that
        have observations to zero."""
        seen = np.diff(self.layout.start)[:, None] > 0
        total = self.engine.component_sums(self.layout, np.where(seen, point.local, 0.0))
        count = self.engine.component_sums(self.layout, np.where(seen, 1.0, 0.0))
        return -(total / np.maximum(count, 1.0))[:, : B + 1]

    def centred(self, point: Point) -> Point:
        """In the gauge mean ln G = 0, mean B = 0 over the crystals of each connected set."""
        return self.gauged(point, *self.to_zero_mean(point).T)

    def _fitted_scatter(self, point: Point) -> float:
        """c with χ²(c) = dof; 0 if the counting statistics explain everything, the largest there is
        if nothing does (strong observations where the model has y ≤ 0)."""
        target = self.errors.mean * self.dof
        if self.chi2_at(point, 0.0)[0] <= target:
            return 0.0
        c2 = max(self.errors.scatter, SMALLEST_SCATTER) ** 2
        for _ in range(MOST_STEPS):
            chi2, slope = self.chi2_at(point, c2)
            if abs(chi2 / target - 1.0) < SCATTER_ACCURACY or slope == 0.0:
                break
            c2 = nearer(c2, chi2, slope, target)
        return float(np.sqrt(c2))

    def _likeliest(self, point: Point) -> ErrorModel:
        """All of the error model by likelihood; a refit is spent."""
        errors, first = self.errors, np.inf
        for _ in range(MOST_STEPS):
            found, change = fitted(errors, self._variance_sums(point, errors), self.dof)
            first = change if errors is self.errors else first
            errors = replace(found, refits=self.errors.refits)
            if change <= 0.1 * AT_REST:
                break
        return spent(errors, self.errors.refits, first <= AT_REST)

    def error_sums(self, point: Point) -> F8:
        """What `next_errors` needs; sums of several blocks of crystals can be added. (10,) for
        likelihood, or (3,): χ² without scatter, χ² and its slope at the present one."""
        if self.errors.likelihood:
            return self._variance_sums(point, self.errors)
        c2 = max(self.errors.scatter, SMALLEST_SCATTER) ** 2
        return np.array([self.chi2_at(point, 0.0)[0], *self.chi2_at(point, c2)])

    def _variance_sums(self, point: Point, errors: ErrorModel) -> F8:
        """(10,) of the whole job, at an error model."""
        layout = self.layout

        def chunk(c: int) -> F8:
            out = np.zeros(10)
            data = self.arguments(point, layout.chunk[c], layout.chunk[c + 1])
            data = data._replace(background=self.background)
            variance_sums(data, errors.v, self.share, errors.most, out)
            return out

        per_chunk = np.array(self.engine.map(chunk, len(layout.chunk) - 1)).reshape(-1, 10)
        return self.engine.sums.scalars(per_chunk)

    def pulls_in_bins(self, point: Point) -> tuple[F8, F8]:
        """(PULL_BINS, 4) by modelled intensity and (PARTIALITY_BINS, 4) by partiality, of the whole
        job, zeros without partialities; columns as of kernels.variances.pulls."""
        layout, bins = self.layout, (PULL_BINS + PARTIALITY_BINS, 4)

        def chunk(c: int) -> F8:
            out = np.zeros(bins)
            pulls(
                self.arguments(point, layout.chunk[c], layout.chunk[c + 1]),
                self.share,
                self.errors.most,
                PER_DECADE,
                LOWEST_DECADE,
                out[:PULL_BINS],
                out[PULL_BINS:],
            )
            return out

        n_chunks = len(layout.chunk) - 1  # none, on a rank more than there are chunks
        per_chunk = np.array(self.engine.map(chunk, n_chunks)).reshape(n_chunks, bins[0] * bins[1])
        total = self.engine.sums.scalars(per_chunk).reshape(bins)
        return total[:PULL_BINS], total[PULL_BINS:] * bool(len(self.partiality))

    def chi2_at(self, point: Point, c2: float) -> tuple[float, float]:
        """χ² of the whole job at squared scatter c2, large pulls capped, and its slope in c2."""
        errors = self.errors
        cap = errors.most * self.share if errors.outliers else np.full(len(self.share), errors.most)
        model = replace(self, errors=replace(errors, scatter=float(np.sqrt(c2))))
        bounds = self.layout.chunk

        def chunk(c: int) -> tuple[float, float]:
            data = model.arguments(point, bounds[c], bounds[c + 1])
            found: tuple[float, float] = chi2_of_scatter(data, cap)
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
