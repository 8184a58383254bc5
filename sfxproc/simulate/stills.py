"""Stills of randomly oriented crystals, with counting noise and the truth.

    y = P(r_h, R, w) G exp(−2 B s²) I_h         expected counts of a reflection
    R = r_s + m |q|,   w: from the bandwidth    (`partiality.base`)
    total ~ Poisson(y + b),  b̂ ~ Poisson(ρ b)/ρ
    I_obs = g (total − b̂),   σ² = g² (max(total, 1) + b̂/ρ)

b: background under the peak; ρ: area of the background ring over that of the peak; g: gain. σ² is
what an integrating program would say, from the noisy counts. The reflections are those with
|r_h| ≤ f R for the *recorded* orientation (f: predict_within), P is that of the true one. Because
the cap of the Ewald sphere within a chord q has the area π q², a crystal shows about

    N = V/n_c · 2 f · π (r_s q² + ⅔ m q³), from q = 1/d_max to 1/d_min,

reflections (cell volume V, n_c lattice points per cell), systematic absences apart.

Each crystal has its own random stream, keyed by the seed and its number: crystal i is the same
whatever the number of crystals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

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
from sfxproc.errors import ConfigError
from sfxproc.kernels.predict import excitation_errors, predict_still
from sfxproc.partiality import PARTIALITIES, size_at, values, width_at
from sfxproc.simulate.intensities import true_reflections
from sfxproc.symmetry import (
    SpaceGroup,
    reciprocal_matrix,
    require_cell,
    space_group,
    symmetrised_cell,
    unique_keys,
)

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Index = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Cell = tuple[float, float, float, float, float, float]

BEAM = np.array([0.0, 0.0, 1.0])
OUTLIER_LOG10 = (0.5, 2.0)  # range of log10 of the counts an outlier adds, in units of `photons`


class StillsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to simulate. The defaults show about 1600 reflections a crystal.

    first_crystal: number of the first crystal, so that a large set can be made in parts.
    cell_sigma_percent: spread of the cell lengths. profile_radius: r_s, Å⁻¹. profile_radius_m: m.
    bandwidth: σ(λ)/λ, for the models that know it. predict_within: f. photons: mean counts
    of all reflections at G = 1, B = 0, P = 1. sigma_ln_G, mean_B_A2, sigma_B_A2: of the crystals.
    background_counts: b. background_pixels_ratio: ρ. outlier_fraction: of the observations, to
    which counts of another origin are added. anomalous_fraction: r.m.s. of (I(+) − I(−))/I.
    wilson_B_A2: overall B of the true intensities. orientation_error_mrad: r.m.s. of the rotation
    about each axis that parts the recorded orientation from the true one. The detector is one
    square panel of panel_px² pixels, normal to the beam and centred on it.
    """

    n_crystals: Count = 500
    first_crystal: Index = 0
    seed: Index = 1
    space_group: str | int = "P 43 21 2"
    unit_cell: Cell = (79.1, 79.1, 38.2, 90.0, 90.0, 90.0)
    cell_sigma_percent: NotNegative = 0.0
    d_min_A: Positive = 1.9
    d_max_A: Positive = 30.0
    wavelength_A: Positive = 1.3
    profile_radius: Positive = 0.00385
    profile_radius_m: NotNegative = 0.0
    bandwidth: NotNegative = 0.0
    partiality: str = "unity"
    predict_within: Positive = 1.0
    photons: Positive = 200.0
    wilson_B_A2: float = 15.0
    anomalous_fraction: NotNegative = 0.0
    sigma_ln_G: NotNegative = 0.4
    mean_B_A2: float = 0.0
    sigma_B_A2: NotNegative = 5.0
    background_counts: NotNegative = 20.0
    background_pixels_ratio: Positive = 4.0
    gain: Positive = 1.0
    outlier_fraction: Fraction = 0.0
    orientation_error_mrad: NotNegative = 0.0
    detector_distance_mm: Positive = 100.0
    panel_px: Count = 2400
    pixel_mm: Positive = 0.075


