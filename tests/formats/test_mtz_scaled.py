"""Unmerged MTZ of scaled observations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest

from sfxproc.data import Stills
from sfxproc.errors import OutputError
from sfxproc.formats import mtz as mtz_format
from sfxproc.formats.base import Request
from sfxproc.formats.mtz import asymmetric_unit, read_unmerged
from sfxproc.formats.mtz_scaled import ScaledObservations, write_scaled

CELLS = {
    "P 1": (41.0, 52.0, 63.0, 81.0, 97.0, 106.0),
    "P 43 21 2": (79.0, 79.0, 38.0, 90.0, 90.0, 90.0),
    "P 65": (92.0, 92.0, 130.0, 90.0, 90.0, 120.0),
    "P 21 3": (96.0, 96.0, 96.0, 90.0, 90.0, 90.0),
    "R 3:H": (110.0, 110.0, 140.0, 90.0, 90.0, 120.0),
    "I 41 3 2": (120.0, 120.0, 120.0, 90.0, 90.0, 90.0),
    "C 1 2 1": (100.0, 50.0, 60.0, 90.0, 104.0, 90.0),
}
N = 3000
POSITIONS = frozenset({"partiality", "x_px", "y_px"})


def observations(positions: bool = True) -> ScaledObservations:
    rng = np.random.default_rng(3)
    hkl = rng.integers(-30, 31, size=(N, 3)).astype(np.int16)
    hkl[: N // 3, rng.integers(0, 3)] = 0  # zones and axes, where operators meet
    hkl[~hkl.any(axis=1)] = 1
    value = rng.uniform(0.1, 100.0, (7, N)).astype(np.float32)
    more = {"x_px": value[5], "y_px": value[6]} if positions else {}
    crystal = np.sort(rng.choice([0, 2], N)).astype(np.int32)
    return ScaledObservations(crystal, hkl, *value[:5], **more)


def ordered(hkl: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Rows in an order of their own."""
    rows = np.column_stack([hkl, *columns]).astype(np.float64)
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("group", CELLS)
def test_read_again(group: str, small_stills: Stills, tmp_path: Path) -> None:
    """Values and indices as measured come back, whatever screw axes and centring."""
    table, path = observations(), tmp_path / "unmerged.mtz"
    write_scaled(path, table, small_stills.crystals, group, np.array(CELLS[group]))
    again = read_unmerged(path, Request("u", POSITIONS))
    o = again.observations
    assert again.notes == ()
    assert again.crystals.event.tolist() == ["1", "3"]
    batch = np.array([1, 3])[o.crystal]
    found = ordered(o.hkl, batch, o.intensity, np.sqrt(o.variance), o.partiality, o.x_px, o.y_px)
    expected = ordered(
        table.hkl,
        table.crystal + 1,
        table.intensity,
        table.sigma,
        table.partiality,
        table.x_px,
        table.y_px,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    recorded = small_stills.crystals.take(np.array([0, 2]))
    np.testing.assert_allclose(again.crystals.A, recorded.A, atol=1e-8)
    np.testing.assert_allclose(again.crystals.wavelength_A, recorded.wavelength_A, rtol=1e-6)


@pytest.mark.parametrize("group", CELLS)
def test_as_others_read_it(group: str, small_stills: Stills, tmp_path: Path) -> None:
    """In the asymmetric unit, sorted, and with the M/ISYM that gemmi gives it."""
    path = tmp_path / "unmerged.mtz"
    write_scaled(path, observations(), small_stills.crystals, group, np.array(CELLS[group]))
    mtz = gemmi.read_mtz_file(str(path))
    assert mtz.spacegroup.xhm() == gemmi.SpaceGroup(group).xhm()
    np.testing.assert_allclose(mtz.cell.parameters, CELLS[group], rtol=1e-6)
    assert mtz.sort_order == [1, 2, 3, 4, 5]
    assert mtz.column_labels()[3:] == [
        "M/ISYM",
        "BATCH",
        "I",
        "SIGI",
        "SCALEUSED",
        "FRACTIONCALC",
        "WEIGHT",
        "XDET",
        "YDET",
    ]
    hkl, isym = mtz.make_miller_array(), mtz.column_with_label("M/ISYM").array.copy()
    keys = np.column_stack([hkl, isym, mtz.column_with_label("BATCH").array])
    np.testing.assert_array_equal(np.lexsort(keys.T[::-1]), np.arange(len(keys)))
    asu = gemmi.ReciprocalAsu(mtz.spacegroup)
    assert all(asu.is_in(h) for h in hkl.tolist())
    assert mtz.switch_to_original_hkl()
    assert mtz.switch_to_asu_hkl()
    np.testing.assert_array_equal(mtz.make_miller_array(), hkl)
    np.testing.assert_array_equal(mtz.column_with_label("M/ISYM").array, isym)


def test_isym_tells_friedel_mates_apart() -> None:
    group = gemmi.SpaceGroup("P 43 21 2")
    hkl = np.array([[2, 1, 3], [-2, -1, -3], [1, 2, -3], [-1, 2, 3]], dtype=np.int16)
    asu, isym = asymmetric_unit(group, hkl)
    assert len(np.unique(asu, axis=0)) == 1
    assert (isym % 2).tolist() == [1, 0, 1, 1]


def test_no_positions_no_orientation(small_stills: Stills, tmp_path: Path) -> None:
    A = np.full((3, 3, 3), np.nan)
    crystals = replace(small_stills.crystals, A=A, wavelength_A=np.full(3, np.nan))
    path = tmp_path / "unmerged.mtz"
    write_scaled(path, observations(False), crystals, "P 1", np.array(CELLS["P 1"]))
    assert "XDET" not in gemmi.read_mtz_file(str(path)).column_labels()
    again = read_unmerged(path, Request("u"))
    assert again.notes == ("2 of 2 batches give no orientation.",)
    np.testing.assert_allclose(again.crystals.cell, crystals.cell[[0, 2]], rtol=1e-6)


def test_the_same_bytes_again(small_stills: Stills, tmp_path: Path) -> None:
    table, cell = observations(), np.array(CELLS["P 65"])
    for name in ("a.mtz", "b.mtz"):
        write_scaled(tmp_path / name, table, small_stills.crystals, "P 65", cell, ["sfxproc"])
    assert (tmp_path / "a.mtz").read_bytes() == (tmp_path / "b.mtz").read_bytes()


def test_too_many_crystals(
    small_stills: Stills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mtz_format, "MAX_BATCH", 3)
    with pytest.raises(OutputError, match=r"unmerged\.mtz': MTZ holds at most 2 batches"):
        write_scaled(
            tmp_path / "unmerged.mtz",
            observations(),
            small_stills.crystals,
            "P 1",
            np.array(CELLS["P 1"]),
        )
