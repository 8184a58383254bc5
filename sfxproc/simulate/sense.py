"""What settings of stills imply, and whether they make sense together."""

from __future__ import annotations

import re

import numpy as np

from sfxproc.errors import ConfigError
from sfxproc.partiality import PARTIALITIES
from sfxproc.simulate.settings import StillsSettings
from sfxproc.symmetry import (
    Reindexing,
    SpaceGroup,
    cell_fits,
    reciprocal_matrix,
    reindexed_cells,
    require_cell,
    space_group,
)

LATTICE_TOLERANCE_PERCENT, LATTICE_TOLERANCE_DEG = 2.0, 2.0  # of a lattice that reindexing keeps


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
