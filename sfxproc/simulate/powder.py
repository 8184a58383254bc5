"""Powder patterns calculated from structures, and the lists of lines one would read from them.

    y(2θ) = Σ_h m_h |F_h|² LP(θ) exp(−(2θ − 2θ_h)²/2w²),    LP = (1 + cos² 2θ)/(sin² θ cos θ)

on a grid of 2θ, normalised to Σ y² = 1. Reflections of one q² are one line. All lines are those
that the space group does not extinguish. A line is observable if

    1. y at its place is above `min_height`,
    2. y″ there is below `max_curvature` (per square degree): it shows as a maximum, and
    3. no stronger observable line is nearer than `min_separation` full widths.

(D. Moreau, ML-Index methods, 2024, peak lists 1 and 2.) From the observable lines some are dropped,
false ones are added at random 2θ, and all places get normal errors of

    σ(q²) = sigma_q2 + sigma_q2_relative q²  and  σ(2θ)

whichever of them are set. The structures are random: `powder_structures`.
"""

from __future__ import annotations

from bisect import bisect, insort
from dataclasses import dataclass

import numpy as np

from sfxproc.data import Floats, Ints, Mask
from sfxproc.errors import DataError
from sfxproc.simulate.powder_structures import random_structure
from sfxproc.simulate.settings import PowderSettings
from sfxproc.structure import Structure, squared_structure_factors
from sfxproc.symmetry import SpaceGroup, possible

SAME_LINE = 1e-9  # relative difference of q² within one line
WIDTH_PER_FWHM = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)))
REACH_FWHM = 4.0  # beyond which a profile counts no more
ATTEMPTS = 100


@dataclass(frozen=True, eq=False)
class Pattern:
    """A pattern's lines, ascending in q² (Å⁻²).

    all_q2, all_hkl : (n,), (n, 3) the first lines that are not extinguished (peak list 1).
    q2 : (m,) the first observed lines as measured (peak list 2).  hkl, true_q2 : (m, 3), (m,) what
    they are; 000 and NaN for false lines.  intensity : (m,) y at the line.  Miller indices are
    those of the structure's own setting.
    """

    lattice: str
    structure: Structure
    all_q2: Floats
    all_hkl: Ints
    q2: Floats
    hkl: Ints
    true_q2: Floats
    intensity: Floats


def simulate_pattern(settings: PowderSettings, lattice: str, number: int) -> Pattern:
    """Pattern `number` of random structures of a Bravais lattice ("mP"); the same for the same
    seed and number, whatever else is drawn."""
    key = [settings.seed, *lattice.encode(), number]
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([*key, attempt])
        structure = random_structure(lattice, f"{lattice}-{number}", rng)
        pattern = pattern_of(structure, settings, lattice, rng)
        if len(pattern.q2) >= settings.min_lines:
            return pattern
    raise DataError(
        f"No structure of lattice {lattice} in {ATTEMPTS} shows {settings.min_lines} lines below "
        f"{settings.two_theta_max_deg}°. Widen two_theta_max_deg, or lower min_lines."
    )


def pattern_of(
    structure: Structure, settings: PowderSettings, lattice: str, rng: np.random.Generator
) -> Pattern:
    """The pattern of a structure; `rng` draws errors, missing and false lines.

    Raises DataError if the structure has unknown elements.
    """
    wavelength = settings.wavelength_A
    q2_max = (2.0 * np.sin(np.radians(settings.two_theta_max_deg / 2)) / wavelength) ** 2
    all_q2, all_hkl = _all_lines(structure, settings, q2_max)
    q2, hkl, intensity = _lines(structure, settings, q2_max)
    two_theta = _two_theta(q2, wavelength)
    height, shown = observable(two_theta, intensity, settings)
    shown &= rng.random(len(shown)) >= settings.missing_fraction
    first = np.flatnonzero(shown)[: settings.n_lines]
    true_q2, hkl, height, two_theta = q2[first], hkl[first], height[first], two_theta[first]
    if settings.n_contaminants and len(first):
        n = settings.n_contaminants
        among = max(settings.contaminants_within - n, 1) if settings.contaminants_within else None
        last = two_theta[:among][-1]
        two_theta = np.concatenate([two_theta, rng.uniform(two_theta[0], last, n)])
        hkl = np.concatenate([hkl, np.zeros((n, 3), dtype=hkl.dtype)])
        true_q2 = np.concatenate([true_q2, np.full(n, np.nan)])
        height = np.concatenate([height, np.full(n, settings.min_height)])
    measured = _measured(two_theta, settings, rng)
    order = np.argsort(measured, kind="stable")[: settings.n_lines]
    return Pattern(
        lattice=lattice,
        structure=structure,
        all_q2=all_q2,
        all_hkl=all_hkl,
        q2=measured[order],
        hkl=hkl[order],
        true_q2=true_q2[order],
        intensity=height[order],
    )


def _two_theta(q2: Floats, wavelength_A: float) -> Floats:
    return np.degrees(2.0 * np.arcsin(0.5 * wavelength_A * np.sqrt(q2)))


def _measured(two_theta: Floats, settings: PowderSettings, rng: np.random.Generator) -> Floats:
    """q² (m,) with errors, of places in degrees."""
    off = settings.sigma_two_theta_deg * rng.standard_normal(len(two_theta))
    q2 = (2.0 * np.sin(np.radians(0.5 * (two_theta + off))) / settings.wavelength_A) ** 2
    sigma = settings.sigma_q2 + settings.sigma_q2_relative * q2
    return np.asarray(np.abs(q2 + sigma * rng.standard_normal(len(q2))))


