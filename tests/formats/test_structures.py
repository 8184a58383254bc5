"""Structures from POSCAR and CIF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfxproc.errors import InputError
from sfxproc.formats.structures import read_structure
from sfxproc.structure import UNKNOWN

POSCAR = """rutile
2.0
2.3 0 0
0 2.3 0
0 0 1.48
Ti O
2 4
Direct
0 0 0
0.5 0.5 0.5
0.305 0.305 0
0.695 0.695 0
0.195 0.805 0.5
0.805 0.195 0.5
"""
CIF = """data_rutile
_cell_length_a 4.6
_cell_length_b 4.6
_cell_length_c 2.96
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 42/m n m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Ti1 Ti 0 0 0
O1 O 0.305 0.305 0
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_poscar(tmp_path: Path) -> None:
    found = read_structure(write(tmp_path / "POSCAR", POSCAR))
    np.testing.assert_allclose(found.cell, [4.6, 4.6, 2.96, 90, 90, 90])
    assert found.elements == ("Ti", "Ti", "O", "O", "O", "O")
    assert found.space_group.hm == "P 1"
    np.testing.assert_allclose(found.sites[2], [0.305, 0.305, 0.0])


def test_poscar_of_vasp_4_by_volume_and_cartesian(tmp_path: Path) -> None:
    lines = POSCAR.replace("\n2.0\n", f"\n{-4.6 * 4.6 * 2.96}\n").replace("Ti O\n", "").splitlines()
    lines[6] = "Cartesian"
    for n in range(7, 13):
        values = np.array(lines[n].split(), dtype=float) * [4.6, 4.6, 2.96]
        lines[n] = " ".join(f"{v:.9f}" for v in values) + (" # Ti1" if n < 9 else " # O1")
    found = read_structure(write(tmp_path / "POSCAR", "\n".join(lines)))
    np.testing.assert_allclose(found.cell, [4.6, 4.6, 2.96, 90, 90, 90])
    assert found.elements == ("Ti", "Ti", "O", "O", "O", "O")
    np.testing.assert_allclose(found.sites[4], [0.195, 0.805, 0.5])
    nameless = "\n".join(line.partition("#")[0] for line in lines)
    assert set(read_structure(write(tmp_path / "POSCAR", nameless)).elements) == {UNKNOWN}


def test_cif(tmp_path: Path) -> None:
    found = read_structure(write(tmp_path / "rutile.cif", CIF))
    assert found.space_group.hm == "P 42/m n m"
    assert found.elements == ("Ti", "O")
    np.testing.assert_allclose(found.cell, [4.6, 4.6, 2.96, 90, 90, 90])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("POSCAR", POSCAR.replace("2 4", "2 4x"), "line 7, is not what a POSCAR has there"),
        ("POSCAR", POSCAR.replace("0.5 0.5 0.5", "0.5 half 0.5"), "line 10, is not"),
        ("POSCAR", POSCAR[:80], "is not what a POSCAR"),
        ("POSCAR", POSCAR.replace("0 2.3 0\n", "2.3 0 0\n"), "without volume"),
        ("a.cif", "data_x\n", "holds no crystal structure"),
        ("a.cif", "nothing", "cannot be read as a CIF"),
        ("a.cif", CIF.replace("P 42/m n m", "P 99"), "space group"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_structure(write(tmp_path / name, text))


def test_missing_file(tmp_path: Path) -> None:
    for name in ("POSCAR", "a.cif"):
        with pytest.raises(InputError, match="cannot be read"):
            read_structure(tmp_path / name)


def test_all_shared_structures_are_read(shared_data: Path) -> None:
    paths = sorted((shared_data / "structures").glob("*/*"))
    assert len(paths) > 400
    unnamed = sum(UNKNOWN in read_structure(path).elements for path in paths)
    assert unnamed < 0.3 * len(paths)