@dataclass(frozen=True, eq=False)
class Truth:
    """What the simulation started from.

    number : (n_crystals,) the crystals' numbers.  ln_G, B_A2 : (n_crystals,).  A, cell : true
    orientation and cell, as in `Crystals`.  reflections : every reflection the crystals can show,
    with its true intensity in counts (before the gain).  outlier : (n_observations,) bool.
    """

    settings: StillsSettings
    number: NDArray[np.int64]
    ln_G: Floats
    B_A2: Floats
    A: Floats
    cell: Floats
    reflections: Reflections
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
            "reflections/hkl": table.hkl,
            "reflections/friedel": table.friedel,
            "reflections/s2": table.s2,
            "reflections/intensity": table.intensity,
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
    """One crystal: recorded and true parameters, observations, outliers."""

    A: Floats
    recorded_A: Floats
    cell: Floats
    ln_G: float
    B_A2: float
    observations: Observations
    outlier: Mask


def simulate_stills(settings: StillsSettings, reference: ReferenceSet | None = None) -> Simulated:
    """Simulate stills, from Wilson's statistics or from the intensities of a reference.

    The mean of the true intensities is settings.photons. Partialities are recorded only where
    they differ between observations (not for "unity"). Raises ConfigError or DataError.
    """
    sg = space_group(settings.space_group)
    require_cell(sg, settings.unit_cell)
    if settings.partiality not in PARTIALITIES:
        raise ConfigError(
            f"partiality: there is no model '{settings.partiality}'. "
            f"Choose one of: {', '.join(PARTIALITIES)}."
        )
    if settings.bandwidth > 0 and not PARTIALITIES[settings.partiality].uses_bandwidth:
        able = " or ".join(name for name, model in PARTIALITIES.items() if model.uses_bandwidth)
        raise ConfigError(
            f"bandwidth = {settings.bandwidth:g} has no effect with partiality = "
            f"'{settings.partiality}'. Set partiality to {able}, or leave bandwidth out."
        )
    if settings.d_min_A >= settings.d_max_A or 2 * settings.d_min_A <= settings.wavelength_A:
        raise ConfigError(
            f"d_min_A = {settings.d_min_A} must be less than d_max_A = {settings.d_max_A} and more "
            f"than half of wavelength_A = {settings.wavelength_A}."
        )
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
    number = settings.first_crystal + np.arange(settings.n_crystals)
    stills = [_still(sample, i, int(n)) for i, n in enumerate(number)]
    truth = Truth(
        settings=settings,
        number=number,
        ln_G=np.array([s.ln_G for s in stills]),
        B_A2=np.array([s.B_A2 for s in stills]),
        A=np.array([s.A for s in stills]),
        cell=np.array([s.cell for s in stills]),
        reflections=replace(
            table,
            intensity=intensity,
            sigma=np.zeros(len(table)),
            n_observations=np.zeros(len(table), dtype=np.int32),
        ),
        outlier=np.concatenate([s.outlier for s in stills]),
    )
    recorded = Stills(
        crystals=_crystals(settings, number, np.array([s.recorded_A for s in stills]), truth.cell),
        observations=concatenate([s.observations for s in stills]),
        n_images=settings.n_crystals,
        detector=sample.detector,
    )
    return Simulated(recorded, truth)


def expected_reflections(settings: StillsSettings) -> float:
    """N of the module's formula: reflections a crystal, absences other than centring apart."""
    centring = space_group(settings.space_group).centring
    points = {"P": 1, "F": 4, "R": 3, "H": 3}.get(centring, 2)
    if str(settings.space_group).endswith(":R"):
        points = 1
    volume = 1.0 / np.linalg.det(reciprocal_matrix(settings.unit_cell))
    q = np.array([1.0 / settings.d_max_A, 1.0 / settings.d_min_A])
    within = settings.profile_radius * q**2 + settings.profile_radius_m * q**3 / 1.5
    return float(volume / points * 2 * settings.predict_within * np.pi * (within[1] - within[0]))


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


def _crystals(
    settings: StillsSettings, number: NDArray[np.int64], A: Floats, cell: Floats
) -> Crystals:
    n = len(number)
    return Crystals(
        file=np.full(n, "simulated", dtype=object),
        event=np.array([f"{i:06d}" for i in number], dtype=object),
        A=A,
        cell=cell,
        beam=np.tile(BEAM, (n, 1)),
        wavelength_A=np.full(n, settings.wavelength_A),
        bandwidth=np.full(n, settings.bandwidth),
        profile_radius=np.full(n, settings.profile_radius),
    )


