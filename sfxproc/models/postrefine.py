"""Postrefinement of stills: scale, B, orientation and size of every crystal with all intensities.

    yᵢ = P(r_h(θ_m), R_m) · G_m · exp(−2 B_m s_h²) · I_h      (kernels.postrefine has P)

Local parameters (models.parameters): ln G, B (Å²), θ₁, θ₂ (rad, about axes normal to the beam), ln
r₀ (r₀ in Å⁻¹) and, if wanted, strains of the cell (models.cell_strains), κ, the logarithm of the
wavenumber over the recorded one, and what changes the numbers that P takes. It is the scaling model
with partialities that move: variances, gauge and error model are those of `models.scale`. Gaussian
priors hold what the data do not tell: θ and κ to what was recorded, ln r₀ to its start, cells to
their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels import scale as scale_kernels
from sfxproc.kernels.changes import combined
from sfxproc.kernels.postrefine import (
    LN_SIZE,
    N_LOCAL,
    THETA_1,
    THETA_2,
    extend_rows,
    partiality_kernel,
    rotation_of,
)
from sfxproc.lsq import Layout, Point
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.parameters import (
    WAVE,
    Parameter,
    changes_of,
    names_of,
    parameters_of,
)
from sfxproc.models.scale import LN_G, B, ScaleModel
from sfxproc.models.settings import ParameterSettings
from sfxproc.partiality import Partiality

F8 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Of this process's crystals and their observations.

    hkl : (n_rows, 3) int16. A : (n, 3, 3) Å⁻¹ as recorded. beam : (n, 3) unit vectors. axes :
    (n, 2, 3) unit vectors normal to the beam and to each other. wavenumber : (n,) 1/λ, Å⁻¹. slope :
    (n,) growth of the size with |q|. bandwidth : (n,) σ of λ over λ.

    settings : what of it is refined. If cells are, deformations : (k, 3, 3), T of
    models.cell_strains, and strain : (n, k), c there, of the recorded cells.
    """

    hkl: NDArray[np.int16]
    A: F8
    beam: F8
    axes: F8
    wavenumber: F8
    slope: F8
    bandwidth: F8
    deformations: F8 = field(default_factory=lambda: np.empty((0, 3, 3)))
    strain: F8 | None = None
    settings: ParameterSettings = field(default_factory=ParameterSettings)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """A crystal's parameters, in the order of their columns."""
        return parameters_of(self.settings, len(self.deformations))

    @property
    def strains(self) -> slice:
        """Columns of the strains."""
        return slice(N_LOCAL, N_LOCAL + len(self.deformations))

    def of(self, crystals: NDArray[np.int64], rows: NDArray[np.int64]) -> Geometry:
        """Of some crystals and their observations."""
        own = ("A", "beam", "axes", "wavenumber", "slope", "bandwidth")
        strain = None if self.strain is None else self.strain[crystals]
        taken = {name: getattr(self, name)[crystals] for name in own}
        return replace(self, hkl=self.hkl[rows], strain=strain, **taken)


def axes_of(beam: F8) -> F8:
    """(n, 2, 3) two unit vectors normal to each beam (n, 3) and to each other."""
    away = np.eye(3)[np.argmin(np.abs(beam), axis=1)]
    first = np.cross(beam, away)
    first /= np.linalg.norm(first, axis=1)[:, None]
    return np.stack([first, np.cross(beam, first)], axis=1)


Fill = Callable[[NDArray[np.int64], int, int, F8, F8, F8], None]
"""fill(start, first, last, local, P, relative) of crystals first … last−1, whose first row's P and
relative derivatives come first; none of these if that is empty."""


def filler(model: Partiality, geometry: Geometry) -> Fill:
    """What works out partialities with a model (kernels.postrefine)."""
    g, (changes, numbers) = geometry, changes_of(geometry.parameters)
    kernel = partiality_kernel(bool(changes))
    how = model.profile, model.amplitude == "r0/R", combined(changes, numbers), sum(numbers)
    what = g.hkl, g.A, g.beam, g.axes, g.wavenumber, g.slope, g.bandwidth, g.deformations

    def fill(
        start: NDArray[np.int64], first: int, last: int, local: F8, P: F8, relative: F8
    ) -> None:
        kernel(*how, what, start, first, last, local, P, relative)

    return fill


