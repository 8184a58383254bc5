"""What to simulate: the settings of stills, and what they imply."""

from __future__ import annotations

import re

import msgspec
import numpy as np

from sfxproc.config import Count, Fraction, NotNegative, Positive, Whole
from sfxproc.errors import ConfigError
from sfxproc.partiality import PARTIALITIES
from sfxproc.symmetry import (
    Reindexing,
    SpaceGroup,
    cell_fits,
    reciprocal_matrix,
    reindexed_cells,
    require_cell,
    space_group,
)

Cell = tuple[float, float, float, float, float, float]

LATTICE_TOLERANCE_PERCENT, LATTICE_TOLERANCE_DEG = 2.0, 2.0  # of a lattice that reindexing keeps


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


def require_sense(settings: StillsSettings) -> SpaceGroup:
    """The space group of settings that make sense together. Raises ConfigError."""
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
    if settings.reindexed_fraction > 0:
        _require_lattice_kept(settings)
    return sg


def reindexing_of(triplet: str) -> Reindexing:
    """The operator on Miller indices that a text such as "k,h,-l" or "-h-k,k,-l" names.

    Raises ConfigError if it names none or would change the hand of the axes.
    """
    parts = triplet.replace(" ", "").split(",")
    terms = [re.findall(r"([+-]?)([hkl])", part) for part in parts]
    read = all("".join(map("".join, t)) == part != "" for t, part in zip(terms, parts, strict=True))
    if len(parts) != 3 or not read:
        raise ConfigError(
            f"reindexing = '{triplet}' is not an operator on Miller indices. Give the new h, k "
            'and l by the old ones, such as "k,h,-l".'
        )
    matrix = np.zeros((3, 3))
    for column, term in enumerate(terms):
        for sign, letter in term:
            matrix["hkl".index(letter), column] += -1.0 if sign == "-" else 1.0
    if round(float(np.linalg.det(matrix))) != 1:
        raise ConfigError(
            f"reindexing = '{triplet}' does not turn right-handed axes into right-handed ones "
            "(its determinant is not 1). Change the sign of an index."
        )
    return Reindexing(triplet, matrix)


def _require_lattice_kept(settings: StillsSettings) -> None:
    if not settings.reindexing:
        raise ConfigError(
            f"reindexed_fraction = {settings.reindexed_fraction:g} needs to know how these "
            'crystals are indexed. Set reindexing to an operator such as "k,h,-l".'
        )
    A, cell = reciprocal_matrix(settings.unit_cell), np.array(settings.unit_cell)
    _, turned = reindexed_cells(A[None], cell[None], reindexing_of(settings.reindexing))
    if not cell_fits(turned, cell, LATTICE_TOLERANCE_PERCENT, LATTICE_TOLERANCE_DEG)[0]:
        told = " ".join(f"{v:.4g}" for v in turned[0])
        raise ConfigError(
            f"reindexing = '{settings.reindexing}' makes the cell {told}, which is not that of "
            "unit_cell: indexing could not confuse the two. Give an operator that keeps the cell."
        )


def expected_reflections(settings: StillsSettings) -> float:
    """N of `simulate.stills`: reflections a crystal, absences other than centring apart."""
    centring = space_group(settings.space_group).centring
    points = {"P": 1, "F": 4, "R": 3, "H": 3}.get(centring, 2)
    if str(settings.space_group).endswith(":R"):
        points = 1
    volume = 1.0 / np.linalg.det(reciprocal_matrix(settings.unit_cell))
    q = np.array([1.0 / settings.d_max_A, 1.0 / settings.d_min_A])
    radius = settings.size_factor * settings.profile_radius
    within = radius * q**2 + settings.profile_radius_m * q**3 / 1.5
    return float(volume / points * 2 * settings.predict_within * np.pi * (within[1] - within[0]))
