"""Pieces hold what the other way of reading finds, however they are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
from rich.console import Console

from sfxproc.data import Observations, Reason, ReferenceSet, Status, Stills
from sfxproc.errors import ConfigError, DataError, InputError, OutputError, UserError
from sfxproc.formats import crystfel, hdf5
from sfxproc.intake import pieces
from sfxproc.intake.reading import Dataset, read_dataset
from sfxproc.intake.source import Intake
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.records import from_arrays, to_arrays
from sfxproc.report.log import ConsoleLog
from sfxproc.settings.sections import Input, Selection, Symmetry
from sfxproc.simulate.stills import Simulated
from sfxproc.symmetry import possible, space_group
from tests.jobs.both_ways import ALL, NONE, SYMMETRY, agree, make, same_table, whole
from tests.problems import on_ranks

# ---- a set with something of everything ------------------------------------------------------


@pytest.fixture(scope="module")
def messy(small: Simulated, some: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small set in five files, with reasons to leave out crystals and observations."""
    rng = np.random.default_rng(9)
    folder = tmp_path_factory.mktemp("messy")
    crystals, obs = small.stills.crystals, small.stills.observations
    cell, n = crystals.cell.copy(), len(obs)
    cell[[3, 41]] *= 1.2
    cell[20] = np.nan
    intensity, variance, hkl = obs.intensity.copy(), obs.variance.copy(), obs.hkl.copy()
    intensity[rng.choice(n, 50)] = np.nan
    variance[rng.choice(n, 60)] = 0.0
    hkl[rng.choice(n, 70)] = (0, 0, 1)
    partiality = rng.uniform(size=n).astype(np.float32)
    keep = ~np.isin(obs.crystal, [7, 30])  # one crystal without rows, and one with two
    keep[np.flatnonzero(obs.crystal == 30)[:2]] = True
    observations = Observations(obs.crystal, hkl, intensity, variance, partiality=partiality)
    stills = Stills(
        replace(crystals, cell=cell), observations.take(keep), 60, small.stills.detector
    )
    for number, rows in enumerate((slice(0, 4), slice(4, 8), slice(8, 9), slice(9, 50))):
        hdf5.write(folder / f"{number}.h5", some(stills, rows))
    last = some(stills, slice(50, 60))
    hdf5.write(folder / "4.h5", replace(last, n_images=70, counts={Reason.NOT_INTEGRATED: 11}))
    hdf5.write(folder / "5.h5", some(stills, slice(60, 60)))
    return folder


@pytest.mark.parametrize(("part_rows", "ranks"), [(500, 1), (3000, 3), (10_000, 1), (1 << 22, 2)])
def test_both_ways_of_reading_agree(
    messy: Path, tmp_path: Path, part_rows: int, ranks: int
) -> None:
    paths = [str(messy)]
    selection = Selection(d_min_A=3.2, d_max_A=25.0, min_partiality=0.2)
    columns = frozenset({"partiality"})
    dataset = whole(paths, selection=selection, columns=columns)
    made = make(
        tmp_path, paths, selection=selection, columns=columns, part_rows=part_rows, ranks=ranks
    )
    agree(made, dataset)
    assert {
        Reason.NOT_FINITE,
        Reason.VARIANCE_NOT_POSITIVE,
        Reason.SYSTEMATIC_ABSENCE,
        Reason.BELOW_D_MIN,
        Reason.ABOVE_D_MAX,
        Reason.PARTIALITY_TOO_LOW,
        Reason.CRYSTAL_LEFT_OUT,
        Reason.NOT_INTEGRATED,
    } == set(dataset.left_out)
    assert np.unique(dataset.reason[dataset.status == Status.LEFT_OUT]).tolist() == [
        Reason.CELL_OFF_TARGET,
        Reason.NO_ORIENTATION,
        Reason.TOO_FEW_OBSERVATIONS,
    ]
    n_parts = {500: 58, 1 << 22: 1}.get(part_rows)  # one crystal has no rows, another two
    assert n_parts is None or made.parts.n_parts == n_parts
    assert not list((tmp_path / "shards").iterdir())  # native files are used where they are


