"""Commands that make data, show them and compare merges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest

from sfxproc.data import Merged
from sfxproc.formats.crystfel_hkl import write_hkl
from sfxproc.formats.mtz_merged import write_merged
from sfxproc.formats.reference import read_reference
from sfxproc.formats.truth import read_truth
from sfxproc.symmetry import possible, space_group
from tests.cli.conftest import Command

FEW = ("--crystals", "3", "--d-min", "4")


def test_simulated_stills_can_be_shown(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "few.h5"
    crystal = ("--unit-cell", "50 60 70 90 90 90", "--space-group", "P212121")
    ended = command("simulate", "stills", out, *FEW, *crystal, "--set", "gain=2")
    assert ended.status == 0
    assert "Wrote 3 crystals" in ended.out
    columns, settings = read_truth(tmp_path / "few.truth.h5")
    assert len(columns["crystals/ln_G"]) == 3
    assert '"gain":2.0' in settings
    n = len(columns["observations/outlier"])

    ended = command("show", out)
    assert ended.status == 0
    for part in (
        "few.h5",
        "format native HDF5",
        "images 3",
        "crystals 3",
        f"reflections {n:,}",
        "a 50.00 ± 0.00 b 60.00 ± 0.00 c 70.00 ± 0.00 Å",
        "wavelength 1.30000 Å",
        "panels 1",
        "–4.0",
        "columns panel, x_px, y_px",
        "columns missing partiality",
    ):
        assert part in ended.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("x.txt",), "Stills cannot be written as 'x.txt': its suffix must be one of .expt"),
        (("x.h5", "--crystals", "0"), "n_crystals = 0: must be a whole number at least 1"),
        (("x.h5", "--unit-cell", "1 2 3"), "unit_cell = [1.0, 2.0, 3.0]: must be a list of 6"),
        (("x.h5", "--unit-cell", "a b c"), "--unit-cell 'a b c': expected numbers"),
        (("x.h5", "--set", "photns=3"), "did you mean 'photons'?"),
        (("x.h5", "--partiality", "round"), "round"),
        (("x.h5", "--from", "none.pdb"), "none.pdb"),
        (("x.h5", "--from", "none.cif"), "none.cif"),
        (("there.h5", *FEW), "exists. Choose another name, or add --overwrite"),
        (("nowhere/x.h5", *FEW), "nowhere"),
    ],
)
def test_mistakes_in_a_simulation(
    arguments: tuple[str, ...], part: str, tmp_path: Path, command: Command
) -> None:
    Path("there.h5").write_text("precious")
    ended = command("simulate", "stills", *arguments)
    assert ended.status == 2
    assert part in ended.err
    assert [p.name for p in tmp_path.iterdir()] == ["there.h5"]
    assert Path("there.h5").read_text() == "precious"


def test_simulation_from_a_merged_set_takes_its_symmetry(tmp_path: Path, command: Command) -> None:
    merged = tmp_path / "merged.mtz"
    merged_set(merged, "P 21 3", [60.0, 60.0, 60.0, 90.0, 90.0, 90.0])
    assert command("simulate", "stills", tmp_path / "a.h5", *FEW, "--from", merged).status == 0
    columns, settings = read_truth(tmp_path / "a.truth.h5")
    assert '"space_group":"P 21 3","unit_cell":[60.0,60.0,60.0' in settings
    np.testing.assert_allclose(columns["crystals/cell"][:, :3], 60.0)


def test_show_names_every_file_it_cannot_read(tmp_path: Path, command: Command) -> None:
    good = tmp_path / "good.h5"
    assert command("simulate", "stills", good, *FEW).status == 0
    bad = [tmp_path / "bad1.h5", tmp_path / "bad2.h5"]
    for path in bad:
        path.write_text("no HDF5")
    ended = command("show", bad[0], good, bad[1])
    assert ended.status == 2
    assert "crystals 3" in ended.out
    assert all(path.name in ended.err for path in bad)


def merged_set(path: Path, group: str, cell: list[float], k: float = 1.0, B: float = 0.0) -> None:
    """A small merged MTZ with the same intensities for the same group and cell but for k and B."""
    table = possible(space_group(group), cell, 4.0, None, anomalous=False)
    n = len(table)
    true = np.random.default_rng(1).exponential(1000.0, n)
    intensity = true / (k * np.exp(-2 * B * table.s2))
    table = replace(
        table,
        intensity=intensity,
        sigma=0.01 * intensity + 1.0,
        n_observations=np.full(n, 4, dtype=np.int32),
    )
    halves = np.stack([intensity, intensity])
    merged = Merged(
        table, halves, np.ones((2, n)), np.full((2, n), 2, np.int32), 4 * intensity, np.zeros(n)
    )
    write_merged(path, merged, group, np.array(cell), 1.0)


CELL = [79.1, 79.1, 38.2, 90.0, 90.0, 90.0]


def test_compare_finds_scale_and_B(tmp_path: Path, command: Command) -> None:
    a, b = tmp_path / "a.mtz", tmp_path / "b.mtz"
    merged_set(a, "P 43 21 2", CELL)
    merged_set(b, "P 43 21 2", CELL, k=3.0, B=10.0)
    ended = command("compare", a, b, "--shells", "4", "--d-min", "4.5")
    assert ended.status == 0
    rows = [line.split() for line in ended.lines if "–" in line]
    assert len(rows) == 5  # four shells and overall
    assert all(float(row[0].split("–")[1]) >= 4.49 for row in rows)
    assert all(row[3] == "0.0" for row in rows)
    assert "multiplying B by 3 exp(−2 · 10.00 Å² · s²)" in ended.out


def test_figures_are_written_as_json(tmp_path: Path, command: Command) -> None:
    a, b, figures = tmp_path / "a.mtz", tmp_path / "b.mtz", tmp_path / "figures.json"
    merged_set(a, "P 43 21 2", CELL)
    merged_set(b, "P 43 21 2", CELL, k=3.0)
    assert command("compare", a, b, "--shells", "4", "--json", figures).status == 0
    told = json.loads(figures.read_text())
    assert len(told["shells"]) == 4
    assert told["overall"]["cc"] == pytest.approx(1.0)
    assert told["scale"]["k"] == pytest.approx(3.0)
    ended = command("compare", a, b, "--json", tmp_path / "none" / "figures.json")
    assert ended.status == 2
    assert "none" in ended.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "compare needs one thing to compare A with"),
        (("b.mtz", "--truth", "t.h5"), "compare needs one thing to compare A with"),
        (("--truth", "t.h5", "--space-group", "P422"), "--space-group has no place beside"),
        (("--truth", "none.truth.h5"), "none.truth.h5"),
    ],
)
def test_compare_with_one_thing(
    arguments: tuple[str, ...], part: str, tmp_path: Path, command: Command
) -> None:
    merged_set(tmp_path / "a.mtz", "P 43 21 2", CELL)
    ended = command("compare", "a.mtz", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert part in ended.err


def test_compare_takes_lists_and_folders(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    merged_set(folder / "merged.mtz", "P 43 21 2", CELL)
    mtz = read_reference(folder / "merged.mtz")
    table = replace(mtz.reflections, n_observations=np.ones(len(mtz.reflections), dtype=np.int32))
    write_hkl(tmp_path / "a.hkl", table, "4/mmm")
    for pair in ((folder, tmp_path / "a.hkl"), (tmp_path / "a.hkl", folder)):
        ended = command("compare", *pair)
        assert ended.status == 0, ended.err
        assert "CC 1.000, R 0.0 %" in ended.out
        assert "IMEAN, SIGIMEAN" in ended.out
    ended = command("compare", tmp_path / "a.hkl", tmp_path / "a.hkl")
    assert ended.status == 2
    assert "--unit-cell" in ended.err
    cell = ("--space-group", "P 43 21 2", "--unit-cell", "79.1 79.1 38.2 90 90 90")
    assert command("compare", tmp_path / "a.hkl", tmp_path / "a.hkl", *cell).status == 0
    ended = command("compare", tmp_path, folder)
    assert ended.status == 2
    assert "folder without merged.mtz" in ended.err


def test_compare_tries_the_settings_of_the_lattice(tmp_path: Path, command: Command) -> None:
    cell = [60.0, 60.0, 80.0, 90.0, 90.0, 120.0]
    a, b, figures = tmp_path / "a.mtz", tmp_path / "b.mtz", tmp_path / "c.json"
    merged_set(a, "P 63", cell)
    mtz = gemmi.read_mtz_file(str(a))
    data = np.array(mtz.array)
    data[:, :3] = data[:, [1, 0, 2]] * [1, 1, -1]
    mtz.set_data(data)
    mtz.ensure_asu()
    mtz.write_to_file(str(b))
    ended = command("compare", a, b, "--json", figures)
    assert ended.status == 0
    assert "reindexed by k,h,-l, which gives CC 1.000" in " ".join(ended.out.split())
    told = json.loads(figures.read_text())
    assert (told["reindexed"], told["overall"]["r"]) == ("k,h,-l", pytest.approx(0.0, abs=1e-6))


def test_compare_refuses_other_cells_and_warns_of_similar_ones(
    tmp_path: Path, command: Command
) -> None:
    a, b = tmp_path / "a.mtz", tmp_path / "b.mtz"
    merged_set(a, "P 43 21 2", CELL)
    merged_set(b, "P 43 21 2", [79.1, 79.1, 41.0, 90.0, 90.0, 90.0])
    ended = command("compare", a, b)
    assert ended.status == 2
    assert "of different crystal forms" in " ".join(ended.err.split())
    merged_set(b, "P 43 21 2", [79.1, 79.1, 39.0, 90.0, 90.0, 90.0])
    ended = command("compare", a, b)
    assert ended.status == 0
    assert "WARNING: the cells differ by 2.1 %" in " ".join(ended.out.split())


def test_sets_of_other_symmetry_need_a_space_group(tmp_path: Path, command: Command) -> None:
    a, b = tmp_path / "a.mtz", tmp_path / "b.mtz"
    merged_set(a, "P 43 21 2", CELL)
    merged_set(b, "P 21 21 21", CELL)
    ended = command("compare", a, b)
    assert ended.status == 2
    assert "Laue class 4/mmm" in ended.err
    ended = command("compare", a, b, "--space-group", "P422")
    assert ended.status == 0
    assert "in P 4 2 2" in ended.out
    assert command("compare", a, b, "--space-group", "P4222222").status == 2


def test_compare_real_data(shared_data: Path, command: Command) -> None:
    path = shared_data / "reference" / "CuNiR_xia2ssx_merged.mtz"
    ended = command("compare", path, path, "--d-min", "3")
    assert ended.status == 0
    assert "CC 1.000, R 0.0 %" in ended.out


def test_show_real_data(shared_data: Path, command: Command) -> None:
    ended = command("show", shared_data / "stills" / "LD91_lysozyme_300xtal.refl")
    assert ended.status == 0
    for part in ("images 300", "reflections 8,790", "a 79.03", "1.38530 Å", "panels 64"):
        assert part in ended.out
