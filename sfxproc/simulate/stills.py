"""Stills of randomly oriented crystals, with counting noise and the truth.

    y = P(r_h, R, w) G exp(−2 B s²) I_h         expected counts of a reflection
    R = r_s + m |q|,   w: from the bandwidth    (`partiality.base`)

What is measured of y, and how well it could be merged, is told by `counting`. The reflections are
those with |r_h| ≤ f R for the *recorded* orientation, cell, wavelength and size (f:
predict_within), P is that of the true ones. Because the cap of the Ewald sphere within a chord q
has the area π q², a crystal shows about

    N = V/n_c · 2 f · π (r_s q² + ⅔ m q³), from q = 1/d_max to 1/d_min,

reflections (cell volume V, n_c lattice points per cell, r_s as recorded), systematic absences
apart.

Each crystal has its own random streams, keyed by the seed and its number: crystal i is the same
whatever the number of crystals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import (
    Crystals,
    Detector,
    Floats,
    Mask,
    Observations,
    ReferenceSet,
    Reflections,
    Stills,
    concatenate,
)
from sfxproc.kernels.predict import excitation_errors, predict_still
from sfxproc.partiality import PARTIALITIES, size_at, values, width_at
from sfxproc.simulate.counting import counted, exchanged, ideal_terms
from sfxproc.simulate.crystals import Crystal, Geometry, Stream, draw, stream
from sfxproc.simulate.intensities import true_reflections
from sfxproc.simulate.sense import expected_reflections, reindexing_of, require_sense
from sfxproc.simulate.settings import StillsSettings
from sfxproc.symmetry import SpaceGroup, reindexed_cells, reindexed_hkl, unique_keys

BEAM = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Truth:
    """What the simulation started from.

    number : (n_crystals,) the crystals' numbers.  ln_G, B_A2, wavelength_A, profile_radius (Å⁻¹) :
    (n_crystals,).  A, cell : true orientation and cell, as in `Crystals`, in the setting of the
    reflections.  wrong, reindexed : (n_crystals,) bool, which were recorded so.  reflections :
    every reflection the crystals can show, with its true intensity in counts (before the gain).
    ideal_weight, ideal_weighted : (n_reflections,) sums of the ideal merge (`counting`) over the
    observations that are neither outliers nor of wrongly indexed crystals.  outlier :
    (n_observations,) bool.
    """

    settings: StillsSettings
    number: NDArray[np.int64]
    ln_G: Floats
    B_A2: Floats
    A: Floats
    cell: Floats
    wavelength_A: Floats
    profile_radius: Floats
    wrong: Mask
    reindexed: Mask
    reflections: Reflections
    ideal_weight: NDArray[np.float64]
    ideal_weighted: NDArray[np.float64]
    outlier: Mask

    def columns(self) -> dict[str, NDArray[Any]]:
        """All but the settings as plain arrays, named `table/column`."""
        table = self.reflections
        assert table.intensity is not None
        return {
            "crystals/number": self.number,
            "crystals/ln_G": self.ln_G,
            "crystals/B_A2": self.B_A2,
            "crystals/A": self.A,
            "crystals/cell": self.cell,
            "crystals/wavelength_A": self.wavelength_A,
            "crystals/profile_radius": self.profile_radius,
            "crystals/wrong": self.wrong,
            "crystals/reindexed": self.reindexed,
            "reflections/hkl": table.hkl,
            "reflections/friedel": table.friedel,
            "reflections/s2": table.s2,
            "reflections/intensity": table.intensity,
            "reflections/ideal_weight": self.ideal_weight,
            "reflections/ideal_weighted": self.ideal_weighted,
            "observations/outlier": self.outlier,
        }


@dataclass(frozen=True)
class Simulated:
    """Stills as a reader would give them, and what is true of them."""

    stills: Stills
    truth: Truth


@dataclass(frozen=True, eq=False)
class _Sample:
    """What all crystals share; `intensity` is in counts, in the order of the sorted keys."""

    settings: StillsSettings
    sg: SpaceGroup
    keys: NDArray[np.int64]
    intensity: Floats
    detector: Detector


@dataclass(frozen=True, eq=False)
class _Still:
    """What is recorded of one crystal's reflections. known : (n,) row of each in the sample;
    weight, weighted : (n,) its terms of the ideal merge."""

    observations: Observations
    outlier: Mask
    known: NDArray[np.intp]
    weight: Floats
    weighted: Floats


def simulate_stills(settings: StillsSettings, reference: ReferenceSet | None = None) -> Simulated:
    """Simulate stills, from Wilson's statistics or from the intensities of a reference.

    The mean of the true intensities is settings.photons. Partialities are recorded only where
    they differ between observations (not for "unity"). Raises ConfigError or DataError.
    """
    sg = require_sense(settings)
    keys, table, intensity = true_reflections(
        sg,
        settings.unit_cell,
        settings.d_min_A,
        settings.d_max_A,
        settings.wilson_B_A2,
        settings.anomalous_fraction,
        settings.seed,
        reference,
    )
    intensity = intensity * (settings.photons / intensity.mean())
    sample = _Sample(settings, sg, keys, intensity, _detector(settings))
    crystals, observations, outliers = [], [], []
    ideal_weight, ideal_weighted = np.zeros(len(keys)), np.zeros(len(keys))
    for row in range(settings.n_crystals):
        number = settings.first_crystal + row
        rng = np.random.default_rng(np.random.SeedSequence((settings.seed, number)))
        crystal = draw(settings, sg, number, rng)
        still = _still(sample, crystal, row, rng)
        crystals.append(crystal)
        observations.append(still.observations)
        outliers.append(still.outlier)
        if not crystal.wrong:
            np.add.at(ideal_weight, still.known, still.weight)
            np.add.at(ideal_weighted, still.known, still.weighted)
    truth = Truth(
        settings=settings,
        number=np.array([c.number for c in crystals]),
        ln_G=np.array([c.ln_G for c in crystals]),
        B_A2=np.array([c.B_A2 for c in crystals]),
        A=np.array([c.true.A for c in crystals]),
        cell=np.array([c.true.cell for c in crystals]),
        wavelength_A=np.array([c.true.wavelength_A for c in crystals]),
        profile_radius=np.array([c.true.profile_radius for c in crystals]),
        wrong=np.array([c.wrong for c in crystals]),
        reindexed=np.array([c.reindexed for c in crystals]),
        reflections=replace(
            table,
            intensity=intensity,
            sigma=np.zeros(len(table)),
            n_observations=np.zeros(len(table), dtype=np.int32),
        ),
        ideal_weight=ideal_weight,
        ideal_weighted=ideal_weighted,
        outlier=np.concatenate(outliers),
    )
    recorded = Stills(
        crystals=_crystals(sample, crystals),
        observations=concatenate(observations),
        n_images=settings.n_crystals,
        detector=sample.detector,
    )
    return Simulated(recorded, truth)


def _detector(settings: StillsSettings) -> Detector:
    half = 0.5 * settings.panel_px * settings.pixel_mm
    return Detector(
        name=np.array(["0"], dtype=object),
        fast=np.array([[1.0, 0.0, 0.0]]),
        slow=np.array([[0.0, 1.0, 0.0]]),
        origin_mm=np.array([[-half, -half, settings.detector_distance_mm]]),
        pixel_mm=np.full((1, 2), settings.pixel_mm),
        size_px=np.full((1, 2), settings.panel_px),
    )


def _crystals(sample: _Sample, crystals: Sequence[Crystal]) -> Crystals:
    """The table a reader would give, each crystal in the setting it was indexed in."""
    settings, n = sample.settings, len(crystals)
    recorded = [c.recorded for c in crystals]
    A, cell = np.array([g.A for g in recorded]), np.array([g.cell for g in recorded])
    turned = np.array([c.reindexed for c in crystals])
    if turned.any():
        operator = reindexing_of(settings.reindexing)
        A[turned], cell[turned] = reindexed_cells(A[turned], cell[turned], operator)
    return Crystals(
        file=np.full(n, "simulated", dtype=object),
        event=np.array([event_of(c.number) for c in crystals], dtype=object),
        A=A,
        cell=cell,
        beam=np.tile(BEAM, (n, 1)),
        wavelength_A=np.array([g.wavelength_A for g in recorded]),
        bandwidth=np.full(n, settings.bandwidth),
        profile_radius=np.array([g.profile_radius for g in recorded]),
    )


def event_of(number: int) -> str:
    """The event that names crystal `number` in the files."""
    return f"{number:06d}"


def _still(sample: _Sample, crystal: Crystal, row: int, rng: np.random.Generator) -> _Still:
    """What is measured of a crystal, row `row` of the table."""
    settings, true = sample.settings, crystal.true
    hkl, s1 = _predicted(settings, crystal.recorded)
    position, on_panel = _exit_px(sample.detector, s1)
    key = unique_keys(sample.sg, hkl, settings.anomalous_fraction > 0)
    known = np.minimum(np.searchsorted(sample.keys, key), len(sample.keys) - 1)
    keep = on_panel & (sample.keys[known] == key)  # neither absent nor beyond the limits
    hkl, position, known = hkl[keep], position[keep], known[keep]

    q = hkl @ true.A.T
    q2 = np.sum(q**2, axis=1)
    r_h = excitation_errors(true.A, BEAM / true.wavelength_A, hkl)
    P = _partialities(settings, true, r_h, q2, q @ BEAM)
    f = P * np.exp(crystal.ln_G - 2.0 * crystal.B_A2 * (0.25 * q2))
    y = f * sample.intensity[known]
    measured = counted(settings, rng, y)
    weight, weighted = ideal_terms(settings, measured, f, y)
    if crystal.wrong:
        measured = exchanged(measured, stream(settings, crystal.number, Stream.EXCHANGE))
    operator = reindexing_of(settings.reindexing) if crystal.reindexed else None
    observations = Observations(
        crystal=np.full(len(hkl), row, dtype=np.int32),
        hkl=reindexed_hkl(hkl, operator) if operator else hkl,
        intensity=measured.intensity,
        variance=measured.variance,
        partiality=P.astype(np.float32) if settings.partiality != "unity" else None,
        panel=np.zeros(len(hkl), dtype=np.int16),
        x_px=position[:, 0].astype(np.float32),
        y_px=position[:, 1].astype(np.float32),
    )
    return _Still(observations, measured.outlier, known, weight, weighted)


def _partialities(
    settings: StillsSettings, true: Geometry, r_h: Floats, q2: Floats, z: Floats
) -> Floats:
    """P (n,) of excitation errors (n,), |q|² (n,) and q along the beam (n,)."""
    model = PARTIALITIES[settings.partiality]
    R = size_at(true.profile_radius, settings.profile_radius_m, np.sqrt(q2))
    P = values(model, r_h, R, width_at(settings.bandwidth, 1.0 / true.wavelength_A, q2, z))
    return P * true.profile_radius / R if model.amplitude == "r0/R" else P


def _predicted(settings: StillsSettings, recorded: Geometry) -> tuple[NDArray[np.int16], Floats]:
    """hkl (n, 3) and exit vectors s1 (n, 3) of the reflections near the Ewald sphere."""
    q_min, q_max = 1.0 / settings.d_max_A, 1.0 / settings.d_min_A
    r_s, m, f = recorded.profile_radius, settings.profile_radius_m, settings.predict_within
    s0 = BEAM / recorded.wavelength_A
    # |h| = |a·q| ≤ a q_max
    h_max = np.floor(recorded.cell[:3] * q_max * (1 + 1e-9)).astype(np.int64)
    room = 1000 + int(2 * expected_reflections(settings))
    while True:
        hkl, r_h, s1 = np.empty((room, 3), np.int16), np.empty(room), np.empty((room, 3))
        n = predict_still(
            recorded.A, s0, f * size_at(r_s, m, q_max), q_min, q_max, h_max, hkl, r_h, s1
        )
        if n <= room:
            break
        room = n
    hkl, r_h, s1 = hkl[:n], r_h[:n], s1[:n]
    if m == 0.0:
        return hkl, s1
    keep = np.abs(r_h) <= f * size_at(r_s, m, np.linalg.norm(s1 - s0, axis=1))
    return hkl[keep], s1[keep]


def _exit_px(detector: Detector, s1: Floats) -> tuple[Floats, Mask]:
    """Where s1 (n, 3) meets panel 0, px (n, 2), and whether that is on the panel."""
    forward = s1[:, 2] > 0
    z = np.where(forward, s1[:, 2], 1.0)
    mm = s1[:, :2] / z[:, None] * detector.origin_mm[0, 2] - detector.origin_mm[0, :2]
    px = mm / detector.pixel_mm[0]
    inside = (px >= 0).all(axis=1) & (px < detector.size_px[0]).all(axis=1)
    return px, forward & inside
