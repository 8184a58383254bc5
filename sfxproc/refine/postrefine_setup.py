"""From what files record of crystals to the start of postrefinement."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Ints, Observations, Status
from sfxproc.errors import DataError
from sfxproc.intake.selection import Inventory
from sfxproc.lsq import Point, Result
from sfxproc.models.cell_strains import deformations, strain_basis, strains_of, symmetrised
from sfxproc.models.postrefine import (
    Geometry,
    PostrefineModel,
    axes_of,
    extended,
    partialities,
    postrefine_model,
    refined_A,
    refined_wavelength,
)
from sfxproc.models.postrefine_passes import Refinement, Solve, jointly
from sfxproc.models.scale_start import ScaleProblem
from sfxproc.partiality import Partiality
from sfxproc.report.log import Log
from sfxproc.settings.postrefine import Postrefine
from sfxproc.symmetry import cells_from_A, reciprocal_matrix

F8 = NDArray[np.float64]

LEAST_PARTIALITY = 0.02  # when scaling with recorded orientations: these may be wrong
FEWEST_SHOWN, MOST_SHOWN = 0.1, 0.5  # of the observations: below, an error or a warning


def geometry_of(
    data: Inventory, crystals: Crystals, hkl: Ints, settings: Postrefine
) -> tuple[Geometry, F8]:
    """Geometry of some of the job's crystals and their observations' hkl, and the size r₀ each
    starts with. Raises DataError if sizes or wavelengths are not known."""
    everyone = data.crystals
    used = data.status != Status.LEFT_OUT
    if not np.isfinite(everyone.wavelength_A[used]).all():
        raise DataError(
            "Crystals in use have no wavelength recorded, without which there is no excitation "
            "error. Convert the files with a program that writes it."
        )
    size = sizes_of(data, crystals, settings)
    bandwidth = np.nan_to_num(np.asarray(crystals.bandwidth, dtype=np.float64))
    beam = np.ascontiguousarray(crystals.beam, dtype=np.float64)
    if settings.bandwidth is not None:
        bandwidth = np.full(len(crystals), settings.bandwidth)
    k = 1.0 / np.where(np.isfinite(crystals.wavelength_A), crystals.wavelength_A, 1.0)
    B = np.asarray(reciprocal_matrix(data.cell), dtype=np.float64)
    A = np.array(crystals.A, dtype=np.float64)
    A[~np.isfinite(A).all(axis=(1, 2))] = B
    T, strain = np.empty((0, 3, 3)), None
    if settings.cell:
        rotations = data.space_group.rotations
        basis = strain_basis(rotations, B)
        A = symmetrised(A, rotations)
        T, strain = deformations(basis, B), strains_of(A, basis, B)
    return Geometry(
        hkl=np.ascontiguousarray(hkl, dtype=np.int16),
        A=np.ascontiguousarray(A),
        beam=beam,
        axes=axes_of(beam),
        wavenumber=k,
        slope=np.full(len(crystals), settings.size_slope),
        bandwidth=bandwidth,
        deformations=T,
        strain=strain,
        settings=settings,
    ), size


def sizes_of(data: Inventory, crystals: Crystals, settings: Postrefine) -> F8:
    """(n,) r₀ each of some crystals starts with; the median of all where it is not recorded."""
    if settings.size is not None:
        return np.full(len(crystals), settings.size)
    recorded = data.crystals.profile_radius[data.status != Status.LEFT_OUT]
    known = recorded[np.isfinite(recorded) & (recorded > 0)]
    if not len(known):
        raise DataError(
            "The files record no profile radius, from which sizes could start. Set postrefine.size "
            "in Å⁻¹; 0.002 is common for small crystals at X-ray lasers, and it is refined."
        )
    own = np.nan_to_num(crystals.profile_radius)
    return np.where(own > 0, own, np.median(known))


@dataclass(frozen=True, eq=False)
class Recorded:
    """Crystals as recorded, to be postrefined with a partiality model. size : (n,) r₀, Å⁻¹."""

    geometry: Geometry
    size: F8
    partiality: Partiality

    def shown(self, observations: Observations) -> tuple[Observations, int]:
        """Their observations with the partialities that recorded orientations give, none too near
        to nothing, as these may be wrong; and of how many it is more than that."""
        P = partialities(self.partiality, observations.crystal, self.geometry, self.size)
        n_shown = int(np.count_nonzero(P >= LEAST_PARTIALITY))
        partiality = np.maximum(P, LEAST_PARTIALITY).astype(np.float32)
        return replace(observations, partiality=partiality), n_shown


def scaled_start(
    recorded: Recorded, problem: ScaleProblem, solve: Solve | None
) -> tuple[PostrefineModel, Point]:
    """The model of all that is to be refined and its start: scaled, if there is something to solve
    that with. problem : of scaling, with the partialities that are `shown`."""
    model, point = problem.model, problem.start
    if solve is not None:
        scaled = solve(problem.model, problem.start, "scaling")
        model, point = scaled.model, scaled.point
    start = extended(point, recorded.size, recorded.geometry)
    return postrefine_model(model, recorded.geometry, recorded.partiality, start), start


def scaled_and_refined(
    recorded: Recorded, problem: ScaleProblem, way: Refinement
) -> Result[PostrefineModel]:
    """Crystals scaled as recorded, and then all that is to be refined of them together."""
    return jointly(way, *scaled_start(recorded, problem, way.solve))


def require_shown(n: int, n_shown: int, size: F8, log: Log) -> None:
    """Raise DataError if recorded orientations and sizes (n_crystals,) leave too few observations,
    n_shown of n, at LEAST_PARTIALITY or above; warn if they are not many."""
    r0 = float(np.median(size))
    told = (
        f"{n_shown:,} of {n:,} observations are expected to show at least "
        f"{100 * LEAST_PARTIALITY:.0f} % of their reflection, with the orientations as recorded "
        f"and a size of {r0:.2g} Å⁻¹"
    )
    if n_shown < FEWEST_SHOWN * n:
        raise DataError(
            f"Only {told}: that is not how they were predicted. Set a larger postrefine.size, or "
            "check that wavelength and orientations are those of the integration."
        )
    if n_shown < MOST_SHOWN * n:
        log(f"WARNING: only {told}. A larger postrefine.size may be a better start.")


def moved_columns(geometry: Geometry, point: Point) -> dict[str, F8]:
    """Columns of frames.h5 about what was refined of the geometry of some crystals."""
    A = refined_A(geometry, point)
    columns: dict[str, F8] = {"A_refined": A}
    if len(geometry.deformations):
        columns["cell_refined"] = np.asarray(cells_from_A(A))
    if geometry.settings.wavelength:
        columns["wavelength_refined_A"] = refined_wavelength(geometry, point)
    return columns