# ---- lines ---------------------------------------------------------------------------------


def _grouped(q2: Floats) -> Ints:
    """Line number (n,) of ascending q²."""
    return np.concatenate([[0], np.cumsum(np.diff(q2) > SAME_LINE * q2[1:])])


def _all_lines(
    structure: Structure, settings: PowderSettings, q2_max: float
) -> tuple[Floats, Ints]:
    """q² and one hkl each of the first lines, beyond two_theta_max_deg if need be."""
    points = settings.n_lines / q2_max**1.5  # Å³: a cell that is large enough has enough lines
    d_min = (min(q2_max, (points / 50.0) ** (2 / 3) * q2_max)) ** -0.5
    while True:
        table = possible(structure.space_group, structure.cell, d_min, None, False)
        order = np.argsort(table.s2, kind="stable")
        q2, hkl = 4.0 * table.s2[order], table.hkl[order]
        if len(q2):
            _, first = np.unique(_grouped(q2), return_index=True)
            if len(first) >= settings.n_lines:
                first = first[: settings.n_lines]
                return q2[first], hkl[first]
        d_min *= 0.8


def _lines(
    structure: Structure, settings: PowderSettings, q2_max: float
) -> tuple[Floats, Ints, Floats]:
    """q², hkl of the strongest reflection, and m |F|² LP of the lines up to q2_max."""
    group = structure.space_group
    table = possible(group, structure.cell, q2_max**-0.5, None, False)
    order = np.argsort(table.s2, kind="stable")
    table = table.take(order)
    q2 = 4.0 * table.s2
    if len(q2) == 0:
        return q2, table.hkl, np.zeros(0)
    multiplicity = powder_multiplicities(group, table.centric, table.epsilon)
    theta = np.arcsin(0.5 * settings.wavelength_A * np.sqrt(q2))
    lp = (1.0 + np.cos(2.0 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta))
    squared = squared_structure_factors(structure, table.hkl, table.s2, settings.B_A2)
    intensity = multiplicity * squared * lp
    line = _grouped(q2)
    strongest = np.lexsort((-intensity, line))
    _, first = np.unique(line, return_index=True)
    total = np.bincount(line, weights=intensity).astype(np.float64)
    return q2[first], table.hkl[strongest[first]], total


def powder_multiplicities(group: SpaceGroup, centric: Mask, epsilon: Ints) -> Ints:
    """How many reflections (n,), Friedel mates included, each unique one stands for."""
    turns = len(group.rotations) // epsilon.astype(np.int64)
    return np.where(centric, turns, 2 * turns)


def observable(
    two_theta: Floats, intensity: Floats, settings: PowderSettings
) -> tuple[Floats, Mask]:
    """y (n,) at ascending places (n,) in degrees of lines of the given intensities, and which
    lines (n,) one would observe."""
    width = settings.fwhm_deg * WIDTH_PER_FWHM
    height, curvature = intensity.copy(), -intensity / width**2
    for step in range(1, len(two_theta)):
        u2 = ((two_theta[step:] - two_theta[:-step]) / width) ** 2
        if u2.min() > (REACH_FWHM / WIDTH_PER_FWHM) ** 2:
            break
        profile = np.exp(-0.5 * u2)
        bend = profile * (u2 - 1.0) / width**2
        for to, source in ((slice(step, None), slice(-step)), (slice(-step), slice(step, None))):
            height[to] += profile * intensity[source]
            curvature[to] += bend * intensity[source]
    norm = _norm(two_theta, intensity, settings, width)
    height, curvature = height / norm, curvature / norm
    seen = (height > settings.min_height) & (curvature < settings.max_curvature)
    return height, _separated(two_theta, intensity, seen, settings)


def _norm(two_theta: Floats, intensity: Floats, settings: PowderSettings, width: float) -> float:
    """(Σ y²)^½ over the grid."""
    n = int(np.ceil(settings.two_theta_max_deg / settings.step_deg)) + 1
    reach = int(np.ceil(REACH_FWHM * settings.fwhm_deg / settings.step_deg))
    cells = np.rint(two_theta / settings.step_deg).astype(np.int64)[:, None]
    cells = cells + np.arange(-reach, reach + 1)
    profile = np.exp(-0.5 * ((cells * settings.step_deg - two_theta[:, None]) / width) ** 2)
    inside = (cells >= 0) & (cells < n)
    y = np.bincount(cells[inside], (profile * intensity[:, None])[inside], n)
    return float(np.sqrt(np.sum(y * y))) or 1.0


def _separated(two_theta: Floats, intensity: Floats, seen: Mask, settings: PowderSettings) -> Mask:
    """Of the lines seen (n,), those without a stronger kept one too near."""
    apart = settings.min_separation * settings.fwhm_deg
    kept: list[float] = []
    out = np.zeros(len(seen), dtype=bool)
    rows = np.flatnonzero(seen)
    for row in rows[np.argsort(-intensity[rows], kind="stable")]:
        place = float(two_theta[row])
        at = bisect(kept, place)
        if all(abs(place - near) >= apart for near in kept[max(at - 1, 0) : at + 1]):
            insort(kept, place)
            out[row] = True
    return out