def test_ranks_in_memory_hold_what_one_would(small: Simulated, some: Any, tmp_path: Path) -> None:
    """Also one that reads no file, and a detector that only another rank has read."""
    n = len(small.stills.observations)
    panel = (np.arange(n) % 7).astype(np.int16)
    stills = replace(small.stills, observations=replace(small.stills.observations, panel=panel))
    hdf5.write(tmp_path / "0.h5", replace(some(stills, slice(0, 20)), detector=None))
    hdf5.write(tmp_path / "1.h5", some(stills, slice(20, 60)))
    intake = Intake(Input(paths=[str(tmp_path)]), SYMMETRY, ALL, frozenset({"panel"}))

    def work(comm: Comm) -> Dataset:
        return read_dataset(intake, comm, ConsoleLog(Console(), speaks=False))

    (alone,), ranks = on_ranks(1, work), on_ranks(3, work)
    crystals = [data.chunks.crystals for data in ranks]
    assert [c.start for c in crystals[1:]] == [c.stop for c in crystals[:-1]]
    for name, values in alone.observations.columns().items():
        parts = [data.observations.columns()[name] for data in ranks]
        if name == "crystal":
            parts = [part + c.start for part, c in zip(parts, crystals, strict=True)]
        assert {part.dtype for part in parts} == {values.dtype}, name
        np.testing.assert_array_equal(np.concatenate(parts), values, err_msg=name)
    assert alone.detector is not None
    for data in ranks:
        same_table(data.crystals, alone.crystals)
        same_table(data.reflections, alone.reflections)
        assert data.left_out == alone.left_out
        assert data.detector is not None
        same_table(data.detector, alone.detector)


def test_one_cluster_of_cells(small: Simulated, tmp_path: Path) -> None:
    """Crystals of a second form, a quarter of all, whose c is 2 % longer."""
    crystals = small.stills.crystals
    cell = crystals.cell * np.random.default_rng(4).normal(1.0, 5e-4, crystals.cell.shape)
    second = np.arange(60) % 4 == 1
    cell[:, 3:] = 90.0
    cell[second, 2] *= 1.02
    hdf5.write(tmp_path / "two.h5", replace(small.stills, crystals=replace(crystals, cell=cell)))
    paths, selection = [str(tmp_path / "two.h5")], Selection(cell_cluster=2)
    dataset = whole(paths, selection=selection)
    made = make(tmp_path / "work", paths, selection=selection)
    agree(made, dataset)
    np.testing.assert_array_equal(dataset.classes.cell_cluster, second)
    np.testing.assert_array_equal(dataset.status == Status.USED, second)
    assert np.all(dataset.reason[~second] == Reason.OTHER_CELL_CLUSTER)
    assert "Cells form clusters: 1: 45 crystals" in made.told
    with pytest.raises(ConfigError, match="cell_cluster = 3, but the cells form 2 clusters"):
        make(tmp_path / "more", paths, selection=Selection(cell_cluster=3))


@pytest.mark.parametrize("name", ["small.stream", "small.expt", "small.mtz", "part*.h5"])
@pytest.mark.parametrize("anomalous", [False, True])
def test_every_format(samples: Path, tmp_path: Path, name: str, anomalous: bool) -> None:
    paths, symmetry = [str(samples / name)], msgspec.structs.replace(SYMMETRY, anomalous=anomalous)
    made = make(tmp_path, paths, symmetry)
    agree(made, whole(paths, symmetry))
    assert made.parts.n_parts > 2


