"""Postrefinement of stills: scale, B, orientation and size of every crystal with all intensities.

    yᵢ = P(r_h(θ_m), R_m) · G_m · exp(−2 B_m s_h²) · I_h      (kernels.postrefine has P)

Local parameters: ln G, B (Å²), θ₁, θ₂ (rad, about axes normal to the beam), ln r₀ (r₀ in Å⁻¹) and,
if wanted, strains of the cell (models.cell_strains) and κ, the logarithm of the wavenumber over the
recorded one. It is the scaling model with partialities that move: variances, gauge and error model
are those of `models.scale`. Gaussian priors hold what the data do not tell: θ and κ to what was
recorded, ln r₀ to its start, cells to their mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels import scale as scale_kernels
from sfxproc.kernels.postrefine import (
    LN_SIZE,
    N_LOCAL,
    THETA_1,
    THETA_2,
    extend_rows,
    partiality_kernel,
    rotation_of,
)
from sfxproc.kernels.scale import Scaling
from sfxproc.lsq import Layout, Point
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.scale import LN_G, B, ScaleModel
from sfxproc.partiality import Partiality

F8 = NDArray[np.float64]

PARAMETERS = ("ln_G", "B_A2", "theta_1", "theta_2", "ln_size")


@dataclass(frozen=True, eq=False)
class Geometry:
    """Of this process's crystals and their observations.

    hkl : (n_rows, 3) int16. A : (n, 3, 3) Å⁻¹ as recorded. beam : (n, 3) unit vectors. axes :
    (n, 2, 3) unit vectors normal to the beam and to each other. wavenumber : (n,) 1/λ, Å⁻¹. slope :
    (n,) growth of the size with |q|. bandwidth : (n,) σ of λ over λ.

    Cells are refined if there are deformations : (k, 3, 3), T of models.cell_strains; then strain :
    (n, k), c there, of the recorded cells. waves : whether wavelengths are.
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
    waves: bool = False

    @property
    def n_strains(self) -> int:
        """How many strains a cell has."""
        return len(self.deformations)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of a crystal's parameters."""
        strains = tuple(f"strain_{j + 1}" for j in range(self.n_strains))
        return (*PARAMETERS, *strains, *(("ln_wavenumber",) if self.waves else ()))

    @property
    def stills(self) -> tuple[F8 | NDArray[np.int16], ...]:
        """What the kernel looks at."""
        return (
            self.hkl, self.A, self.beam, self.axes, self.wavenumber, self.slope, self.bandwidth,
            self.deformations,
        )  # fmt: skip

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


@dataclass(frozen=True, eq=False)
class PostrefineModel:
    """The model of this process's crystals.

    scale : the scaling model, its layout with all local parameters; it has no partialities, which
    are those of a point (`at`).
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

    def _fill(self, point: Point, first: int, last: int, P: F8, relative: F8) -> None:
        """Partialities of crystals first … last−1, and their relative derivatives if wanted."""
        partiality_kernel()(
            self.partiality.profile, self.partiality.amplitude == "r0/R", self.geometry.stills,
            self.layout.start, first, last, point.local, P, relative,
        )  # fmt: skip

    def _alone(self, point: Point, first: int, last: int, relative: F8) -> Scaling:
        """Crystals first … last−1, alone, as the scaling model's kernels look at them."""
        data, start = self.scale.arguments(point, first, last), self.layout.start
        rows = slice(start[first], start[last])
        P = np.empty(rows.stop - rows.start)  # float64: the derivatives are as exact
        self._fill(point, first, last, P, relative)
        return data._replace(
            start=start[first : last + 1] - rows.start, shared=data.shared[rows], first=0,
            last=last - first, local=data.local[first:last], P=P, observed=data.observed[rows],
            background=data.background[rows],
        )  # fmt: skip

    def rows(self, point: Point, first: int, last: int, r: F8, d: F8, a: F8, c: F8) -> None:
        """Residuals, deviance residuals and Jacobian of crystals first … last−1."""
        relative = np.empty((len(r), point.local.shape[1] - 2))
        scale_kernels.rows(tuple(self._alone(point, first, last, relative)), r, d, a, c)
        extend_rows(a, relative)

    def deviances(self, point: Point, first: int, last: int, d: F8) -> None:
        """Deviance residuals only."""
        scale_kernels.deviances(tuple(self._alone(point, first, last, _NOT_WANTED)), d)

    def retract(self, point: Point, local: F8, shared: F8) -> Point:
        """Parameters plus step."""
        return Point(point.local + local, point.shared + shared)

    def refreshed(self, point: Point) -> Self:
        """The model with the scatter that fits this point."""
        if self.errors.refits <= 0:
            return self
        return replace(self, scale=self.at(point).refreshed(point))

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
        """The scaling model with the partialities of a point."""
        bounds, start = self.layout.chunk, self.layout.start
        P = np.empty(self.layout.n_rows)

        def chunk(c: int) -> None:
            first, last = bounds[c], bounds[c + 1]
            self._fill(point, first, last, P[start[first] : start[last]], _NOT_WANTED)

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
    partiality_kernel()(
        model.profile, model.amplitude == "r0/R", geometry.stills, start, 0, n, local, P,
        _NOT_WANTED,
    )  # fmt: skip
    return P


