"""What can be simulated: the settings of stills, of powder patterns and of spots.

Bare tables, so that a job file is read without the program that simulates; what those of stills
imply is in `sense`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sfxproc.config import Count, Fraction, FractionBelowOne, NotNegative, Positive, Whole

Cell = tuple[float, float, float, float, float, float]


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

    What indexing and integration get wrong, besides the orientation: wrong_indexed_fraction of
    the crystals have the counts of each reflection recorded for another one. reindexed_fraction
    of them are recorded in the setting that `reindexing` makes of the indices ("k,h,-l": h' = k
    and so on), q unchanged. recorded_cell_error_percent: r.m.s. error of the recorded cell
    lengths before they obey the group again, half of its square common to the three.
    wavelength_error_percent: r.m.s. error of the recorded wavelength. sigma_ln_size: spread of
    ln r_s; what is recorded is size_factor times profile_radius, whatever the crystal's own is.
    """

    n_crystals: Count = 500
    first_crystal: Whole = 0
    seed: Whole = 1
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
    wrong_indexed_fraction: Fraction = 0.0
    reindexed_fraction: Fraction = 0.0
    reindexing: str = ""
    recorded_cell_error_percent: NotNegative = 0.0
    wavelength_error_percent: NotNegative = 0.0
    size_factor: Positive = 1.0
    sigma_ln_size: NotNegative = 0.0
    detector_distance_mm: Positive = 100.0
    panel_px: Count = 2400
    pixel_mm: Positive = 0.075


class PowderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How patterns are made. Defaults: copper Kα, 0.1° wide lines, exact and complete lists.

    n_lines: length of both lists at most. min_lines: patterns with fewer observable lines are
    drawn again. B_A2: of all atoms. contaminants_within: the false lines are among the first so
    many of the list; 0: anywhere in it.
    """

    seed: Whole = 1
    wavelength_A: Positive = 1.5418
    two_theta_max_deg: Annotated[float, Meta(gt=0, lt=180)] = 60.0
    step_deg: Positive = 0.02
    fwhm_deg: Positive = 0.1
    min_height: NotNegative = 0.005
    max_curvature: float = -1.0
    min_separation: NotNegative = 1.0 / 1.5
    n_lines: Count = 60
    min_lines: Whole = 10
    B_A2: NotNegative = 3.0
    sigma_two_theta_deg: NotNegative = 0.0
    sigma_q2: NotNegative = 0.0
    sigma_q2_relative: NotNegative = 0.0
    missing_fraction: FractionBelowOne = 0.0
    n_contaminants: Whole = 0
    contaminants_within: Whole = 0


class SpotPowderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to simulate. lattice : Bravais lattice of the structure, which is drawn by the seed.

    bandwidth : σ(λ)/λ. profile_radius : R, Å⁻¹. spurious_per_still : mean number of spots of
    other origin. position_error_px : r.m.s. along each axis. distance_error_percent and
    centre_error_px (fast, slow) : of what is recorded, the same for all stills. The detector is a
    square of panel_px² pixels, normal to the beam and centred on it but for beamstop_mm (radius).
    """

    n_stills: Count = 2000
    seed: Whole = 1
    lattice: str = "mP"
    B_A2: NotNegative = 3.0
    wavelength_A: Positive = 1.3
    bandwidth: NotNegative = 1e-3
    profile_radius: Positive = 0.002
    spots_per_still: Positive = 30.0
    sigma_ln_G: NotNegative = 0.5
    spurious_per_still: NotNegative = 3.0
    position_error_px: NotNegative = 0.5
    distance_error_percent: float = 0.1
    centre_error_px: tuple[float, float] = (1.5, -1.0)
    detector_distance_mm: Positive = 100.0
    panel_px: Count = 2400
    pixel_mm: Positive = 0.075
    beamstop_mm: NotNegative = 3.0