@dataclass(frozen=True, eq=False)
class PostrefineModel:
    """The model of this process's crystals.

    scale : the scaling model with the layout of all local parameters and without partialities,
    which depend on the point: `at` tells.
    """

    scale: ScaleModel
    geometry: Geometry
    partiality: Partiality

    @property
    def layout(self) -> Layout:
        """Structure of the problem."""
        return self.scale.layout

    @property
    def errors(self) -> ErrorModel:
        """The error model."""
        return self.scale.errors

    @cached_property
    def _fill(self) -> Fill:
        return filler(self.partiality, self.geometry)

    def rows(self, point: Point, first: int, last: int, r: F8, d: F8, a: F8, c: F8) -> None:
        """Residuals, deviance residuals and Jacobian of crystals first … last−1."""
        P, relative = np.empty(len(r)), np.empty((len(r), point.local.shape[1] - 2))
        self._fill(self.layout.start, first, last, point.local, P, relative)
        scale_kernels.rows(tuple(self.scale.alone(point, first, last, P)), r, d, a, c)
        extend_rows(a, relative)

    def deviances(self, point: Point, first: int, last: int, d: F8) -> None:
        """Deviance residuals only."""
        P = np.empty(len(d))
        self._fill(self.layout.start, first, last, point.local, P, _NOT_WANTED)
        scale_kernels.deviances(tuple(self.scale.alone(point, first, last, P)), d)

    def retract(self, point: Point, local: F8, shared: F8) -> Point:
        """Parameters plus step."""
        return Point(point.local + local, point.shared + shared)

    def refreshed(self, point: Point) -> Self:
        """The model with the scatter that fits this point."""
        if self.errors.refits <= 0:
            return self
        return self.with_errors(self.at(point).refreshed(point).errors)

    def with_errors(self, errors: ErrorModel) -> Self:
        """The model with another error model."""
        return replace(self, scale=self.scale.with_errors(errors))

    def without(self, crystals: NDArray[np.bool_]) -> Self:
        """The model whose own crystals (n,) marked here have no observations."""
        kept = ~np.repeat(crystals, np.diff(self.layout.start))
        geometry = replace(self.geometry, hkl=self.geometry.hkl[kept])
        return replace(self, scale=self.scale.without(crystals), geometry=geometry)

    def held(self) -> Self:
        """The model whose crystals keep their parameters."""
        return replace(self, scale=self.scale.held())

    def at(self, point: Point) -> ScaleModel:
        """The scaling model with the partialities of a point, its own."""
        bounds, start = self.layout.chunk, self.layout.start
        P = np.empty(self.layout.n_rows)

        def chunk(c: int) -> None:
            first, last = bounds[c : c + 2]
            own = P[start[first] : start[last]]
            self._fill(start, first, last, point.local, own, _NOT_WANTED)

        self.scale.engine.map(chunk, len(bounds) - 1)
        return replace(self.scale, partiality=P)

    def centred(self, point: Point) -> Point:
        """In the gauge mean ln G = 0, mean B = 0 over the crystals of each connected set."""
        return self.scale.centred(point)


_NOT_WANTED = np.empty((0, 3))
NO_PARTIALITY = np.empty(0)


def partialities(model: Partiality, crystal: NDArray[Any], geometry: Geometry, size: F8) -> F8:
    """(n_rows,) P at the recorded orientations. crystal : (n_rows,) never decreasing; size : (n,)
    r₀ in Å⁻¹."""
    n = len(size)
    start = np.searchsorted(crystal, np.arange(n + 1)).astype(np.int64)
    local = np.zeros((n, len(geometry.parameters)))
    local[:, LN_SIZE] = np.log(size)
    P = np.empty(len(crystal))
    filler(model, geometry)(start, 0, n, local, P, _NOT_WANTED)
    return P


def refined_A(geometry: Geometry, point: Point) -> F8:
    """(n, 3, 3) A of the crystals, Å⁻¹, turned and deformed as refined."""
    out = np.empty_like(geometry.A)
    turn, about = np.empty((3, 3)), np.empty((2, 3))
    for m, (A, axes) in enumerate(zip(geometry.A, geometry.axes, strict=True)):
        rotation_of(point.local[m, THETA_1], point.local[m, THETA_2], axes, turn, about)
        strains = point.local[m, geometry.strains]
        out[m] = turn @ A @ (np.eye(3) + np.tensordot(strains, geometry.deformations, 1))
    return out


def refined_wavelength(geometry: Geometry, point: Point) -> F8:
    """(n,) wavelengths, Å."""
    names = names_of(geometry.parameters)
    kappa = point.local[:, names.index(WAVE)] if WAVE in names else 0.0
    return np.asarray(np.exp(-kappa) / geometry.wavenumber)


def postrefine_model(
    scale: ScaleModel, geometry: Geometry, partiality: Partiality, start: Point
) -> PostrefineModel:
    """The model from a scaling model that is set up (its free parameters and priors kept).

    start : as `extended` makes it; priors are centred there. Crystals whose scale is fixed are
    fixed altogether.
    """
    old, parameters, settings = scale.layout, geometry.parameters, geometry.settings
    refined = old.free[:, LN_G]
    centre = start.local.copy()
    free, weight = np.zeros(centre.shape, dtype=bool), np.zeros(centre.shape)
    for column, parameter in enumerate(parameters):
        if parameter.group == "scale":
            free[:, column] = old.free[:, column]
        else:
            free[:, column] = refined & parameter.free(settings)
        if parameter.prior_sigma is None:
            centre[:, column] = old.prior_centre[:, column]
            weight[:, column] = old.prior_weight[:, column]
        else:
            weight[:, column] = free[:, column] / parameter.prior_sigma(settings) ** 2
    layout = replace(
        old, parameters=names_of(parameters), free=free, prior_centre=centre, prior_weight=weight
    )
    more = free[:, B + 1 :].astype(np.float64)
    n_more = float(scale.engine.dots(layout, more, more).sum())
    moving = replace(
        scale,
        layout=layout,
        partiality=np.empty(0),
        dof=max(scale.dof - n_more, 1.0),
    )
    return cells_to_mean(PostrefineModel(moving, geometry, partiality), start)


def cells_to_mean(model: PostrefineModel, point: Point) -> PostrefineModel:
    """The model whose cells are held to the mean of what they are at a point."""
    layout, cells, recorded = model.layout, model.geometry.strains, model.geometry.strain
    if recorded is None:
        return model
    free = layout.free[:, cells].astype(np.float64)
    dots = model.scale.engine.dots
    number = np.maximum(dots(layout, free, free), 1.0)
    mean = dots(layout, (point.local[:, cells] + recorded) * free, free) / number
    centre = layout.prior_centre.copy()
    centre[:, cells] = mean - recorded
    layout = replace(layout, prior_centre=centre)
    return replace(model, scale=replace(model.scale, layout=layout))


def extended(point: Point, size_start: F8, geometry: Geometry) -> Point:
    """A point of the scaling model as a start of postrefinement."""
    local = np.zeros((len(point.local), len(geometry.parameters)))
    local[:, : B + 1] = point.local
    local[:, LN_SIZE] = np.log(size_start)
    return Point(local, point.shared)
