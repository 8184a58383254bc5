"""`sfxproc show` on what the program writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sfxproc.data import Crystals, Merged, Reason, Reflections, Status
from sfxproc.formats.crystfel_hkl import write_hkl
from sfxproc.formats.frames import write_frames
from sfxproc.formats.mtz_merged import write_merged
from sfxproc.formats.peak_lists import PeakList, write_peak_list
from sfxproc.formats.spots import write_spots
from sfxproc.spots import Spots, SpotSet
from sfxproc.symmetry import possible, space_group
from tests.cli.conftest import Command

CELL = np.array([79.1, 79.1, 38.2, 90.0, 90.0, 90.0])


def merged() -> Merged:
    table = possible(space_group("P 43 21 2"), CELL, 5.0, None, anomalous=False)
    n = len(table)
    table = replace(
        table,
        intensity=np.full(n, 50.0),
        sigma=np.full(n, 2.0),
        n_observations=np.full(n, 4, dtype=np.int32),
    )
    halves = np.full((2, n), 50.0)
    return Merged(table, halves, 0.06 * halves, np.full((2, n), 2), np.zeros(n), np.zeros(n))


def crystals(n: int) -> Crystals:
    return Crystals(
        file=np.full(n, "a", dtype=object),
        event=np.array([str(i) for i in range(n)], dtype=object),
        A=np.full((n, 3, 3), np.nan),
        cell=np.tile(CELL, (n, 1)),
        beam=np.tile([0.0, 0.0, 1.0], (n, 1)),
        wavelength_A=np.ones(n),
        bandwidth=np.full(n, np.nan),
        profile_radius=np.full(n, np.nan),
    )


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, Reflections]:
    """An output folder with a file of each kind."""
    out = tmp_path / "out"
    out.mkdir()
    told = merged()
    write_merged(out / "merged.mtz", told, "P 43 21 2", CELL, 1.3)
    write_hkl(out / "merged.hkl", told.reflections, "4/mmm")
    columns = {
        "status": np.array([Status.USED, Status.USED, Status.LEFT_OUT]),
        "reason": np.array([0, 0, Reason.UNRELATED]),
        "ln_G": np.zeros(3),
    }
    attributes = {"space_group": "P 43 21 2", "unit_cell": CELL}
    write_frames(out / "frames.h5", crystals(3), columns, attributes, told)
    write_peak_list(out / "peaks.txt", PeakList(np.linspace(0.01, 0.1, 10)), ["spots"])
    spots = Spots(np.zeros(2, np.int32), np.ones((2, 3)), np.ones(2), np.ones(2, np.float32))
    write_spots(out / "spots.h5", SpotSet(spots, 7, 0.1))
    return out, told.reflections


def test_results_can_be_shown(folder: tuple[Path, Reflections], command: Command) -> None:
    out, table = folder
    ended = command("show", *(out / n for n in ("merged.mtz", "merged.hkl", "peaks.txt")))
    assert (ended.status, ended.err) == (0, "")
    for part in (
        "format merged MTZ",
        "space group P 43 21 2",
        "unit cell 79.10 79.10 38.20 Å",
        "wavelength 1.30000 Å",
        "taken for the data IMEAN, SIGIMEAN",
        "I/σ, mean 25.000",
        "format CrystFEL reflection list",
        f"reflections {len(table):,} symmetry 4/mmm",
        f"measurements {4 * len(table):,}",
        "format lines of a powder pattern",
        "lines 10",
        "spacings 10.00–3.16 Å",
        "columns q2",
    ):
        assert part in ended.out


def test_a_folder_of_results_can_be_shown(
    folder: tuple[Path, Reflections], command: Command
) -> None:
    ended = command("show", folder[0])
    assert (ended.status, ended.err) == (0, "")
    for part in (
        "crystals and merge of a job space group P 43 21 2",
        "crystals 3 used 2 left out 1",
        "reason: unrelated 1",
        "format merged MTZ",
        "format spots images 7 spots 2",
    ):
        assert part in ended.out


def test_lists_of_files_stay_lists(folder: tuple[Path, Reflections], command: Command) -> None:
    (folder[0] / "files.txt").write_text("# runs\nmerged.mtz\n")
    ended = command("show", folder[0] / "files.txt")
    assert ended.status == 0
    assert "format merged MTZ" in ended.out


def test_results_that_cannot_be_read_are_named(
    folder: tuple[Path, Reflections], command: Command
) -> None:
    (folder[0] / "bad.hkl").write_text("no list")
    (folder[0] / "bad.mtz").write_text("no MTZ")
    ended = command("show", folder[0] / "bad.hkl", folder[0] / "bad.mtz", folder[0] / "peaks.txt")
    assert ended.status == 2
    assert "lines 10" in ended.out
    assert "bad.hkl" in ended.err
    assert "bad.mtz" in ended.err