@pytest.mark.parametrize(
    ("group", "path", "columns"),
    [
        ("P 43 21 2", "LD91_lysozyme_300xtal.expt", NONE),
        ("C 2 2 21", "5HT2B_70frames.stream", NONE),
        ("P 21 3", "ssx_CuNiR/integrated.expt", frozenset({"partiality"})),
    ],
)
def test_experimental_data(
    shared_data: Path, tmp_path: Path, group: str, path: str, columns: frozenset[str]
) -> None:
    paths, symmetry = [str(shared_data / "stills" / path)], Symmetry(space_group=group)
    made = make(tmp_path, paths, symmetry, columns=columns, part_rows=1000, size=100)
    agree(made, whole(paths, symmetry, columns=columns))


def test_several_formats_in_one_job(samples: Path, tmp_path: Path, some: Any, small: Any) -> None:
    stream = tmp_path / "more.stream"
    crystals = replace(small.stills.crystals, file=np.full(60, "other.h5", dtype=object))
    assert crystfel.FORMAT.write is not None
    crystfel.FORMAT.write(stream, some(replace(small.stills, crystals=crystals), slice(0, 30)))
    paths = [str(stream), str(samples / "part1.h5"), str(samples / "part0.h5")]
    made = make(tmp_path / "work", paths)
    agree(made, whole(paths))
    assert [p.name for p in (tmp_path / "work" / "shards").iterdir()] == ["00000.h5"]


# ---- tasks -----------------------------------------------------------------------------------


def test_what_tasks_find_is_plain(samples: Path, tmp_path: Path) -> None:
    """It lies in a checkpoint as arrays, none of objects, and comes back from there."""
    made = make(tmp_path, [str(samples / "small.stream")])
    shard, part = pieces.read_shard(made.parts.reading, 0), made.parts.sort_part(1)
    for record in (shard, part):
        arrays = to_arrays(record)
        for name, values in arrays.items():
            assert values.dtype.kind in "biufU", name
        for name, values in to_arrays(from_arrays(type(record), arrays)).items():
            np.testing.assert_array_equal(values, arrays[name])
    again = from_arrays(pieces.ShardSummary, to_arrays(shard))
    same_table(again.crystals, shard.crystals)
    assert (again.n_images, again.has_detector) == (60, True)
    assert again.notes.tolist() == shard.notes.tolist()


def test_results_do_not_depend_on_the_parts(messy: Path, tmp_path: Path) -> None:
    one = make(tmp_path / "one", [str(messy)], part_rows=4000)
    two = make(tmp_path / "two", [str(messy)], part_rows=20_000)
    assert one.parts.n_parts > two.parts.n_parts > 1
    n = len(one.plan.crystal_at)
    same_table(one.run(0, n), two.run(0, n))


def test_names_that_are_not_utf8_pass(small: Simulated, some: Any, tmp_path: Path) -> None:
    stills = some(small.stills, slice(0, 20))
    file = np.full(20, "run\udcff å.h5", dtype=object)
    path = tmp_path / "a.h5"
    hdf5.write(path, replace(stills, crystals=replace(stills.crystals, file=file)))
    made = make(tmp_path, [str(path)])
    assert made.inventory.crystals.file.tolist() == file.tolist()


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.h5")}


def test_a_restart_makes_nothing_again_and_finds_the_same(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(shared_data / "stills" / "ssx_CuNiR" / "integrated.expt")]
    symmetry = Symmetry(space_group="P 21 3")
    first = make(tmp_path, paths, symmetry, part_rows=1000)
    before = stamps(tmp_path)
    assert len(before) == 1 + first.parts.n_parts
    assert first.inventory.left_out[Reason.NOT_INTEGRATED] == 721
    assert "intensities are summed" in first.told
    monkeypatch.setattr(pieces, "read_corrected", None)
    monkeypatch.setattr(pieces, "write_piece", None)
    again = make(tmp_path, paths, symmetry, part_rows=1000)
    assert stamps(tmp_path) == before
    assert "intensities are summed" in again.told
    agree(again, whole(paths, symmetry))