def _still(sample: _Sample, row: int, number: int) -> _Still:
    """Crystal `number`, row `row` of the table."""
    settings = sample.settings
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, number)))
    turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    misset = Rotation.from_rotvec(1e-3 * settings.orientation_error_mrad * rng.normal(size=3))
    strain = 1.0 + 0.01 * settings.cell_sigma_percent * rng.normal(size=3)
    ln_G = settings.sigma_ln_G * rng.normal()
    B = settings.mean_B_A2 + settings.sigma_B_A2 * rng.normal()

    cell = symmetrised_cell(sample.sg, np.array(settings.unit_cell) * [*strain, 1, 1, 1])
    A = turn @ reciprocal_matrix(cell)
    recorded_A = misset.as_matrix() @ A
    s0 = BEAM / settings.wavelength_A
    hkl, s1 = _predicted(settings, recorded_A, cell, s0)
    position, on_panel = _exit_px(sample.detector, s1)
    key = unique_keys(sample.sg, hkl, settings.anomalous_fraction > 0)
    known = np.minimum(np.searchsorted(sample.keys, key), len(sample.keys) - 1)
    keep = on_panel & (sample.keys[known] == key)  # neither absent nor beyond the limits
    hkl, position, known = hkl[keep], position[keep], known[keep]

    q = hkl @ A.T
    q2 = np.sum(q**2, axis=1)
    P = _partialities(settings, excitation_errors(A, s0, hkl), q2, q @ BEAM)
    y = P * np.exp(ln_G - 2.0 * B * (0.25 * q2)) * sample.intensity[known]
    intensity, variance, outlier = _counted(settings, rng, y)
    observations = Observations(
        crystal=np.full(len(hkl), row, dtype=np.int32),
        hkl=hkl,
        intensity=intensity.astype(np.float32),
        variance=variance.astype(np.float32),
        partiality=P.astype(np.float32) if settings.partiality != "unity" else None,
        panel=np.zeros(len(hkl), dtype=np.int16),
        x_px=position[:, 0].astype(np.float32),
        y_px=position[:, 1].astype(np.float32),
    )
    return _Still(A, recorded_A, cell, float(ln_G), float(B), observations, outlier)


def _partialities(settings: StillsSettings, r_h: Floats, q2: Floats, z: Floats) -> Floats:
    """P (n,) of excitation errors (n,), |q|² (n,) and q along the beam (n,)."""
    model = PARTIALITIES[settings.partiality]
    R = size_at(settings.profile_radius, settings.profile_radius_m, np.sqrt(q2))
    P = values(model, r_h, R, width_at(settings.bandwidth, 1.0 / settings.wavelength_A, q2, z))
    return P * settings.profile_radius / R if model.amplitude == "r0/R" else P


def _predicted(
    settings: StillsSettings, A: Floats, cell: Floats, s0: Floats
) -> tuple[NDArray[np.int16], Floats]:
    """hkl (n, 3) and exit vectors s1 (n, 3) of the reflections near the Ewald sphere."""
    q_min, q_max = 1.0 / settings.d_max_A, 1.0 / settings.d_min_A
    r_s, m, f = settings.profile_radius, settings.profile_radius_m, settings.predict_within
    h_max = np.floor(cell[:3] * q_max * (1 + 1e-9)).astype(np.int64)  # |h| = |a·q| ≤ a q_max
    room = 1000 + int(2 * expected_reflections(settings))
    while True:
        hkl, r_h, s1 = np.empty((room, 3), np.int16), np.empty(room), np.empty((room, 3))
        n = predict_still(A, s0, f * size_at(r_s, m, q_max), q_min, q_max, h_max, hkl, r_h, s1)
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


def _counted(
    settings: StillsSettings, rng: np.random.Generator, y: Floats
) -> tuple[Floats, Floats, Mask]:
    """Measured intensities, their reported variances and which are outliers, for y counts."""
    outlier = rng.random(len(y)) < settings.outlier_fraction
    foreign = settings.photons * 10.0 ** rng.uniform(*OUTLIER_LOG10, size=len(y))
    total = rng.poisson(y + settings.background_counts + np.where(outlier, foreign, 0.0))
    ratio = settings.background_pixels_ratio
    background = rng.poisson(settings.background_counts * ratio, size=len(y)) / ratio
    intensity = settings.gain * (total - background)
    variance = settings.gain**2 * (np.maximum(total, 1) + background / ratio)
    return intensity, variance, outlier