def refined_A(geometry: Geometry, point: Point) -> F8:
    """(n, 3, 3) A of the crystals, Å⁻¹, turned and deformed as refined."""
    out = np.empty_like(geometry.A)
    turn, about = np.empty((3, 3)), np.empty((2, 3))
    for m, (A, axes) in enumerate(zip(geometry.A, geometry.axes, strict=True)):
        rotation_of(point.local[m, THETA_1], point.local[m, THETA_2], axes, turn, about)
        strains = point.local[m, N_LOCAL : N_LOCAL + geometry.n_strains]
        out[m] = turn @ A @ (np.eye(3) + np.tensordot(strains, geometry.deformations, 1))
    return out


def refined_wavelength(geometry: Geometry, point: Point) -> F8:
    """(n,) wavelengths, Å."""
    kappa = point.local[:, N_LOCAL + geometry.n_strains] if geometry.waves else 0.0
    return np.asarray(np.exp(-kappa) / geometry.wavenumber)


@dataclass(frozen=True)
class PostrefineSettings:
    """theta_prior_mrad, size_prior, scale_prior, cell_prior, wavelength_prior : σ of the priors on
    θ, ln r₀, ln G, strains and κ. orientation, size : whether they are refined; strains and κ are
    if the geometry has them.

    The scale needs one for a crystal that turns away from all it was seen to show.
    """

    theta_prior_mrad: float = 2.0
    size_prior: float = 0.5
    scale_prior: float = 3.0
    cell_prior: float = 0.002
    wavelength_prior: float = 0.001
    orientation: bool = True
    size: bool = True


def postrefine_model(
    scale: ScaleModel,
    geometry: Geometry,
    partiality: Partiality,
    start: Point,
    settings: PostrefineSettings,
) -> PostrefineModel:
    """The model from a scaling model that is set up (its free parameters and priors kept).

    start : as `extended` makes it; priors are centred there. Crystals whose scale is fixed are
    fixed altogether.
    """
    old = scale.layout
    n, p = start.local.shape
    cells = slice(N_LOCAL, N_LOCAL + geometry.n_strains)
    refined = old.free[:, 0]
    free = np.zeros((n, p), dtype=bool)
    free[:, : B + 1] = old.free
    free[:, THETA_1] = free[:, THETA_2] = refined & settings.orientation
    free[:, LN_SIZE] = refined & settings.size
    free[:, N_LOCAL:] = refined[:, None]
    centre, weight = np.zeros((n, p)), np.zeros((n, p))
    centre[:, : B + 1], weight[:, : B + 1] = old.prior_centre, old.prior_weight
    centre[:, LN_G], centre[:, LN_SIZE] = start.local[:, LN_G], start.local[:, LN_SIZE]
    weight[:, LN_G] = free[:, LN_G] / settings.scale_prior**2
    theta = free[:, THETA_1] / (1e-3 * settings.theta_prior_mrad) ** 2
    weight[:, THETA_1] = weight[:, THETA_2] = theta
    weight[:, LN_SIZE] = free[:, LN_SIZE] / settings.size_prior**2
    weight[:, N_LOCAL:] = free[:, N_LOCAL:] / settings.wavelength_prior**2
    weight[:, cells] = free[:, cells] / settings.cell_prior**2
    layout = replace(
        old, parameters=geometry.parameters, free=free, prior_centre=centre, prior_weight=weight
    )
    more = free[:, B + 1 :].astype(np.float64)
    n_more = float(scale.engine.dots(layout, more, more).sum())
    moving = replace(
        scale,
        layout=layout,
        partiality=NO_PARTIALITY,
        dof=max(scale.dof - n_more, 1.0),
    )
    return cells_to_mean(PostrefineModel(moving, geometry, partiality), start)


def cells_to_mean(model: PostrefineModel, point: Point) -> PostrefineModel:
    """The model whose cells are held to the mean of what they are at a point."""
    k, layout = model.geometry.n_strains, model.layout
    if k == 0:
        return model
    cells = slice(N_LOCAL, N_LOCAL + k)
    recorded = model.geometry.strain
    assert recorded is not None
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
