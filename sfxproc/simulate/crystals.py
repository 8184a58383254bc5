"""Crystals: what is true of them, and what indexing recorded.

Each crystal has random streams of its own, keyed by the seed and its number; what is recorded
wrongly comes from further streams, one for each kind of mistake, so that no mistake changes
anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from scipy.spatial.transform import Rotation

from sfxproc.data import Floats
from sfxproc.simulate.settings import StillsSettings
from sfxproc.symmetry import SpaceGroup, reciprocal_matrix, symmetrised_cell


class Stream(IntEnum):
    """What the further streams of a crystal are for."""

    WRONG = 1
    EXCHANGE = 2
    REINDEXED = 3
    CELL = 4
    WAVELENGTH = 5
    SIZE = 6


@dataclass(frozen=True, eq=False)
class Geometry:
    """A (3, 3) and cell (6,) as in `Crystals`, wavelength and size r_s (Å⁻¹)."""

    A: Floats
    cell: Floats
    wavelength_A: float
    profile_radius: float


@dataclass(frozen=True, eq=False)
class Crystal:
    """One crystal. recorded : in the setting of the truth, whether or not it is reindexed."""

    number: int
    true: Geometry
    recorded: Geometry
    ln_G: float
    B_A2: float
    wrong: bool
    reindexed: bool


def stream(settings: StillsSettings, number: int, what: Stream) -> np.random.Generator:
    """A further random stream of crystal `number`."""
    key = np.random.SeedSequence((settings.seed, number), spawn_key=(what,))
    return np.random.default_rng(key)


def draw(
    settings: StillsSettings, sg: SpaceGroup, number: int, rng: np.random.Generator
) -> Crystal:
    """Crystal `number` of a set, from its main stream, which goes on with the counts."""
    turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    misset = Rotation.from_rotvec(1e-3 * settings.orientation_error_mrad * rng.normal(size=3))
    strain = 1.0 + 0.01 * settings.cell_sigma_percent * rng.normal(size=3)
    ln_G = settings.sigma_ln_G * rng.normal()
    B = settings.mean_B_A2 + settings.sigma_B_A2 * rng.normal()

    cell = symmetrised_cell(sg, np.array(settings.unit_cell) * [*strain, 1, 1, 1])
    A = turn @ reciprocal_matrix(cell)
    size = settings.profile_radius
    if settings.sigma_ln_size > 0:
        z = stream(settings, number, Stream.SIZE).normal()
        size *= float(np.exp(settings.sigma_ln_size * z))
    true = Geometry(A, cell, settings.wavelength_A, size)
    return Crystal(
        number=number,
        true=true,
        recorded=_recorded(settings, sg, true, turn, misset.as_matrix(), number),
        ln_G=float(ln_G),
        B_A2=float(B),
        wrong=_chosen(settings, number, Stream.WRONG, settings.wrong_indexed_fraction),
        reindexed=_chosen(settings, number, Stream.REINDEXED, settings.reindexed_fraction),
    )


def _recorded(
    settings: StillsSettings,
    sg: SpaceGroup,
    true: Geometry,
    turn: Floats,
    misset: Floats,
    number: int,
) -> Geometry:
    """What an indexing program wrote down: orientation, cell, wavelength and size with errors."""
    cell, A, wavelength_A = true.cell, misset @ true.A, true.wavelength_A
    if settings.recorded_cell_error_percent > 0:
        z = stream(settings, number, Stream.CELL).normal(size=4)
        error = 0.01 * settings.recorded_cell_error_percent * (z[0] + z[1:]) / np.sqrt(2.0)
        cell = symmetrised_cell(sg, true.cell * [*(1.0 + error), 1, 1, 1])
        A = misset @ turn @ reciprocal_matrix(cell)
    if settings.wavelength_error_percent > 0:
        relative = 0.01 * settings.wavelength_error_percent
        wavelength_A *= 1.0 + relative * stream(settings, number, Stream.WAVELENGTH).normal()
    return Geometry(A, cell, wavelength_A, settings.size_factor * settings.profile_radius)


def _chosen(settings: StillsSettings, number: int, what: Stream, fraction: float) -> bool:
    return fraction > 0 and bool(stream(settings, number, what).random() < fraction)
