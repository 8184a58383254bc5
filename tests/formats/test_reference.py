from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

from sfxproc.errors import InputError
from sfxproc.formats.reference import (
    intensities_from_model,
    read_any_reference,
    read_reference,
)

CELL = (50.0, 60.0, 70.0, 90.0, 100.0, 90.0)


def write_mtz(path: Path, columns: str, rows: list[list[float]]) -> Path:
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 1 21 1")
    mtz.set_cell_for_all(gemmi.UnitCell(*CELL))
    mtz.add_dataset("x")
    for name in columns.split():
        mtz.add_column(*name.rsplit(":", 1))
    mtz.set_data(np.array(rows, dtype=np.float32))
    mtz.write_to_file(str(path))
    return path


def test_lysozyme(shared_data: Path) -> None:
    path = shared_data / "reference" / "lysozyme_XFEL_merge118.mtz"
    reference = read_reference(path)
    table = reference.reflections
    mtz = gemmi.read_mtz_file(str(path))
    measured = np.isfinite(mtz.column_with_label("Iobs").array)
    assert len(measured) == 24_371
    assert len(table) == int(measured.sum()) == 8_586  # the other rows only carry a free flag
    assert reference.space_group == "P 43 21 2"
    np.testing.assert_allclose(reference.cell, mtz.cell.parameters)
    assert table.hkl[0].tolist() == [0, 0, 4]
    assert table.intensity is not None
    assert table.intensity[0] == pytest.approx(10823.03)
    np.testing.assert_allclose(table.d_A.min(), mtz.make_d_array()[measured].min(), rtol=1e-5)
    assert set(table.epsilon.tolist()) == {1, 2, 4}


def test_cunir_prefers_the_mean(shared_data: Path) -> None:
    path = shared_data / "reference" / "CuNiR_xia2ssx_merged.mtz"
    table = read_reference(path).reflections
    mtz = gemmi.read_mtz_file(str(path))
    assert len(table) == mtz.nreflections == 35_588
    # the file sorts by h k l in another asymmetric unit only by chance: match by d and I
    np.testing.assert_allclose(np.sort(table.d_A), np.sort(mtz.make_d_array()), rtol=1e-5)
    expected = np.sort(mtz.column_with_label("IMEAN").array)
    np.testing.assert_allclose(np.sort(table.intensity), expected, rtol=1e-6)
    assert (table.friedel == 0).all()


def test_equivalents_are_averaged_in_the_asymmetric_unit(tmp_path: Path) -> None:
    rows = [[1, 2, 3, 10, 1], [-1, -2, -3, 20, 2], [-1, 2, -3, np.nan, 1], [1, 2, 4, 5, 0]]
    rows.append([1, 2, 5, 7, 3])
    path = write_mtz(tmp_path / "r.mtz", "IMEAN:J SIGIMEAN:Q", rows)
    table = read_reference(path).reflections
    assert table.hkl.tolist() == [[1, 2, 3], [1, 2, 5]]
    np.testing.assert_allclose(table.intensity, [12.0, 7.0])
    np.testing.assert_allclose(table.sigma, [1.25**-0.5, 3.0])
    cell = gemmi.UnitCell(*CELL)
    np.testing.assert_allclose(4 * table.s2, [cell.calculate_1_d2(h) for h in table.hkl.tolist()])


@pytest.mark.parametrize(
    ("columns", "row", "intensity", "sigma"),
    [
        ("F:F SIGF:Q I:J SIGI:Q", [3, 0.5, 10, 2], 10, 2),
        ("IHALF1:J SIGIHALF1:Q F:F SIGF:Q", [8, 1, 3, 0.5], 9, 3),
        ("2FOFCWT:F FP:F SIGFP:Q", [99, 3, 0.5], 9, 3),
        ("I(+):K SIGI(+):M I(-):K SIGI(-):M F:F SIGF:Q", [10, 1, 20, 2, 7, 1], 12, 1.25**-0.5),
        ("Iwhatever:J sig:Q", [10, 2], 10, 2),
        ("IMEAN:J", [10], 10, np.nan),
        ("F:F", [3], 9, np.nan),
    ],
)
def test_which_columns_are_taken(
    tmp_path: Path, columns: str, row: list[float], intensity: float, sigma: float
) -> None:
    path = write_mtz(tmp_path / "r.mtz", columns, [[1, 2, 3, *row]])
    table = read_reference(path).reflections
    np.testing.assert_allclose(table.intensity, [intensity], rtol=1e-6)
    np.testing.assert_allclose(table.sigma, [sigma], rtol=1e-6)


CIF = """data_r1abcsf
_cell.entry_id 1abc
_cell.length_a 50
_cell.length_b 60
_cell.length_c 70
_cell.angle_alpha 90
_cell.angle_beta 100
_cell.angle_gamma 90
_symmetry.entry_id 1abc
_symmetry.space_group_name_H-M 'P 1 21 1'
loop_
_refln.index_h
_refln.index_k
_refln.index_l
{tags}
{rows}
"""


