"""Simulated lists of powder lines with their truth."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np

from sfxproc.errors import InputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.peak_lists import PeakList, write_peak_list
from sfxproc.formats.structures import read_structure
from sfxproc.reduction import bravais_symbol
from sfxproc.settings.powder import SimulatedPattern
from sfxproc.simulate.powder import Pattern, pattern_of, simulate_pattern

TRUTH = ".truth.json"


def simulated(settings: SimulatedPattern, source: Path | None = None) -> Pattern:
    """The pattern of a random structure, or of the one in a file (CIF, POSCAR).

    Raises InputError for a bad file, DataError where no pattern has enough lines.
    """
    if source is None:
        return simulate_pattern(settings, settings.lattice, settings.number)
    structure = read_structure(source)
    lattice = bravais_symbol(structure.space_group)
    rng = np.random.default_rng([settings.seed, settings.number])
    pattern = pattern_of(structure, settings, lattice, rng)
    if len(pattern.q2) < settings.min_lines:
        raise InputError(
            f"--from: '{source}' shows {len(pattern.q2)} lines below "
            f"{settings.two_theta_max_deg}°, fewer than min_lines = {settings.min_lines}. Widen "
            "two_theta_max_deg, or lower min_lines."
        )
    return pattern


def truth_path(path: Path) -> Path:
    """Where the truth of a list of lines goes."""
    return path.with_name(path.stem + TRUTH)


def write_pattern(path: Path, pattern: Pattern, settings: SimulatedPattern) -> None:
    """Write the observed lines as a list, and beside it the truth as JSON. Raises OutputError."""
    comments = (
        f"simulated powder pattern of lattice {pattern.lattice}; its truth is in "
        f"{truth_path(path).name}",
        f"wavelength {settings.wavelength_A:g}",
        "q2 = 1/d² in Å⁻²",
    )
    write_peak_list(path, PeakList(pattern.q2, intensity=pattern.intensity), comments)
    structure = pattern.structure
    truth = {
        "lattice": pattern.lattice,
        "space_group": structure.space_group.hm,
        "cell": structure.cell.tolist(),
        "atoms": {
            "elements": list(structure.elements),
            "sites": structure.sites.tolist(),
            "occupancies": structure.occupancies.tolist(),
        },
        "lines": {
            "q2": pattern.q2.tolist(),
            "true_q2": [None if math.isnan(v) else v for v in pattern.true_q2.tolist()],
            "hkl": pattern.hkl.tolist(),
        },
        "all_lines": {"q2": pattern.all_q2.tolist(), "hkl": pattern.all_hkl.tolist()},
        "settings": msgspec.to_builtins(settings),
    }
    write_text(truth_path(path), json.dumps(truth, allow_nan=False) + "\n")