def test_what_is_missing_or_damaged_is_made_again(samples: Path, tmp_path: Path) -> None:
    paths = [str(samples / "small.stream")]
    first = make(tmp_path, paths)
    before = stamps(tmp_path)
    (tmp_path / "pieces" / "00000.h5").unlink()
    cut = tmp_path / "pieces" / "00001.h5"
    cut.write_bytes(cut.read_bytes()[:-100])
    shard = tmp_path / "shards" / "00000.h5"
    shard.write_bytes(shard.read_bytes()[:5000])
    again = make(tmp_path, paths)
    agree(again, whole(paths))
    after = stamps(tmp_path)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"shards/00000.h5", "pieces/00000.h5", "pieces/00001.h5"}
    n = len(first.plan.crystal_at)
    same_table(again.run(0, n), first.run(0, n))


def test_pieces_of_another_order_are_made_again(samples: Path, tmp_path: Path) -> None:
    paths = [str(samples / "part*.h5")]
    make(tmp_path, paths, seed=3)
    agree(make(tmp_path, paths, seed=4), whole(paths))


# ---- mistakes --------------------------------------------------------------------------------


def reference_to(d_min_A: float, cell: float = 79.1) -> ReferenceSet:
    """A reference with what lies between there and 200 Å."""
    group = space_group(SYMMETRY.space_group)
    unit_cell = np.array([cell, cell, 38.2, 90.0, 90.0, 90.0])
    unique = possible(group, unit_cell, d_min_A, 200.0, False)
    one = np.ones(len(unique))
    return ReferenceSet("other.mtz", group.hm, unit_cell, replace(unique, intensity=one, sigma=one))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"selection": Selection(d_max_A=2.0)}, DataError),
        ({"selection": Selection(min_observations=5000)}, DataError),
        ({"selection": Selection(d_min_A=1.5)}, ConfigError),
        ({"symmetry": Symmetry(space_group="P 63")}, ConfigError),
        (
            {"symmetry": msgspec.structs.replace(SYMMETRY, unit_cell=[99.0, 99, 38, 90, 90, 90])},
            DataError,
        ),
        ({"columns": frozenset({"partiality"})}, InputError),
        ({"reference": reference_to(30.0, cell=90.0)}, DataError),
        ({"reference": reference_to(30.0)}, DataError),
    ],
)
@pytest.mark.parametrize("name", ["small.h5", "small.stream"])
def test_mistakes_are_told_alike(
    samples: Path, tmp_path: Path, settings: dict[str, Any], kind: type[UserError], name: str
) -> None:
    paths = [str(samples / name)]
    with pytest.raises(kind) as theirs:
        whole(paths, **settings)
    # what shows in a file is told by the rank that reads it, all else on all ranks
    for ranks in (1,) if kind is InputError else (1, 2):
        with pytest.raises(UserError) as ours:
            make(tmp_path, paths, ranks=ranks, **settings)
        assert str(ours.value) == str(theirs.value)
        assert kind is InputError or type(ours.value) is kind


def test_no_crystals_and_the_same_twice(
    small: Simulated, some: Any, tmp_path: Path, samples: Path
) -> None:
    hdf5.write(tmp_path / "empty.h5", some(small.stills, slice(0, 0)))
    with pytest.raises(DataError, match="The inputs hold no crystals"):
        make(tmp_path, [str(tmp_path / "empty.h5")])
    with pytest.raises(InputError, match="60 crystals repeat the identity of another one"):
        make(tmp_path, [str(samples / "small.h5"), str(samples / "part*.h5")])


def test_damage_shows_in_the_part_it_is_in(samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes((samples / "small.h5").read_bytes())
    with h5py.File(path, "a") as handle:
        column = handle["observations/crystal"]
        column[len(column) - 5] = 0
    with pytest.raises(UserError, match=r"a\.h5': the dataset '/observations/crystal' is damag"):
        make(tmp_path, [str(path)])
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"a\.h5' is truncated"):
        make(tmp_path, [str(path)])


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot make the folder '.*shards'.*another output"):
        pieces.make_folders(tmp_path / "file")
