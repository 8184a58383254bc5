"""Rows that no measurement can have given are counted, whatever file they come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest

from sfxproc.data import Observations, Reason, Stills
from sfxproc.errors import InputError
from sfxproc.formats import FORMATS
from sfxproc.formats.base import Format
from sfxproc.formats.inputs import list_inputs, read_input
from sfxproc.formats.reference import read_reference
from sfxproc.formats.soundness import indices_of, sound

WRITABLE = [f for f in FORMATS if f.write]


def spoilt(stills: Stills, **columns: tuple[int, object]) -> Stills:
    """The stills with one value of each named column replaced: (row, value)."""
    told = {}
    for name, (row, value) in columns.items():
        values = np.array(getattr(stills.observations, name))
        values[row] = value
        told[name] = values
    return replace(stills, observations=replace(stills.observations, **told))  # type: ignore[arg-type]


def read_again(fmt: Format, stills: Stills, folder: Path, strict: bool = False) -> Stills:
    """As a job reads what a format wrote."""
    assert fmt.write is not None
    path = folder / f"data{fmt.suffixes[0]}"
    fmt.write(path, stills)
    (file,) = list_inputs([str(path)])
    return read_input(file, (), strict)


@pytest.mark.parametrize("fmt", WRITABLE, ids=lambda f: f.name)
def test_indices_beyond_the_ewald_sphere(fmt: Format, small_stills: Stills, tmp_path: Path) -> None:
    """a* is 0.025 Å⁻¹ and 2/λ is 1.54: h = 1200 is far beyond, h = 20 is not."""
    again = read_again(fmt, spoilt(small_stills, hkl=(7, [1200, 0, 0])), tmp_path)
    assert again.counts[Reason.IMPOSSIBLE_INDEX] == 1
    kept = np.delete(small_stills.observations.hkl, 7, axis=0)
    np.testing.assert_array_equal(again.observations.hkl, kept)
    assert any("1200 0 0" in note for note in again.notes)
    with pytest.raises(InputError, match=r"data\..*impossible indices.*input\.strict"):
        read_again(fmt, spoilt(small_stills, hkl=(7, [1200, 0, 0])), tmp_path, strict=True)


@pytest.mark.parametrize("fmt", [f for f in WRITABLE if f.name != "DIALS"], ids=lambda f: f.name)
def test_the_origin_is_no_reflection(fmt: Format, small_stills: Stills, tmp_path: Path) -> None:
    again = read_again(fmt, spoilt(small_stills, hkl=(30, [0, 0, 0])), tmp_path)
    assert again.counts[Reason.IMPOSSIBLE_INDEX] == 1
    assert len(again.observations) == 39


@pytest.mark.parametrize("fmt", WRITABLE, ids=lambda f: f.name)
def test_values_whose_square_is_no_float32(
    fmt: Format, small_stills: Stills, tmp_path: Path
) -> None:
    again = read_again(fmt, spoilt(small_stills, intensity=(3, -3e19)), tmp_path)
    assert again.counts[Reason.DAMAGED] == 1
    np.testing.assert_array_equal(
        again.observations.intensity, np.delete(small_stills.observations.intensity, 3)
    )
    assert read_again(fmt, small_stills, tmp_path).counts == {}


def test_each_crystal_has_its_own_limit(small_stills: Stills) -> None:
    """(−40 0 0) has |q| = 1.02 Å⁻¹: beyond 2/λ for 2.2 Å of the last crystal, not for 1.3 Å."""
    hkl = small_stills.observations.hkl.copy()
    hkl[[0, 39]] = [-40, 0, 0]
    wavelength = np.array([1.3, 1.3, 2.2])
    stills = replace(
        small_stills,
        crystals=replace(small_stills.crystals, wavelength_A=wavelength),
        observations=replace(small_stills.observations, hkl=hkl),
    )
    kept = sound(stills, Path("a")).observations
    assert (len(kept), kept.hkl[0].tolist()) == (39, [-40, 0, 0])
    # without an orientation the cell tells, without either nothing does
    A = np.full((3, 3, 3), np.nan)
    cell_only = replace(stills, crystals=replace(stills.crystals, A=A))
    assert len(sound(cell_only, Path("a")).observations) == 39
    neither = replace(cell_only.crystals, cell=np.full((3, 6), np.nan))
    assert len(sound(replace(stills, crystals=neither), Path("a")).observations) == 40


def test_indices_that_are_none() -> None:
    values = np.array([[1, 2, 3], [np.nan, 1, 1], [40000, 0, 0], [1.5, 0, 0], [-32767, 0, 1]])
    assert indices_of(values).tolist() == [
        [1, 2, 3],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [-32767, 0, 1],
    ]


def unmerged(path: Path, order: str, rows: list[list[float]]) -> Path:
    """An MTZ in P 21 21 21 with the columns in this order, rows as H K L M/ISYM BATCH I SIGI."""
    kinds = {"H": "H", "K": "H", "L": "H", "M/ISYM": "Y", "BATCH": "B", "I": "J", "SIGI": "Q"}
    mtz = gemmi.Mtz()
    mtz.spacegroup = gemmi.SpaceGroup("P 21 21 21")
    mtz.set_cell_for_all(gemmi.UnitCell(50, 60, 70, 90, 90, 90))
    mtz.add_dataset("x").wavelength = 1.25
    for label in order.split():
        mtz.add_column(label, kinds[label])
    table = np.array(rows, dtype=np.float32)
    mtz.set_data(np.ascontiguousarray(table[:, [list(kinds).index(n) for n in order.split()]]))
    batch = gemmi.Mtz.Batch()
    batch.number = 1
    mtz.batches.append(batch)
    mtz.write_to_file(str(path))
    return path


@pytest.mark.parametrize(
    "order", ["H K L M/ISYM BATCH I SIGI", "M/ISYM H K L BATCH I SIGI", "I SIGI L K H M/ISYM BATCH"]
)
def test_mtz_columns_are_found_by_label(order: str, tmp_path: Path) -> None:
    rows = [[1, 2, 3, 1, 1, 10.0, 1.0], [2, 2, 3, 4, 1, 20.0, 2.0]]
    (file,) = list_inputs([str(unmerged(tmp_path / "a.mtz", order, rows))])
    stills = read_input(file, (), False)
    # ISYM 4: the mate by the second operator, -x+1/2,-y,z+1/2, of P 21 21 21
    assert stills.observations.hkl.tolist() == [[1, 2, 3], [2, 2, -3]]
    assert stills.observations.intensity.tolist() == [10.0, 20.0]


def test_damaged_rows_of_an_mtz(tmp_path: Path) -> None:
    nan = np.nan
    rows: list[list[float]] = [
        [1, 2, 3, 1, 1, 10, 1],
        [nan, 2, 3, 1, 1, 11, 1],  # index
        [40000, 2, 3, 1, 1, 12, 1],
        [1, 2, 4, nan, 1, 13, 1],  # M/ISYM
        [1, 2, 5, 99, 1, 14, 1],
        [1, 2, 6, 0, 1, 15, 1],
        [1, 2, 7, 1, nan, 16, 1],  # BATCH
        [1, 2, 8, 1, 3e9, 17, 1],
        [1, 2, 9, 257, 1, 18, 1],  # M/ISYM of a partial
    ]
    path = unmerged(tmp_path / "a.mtz", "H K L M/ISYM BATCH I SIGI", rows)
    (file,) = list_inputs([str(path)])
    stills = read_input(file, (), False)
    assert stills.observations.intensity.tolist() == [10.0, 18.0]
    assert stills.counts == {Reason.DAMAGED: 5, Reason.IMPOSSIBLE_INDEX: 2}
    assert stills.n_images == 1
    for rows_left in (rows[:1] + rows[3:4], rows[:2]):
        path = unmerged(tmp_path / "b.mtz", "H K L M/ISYM BATCH I SIGI", rows_left)
        with pytest.raises(InputError, match=r"b\.mtz.*input\.strict"):
            read_input(list_inputs([str(path)])[0], (), True)


def test_damaged_indices_of_a_reference(tmp_path: Path) -> None:
    mtz = gemmi.Mtz()
    mtz.spacegroup = gemmi.SpaceGroup("P 1")
    mtz.set_cell_for_all(gemmi.UnitCell(50, 60, 70, 90, 90, 90))
    mtz.add_dataset("x")
    for label, kind in (("IMEAN", "J"), ("SIGIMEAN", "Q"), ("H", "H"), ("K", "H"), ("L", "H")):
        mtz.add_column(label, kind)
    rows = [[5, 1, 1, 2, 3], [6, 1, np.nan, 2, 3], [7, 1, 65537, 0, 0]]
    mtz.set_data(np.array(rows, dtype=np.float32))
    mtz.write_to_file(str(tmp_path / "a.mtz"))
    table = read_reference(tmp_path / "a.mtz").reflections
    assert table.hkl.tolist() == [[1, 2, 3]]
    assert table.intensity is not None
    assert table.intensity.tolist() == [5.0]


def test_types_of_indices_are_mended(small_stills: Stills) -> None:
    table = small_stills.observations
    wide = replace(small_stills, observations=replace(table, hkl=table.hkl.astype(np.int64)))
    again = sound(wide, Path("a")).observations
    assert isinstance(again, Observations)
    assert again.hkl.dtype == np.int16
    np.testing.assert_array_equal(again.hkl, table.hkl)
