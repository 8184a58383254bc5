"""Files of unit cells, as other programs read them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from sfxproc.errors import OutputError
from sfxproc.formats.cell_files import (
    CellFile,
    write_cells,
    write_crystfel_cell,
    write_dials_cell,
)
from sfxproc.powder.lattices import LATTICES
from sfxproc.symmetry import space_group

CELLS = {
    "aP": (5.1, 6.2, 7.3, 95.0, 101.0, 99.0),
    "mC": (15.0, 6.2, 7.3, 90.0, 101.0, 90.0),
    "oF": (5.1, 6.2, 7.3, 90.0, 90.0, 90.0),
    "tI": (5.1, 5.1, 7.3, 90.0, 90.0, 90.0),
    "hP": (5.1, 5.1, 7.3, 90.0, 90.0, 120.0),
    "hR": (5.1, 5.1, 7.3, 90.0, 90.0, 120.0),
    "cF": (5.1, 5.1, 5.1, 90.0, 90.0, 90.0),
}
EXPECTED = {  # lattice type, centring and unique axis, as CrystFEL's own validation wants them
    "aP": ("triclinic", "P", None),
    "mC": ("monoclinic", "C", "b"),
    "oF": ("orthorhombic", "F", None),
    "tI": ("tetragonal", "I", "c"),
    "hP": ("hexagonal", "P", "c"),
    "hR": ("hexagonal", "H", "c"),
    "cF": ("cubic", "F", None),
}


@pytest.mark.parametrize("symbol", CELLS)
def test_crystfel_cells(symbol: str, tmp_path: Path) -> None:
    lattice, path = LATTICES[symbol], tmp_path / "a.cell"
    write_crystfel_cell(path, CellFile(lattice.system, lattice.centring, CELLS[symbol]))
    first, *lines = path.read_text().splitlines()
    assert first == "CrystFEL unit cell file version 1.0"
    told = dict(line.split(" = ") for line in lines if line)
    kind, centring, axis = EXPECTED[symbol]
    assert told.pop("lattice_type") == kind
    assert told.pop("centering") == centring
    assert told.pop("unique_axis", None) == axis
    assert list(told) == ["a", "b", "c", "al", "be", "ga"]
    values = [value.split() for value in told.values()]
    assert [unit for _, unit in values] == ["A"] * 3 + ["deg"] * 3
    np.testing.assert_allclose([float(v) for v, _ in values], CELLS[symbol], atol=1e-5)


def test_all_lattice_systems_have_a_name_that_crystfel_knows(tmp_path: Path) -> None:
    known = {"triclinic", "monoclinic", "orthorhombic", "tetragonal", "hexagonal", "cubic"}
    for lattice in LATTICES.values():
        path = tmp_path / f"{lattice.symbol}.cell"
        write_crystfel_cell(path, CellFile(lattice.system, lattice.centring, (5.0,) * 6))
        (kind,) = (v for v in path.read_text().splitlines() if v.startswith("lattice_type"))
        assert kind.split(" = ")[1] in known


@pytest.mark.parametrize("symbol", LATTICES)
def test_dials_parameters(symbol: str, tmp_path: Path) -> None:
    """The space group is one that has all rotations of the lattice, and its centring."""
    lattice, path = LATTICES[symbol], tmp_path / "a.phil"
    cell = CELLS.get(symbol, (5.1,) * 6)
    write_dials_cell(path, CellFile(lattice.system, lattice.centring, cell))
    outer, inner, *lines, end, last = path.read_text().split("\n")[:-1]
    assert (outer, inner, end, last) == ("indexing {", "  known_symmetry {", "  }", "}")
    told = dict(line.strip().split(" = ") for line in lines)
    assert [float(v) for v in told.pop("unit_cell").split()] == list(cell)
    group = space_group(told.pop("space_group"))
    assert not told
    assert group.centring == lattice.centring
    proper = [r for r in lattice.rotations.tolist() if round(np.linalg.det(r)) == 1]
    assert sorted(group.rotations.tolist()) == sorted(proper)


def test_lists_of_cells_are_whole_and_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    write_cells(path, {"cells": [{"cell": [1.0 / 3.0], "source": "é"}]})
    assert json.loads(path.read_text(encoding="utf-8"))["cells"][0]["cell"] == [1.0 / 3.0]
    with pytest.raises(ValueError, match="JSON"):
        write_cells(path, {"cells": [math.nan]})
    assert json.loads(path.read_text(encoding="utf-8"))["cells"]
    with pytest.raises(OutputError, match="Cannot write"):
        write_cells(tmp_path / "none" / "cells.json", {})