@pytest.mark.parametrize(
    ("tags", "values", "intensity", "sigma"),
    [
        ("F_meas_au F_meas_sigma_au intensity_meas intensity_sigma", "3 0.5 10 2", 10, 2),
        ("F_squared_meas F_squared_sigma", "10 2", 10, 2),
        ("F_meas_au F_meas_sigma_au", "3 0.5", 9, 3),
        ("F_meas_au", "3", 9, np.nan),
        (
            "pdbx_I_plus pdbx_I_plus_sigma pdbx_I_minus pdbx_I_minus_sigma",
            "10 1 20 2",
            12,
            1.25**-0.5,
        ),
    ],
)
def test_mmcif(tmp_path: Path, tags: str, values: str, intensity: float, sigma: float) -> None:
    path = tmp_path / "r-sf.cif"
    unknown = " ".join("?" for _ in tags.split())
    text = "\n".join(f"_refln.{t}" for t in tags.split())
    path.write_text(CIF.format(tags=text, rows=f"-1 -2 -3 {values}\n1 2 4 {unknown}"))
    reference = read_reference(path)
    assert reference.space_group == "P 1 21 1"
    np.testing.assert_allclose(reference.cell, CELL)
    assert reference.reflections.hkl.tolist() == [[1, 2, 3]]
    np.testing.assert_allclose(reference.reflections.intensity, [intensity])
    np.testing.assert_allclose(reference.reflections.sigma, [sigma])


def test_nothing_usable_names_the_columns(tmp_path: Path) -> None:
    path = write_mtz(tmp_path / "r.mtz", "FreeR_flag:I PHI:P", [[1, 2, 3, 0, 90]])
    with pytest.raises(InputError, match=r"Its columns: H \(H\).* FreeR_flag \(I\), PHI \(P\)"):
        read_reference(path)
    cif = tmp_path / "r.cif"
    cif.write_text(CIF.format(tags="_refln.F_calc", rows="1 2 3 5"))
    with pytest.raises(InputError, match=r"intensity_meas, .*it holds index_h, .* F_calc"):
        read_reference(cif)
    cif.write_text("data_x\n_cell.length_a 50\n")
    with pytest.raises(InputError, match="no table of reflections"):
        read_reference(cif)
    cif.write_text("not a cif")
    with pytest.raises(InputError, match="cannot be read as mmCIF"):
        read_reference(cif)


@pytest.mark.parametrize(
    ("columns", "taken"),
    [
        ("FC:F PHIC:P F:F SIGF:Q", "F, SIGF"),
        ("F-model:F PHIF-model:P F-obs:F SIGF-obs:Q", "F-obs, SIGF-obs"),
        ("FMODEL:F FOBS:F SIGFOBS:Q", "FOBS, SIGFOBS"),
        ("FC_ALL:F XYZ:F PHI:P MY:F SIGMY:Q", "MY, SIGMY"),
        ("ICALC:J IMEAN:J SIGIMEAN:Q", "IMEAN, SIGIMEAN"),
        ("FP:F PHIB:P SIGFP:Q", "FP, SIGFP"),
    ],
)
def test_calculated_values_are_not_taken_for_measured(
    columns: str, taken: str, tmp_path: Path
) -> None:
    labels = [c.split(":")[0] for c in columns.split()]
    values = [4.0 if label == taken.split(",")[0] else 1.0 for label in labels]
    reference = read_reference(write_mtz(tmp_path / "r.mtz", columns, [[1, 2, 3, *values]]))
    assert reference.columns == taken
    assert reference.reflections.intensity is not None
    assert reference.reflections.intensity[0] == (4.0 if taken.startswith("I") else 16.0)


def test_only_calculated_values_are_an_error(tmp_path: Path) -> None:
    path = write_mtz(tmp_path / "r.mtz", "FC:F PHIC:P FWT:F PHWT:P", [[1, 2, 3, 4, 0, 4, 0]])
    with pytest.raises(InputError, match="measured, not calculated"):
        read_reference(path)


def test_a_crystfel_list_needs_group_and_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.hkl"
    write_text = "CrystFEL reflection list version 2.0\nSymmetry: 2/m_uab\n   h  k  l  I  -  s  n\n"
    path.write_text(write_text + "   1   2   3  50.00  -  2.00  7\nEnd of reflections\n")
    with pytest.raises(InputError, match="--space-group and --unit-cell"):
        read_reference(path)
    reference = read_reference(path, "P 1 21 1", np.array(CELL))
    assert reference.reflections.hkl.tolist() == [[1, 2, 3]]
    assert reference.reflections.intensity is not None
    assert reference.reflections.intensity.tolist() == [50.0]
    path.write_text(write_text + "   1   2   70000  50.00  -  2.00  7\nEnd of reflections\n")
    with pytest.raises(InputError, match="line 4"):
        read_reference(path, "P 1 21 1", np.array(CELL))


