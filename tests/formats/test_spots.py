"""Lists of spots of DIALS, of CrystFEL and our own, and what is told of bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.data import Crystals, Detector
from sfxproc.errors import InputError
from sfxproc.formats.crystfel_geometry import detector_of
from sfxproc.formats.dials_expt import write_models
from sfxproc.formats.dials_refl import write_table
from sfxproc.formats.spots import read_spots, write_spots
from sfxproc.spots import q_of

GEOMETRY = """photon_energy = 9500
clen = 80 mm
res = 10000
coffset = 0.005
bad_corner/min_x = -3
rigid_group_q0 = a,b
a/min_fs = 0
a/max_fs = 99
a/min_ss = 0
a/max_ss = 199
a/fs = +1.0x +0.0y
a/ss = y
a/corner_x = 10
a/corner_y = -20.5
b/min_fs = 0
b/max_fs = 99
b/min_ss = 200
b/max_ss = 399
b/fs = -0.6x +0.8y
b/ss = -0.8x -0.6y
b/corner_x = -10
b/corner_y = 5
b/coffset = 0.007
"""
CHUNK = """----- Begin chunk -----
Image filename: a.h5
Event: //0
photon_energy_eV = 12398.4198
{camera}
Peaks from peak search
  fs/px   ss/px (1/d)/nm^-1   Intensity  Panel
{peaks}
End of peak list
----- End chunk -----
"""
PEAKS = "  10.50   20.50   1.00   100.00   a\n  30.00   260.00   1.00   250.00   b"


def stream(path: Path, *chunks: tuple[str, str], geometry: str = GEOMETRY) -> Path:
    text = "CrystFEL stream format 2.3\n----- Begin geometry file -----\n" + geometry
    text += "----- End geometry file -----\n"
    text += "".join(CHUNK.format(camera=camera, peaks=peaks) for camera, peaks in chunks)
    path.write_text(text)
    return path


def dials_pair(folder: Path, flags: list[int] | None = None, panel: int = 0) -> Path:
    """Two images without crystals, beam along −z, three spots out of order."""
    n = 2
    crystals = Crystals(
        file=np.full(n, "x", dtype=object),
        event=np.array(["one", "two"], dtype=object),
        A=np.full((n, 3, 3), np.nan),
        cell=np.full((n, 6), np.nan),
        beam=np.tile([0.0, 0.0, -1.0], (n, 1)),
        wavelength_A=np.array([1.0, 1.1]),
        bandwidth=np.full(n, np.nan),
        profile_radius=np.full(n, np.nan),
    )
    detector = Detector(
        name=np.array(["p"], dtype=object),
        fast=np.array([[1.0, 0.0, 0.0]]),
        slow=np.array([[0.0, -1.0, 0.0]]),
        origin_mm=np.array([[-10.0, 10.0, -100.0]]),
        pixel_mm=np.array([[0.1, 0.1]]),
        size_px=np.array([[200, 200]]),
    )
    write_models(folder / "s.expt", crystals, detector)
    px = np.array([[150.0, 100.0, 0.5], [100.0, 40.0, 0.5], [100.5, 100.5, 0.5]])
    columns: dict[str, Any] = {
        "id": ("int", np.array([1, 0, 1])),
        "panel": ("std::size_t", np.full(3, panel)),
        "flags": ("std::size_t", np.array(flags or [32, 32, 32])),
        "xyzobs.px.value": ("vec3<double>", px),
        "intensity.sum.value": ("double", np.array([5.0, 6.0, 7.0])),
    }
    write_table(folder / "s.refl", columns, ["one", "two"])
    return folder / "s.expt"


def test_dials_strong_spots(tmp_path: Path) -> None:
    found = read_spots(dials_pair(tmp_path))
    assert (found.n_shots, found.pixel_mm) == (2, 0.1)
    assert found.spots.shot.tolist() == [0, 1, 1]
    assert found.spots.wavelength_A.tolist() == [1.0, 1.1, 1.1]
    assert found.spots.intensity.tolist() == [6.0, 5.0, 7.0]
    assert np.all(found.spots.position_mm[:, 2] == 100.0)
    radius = np.hypot(*found.spots.position_mm[:, :2].T)
    np.testing.assert_allclose(radius, [6.0, 5.0, 0.05 * np.sqrt(2)], rtol=1e-12)
    q = 2.0 * np.sin(0.5 * np.arctan(radius / 100.0)) / [1.0, 1.1, 1.1]
    np.testing.assert_allclose(q_of(found.spots), q, rtol=1e-12)


def test_only_strong_spots_of_a_table_that_marks_them(tmp_path: Path) -> None:
    assert len(read_spots(dials_pair(tmp_path, [32, 1, 36])).spots) == 2
    found = read_spots(dials_pair(tmp_path, [1, 1, 1]))
    assert len(found.spots) == 3
    assert "no row is marked" in found.notes[0]


def test_crystfel_peaks(tmp_path: Path) -> None:
    camera = "average_camera_length = 0.090000 m"
    found = read_spots(stream(tmp_path / "a.stream", ("", PEAKS), (camera, ""), (camera, PEAKS)))
    assert found.n_shots == 3
    assert found.spots.shot.tolist() == [0, 0, 2, 2]
    assert found.spots.wavelength_A.tolist() == [1.0] * 4
    assert found.spots.intensity.tolist() == [100.0, 250.0] * 2
    a = [1.0 + 1.05, -2.05 + 2.05]
    b = [-1.0 - 0.6 * 3.0 - 0.8 * 6.0, 0.5 + 0.8 * 3.0 - 0.6 * 6.0]
    expected = [[*a, 85.0], [*b, 87.0], [*a, 89.0], [*b, 91.0]]
    np.testing.assert_allclose(found.spots.position_mm, expected, atol=1e-12)


def test_a_damaged_peak_list_is_counted(tmp_path: Path) -> None:
    path = stream(tmp_path / "a.stream", ("", PEAKS), ("", PEAKS.replace("20.50", "x")))
    found = read_spots(path)
    assert len(found.spots) == 2
    assert "a peak list cannot be read and was left out (times: 1" in found.notes[0]
    with pytest.raises(InputError, match=r"line \d+: a peak list cannot be read"):
        read_spots(path, strict=True)


def test_a_short_peak_list_is_told(tmp_path: Path) -> None:
    path = stream(tmp_path / "a.stream", ("num_peaks = 2", PEAKS), ("num_peaks = 5", PEAKS))
    found = read_spots(path)
    assert len(found.spots) == 4
    assert "a peak list is shorter than num_peaks says (times: 1" in found.notes[0]
    with pytest.raises(InputError, match="num_peaks"):
        read_spots(path, strict=True)


def test_crystfel_says_the_same_1_over_d(shared_data: Path) -> None:
    """The stream's own column, of two decimals in nm⁻¹, on 64 panels."""
    path = shared_data / "stills" / "5HT2B_70frames.stream"
    found = read_spots(path)
    lines = [line.split() for line in path.read_text().splitlines() if line.rstrip()[-1:].isdigit()]
    told = [float(row[2]) for row in lines if len(row) == 5 and row[4].startswith("q")]
    assert len(told) == len(found.spots) == 2172
    assert np.abs(10.0 * q_of(found.spots) - told).max() < 0.0101


