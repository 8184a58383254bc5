"""Spots of many stills of one structure, too few on each to index it.

A crystal in a random orientation shows the reflections near the Ewald sphere with

    P = exp(−r²/2(R² + w²)),    I = g |F|² LP(θ) P,    LP = (1 + cos² 2θ)/sin² 2θ

r: excitation error, R: size of the reciprocal-lattice point, w: spread of r by the bandwidth
(`partiality.width_at`), g: log-normal scale of the crystal. Those with I above a limit become
spots; the limit is set so that a still shows `spots_per_still` on average, if there are so many.
A spot lies where k′ = k (1 + δ) sends it, δ being the part of r that the spectrum made up for,
r/w · σ_λ/λ · w²/(R² + w²): the ring of a line is as wide as the crystals and the beam make it.

Positions get normal errors, other spots are added anywhere on the detector, and what is recorded is
as if the detector were at another distance and its centre elsewhere. The random numbers of a still
are keyed by the seed and its number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from sfxproc.data import Floats, Ints
from sfxproc.kernels.predict import predict_still
from sfxproc.partiality.base import width_at
from sfxproc.simulate.powder_structures import random_structure
from sfxproc.simulate.settings import SpotPowderSettings
from sfxproc.spots import BEAM, Spots, SpotSet
from sfxproc.structure import Structure, squared_structure_factors
from sfxproc.symmetry import possible, reciprocal_matrix, unique_keys

REACH = 3.0  # √(R² + w²): a crystal shows nothing further off the Ewald sphere
LIMIT_STILLS = 100  # whose reflections set the limit of intensity
STRUCTURE, LIMIT = (1 << 32) + 1, (1 << 32) + 2  # random streams beside those of the stills


@dataclass(frozen=True, eq=False)
class SpotPowderTruth:
    """line_q2 : (n,) 1/d² in Å⁻² of the lines that are not extinguished, ascending, up to the edge
    of the detector. line : (n_spots,) which of them a spot is of, −1 if of other origin."""

    structure: Structure
    line_q2: Floats
    line: Ints


@dataclass(frozen=True, eq=False)
class _Sample:
    """A structure and its unique reflections: keys ascending, |F|² (n,)."""

    settings: SpotPowderSettings
    structure: Structure
    keys: Ints
    squared: Floats
    q2: Floats
    q_max: float


def simulate_spots(
    settings: SpotPowderSettings, structure: Structure | None = None
) -> tuple[SpotSet, SpotPowderTruth]:
    """Spots of all stills with their truth. structure : instead of a random one.

    Raises ConfigError if there is no such lattice.
    """
    sample = _sample(settings, structure)
    limit = _limit(sample)
    tables = [_still(sample, limit, number) for number in range(settings.n_stills)]
    size = [len(table) for table in tables]
    rows = np.concatenate(tables)
    n = len(rows)
    spots = Spots(
        shot=np.repeat(np.arange(settings.n_stills, dtype=np.int32), size),
        position_mm=rows[:, :3],
        wavelength_A=np.full(n, settings.wavelength_A),
        intensity=rows[:, 3].astype(np.float32),
    )
    line_q2, line = np.unique(np.round(sample.q2, 9), return_inverse=True)
    known = rows[:, 4].astype(np.int64)
    truth = SpotPowderTruth(sample.structure, line_q2, np.where(known < 0, known, line[known]))
    return SpotSet(spots, settings.n_stills, settings.pixel_mm), truth


def _sample(settings: SpotPowderSettings, structure: Structure | None) -> _Sample:
    if structure is None:
        rng = np.random.default_rng([settings.seed, STRUCTURE])
        structure = random_structure(settings.lattice, "simulated", rng)
    corner_mm = settings.panel_px * settings.pixel_mm / np.sqrt(2.0)
    two_theta = np.arctan(corner_mm / settings.detector_distance_mm)
    q_max = 2.0 * np.sin(0.5 * two_theta) / settings.wavelength_A
    table = possible(structure.space_group, structure.cell, 1.0 / q_max, None, False)
    squared = squared_structure_factors(structure, table.hkl, table.s2, settings.B_A2)
    keys = unique_keys(structure.space_group, table.hkl, False)
    order = np.argsort(keys)
    return _Sample(
        settings, structure, keys[order], squared[order], 4.0 * table.s2[order], float(q_max)
    )


def _limit(sample: _Sample) -> float:
    """The intensity that `spots_per_still` reflections of a still exceed on average."""
    found = [
        _reflections(sample, np.random.default_rng([sample.settings.seed, LIMIT, number]))[:, 3]
        for number in range(LIMIT_STILLS)
    ]
    intensity = np.sort(np.concatenate(found))[::-1]
    wanted = int(sample.settings.spots_per_still * LIMIT_STILLS)
    return float(intensity[wanted]) if wanted < len(intensity) else 0.0


def _reflections(sample: _Sample, rng: np.random.Generator) -> Floats:
    """Position in mm, intensity and number of the unique one (n, 5) of the reflections of one
    crystal on the detector."""
    settings = sample.settings
    k = 1.0 / settings.wavelength_A
    turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    A = turn @ reciprocal_matrix(sample.structure.cell)
    ln_G = settings.sigma_ln_G * rng.normal()
    # w grows with q and is largest at the edge
    z = -0.5 * sample.q_max**2 / k
    widest = float(width_at(settings.bandwidth, k, sample.q_max**2, z))
    reach = REACH * float(np.hypot(settings.profile_radius, widest))
    h_max = np.floor(sample.structure.cell[:3] * sample.q_max * (1.0 + 1e-9)).astype(np.int64)
    room = 4096
    while True:
        hkl, r, s1 = np.empty((room, 3), np.int16), np.empty(room), np.empty((room, 3))
        n = predict_still(A, k * BEAM, reach, 1e-6, sample.q_max, h_max, hkl, r, s1)
        if n <= room:
            break
        room = n
    hkl, r, s1 = hkl[:n], r[:n], s1[:n]
    key = unique_keys(sample.structure.space_group, hkl, False)
    known = np.minimum(np.searchsorted(sample.keys, key), len(sample.keys) - 1)
    keep = sample.keys[known] == key  # not absent
    r, s1, known = r[keep], s1[keep], known[keep]
    q = s1 - k * BEAM
    q2 = np.sum(q**2, axis=1)
    w = width_at(settings.bandwidth, k, q2, q[:, 2])
    variance = settings.profile_radius**2 + w**2
    # where a wavelength of the spectrum makes up for its part of r: r falls by w for each σ
    delta = settings.bandwidth * r * w / variance
    s1 = s1 + (k * delta)[:, None] * BEAM
    sin2 = 1.0 - (s1[:, 2] / np.linalg.norm(s1, axis=1)) ** 2
    lp = (2.0 - sin2) / sin2
    intensity = np.exp(ln_G - 0.5 * r**2 / variance) * sample.squared[known] * lp
    shown = (s1[:, 2] > 0) & (r**2 <= REACH**2 * variance)
    s1, intensity = s1[shown], intensity[shown]
    position = s1 / s1[:, 2:] * settings.detector_distance_mm
    known = known[shown].astype(np.float64)
    return np.column_stack([position, intensity, known])[_on_detector(settings, position)]


def _on_detector(settings: SpotPowderSettings, position_mm: Floats) -> Ints:
    edge = 0.5 * settings.panel_px * settings.pixel_mm
    inside = (np.abs(position_mm[:, :2]) < edge).all(axis=1)
    beyond = np.hypot(position_mm[:, 0], position_mm[:, 1]) > settings.beamstop_mm
    return np.flatnonzero(inside & beyond)


def _still(sample: _Sample, limit: float, number: int) -> Floats:
    """Recorded position, intensity and number of the reflection, −1 if of none, (n, 5) of the spots
    of a still."""
    settings = sample.settings
    rng = np.random.default_rng([settings.seed, number])
    true = _reflections(sample, rng)
    true = true[true[:, 3] > limit]
    other = np.empty((rng.poisson(settings.spurious_per_still), 5))
    edge = 0.5 * settings.panel_px * settings.pixel_mm
    other[:, :2] = rng.uniform(-edge, edge, size=(len(other), 2))
    other[:, 2] = settings.detector_distance_mm
    other[:, 3] = (limit or 1.0) * rng.exponential(size=len(other))
    other[:, 4] = -1.0
    other = other[_on_detector(settings, other)]
    rows = np.concatenate([true, other])
    error = settings.position_error_px * rng.normal(size=(len(rows), 2))
    rows[:, :2] += settings.pixel_mm * (error + np.array(settings.centre_error_px))
    rows[:, 2] *= 1.0 + 0.01 * settings.distance_error_percent
    return rows