def test_no_measured_row(tmp_path: Path) -> None:
    path = write_mtz(tmp_path / "r.mtz", "IMEAN:J SIGIMEAN:Q", [[1, 2, 3, np.nan, 1]])
    with pytest.raises(InputError, match="no reflection with a value and a positive sigma"):
        read_reference(path)


def test_wrong_kind_of_file(tmp_path: Path) -> None:
    path = write_mtz(tmp_path / "u.mtz", "M/ISYM:Y BATCH:B I:J SIGI:Q", [[1, 2, 3, 1, 1, 5, 1]])
    with pytest.raises(InputError, match=r"unmerged MTZ .* give it in input.paths"):
        read_reference(path)
    (tmp_path / "a.hkl").write_text("")
    with pytest.raises(InputError, match=r"does not begin with 'CrystFEL reflection"):
        read_reference(tmp_path / "a.hkl")
    with pytest.raises(InputError, match=r"no 'v\.mtz' in .* Did you mean 'u\.mtz'"):
        read_reference(tmp_path / "v.mtz")


def model() -> gemmi.Structure:
    structure = gemmi.Structure()
    structure.cell = gemmi.UnitCell(20, 25, 30, 90, 95, 90)
    structure.spacegroup_hm = "P 1 21 1"
    chain, rng = gemmi.Chain("A"), np.random.default_rng(0)
    for i in range(12):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(i + 1))
        atom.name, atom.element = "CA", gemmi.Element("CNOS"[i % 4])
        atom.pos, atom.b_iso = gemmi.Position(*rng.uniform(0, 20, 3)), 10.0 + i
        residue.add_atom(atom)
        chain.add_residue(residue)
    first = gemmi.Model(1)
    first.add_chain(chain)
    structure.add_model(first)
    structure.setup_entities()
    return structure


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_model_agrees_with_direct_summation(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    structure = model()
    if suffix == ".pdb":
        structure.write_pdb(str(path))
    else:
        structure.make_mmcif_document().write_file(str(path))
    reference = intensities_from_model(path, 2.5)
    table = reference.reflections
    written = gemmi.read_structure(str(path))
    direct = gemmi.StructureFactorCalculatorX(written.cell)
    F = [direct.calculate_sf_from_model(written[0], h) for h in table.hkl.tolist()]
    expected = np.abs(F) ** 2
    assert np.abs(table.intensity - expected).max() < 2e-3 * expected.mean()
    assert table.d_A.min() >= 2.5
    cell, group = written.cell, gemmi.SpaceGroup("P 1 21 1")
    assert len(table) == gemmi.count_reflections(cell, group, 2.5)
    assert [0, 1, 0] not in table.hkl.tolist()


def test_no_model(tmp_path: Path) -> None:
    path = tmp_path / "m.pdb"
    path.write_text("REMARK nothing\n")
    with pytest.raises(InputError, match="holds no atoms"):
        intensities_from_model(path, 2.5)
    with pytest.raises(InputError, match=r"no 'n\.pdb' .* Did you mean 'm\.pdb'"):
        intensities_from_model(tmp_path / "n.pdb", 2.5)


# --- whichever it is


def test_coordinates_or_a_merged_set(tmp_path: Path) -> None:
    """By suffix, or by what a CIF holds."""
    structure = model()
    structure.write_pdb(str(tmp_path / "m.pdb"))
    structure.write_pdb(str(tmp_path / "pdb1abc.ent"))
    structure.make_mmcif_document().write_file(str(tmp_path / "m.cif"))
    calculated = [read_any_reference(tmp_path / n, 2.5) for n in ("m.pdb", "pdb1abc.ent", "m.cif")]
    for found in calculated:
        expected = intensities_from_model(tmp_path / "m.pdb", 2.5).reflections
        assert found.reflections.hkl.tolist() == expected.hkl.tolist()
        np.testing.assert_allclose(
            found.reflections.intensity, expected.intensity, rtol=0.02, atol=1.0
        )
        assert found.reflections.d_A.min() >= 2.5
    text = CIF.format(tags="_refln.F_squared_meas", rows="1 2 3 5")
    for name in ("r-sf.cif", "r1abcsf.ent"):
        (tmp_path / name).write_text(text)
        table = read_any_reference(tmp_path / name, 2.5).reflections
        assert table.intensity is not None
        assert table.intensity.tolist() == [5.0]
    path = write_mtz(tmp_path / "r.mtz", "IMEAN:J SIGIMEAN:Q", [[1, 2, 3, 10, 1]])
    assert len(read_any_reference(path, 2.5).reflections) == 1


def test_neither(tmp_path: Path) -> None:
    (tmp_path / "x.cif").write_text("data_x\n_cell.length_a 50\n")
    with pytest.raises(InputError, match="no table of reflections"):
        read_any_reference(tmp_path / "x.cif", 2.5)
    for name in ("y.cif", "y.pdb", "y.mtz"):
        with pytest.raises(InputError, match=f"there is no '{name}'"):
            read_any_reference(tmp_path / name, 2.5)