def test_geometry_of_crystfel(shared_data: Path) -> None:
    """Of a measured detector: axes of about unit length, at right angles."""
    header = (shared_data / "geometry" / "jf-swissfel-16M.geom").read_text()
    detector, clen_mm = detector_of(header)
    assert len(detector) == len(set(detector.name.tolist())) > 30
    np.testing.assert_allclose(np.linalg.norm(detector.fast, axis=1), 1.0, atol=5e-3)
    np.testing.assert_allclose(np.sum(detector.fast * detector.slow, axis=1), 0.0, atol=5e-3)
    assert clen_mm is None or 50.0 < clen_mm < 1000.0


def test_round_trip(tmp_path: Path) -> None:
    first = read_spots(dials_pair(tmp_path))
    write_spots(tmp_path / "spots.h5", first)
    again = read_spots(tmp_path / "spots.h5")
    for name, values in first.spots.columns().items():
        np.testing.assert_array_equal(again.spots.columns()[name], values, err_msg=name)
    assert (again.n_shots, again.pixel_mm) == (first.n_shots, first.pixel_mm)


def without(path: Path, kind: str) -> Path:
    """The experiment list without one kind of model."""
    top = json.loads(path.read_text())
    for experiment in top["experiment"]:
        experiment.pop(kind)
    path.write_text(json.dumps(top))
    return path


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no detector model, so nobody knows"):
        read_spots(without(dials_pair(tmp_path), "detector"))
    with pytest.raises(InputError, match=r"experiment 0, has no wavelength or beam"):
        read_spots(without(dials_pair(tmp_path), "beam"))
    with pytest.raises(InputError, match=r"spots on panel 3, but the detector .* has 1 panels"):
        read_spots(dials_pair(tmp_path, panel=3))
    with pytest.raises(InputError, match=r"holds no spots"):
        read_spots(stream(tmp_path / "a.stream", ("", "")))
    bad = GEOMETRY.replace("b/corner_x = -10\n", "")
    with pytest.raises(InputError, match="panel 'b' has no corner_x"):
        read_spots(stream(tmp_path / "a.stream", ("", PEAKS), geometry=bad))
    moved = GEOMETRY.replace("clen = 80 mm", "clen = /LCLS/distance")
    with pytest.raises(InputError, match="holds no spots"):
        read_spots(stream(tmp_path / "a.stream", ("", PEAKS), geometry=moved))
    (tmp_path / "a.mtz").write_bytes(b"")
    with pytest.raises(InputError, match="holds no list of spots"):
        read_spots(tmp_path / "a.mtz")
