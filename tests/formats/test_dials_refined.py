"""Refined experiment lists."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from sfxproc.data import Crystals, Stills
from sfxproc.errors import InputError
from sfxproc.formats.dials_expt import read_experiments, write_models, write_refined

CRYSTAL = {
    "__id__": "crystal",
    "real_space_a": [70.0, 0.0, 0.0],
    "real_space_b": [0.0, 80.0, 0.0],
    "real_space_c": [9.0, 0.0, 90.0],
    "space_group_hall_symbol": " P 2yb",
    "ML_half_mosaicity_deg": 0.1,
    "A_at_scan_points": [[1.0] * 9, [2.0] * 9],
    "B_covariance_at_scan_points": [[0.0] * 81],
    "recalculated_unit_cell": [70, 80, 91, 90, 95, 90],
}
BEAM = {
    "direction": [0.0, 0.0, 2.0],
    "wavelength": 1.25,
    "flux": 3e12,
    "s0_at_scan_points": [[0.0, 0.0, -0.8]] * 2,
}


def experiments() -> dict[str, Any]:
    """Five experiments: two that share a crystal, one without a name, an empty image, and all with
    one beam."""
    shared = {"__id__": "Experiment", "beam": 0, "detector": 0}
    panel = {
        "name": "P",
        "fast_axis": [1.0, 0.0, 0.0],
        "slow_axis": [0.0, 1.0, 0.0],
        "origin": [1.0, 2.0, 3.0],
        "image_size": [100, 200],
        "pixel_size": [0.1, 0.1],
        "gain": 1.5,
    }
    images = ["../raw/a.cbf", "/data/b.cbf", "$RAW/c.cbf", "https://x.org/d.h5"]
    return {
        "__id__": "ExperimentList",
        "experiment": [
            {**shared, "identifier": "one", "crystal": 0, "imageset": 0, "profile": 1},
            {**shared, "identifier": "two", "crystal": 0, "scaling_model": 0},
            {**shared, "identifier": "empty"},
            {**shared, "identifier": "lost", "crystal": 1},
            {**shared, "crystal": 2, "imageset": 0},
        ],
        "imageset": [{"__id__": "ImageSet", "images": images, "mask": None, "gain": "g.pickle"}],
        "beam": [BEAM],
        "detector": [{"panels": [panel], "hierarchy": {"children": [{"panel": 0}]} | panel}],
        "goniometer": [],
        "scan": [],
        "crystal": [CRYSTAL, CRYSTAL, CRYSTAL, CRYSTAL],
        "profile": [{"__id__": "a"}, {"__id__": "b", "sigma": 1.5}],
        "scaling_model": [{"__id__": "KB", "physical": True}],
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "x.expt"
    path.write_text(json.dumps(experiments()))
    return path


@pytest.fixture
def crystals(source: Path) -> Crystals:
    """As refined: the one named "lost" is left out, "two" has a wavelength of its own."""
    recorded = read_experiments(source, "x.expt").crystals
    assert recorded.event.tolist() == ["one", "two", "lost", "4"]
    A = recorded.A * np.array([1.01, 0.99, np.nan, 1.02])[:, None, None]
    wavelength = recorded.wavelength_A.copy()
    wavelength[1] = 1.26
    return replace(recorded, A=A, wavelength_A=wavelength)


def test_only_what_was_refined_changes(source: Path, crystals: Crystals, tmp_path: Path) -> None:
    write_refined(tmp_path / "refined.expt", source, crystals)
    old, new = experiments(), json.loads((tmp_path / "refined.expt").read_text())
    for kind in ("__id__", "detector", "goniometer", "scan", "profile", "scaling_model"):
        assert new[kind] == old[kind]
    again = read_experiments(tmp_path / "refined.expt", "x.expt")
    assert again.identifiers == ["one", "two", "empty", ""]
    assert again.crystal_of.tolist() == [0, 1, -1, 2]
    assert again.n_images == read_experiments(source, "x").n_images - 1
    kept = [0, 1, 3]
    np.testing.assert_allclose(again.crystals.A, crystals.A[kept], rtol=1e-13, atol=1e-18)
    np.testing.assert_array_equal(again.crystals.wavelength_A, [1.25, 1.26, 1.25])
    untouched = ("crystal", "beam")
    for i, j in zip([0, 1, 2, 4], range(4), strict=True):
        for key, value in old["experiment"][i].items():
            assert key in untouched or new["experiment"][j][key] == value
        assert new["experiment"][j].keys() == old["experiment"][i].keys()


def test_models(source: Path, crystals: Crystals, tmp_path: Path) -> None:
    """A shared crystal becomes two; what was told of scan points goes where it is outdated."""
    write_refined(tmp_path / "refined.expt", source, crystals)
    new = json.loads((tmp_path / "refined.expt").read_text())
    assert [e.get("crystal") for e in new["experiment"]] == [0, 1, None, 2]
    assert [e["beam"] for e in new["experiment"]] == [0, 1, 0, 0]
    assert new["beam"][0] == BEAM
    assert new["beam"][1] == {"direction": [0.0, 0.0, 2.0], "wavelength": 1.26, "flux": 3e12}
    for crystal in new["crystal"]:
        assert crystal["space_group_hall_symbol"] == " P 2yb"
        assert crystal["ML_half_mosaicity_deg"] == 0.1
        assert crystal.keys() == {k for k in CRYSTAL if "scan" not in k and "recal" not in k}


def test_images_are_found_from_another_folder(
    source: Path, crystals: Crystals, tmp_path: Path
) -> None:
    write_refined(tmp_path / "refined.expt", source, crystals)
    imageset = json.loads((tmp_path / "refined.expt").read_text())["imageset"][0]
    assert imageset["images"] == [
        str(tmp_path / "raw" / "a.cbf"),
        "/data/b.cbf",
        "$RAW/c.cbf",
        "https://x.org/d.h5",
    ]
    assert imageset["mask"] is None
    assert imageset["gain"] == str(tmp_path / "in" / "g.pickle")


def test_an_unknown_wavelength_is_that_of_the_file(
    source: Path, crystals: Crystals, tmp_path: Path
) -> None:
    unknown = replace(crystals, wavelength_A=np.full(4, np.nan))
    write_refined(tmp_path / "refined.expt", source, unknown)
    assert json.loads((tmp_path / "refined.expt").read_text())["beam"] == [BEAM]


def test_the_source_is_gone(source: Path, crystals: Crystals, tmp_path: Path) -> None:
    source.unlink()
    with pytest.raises(InputError, match=r"Cannot read '.*x\.expt'"):
        write_refined(tmp_path / "refined.expt", source, crystals)


def test_models_of_other_inputs(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "refined.expt"
    write_models(path, small_stills.crystals, small_stills.detector, "P 43 21 2")
    top = json.loads(path.read_text())
    halls = {c["space_group_hall_symbol"] for c in top["crystal"]}
    assert [gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(h)).hm for h in halls] == [
        "P 43 21 2"
    ]
    again = read_experiments(path, "x")
    np.testing.assert_allclose(again.crystals.A, small_stills.crystals.A, rtol=1e-12)
    np.testing.assert_array_equal(again.crystals.wavelength_A, small_stills.crystals.wavelength_A)
    assert again.detector is not None


def test_measured_stills_with_nothing_refined(shared_data: Path, tmp_path: Path) -> None:
    """The same file comes back, but for the last digits of the axes."""
    source = shared_data / "stills" / "LD91_lysozyme_300xtal.expt"
    crystals = read_experiments(source, "x").crystals
    write_refined(tmp_path / "refined.expt", source, crystals)
    old, new = (json.loads(p.read_text()) for p in (source, tmp_path / "refined.expt"))
    for top in (old, new):
        for crystal in top["crystal"]:
            for axis in "abc":
                crystal[f"real_space_{axis}"] = np.round(crystal[f"real_space_{axis}"], 10).tolist()
    assert new == old
