"""Reading DIALS experiment lists and reflection tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from sfxproc.data import OPTIONAL_COLUMNS, BeamPolarisation, Correction, Reason
from sfxproc.formats import dials
from sfxproc.formats.base import Request
from sfxproc.formats.dials_refl import write_table

EVERYTHING = Request("pair", frozenset(OPTIONAL_COLUMNS))
Edit = Callable[[Any], Any]

CELL_A = [[70.0, 0.0, 0.0], [0.0, 80.0, 0.0], [9.0, 0.0, 90.0]]


def experiments() -> dict[str, Any]:
    """Three experiments: two crystals that share a beam and a detector, one empty image."""
    panel = {
        "name": "P",
        "fast_axis": [0.0, 1.0, 0.0],
        "slow_axis": [-1.0, 0.0, 0.0],
        "origin": [1.0, 2.0, 3.0],
        "image_size": [100, 200],
        "pixel_size": [0.1, 0.1],
    }
    group = {"fast_axis": [0, 1, 0], "slow_axis": [-1, 0, 0], "origin": [0, 0, -100.0]}
    crystal = {f"real_space_{axis}": v for axis, v in zip("abc", CELL_A, strict=True)}
    models = {"beam": 0, "detector": 0}
    return {
        "__id__": "ExperimentList",
        "experiment": [
            {"identifier": "one", "crystal": 0, **models},
            {"identifier": "two", **models},
            {"identifier": "three", "crystal": 1, **models},
        ],
        "beam": [{"direction": [0.0, 0.0, 2.0], "wavelength": 1.25}],
        "detector": [
            {
                "panels": [panel, panel],
                "hierarchy": group
                | {"children": [{"panel": 0}, group | {"children": [{"panel": 1}]}]},
            }
        ],
        "crystal": [crystal, crystal],
    }


def columns() -> dict[str, tuple[str, Any]]:
    """Six rows: id 2 before id 0, one unindexed, one overloaded, one not integrated."""
    value = np.array([1.5, -2.25, 3.0, np.nan, 5.0, 6.0])
    return {
        "id": ("int", [2, 0, -1, 2, 0, 2]),
        "miller_index": (
            "cctbx::miller::index<>",
            [[1, 2, 3], [-1, 0, 4], [1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 4, 4]],
        ),
        "flags": ("std::size_t", [256, 256, 256, 256 | 4, 256 | 1024, 4]),
        "intensity.sum.value": ("double", value),
        "intensity.sum.variance": ("double", [1.0, 0.0, 1.0, 2.0, 1.0, 1.0]),
        "panel": ("std::size_t", [1, 0, 0, 1, 0, 0]),
        "partiality": ("double", [0.5, 0.25, 1.0, 1.0, 1.0, 1.0]),
        "xyzobs.px.value": ("vec3<double>", np.arange(18.0).reshape(6, 3)),
    }


def write_pair(
    folder: Path, top: Any = None, table: Any = None, identifiers: tuple[str, ...] | None = None
) -> Path:
    """Write a pair of files and return the .expt."""
    expt = folder / "pair.expt"
    expt.write_text(json.dumps(experiments() if top is None else top))
    names = ("one", "two", "three") if identifiers is None else identifiers
    write_table(
        folder / "pair.refl",
        {k: (kind, np.array(v)) for k, (kind, v) in (table or columns()).items()},
        names,
    )
    return expt


def test_rows_are_chosen_sorted_and_counted(tmp_path: Path) -> None:
    stills = dials.read(write_pair(tmp_path), EVERYTHING)
    assert stills.crystals.identity == ["pair//one", "pair//three"]
    assert stills.n_images == 3
    assert stills.counts == {
        Reason.NOT_INDEXED: 1,
        Reason.NOT_INTEGRATED: 1,
        Reason.OVERLOADED: 1,
    }
    obs = stills.observations
    assert obs.crystal.tolist() == [0, 1, 1]
    assert obs.hkl.tolist() == [[-1, 0, 4], [1, 2, 3], [2, 2, 2]]
    np.testing.assert_array_equal(obs.intensity, np.float32([-2.25, 1.5, np.nan]))
    np.testing.assert_array_equal(obs.variance, np.float32([0.0, 1.0, 2.0]))
    assert obs.partiality is not None
    assert obs.panel is not None
    assert obs.x_px is not None
    assert obs.y_px is not None
    assert obs.partiality.tolist() == [0.25, 0.5, 1.0]
    assert obs.panel.tolist() == [0, 1, 1]
    assert obs.x_px.tolist() == [3.0, 0.0, 9.0]
    assert obs.y_px.tolist() == [4.0, 1.0, 10.0]


def test_models_come_out_in_the_laboratory_frame(tmp_path: Path) -> None:
    stills = dials.read(write_pair(tmp_path), Request("pair"))
    crystals, detector = stills.crystals, stills.detector
    np.testing.assert_allclose(crystals.A[0], np.linalg.inv(CELL_A), rtol=1e-15)
    beta = np.degrees(np.arccos(9.0 / np.hypot(9.0, 90.0)))
    np.testing.assert_allclose(crystals.cell[1], [70, 80, np.hypot(9.0, 90.0), 90, beta, 90])
    assert crystals.beam.tolist() == [[0.0, 0.0, -1.0]] * 2
    assert crystals.wavelength_A.tolist() == [1.25, 1.25]
    assert np.isnan(crystals.bandwidth).all()
    # one quarter turn for the first panel's group and its own, two groups for the second
    assert detector is not None
    np.testing.assert_allclose(detector.fast, [[-1, 0, 0], [0, -1, 0]], atol=1e-15)
    np.testing.assert_allclose(detector.slow, [[0, -1, 0], [1, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(detector.origin_mm, [[-2, 1, -97], [-1, -2, -197]])
    assert detector.size_px.tolist() == [[100, 200]] * 2


def test_optional_columns_are_read_only_on_request(tmp_path: Path) -> None:
    obs = dials.read(write_pair(tmp_path), Request("pair", frozenset({"panel"}))).observations
    assert obs.panel is not None
    assert obs.x_px is None
    assert obs.partiality is None


def test_positions_fall_back_on_the_predicted_ones(tmp_path: Path) -> None:
    table = columns()
    table["xyzcal.px"] = table.pop("xyzobs.px.value")
    obs = dials.read(write_pair(tmp_path, table=table), EVERYTHING).observations
    assert obs.x_px is not None
    assert obs.x_px.tolist() == [3.0, 0.0, 9.0]


def test_profile_fitted_intensities_are_preferred_where_fitted(tmp_path: Path) -> None:
    table = columns()
    table["intensity.prf.value"] = ("double", [10.0] * 6)
    table["intensity.prf.variance"] = ("double", [4.0] * 6)
    unfitted = dials.read(write_pair(tmp_path, table=table), Request("pair"))
    assert unfitted.observations.intensity[0] == -2.25
    table["flags"] = ("std::size_t", [256 | 512, 256, 0, 512, 4, 4])
    mixed = dials.read(write_pair(tmp_path, table=table), Request("pair"))
    assert mixed.observations.hkl.tolist() == [[-1, 0, 4], [1, 2, 3], [2, 2, 2]]
    assert mixed.observations.intensity.tolist() == [-2.25, 10.0, 10.0]
    assert mixed.observations.variance.tolist() == [0.0, 4.0, 4.0]
    assert mixed.counts[Reason.NOT_INTEGRATED] == 2
    assert any("(intensity.prf, 2 rows), otherwise" in note for note in mixed.notes)
    table["flags"] = ("std::size_t", [512] * 6)
    fitted = dials.read(write_pair(tmp_path, table=table), Request("pair"))
    assert fitted.observations.intensity.tolist() == [10.0] * 5
    assert "intensities are profile-fitted (intensity.prf)" in fitted.notes


@pytest.mark.parametrize(
    ("n_fitted", "n_rows", "ratio", "first", "words"),
    [
        (25, 60, 1.05, 1.05, "where there is a profile (intensity.prf, 25 rows)"),
        (25, 60, 2.0, 1.0, "intensities are summed (intensity.sum), as profile-fitted ones are 2 "),
        (35, 40, 2.0, 2.0, "only profile-fitted intensities are used"),
    ],
)
def test_profile_and_sum_are_mixed_only_on_one_scale(
    n_fitted: int, n_rows: int, ratio: float, first: float, words: str, tmp_path: Path
) -> None:
    """The first rows have a profile, the first 20 of them a sum too, and so have the last rows."""
    n, row = n_rows, np.arange(n_rows)
    flags = np.where(row < n_fitted, 512, 0) | np.where((row < 20) | (row >= n_fitted), 256, 0)
    table = {
        "id": ("int", np.zeros(n)),
        "miller_index": ("cctbx::miller::index<>", np.column_stack([row + 1, row, row])),
        "flags": ("std::size_t", flags),
        "intensity.sum.value": ("double", np.full(n, 1000.0)),
        "intensity.sum.variance": ("double", np.full(n, 100.0)),
        "intensity.prf.value": ("double", np.full(n, 1000.0 * ratio)),
        "intensity.prf.variance": ("double", np.full(n, 100.0)),
    }
    stills = dials.read(write_pair(tmp_path, table=table), Request("pair"))
    assert stills.observations.intensity[0] == np.float32(1000.0 * first)
    assert any(words in note for note in stills.notes), stills.notes


def test_lp_and_qe_are_applied(tmp_path: Path) -> None:
    """DIALS leaves I·lp/qe to whoever scales: value 1.5·2/0.5, variance 1·(2/0.5)²."""
    table = columns()
    table["lp"] = ("double", [2.0, 1.0, 1.0, np.nan, 1.0, 1.0])
    table["qe"] = ("double", [0.5, 0.9, 1.0, 0.9, 0.9, 1.0])
    stills = dials.read(write_pair(tmp_path, table=table), Request("pair"))
    assert stills.observations.hkl.tolist() == [[-1, 0, 4], [1, 2, 3]]
    np.testing.assert_array_equal(
        stills.observations.intensity, np.float32([-2.25 / 0.9, 1.5 * 4.0])
    )
    assert stills.observations.variance.tolist() == [0.0, 16.0]
    assert stills.counts[Reason.DAMAGED] == 1
    assert stills.corrected == {Correction.POLARISATION, Correction.EFFICIENCY}
    assert any("columns lp and qe" in note and "polarisation" in note for note in stills.notes)


def test_without_lp_nothing_is_corrected(tmp_path: Path) -> None:
    stills = dials.read(write_pair(tmp_path), Request("pair"))
    assert stills.corrected == frozenset()
    assert not any("corrected" in note for note in stills.notes)
    table = columns() | {"qe": ("double", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0])}
    stills = dials.read(write_pair(tmp_path, table=table), Request("pair"))
    assert stills.observations.intensity[0] == -4.5
    assert stills.counts[Reason.DAMAGED] == 1
    assert stills.corrected == {Correction.EFFICIENCY}


def test_lp_of_sweeps_has_the_lorentz_factor(tmp_path: Path) -> None:
    top = experiments() | {"scan": [{"image_range": [1, 2], "oscillation": [0.0, 0.1]}]}
    for experiment in top["experiment"]:
        experiment["scan"] = 0
    table = columns() | {"lp": ("double", [1.0] * 6)}
    stills = dials.read(write_pair(tmp_path, top, table), Request("pair"))
    assert stills.corrected == {Correction.POLARISATION, Correction.LORENTZ}


def test_polarisation_and_space_group_are_told(tmp_path: Path) -> None:
    top = experiments()
    assert dials.read(write_pair(tmp_path, top), Request("pair")).polarisation is None
    top["beam"][0] |= {"polarization_fraction": 0.9, "polarization_normal": [0.0, 1.0, 0.0]}
    top["crystal"][0]["space_group_hall_symbol"] = " P 4nw 2abw"
    stills = dials.read(write_pair(tmp_path, top), Request("pair"))
    assert stills.polarisation == BeamPolarisation(0.9, (0.0, 1.0, 0.0))
    assert stills.space_group == "P 43 21 2"
    top["crystal"] = [top["crystal"][0], {**top["crystal"][0], "space_group_hall_symbol": " P 1"}]
    assert dials.read(write_pair(tmp_path, top), Request("pair")).space_group == ""


def test_strong_spots_are_used_as_they_are_and_it_is_said(tmp_path: Path) -> None:
    table = columns() | {"flags": ("std::size_t", [32] * 6)}
    stills = dials.read(write_pair(tmp_path, table=table), Request("pair"))
    assert len(stills.observations) == 5
    assert any("strong spots" in note for note in stills.notes)


def test_zero_indices_are_not_indexed(tmp_path: Path) -> None:
    table = columns()
    table["miller_index"] = ("cctbx::miller::index<>", [[0, 0, 0]] + [[1, 2, 3]] * 5)
    assert dials.read(write_pair(tmp_path, table=table), EVERYTHING).counts[Reason.NOT_INDEXED] == 2


def test_identifiers_map_ids_in_any_order(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, identifiers=("three", "two", "one"))
    obs = dials.read(pair, Request("pair")).observations
    assert obs.hkl.tolist() == [[1, 2, 3], [2, 2, 2], [-1, 0, 4]]


def test_without_identifiers_ids_are_positions(tmp_path: Path) -> None:
    top = experiments()
    for experiment in top["experiment"]:
        experiment["identifier"] = ""
    stills = dials.read(write_pair(tmp_path, top, identifiers=()), Request("pair"))
    assert stills.crystals.identity == ["pair//0", "pair//2"]
    assert stills.observations.crystal.tolist() == [0, 1, 1]


def test_rows_of_an_experiment_without_a_crystal(tmp_path: Path) -> None:
    table = columns() | {"id": ("int", [1, 0, 0, 0, 0, 2])}
    stills = dials.read(write_pair(tmp_path, table=table), Request("pair"))
    assert stills.counts[Reason.NO_ORIENTATION] == 1


@pytest.mark.parametrize(
    ("imagesets", "scans", "expected"),
    [
        ([{"images": ["a"]}, {"images": ["b"]}, {"images": ["a"]}], None, 2),
        ([{"images": ["a"], "single_file_indices": [i]} for i in (0, 1, 2)], None, 3),
        ([{"images": ["a", "b", "c"]}] * 3, None, 3),
        ([{"template": "t_##"}] * 3, [{"image_range": [i, i]} for i in (1, 1, 2)], 2),
    ],
)
def test_images_are_counted_once(tmp_path: Path, imagesets: Any, scans: Any, expected: int) -> None:
    top = experiments() | {"imageset": imagesets, "scan": scans}
    for i, experiment in enumerate(top["experiment"]):
        experiment["imageset"] = i
        if scans:
            experiment["scan"] = i
    assert dials.read(write_pair(tmp_path, top), Request("pair")).n_images == expected


@pytest.mark.parametrize(
    ("scan", "sweep"),
    [
        ({"oscillation": [3.0, 0.0]}, False),
        ({"oscillation": [3.0, 0.1]}, True),
        ({"properties": {"oscillation": [3.0, 3.1]}}, True),
        ({"properties": {"oscillation": [3.0]}}, False),
        ({"properties": {"oscillation": [3.0], "oscillation_width": [0.1]}}, True),
    ],
)
def test_rotation_sweeps_are_noted(tmp_path: Path, scan: dict[str, Any], sweep: bool) -> None:
    top = experiments() | {"scan": [{"image_range": [1, 2]} | scan]}
    top["experiment"][0]["scan"] = 0
    notes = dials.read(write_pair(tmp_path, top), Request("pair")).notes
    assert any("rotation" in note for note in notes) == sweep


def test_different_detectors_are_noted_equal_ones_are_not(tmp_path: Path) -> None:
    top = experiments()
    top["detector"] = [*top["detector"], json.loads(json.dumps(top["detector"][0]))]
    top["experiment"][2]["detector"] = 1
    assert not any("detector" in n for n in dials.read(write_pair(tmp_path, top), EVERYTHING).notes)
    top["detector"][1]["panels"][0]["origin"] = [0.0, 0.0, 0.0]
    assert any("detector" in n for n in dials.read(write_pair(tmp_path, top), EVERYTHING).notes)


def test_text_columns_and_shoeboxes_are_skipped_and_named(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    refl = pair.with_suffix(".refl")
    top = msgpack.unpackb(refl.read_bytes(), strict_map_key=False)
    top[1] = 2
    top[2]["data"]["detector"] = ["std::string", [6, b"\xff\xfe\x00"]]
    top[2]["data"]["broken"] = ["std::string", [6, ["\udcff", "b"]]]
    top[2]["data"]["shoebox"] = ["Shoebox<>", [6, b""]]
    refl.write_bytes(msgpack.packb(top, unicode_errors="surrogateescape"))
    stills = dials.read(pair, Request("pair"))
    assert len(stills.observations) == 3
    (note,) = (note for note in stills.notes if "skipped" in note)
    for text in ("detector (std::string)", "broken (std::string)", "shoebox (Shoebox<>)"):
        assert text in note


# ---- what is wrong with a file, and what the message must say -------------------------------
