"""Unit cells for other programs: CrystFEL's `.cell`, DIALS's parameters as `.phil`, and
`cells.json`, a ranked list of cells.

CrystFEL 1.0: lattice type, centring, unique axis where there is one, then six constants with units.
It has rhombohedral lattices in hexagonal axes as lattice_type hexagonal with centring H, obverse.
DIALS: the cell and a space group, the rotations of the lattice without screws, in the scope where
`dials.index` looks for known symmetry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfxproc.formats.atomic import write_text

FIRST_LINE = "CrystFEL unit cell file version 1.0"
UNIQUE_AXES = {"monoclinic": "b", "tetragonal": "c", "hexagonal": "c"}
NAMES = ("a", "b", "c", "al", "be", "ga")
ROTATIONS = {
    "triclinic": "1",
    "monoclinic": "1 2 1",
    "orthorhombic": "2 2 2",
    "tetragonal": "4 2 2",
    "hexagonal": "6 2 2",
    "rhombohedral": "3 2 :H",
    "cubic": "4 3 2",
}


@dataclass(frozen=True)
class CellFile:
    """A conventional cell: lattice system ("monoclinic"), centring (P, C, I, F or, in hexagonal
    axes, R) and a, b, c in Å, α, β, γ in degrees."""

    system: str
    centring: str
    cell: tuple[float, ...]


def write_crystfel_cell(path: Path, unit: CellFile) -> None:
    """Write a `.cell` file, atomically. Raises OutputError."""
    system, centring = unit.system, unit.centring
    if system == "rhombohedral":
        system, centring = "hexagonal", "H"
    lines = [FIRST_LINE, "", f"lattice_type = {system}", f"centering = {centring}"]
    if system in UNIQUE_AXES:
        lines.append(f"unique_axis = {UNIQUE_AXES[system]}")
    units = ("A",) * 3 + ("deg",) * 3
    lines += ["", *(f"{n} = {v:.5f} {u}" for n, v, u in zip(NAMES, unit.cell, units, strict=True))]
    write_text(path, "\n".join(lines) + "\n")


def write_dials_cell(path: Path, unit: CellFile) -> None:
    """Write a `.phil` file, atomically. Raises OutputError."""
    cell = " ".join(f"{v:.5f}" for v in unit.cell)
    lines = [f"unit_cell = {cell}", f"space_group = {unit.centring} {ROTATIONS[unit.system]}"]
    text = "\n".join(f"    {line}" for line in lines)
    write_text(path, f"indexing {{\n  known_symmetry {{\n{text}\n  }}\n}}\n")


def write_cells(path: Path, told: Mapping[str, Any]) -> None:
    """Write a list of cells as JSON, atomically. Raises OutputError, and ValueError for numbers
    that JSON has not."""
    write_text(path, json.dumps(told, indent=1, allow_nan=False) + "\n")
