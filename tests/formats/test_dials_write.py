"""Writing DIALS experiment lists and reflection tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest

from sfxproc.data import OPTIONAL_COLUMNS, Correction, Reason, Stills, require_distinct
from sfxproc.errors import OutputError
from sfxproc.formats import dials
from sfxproc.formats.base import Request
from sfxproc.formats.dials_refl import read_table

EVERYTHING = Request("pair", frozenset(OPTIONAL_COLUMNS))


def assert_same(again: Stills, stills: Stills) -> None:
    np.testing.assert_allclose(again.crystals.A, stills.crystals.A, rtol=0, atol=1e-16)
    np.testing.assert_allclose(again.crystals.cell, stills.crystals.cell, rtol=1e-12)
    np.testing.assert_array_equal(again.crystals.beam, stills.crystals.beam)
    np.testing.assert_array_equal(again.crystals.wavelength_A, stills.crystals.wavelength_A)
    old, new = stills.observations.columns(), again.observations.columns()
    assert new.keys() == old.keys()
    for name in old:
        np.testing.assert_array_equal(new[name], old[name], err_msg=name)
        assert new[name].dtype == old[name].dtype


def test_round_trip_is_exact(small_stills: Stills, tmp_path: Path) -> None:
    intensity = small_stills.observations.intensity.copy()
    intensity[:2] = np.nan, np.float32(1.0e-30)
    observations = replace(small_stills.observations, intensity=intensity)
    crystals = replace(small_stills.crystals, event=np.array(["x", "y", "z"], dtype=object))
    stills = replace(small_stills, observations=observations, crystals=crystals)
    dials.write(tmp_path / "again.expt", stills)
    again = dials.read(tmp_path / "again.refl", EVERYTHING)
    assert_same(again, stills)
    assert again.crystals.event.tolist() == ["x", "y", "z"]
    assert again.detector is not None
    assert stills.detector is not None
    for name, column in stills.detector.columns().items():
        np.testing.assert_array_equal(again.detector.columns()[name], column, err_msg=name)


def test_without_a_detector(small_stills: Stills, tmp_path: Path) -> None:
    dials.write(tmp_path / "again.expt", replace(small_stills, detector=None))
    assert dials.read(tmp_path / "again.refl", EVERYTHING).detector is None


def test_repeated_events_are_told_apart(small_stills: Stills, tmp_path: Path) -> None:
    dials.write(tmp_path / "a.expt", small_stills)
    again = dials.read(tmp_path / "a.expt", Request("a"))
    assert again.crystals.event.tolist() == small_stills.crystals.identity
    require_distinct(again.crystals)


def test_a_crystal_without_orientation_loses_its_rows(small_stills: Stills, tmp_path: Path) -> None:
    A = small_stills.crystals.A.copy()
    A[0] = np.nan
    stills = replace(small_stills, crystals=replace(small_stills.crystals, A=A))
    dials.write(tmp_path / "a.expt", stills)
    again = dials.read(tmp_path / "a.expt", Request("a"))
    assert again.crystals.event.tolist() == small_stills.crystals.identity[1:]
    assert again.counts == {Reason.NO_ORIENTATION: 25}
    assert again.observations.crystal.tolist() == [1] * 15
    assert again.n_images == 3


def test_what_dials_needs_is_in_the_files(small_stills: Stills, tmp_path: Path) -> None:
    dials.write(tmp_path / "a.refl", small_stills)
    top = msgpack.unpackb((tmp_path / "a.refl").read_bytes(), strict_map_key=False)
    assert top[:2] == ["dials::af::reflection_table", 1]
    assert top[2]["nrows"] == 40
    assert top[2]["identifiers"] == dict(enumerate(small_stills.crystals.identity))
    table = read_table(tmp_path / "a.refl")
    assert set(table.columns["flags"].tolist()) == {256}
    assert table.skipped == ()
    expt = json.loads((tmp_path / "a.expt").read_text())
    assert expt["__id__"] == "ExperimentList"
    assert [c["space_group_hall_symbol"] for c in expt["crystal"]] == ["P 1"] * 3
    assert all(c["__id__"] == "crystal" for c in expt["crystal"])
    assert expt["detector"][0]["hierarchy"]["children"] == [{"panel": 0}, {"panel": 1}]


def test_writing_into_a_missing_folder(small_stills: Stills, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="none"):
        dials.write(tmp_path / "none" / "a.expt", small_stills)


def test_what_dials_scale_and_export_need(small_stills: Stills, tmp_path: Path) -> None:
    stills = replace(
        small_stills, space_group="C 1 2 1", corrected=frozenset({Correction.POLARISATION})
    )
    dials.write(tmp_path / "a.expt", stills)
    columns = read_table(tmp_path / "a.refl").columns
    A = stills.crystals.A[stills.observations.crystal]
    q = np.einsum("nij,nj->ni", A, stills.observations.hkl.astype(float))
    np.testing.assert_allclose(columns["d"], 1.0 / np.linalg.norm(q, axis=1), rtol=1e-12)
    wavelength = stills.crystals.wavelength_A[stills.observations.crystal]
    np.testing.assert_allclose(columns["s1"] - q, np.outer(1.0 / wavelength, [0, 0, 1]), atol=1e-12)
    px = np.column_stack([stills.observations.x_px, stills.observations.y_px, np.zeros(40)])
    for name in ("xyzcal.px", "xyzobs.px.value"):
        np.testing.assert_array_equal(columns[name], px)
    for name in ("xyzcal.mm", "xyzobs.mm.value"):
        np.testing.assert_allclose(columns[name], 0.1 * px, rtol=1e-12)
    np.testing.assert_array_equal(columns["partiality"], stills.observations.partiality)
    assert set(columns["lp"].tolist()) == {1.0}
    assert "qe" not in columns
    again = dials.read(tmp_path / "a.expt", EVERYTHING)
    assert (again.space_group, again.corrected) == ("C 1 2 1", stills.corrected)
    np.testing.assert_allclose(again.crystals.profile_radius, [np.nan, 1e-3, 2e-3], rtol=1e-12)
    # a half width of 1e-3 Å⁻¹ is that of domains of 500 Å
    crystal = json.loads((tmp_path / "a.expt").read_text())["crystal"][1]
    assert (crystal["ML_domain_size_ang"], crystal["ML_half_mosaicity_deg"]) == (500.0, 0.0)


def test_uncorrected_intensities_get_no_lp(small_stills: Stills, tmp_path: Path) -> None:
    dials.write(tmp_path / "a.expt", small_stills)
    assert not {"lp", "qe"} & set(read_table(tmp_path / "a.refl").columns)
