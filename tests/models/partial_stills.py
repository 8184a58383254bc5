"""Simulated partial stills, set up for postrefinement, and the best merge of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sfxproc.data import Observations, Reflections
from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point, Result
from sfxproc.models.cell_strains import deformations, strain_basis, strains_of
from sfxproc.models.error_model import MOST_REFITS
from sfxproc.models.postrefine import (
    Geometry,
    PostrefineModel,
    axes_of,
    extended,
    partialities,
    postrefine_model,
)
from sfxproc.models.postrefine_strayed import second_chance
from sfxproc.models.scale_start import ScaleSettings, scale_problem
from sfxproc.models.settings import ParameterSettings
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import SerialComm
from sfxproc.partiality import PARTIALITIES, Partiality
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills
from sfxproc.symmetry import reciprocal_matrix, reflections, space_group, unique_keys

F8 = NDArray[np.float64]

SETTINGS = ScaleSettings(
    b_factor=True, b_prior_A2=10.0, gain=None, variances="scatter", min_overlaps=3
)


@dataclass(frozen=True, eq=False)
class Partials:
    """Stills with the geometry their indexing gave, and the truth."""

    made: Simulated
    observations: Observations
    reflections: Reflections
    geometry: Geometry
    size: F8
    partiality: Partiality
    intensity: F8

    @property
    def n(self) -> int:
        return len(self.size)


def partials(name: str, wrong_size: float = 1.0, **settings: Any) -> Partials:
    """Stills whose orientations are 0.65 mrad off, and sizes by a factor."""
    chosen: dict[str, Any] = {
        "n_crystals": 150,
        "d_min_A": 2.5,
        "profile_radius": 0.0024,
        "partiality": name,
        "orientation_error_mrad": 0.65,
        "photons": 300.0,
        "background_counts": 5.0,
    }
    if PARTIALITIES[name].uses_bandwidth:
        chosen["bandwidth"] = 1e-3
    made = simulate_stills(StillsSettings(**{**chosen, **settings}))
    crystals, o, truth = made.stills.crystals, made.stills.observations, made.truth
    group = space_group(made.truth.settings.space_group)
    keys = unique_keys(group, o.hkl, False)
    unique = np.unique(keys)
    o = replace(o, reflection=np.searchsorted(unique, keys).astype(np.int32))
    assert o.reflection is not None
    o = o.take(np.lexsort([o.reflection, o.crystal]))
    geometry = Geometry(
        np.ascontiguousarray(o.hkl, dtype=np.int16),
        np.array(crystals.A),
        np.array(crystals.beam),
        axes_of(crystals.beam),
        1.0 / np.array(crystals.wavelength_A),
        np.zeros(len(crystals)),
        np.array(crystals.bandwidth),
    )
    known = unique_keys(group, truth.reflections.hkl, False)
    order = np.argsort(known)
    assert truth.reflections.intensity is not None
    intensity = truth.reflections.intensity[order][np.searchsorted(known[order], unique)]
    return Partials(
        made,
        o,
        reflections(group, np.array(made.truth.settings.unit_cell), unique),
        geometry,
        wrong_size * np.array(crystals.profile_radius),
        PARTIALITIES[name],
        intensity,
    )


def with_cells(data: Partials, waves: bool = False) -> Partials:
    """The same, cells to be refined, and wavelengths if wanted."""
    sg = space_group(data.made.truth.settings.space_group)
    B = reciprocal_matrix(data.made.truth.settings.unit_cell)
    basis = strain_basis(sg.rotations, B)
    geometry = replace(
        data.geometry,
        deformations=deformations(basis, B),
        strain=strains_of(data.geometry.A, basis, B),
        settings=ParameterSettings(cell=True, wavelength=waves),
    )
    return replace(data, geometry=geometry)


def set_up(data: Partials) -> tuple[Engine, PostrefineModel, Point]:
    """Scaled with the orientations as recorded, ready to be refined."""
    P = partialities(data.partiality, data.observations.crystal, data.geometry, data.size)
    o = replace(data.observations, partiality=np.maximum(P, 0.02).astype(np.float32))
    chunks = plan_chunks(
        np.bincount(o.crystal, minlength=data.n), len(data.reflections), SerialComm()
    )
    engine = Engine(ChunkSums(SerialComm(), chunks))
    problem = scale_problem(engine, o, chunks.local_bounds, data.reflections, SETTINGS)
    solver = LevenbergMarquardt(loss=Loss(), max_iterations=60)
    scaled = solver.solve(engine, problem.model, problem.start)
    model: Any = scaled.model
    start = extended(scaled.point, data.size, data.geometry)
    made = postrefine_model(model, data.geometry, data.partiality, start)
    return engine, made, start


def refined(engine: Engine, model: PostrefineModel, start: Point, passes: int = 2) -> Result:
    """All parameters together, the error model fitted anew in each pass."""
    first = start
    for _ in range(passes):
        model = model.with_errors(replace(model.errors, refits=MOST_REFITS))
        solver = LevenbergMarquardt(loss=Loss(), max_iterations=60, tolerance=1e-7)
        result = solver.solve(engine, model, start)
        model = result.model
        start, _ = second_chance(model, result.point, first, Loss())
    return result


def ideal(data: Partials) -> tuple[F8, F8]:
    """The merge with the true parameters and variances, and its weights."""
    truth, o = data.made.truth, data.observations
    settings = truth.settings
    right = replace(data.geometry, A=np.array(truth.A))
    size = np.array(data.made.stills.crystals.profile_radius)
    P = partialities(data.partiality, o.crystal, right, size)
    s2 = data.reflections.s2[o.reflection]
    f = P * np.exp(truth.ln_G[o.crystal] - 2.0 * truth.B_A2[o.crystal] * s2)
    background = settings.background_counts * (1.0 + 1.0 / settings.background_pixels_ratio)
    V = background + f * data.intensity[o.reflection]
    n = len(data.intensity)
    weight = np.bincount(o.reflection, f * f / V, n)
    return np.bincount(o.reflection, f * o.intensity / V, n) / np.maximum(weight, 1e-300), weight


def r_factor(data: Partials, intensity: F8, weight: F8) -> float:
    """Σ|I − I_true| / Σ I_true after the best scale and B."""
    true, s2 = data.intensity, data.reflections.s2
    fits = (intensity > 0) & (weight > 0)
    root = np.sqrt(weight[fits]) * true[fits]
    terms = np.stack([np.ones(fits.sum()), -2.0 * s2[fits]], axis=1)
    ratio = np.log(intensity[fits] / true[fits])
    (ln_k, b), *_ = np.linalg.lstsq(terms * root[:, None], ratio * root, rcond=None)
    seen = weight > 0
    difference = np.abs(intensity * np.exp(-ln_k + 2.0 * b * s2) - true)
    return float(difference[seen].sum() / true[seen].sum())


def orientation_error_mrad(data: Partials, A: F8) -> float:
    """R.m.s. rotation, about an axis normal to the beam, from the true orientations."""
    out = []
    for found, true, beam in zip(A, data.made.truth.A, data.geometry.beam, strict=True):
        v = Rotation.from_matrix(found @ np.linalg.inv(true)).as_rotvec()
        out.append(v - beam * (v @ beam))
    return float(1e3 * np.sqrt(np.sum(np.square(out)) / (2 * len(out))))
