"""The detector and the beam in the header of streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfxproc.errors import InputError
from sfxproc.formats import crystfel
from sfxproc.formats.crystfel_geometry import polarisation_of
from sfxproc.formats.dials_expt import read_experiments, write_models
from tests.formats.test_crystfel import (
    PLAIN,
    POSITIONS,
    STRICT,
    TABLES,
    chunk,
    crystal,
    write_stream,
)


def test_positions_count_from_the_panel_corner(tmp_path: Path) -> None:
    obs = crystfel.read(write_stream(tmp_path, chunk(crystal())), POSITIONS).observations
    assert obs.panel is not None
    assert obs.x_px is not None
    assert obs.y_px is not None
    assert obs.panel.tolist() == [0, 1]
    assert obs.x_px.tolist() == [40.0, 50.5]
    assert obs.y_px.tolist() == [55.0, 10.5]


def test_panels_beyond_the_geometry_come_in_order_of_appearance(tmp_path: Path) -> None:
    titles, first, _ = TABLES["2.3"]
    rows = [first.replace("p0", name) for name in ("zz", "p1", "a_long_name", "zz")]
    path = write_stream(tmp_path, chunk(crystal([titles, *rows])))
    obs = crystfel.read(path, POSITIONS).observations
    assert obs.panel is not None
    assert obs.x_px is not None
    assert obs.panel.tolist() == [2, 1, 3, 2]
    assert obs.x_px.tolist() == [50.0, 30.0, 50.0, 50.0]


def test_damaged_geometry(tmp_path: Path) -> None:
    path = write_stream(tmp_path)
    path.write_text(path.read_text().replace("min_fs = 10", "min_fs = ten"))
    with pytest.raises(InputError, match=r"geometry in the stream's header is damaged: .*ten"):
        crystfel.read(path, PLAIN)


def test_the_detector_stands_at_the_camera_length(shared_data: Path, tmp_path: Path) -> None:
    """clen lies in the image files, so the images' camera length of 152 mm tells; other programs
    get 64 panels with their axes."""
    stills = crystfel.read(shared_data / "stills" / "5HT2B_70frames.stream", PLAIN)
    assert stills.detector is not None
    assert len(stills.detector) == 64
    assert stills.detector.origin_mm[:, 2].mean() == pytest.approx(152.0, abs=0.01)
    at = stills.detector.name.tolist().index("q0a0")
    np.testing.assert_allclose(
        stills.detector.origin_mm[at, :2], np.array([449.314461, -28.273254]) * 1e3 / 9097.525473
    )
    write_models(tmp_path / "a.expt", stills.crystals, stills.detector, "C 2 2 21")
    again = read_experiments(tmp_path / "a.expt", "a")
    assert again.detector is not None
    np.testing.assert_allclose(again.detector.origin_mm, stills.detector.origin_mm, atol=1e-12)


def test_an_incomplete_geometry_gives_no_detector(tmp_path: Path) -> None:
    stills = crystfel.read(write_stream(tmp_path, chunk(crystal())), PLAIN)
    assert stills.detector is None


@pytest.mark.parametrize(
    ("text", "fraction", "normal"),
    [
        ("horiz", 1.0, [0, 1, 0]),
        ("vert", 1.0, [-1, 0, 0]),
        ("horiz50", 0.5, [0, 1, 0]),
        ("30deg80", 0.8, [-0.5, np.sqrt(0.75), 0]),
    ],
)
def test_polarisation_on_the_command_line(
    text: str, fraction: float, normal: list[float], tmp_path: Path
) -> None:
    path = write_stream(tmp_path, chunk(crystal()))
    assert crystfel.read(path, PLAIN).polarisation is None
    line = f"indexamajig -i a.lst --polarisation={text} -j 3"
    path.write_text(
        path.read_text().replace("----- Begin geometry", f"{line}\n----- Begin geometry")
    )
    told = crystfel.read(path, STRICT).polarisation
    assert told is not None
    assert told.fraction == fraction
    np.testing.assert_allclose(told.normal, normal, atol=1e-15)


@pytest.mark.parametrize("text", ["none", "horiz101", "up", "-10deg"])
def test_polarisation_that_is_none(text: str) -> None:
    assert polarisation_of(text) is None
