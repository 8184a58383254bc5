"""Writing CrystFEL streams."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sfxproc.data import Correction, Crystals, Stills
from sfxproc.errors import OutputError
from sfxproc.formats import crystfel
from sfxproc.formats.base import Request

PLAIN = Request("x")
STRICT = Request("x", frozenset({"panel", "x_px", "y_px"}), strict=True)

GEOMETRY = "photon_energy = 9000\np0/min_fs = 10\np0/min_ss = 20\np1/min_fs = 30\np1/min_ss = 0\n"


def assert_same(again: Stills, stills: Stills) -> None:
    assert again.crystals.identity == stills.crystals.identity
    for name in ("A", "cell", "wavelength_A", "bandwidth", "profile_radius"):
        old, new = getattr(stills.crystals, name), getattr(again.crystals, name)
        np.testing.assert_allclose(new, old, rtol=2e-9, atol=1e-12, err_msg=name)
    old_rows, new_rows = stills.observations.columns(), again.observations.columns()
    for name in ("crystal", "hkl", "intensity", "panel"):
        np.testing.assert_array_equal(new_rows[name], old_rows[name], err_msg=name)
    for name in ("variance", "x_px", "y_px"):
        np.testing.assert_allclose(new_rows[name], old_rows[name], rtol=2e-7, atol=1e-4)


def test_round_trip_with_a_header(small_stills: Stills, tmp_path: Path) -> None:
    crystals = replace(
        small_stills.crystals,
        file=np.array(["run a/å.h5"] * 3, dtype=object),
        event=np.array(["//0", "//0#2", "17"], dtype=object),
    )
    stills = replace(small_stills, crystals=crystals, header=GEOMETRY)
    crystfel.write(tmp_path / "b.stream", stills)
    again = crystfel.read(tmp_path / "b.stream", STRICT)
    assert again.header == GEOMETRY
    assert again.n_images == 2  # two lattices in one chunk
    # of the first two, one image's energy and bandwidth are kept: the first one's
    expected = crystals.take([0, 0, 2])
    same = replace(crystals, wavelength_A=expected.wavelength_A, bandwidth=expected.bandwidth)
    assert_same(again, replace(stills, crystals=same))


def test_round_trip_without_a_header(small_stills: Stills, tmp_path: Path) -> None:
    crystfel.write(tmp_path / "b.stream", small_stills)
    assert_same(crystfel.read(tmp_path / "b.stream", STRICT), small_stills)


def test_lattices_that_lost_their_first_are_counted_anew(
    small_stills: Stills, tmp_path: Path
) -> None:
    crystals = replace(
        small_stills.crystals, event=np.array(["//4#2", "//4#3", "//4#2"], dtype=object)
    )
    crystfel.write(tmp_path / "b.stream", replace(small_stills, crystals=crystals))
    again = crystfel.read(tmp_path / "b.stream", STRICT)
    assert again.crystals.event.tolist() == ["//4", "//4#2", "//4"]


def test_what_cannot_be_written_as_a_number_comes_back_as_nan(
    small_stills: Stills, tmp_path: Path
) -> None:
    obs = small_stills.observations
    intensity, variance = obs.intensity.copy(), obs.variance.copy()
    intensity[3], variance[4], variance[5] = np.nan, -1.0, np.nan
    A = small_stills.crystals.A.copy()
    A[0] = np.nan
    stills = replace(
        small_stills,
        crystals=replace(small_stills.crystals, A=A),
        observations=replace(obs, intensity=intensity, variance=variance, panel=None, x_px=None),
    )
    crystfel.write(tmp_path / "b.stream", stills)
    again = crystfel.read(tmp_path / "b.stream", PLAIN)
    assert np.isnan(again.crystals.A[0]).all()
    assert np.isfinite(again.crystals.A[1:]).all()
    assert np.flatnonzero(np.isnan(again.observations.intensity)).tolist() == [3]
    assert np.flatnonzero(np.isnan(again.observations.variance)).tolist() == [4, 5]


@pytest.mark.parametrize("detector", [True, False])
def test_the_generated_geometry_puts_pixels_where_they_are(
    small_stills: Stills, tmp_path: Path, detector: bool
) -> None:
    backwards = np.array([0.02, -0.01, -1.0])
    crystals = small_stills.crystals
    assert small_stills.detector is not None
    turned = replace(
        small_stills.detector, origin_mm=small_stills.detector.origin_mm * [1.0, 1.0, -1.0]
    )
    stills = replace(
        small_stills,
        crystals=replace(crystals, beam=np.tile(backwards / np.linalg.norm(backwards), (3, 1))),
        detector=turned if detector else None,
    )
    crystfel.write(tmp_path / "b.stream", stills)
    again = crystfel.read(tmp_path / "b.stream", STRICT)

    # lengths and angles to the beam do not depend on the frame
    def along(c: Crystals) -> np.ndarray:
        return np.einsum("nij,ni->nj", c.A, c.beam)

    np.testing.assert_allclose(along(again.crystals), along(stills.crystals), atol=1e-12)
    np.testing.assert_allclose(again.crystals.cell, crystals.cell, rtol=1e-9)
    keys = dict(re.findall(r"(?m)^(\S+) = (.+)$", again.header))
    for required in ("clen", "photon_energy", "adu_per_photon", "data"):
        assert required in keys
    if not detector:
        assert "not known" in again.header
        return
    b = stills.crystals.beam[0]
    for i, name in enumerate(turned.name):
        value = {k.split("/")[1]: v for k, v in keys.items() if k.startswith(f"{name}/")}
        pixel_mm = 1e3 / float(value["res"])
        z_mm = 1e3 * (float(keys["clen"]) + float(value["coffset"]))
        corner = np.array([float(value[f"corner_{c}"]) * pixel_mm for c in "xy"] + [z_mm])
        fast, slow = (
            np.array([float(x) for x in re.findall(r"([-+.\d]+)[xyz]", value[axis])])
            for axis in ("fs", "ss")
        )
        origin_mm = turned.origin_mm[i]
        assert pixel_mm == pytest.approx(0.1)
        assert corner @ corner == pytest.approx(origin_mm @ origin_mm, rel=1e-6)
        assert corner[2] == pytest.approx(origin_mm @ b, rel=1e-6)
        assert fast @ corner == pytest.approx(turned.fast[i] @ origin_mm, abs=1e-4)
        assert np.linalg.det([fast, slow, corner]) == pytest.approx(
            np.linalg.det([turned.fast[i], turned.slow[i], origin_mm]), rel=1e-5
        )
        assert int(value["max_ss"]) - int(value["min_ss"]) == 199
    assert int(keys["p1/min_ss"]) == int(keys["p0/max_ss"]) + 1


def test_straight_back_beams_are_half_a_turn_about_y() -> None:
    R = crystfel.frames(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.6, 0.0, -0.8]]))
    np.testing.assert_array_equal(R[0], np.eye(3))
    np.testing.assert_array_equal(R[1], np.diag([-1.0, 1.0, -1.0]))
    np.testing.assert_allclose(R[2] @ [0.6, 0.0, -0.8], [0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(R[2] @ R[2].T, np.eye(3), atol=1e-15)
    assert np.linalg.det(R[2]) == pytest.approx(1.0)


def test_writing_into_a_missing_folder(small_stills: Stills, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="none"):
        crystfel.write(tmp_path / "none" / "b.stream", small_stills)


def test_experimental_stream(shared_data: Path, tmp_path: Path) -> None:
    stills = crystfel.read(shared_data / "stills" / "5HT2B_70frames.stream", STRICT)
    crystfel.write(tmp_path / "again.stream", stills)
    again = crystfel.read(tmp_path / "again.stream", STRICT)
    assert again.header == stills.header
    assert again.n_images == len(stills.crystals) == 32
    assert_same(again, stills)


@pytest.mark.parametrize(
    ("group", "lines"),
    [
        ("P 43 21 2", ["lattice_type = tetragonal", "centering = P", "unique_axis = c"]),
        ("C 2 2 21", ["lattice_type = orthorhombic", "centering = C"]),
        ("C 1 2 1", ["lattice_type = monoclinic", "centering = C", "unique_axis = b"]),
        ("P 1 1 2", ["lattice_type = monoclinic", "centering = P", "unique_axis = c"]),
        ("P 31 2 1", ["lattice_type = hexagonal", "centering = P", "unique_axis = c"]),
        ("R 3:H", ["lattice_type = hexagonal", "centering = H", "unique_axis = c"]),
        ("R 3:R", ["lattice_type = rhombohedral", "centering = R"]),
        ("I 21 3", ["lattice_type = cubic", "centering = I"]),
        ("P 1", ["lattice_type = triclinic", "centering = P"]),
        ("", []),
    ],
)
def test_lattice_of_the_space_group(
    group: str, lines: list[str], small_stills: Stills, tmp_path: Path
) -> None:
    crystfel.write(tmp_path / "a.stream", replace(small_stills, space_group=group))
    text = (tmp_path / "a.stream").read_text().splitlines()
    words = ("lattice_type", "centering", "unique_axis")
    assert [x for x in text if x.startswith(words)] == lines * 3
    # 2e-3 Å⁻¹ in CrystFEL's unit
    assert "profile_radius = 0.02000000 nm^-1" in text


def test_what_was_corrected_returns(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "a.stream"
    crystfel.write(path, small_stills)
    assert crystfel.read(path, Request("a")).corrected == frozenset()
    corrected = frozenset({Correction.POLARISATION, Correction.EFFICIENCY})
    crystfel.write(path, replace(small_stills, corrected=corrected))
    assert crystfel.read(path, Request("a", strict=True)).corrected == corrected


def test_the_detector_returns(small_stills: Stills, tmp_path: Path) -> None:
    crystfel.write(tmp_path / "a.stream", small_stills)
    again, before = (
        crystfel.read(tmp_path / "a.stream", Request("a")).detector,
        small_stills.detector,
    )
    assert again is not None
    assert before is not None
    assert again.name.tolist() == before.name.tolist()
    np.testing.assert_allclose(again.origin_mm, before.origin_mm, atol=1e-5)
    np.testing.assert_allclose(again.fast, before.fast, atol=1e-9)
    np.testing.assert_array_equal(again.size_px, before.size_px)
