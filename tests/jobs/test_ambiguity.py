"""Crystals indexed at random in one of two settings come into one while they are read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
from rich.console import Console

from sfxproc.data import ReferenceSet, Stills, packed_hkl
from sfxproc.errors import ConfigError, DataError, InputError
from sfxproc.formats.hdf5 import write
from sfxproc.intake import pieces, reindexing
from sfxproc.intake.reading import Dataset, read_dataset
from sfxproc.intake.source import Intake
from sfxproc.parallel.comm import SerialComm
from sfxproc.report.log import ConsoleLog
from sfxproc.settings.sections import Input, Selection, Symmetry
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills
from sfxproc.symmetry import reindexed_cells, reindexed_hkl, space_group, twin_operators
from tests.jobs.both_ways import agree, make, same_table, whole
from tests.launch import launched

P43 = StillsSettings(
    n_crystals=90, space_group="P 43", d_min_A=2.6, profile_radius=0.0012, partiality="xsphere",
    bandwidth=1e-3, orientation_error_mrad=0.65,
)  # fmt: skip
JOB = 'job = "scale"\n[symmetry]\nspace_group = "P 43"\n[input]\npaths = ["part*.h5"]\n'
READ = """
from hashlib import blake2b
from pathlib import Path
from sfxproc.intake import pieces, reindexing
from sfxproc.intake.reading import read_dataset
from sfxproc.intake.source import Intake
from sfxproc.settings.sections import Input, Selection, Symmetry
from sfxproc.parallel.comm import world
from sfxproc.report.log import ConsoleLog
from sfxproc.runs.progress import SignsOfLife
from sfxproc.runs.stages import Stages
from rich.console import Console

reindexing.SAMPLE_CRYSTALS = 30
comm, log = world(), ConsoleLog(Console(), speaks=False)
intake = Intake(Input(paths=["part[01].h5"]), Symmetry(space_group="P 43"), Selection())
data = read_dataset(intake, comm, log)
rows = [comm.allgather_rows(data.observations.columns()[c]) for c in ("hkl", "reflection")]
folder = Path(f"pieces-{comm.size}")
order, stages = pieces.Order(20, 10, 1), Stages(comm, log, SignsOfLife(Path.cwd()), None)
taken = pieces.read_pieces_of(intake, order, folder, stages, 7000)
ours = taken.inventory

def digests(data, *more):
    everything = [*data.classes.columns().values(), data.crystals.A, data.cell,
                  data.reflections.hkl, data.reflections.s2, data.n_observations, *more]
    return [blake2b(array.tobytes(), digest_size=8).hexdigest() for array in everything]

if comm.rank == 0:
    assert taken.parts.n_parts > 2
    assert digests(data) == digests(ours)
    read = taken.parts.reader(taken.keys)(0, len(taken.parts.plan.crystal_at))
    print(*digests(data, *rows, *read.columns().values()))
"""


def turned(stills: Stills, group: str, rows: np.ndarray) -> Stills:
    """The stills with some crystals (n,) as they would be in the other setting."""
    (operator,) = twin_operators(space_group(group), stills.crystals.cell[0], 1.0)
    A, cell = stills.crystals.A.copy(), stills.crystals.cell.copy()
    A[rows], cell[rows] = reindexed_cells(A[rows], cell[rows], operator)
    hkl, of_row = stills.observations.hkl.copy(), rows[stills.observations.crystal]
    hkl[of_row] = reindexed_hkl(hkl[of_row], operator)
    return replace(
        stills,
        crystals=replace(stills.crystals, A=A, cell=cell),
        observations=replace(stills.observations, hkl=hkl),
    )


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return simulate_stills(P43)


@pytest.fixture(scope="module")
def other() -> np.ndarray:
    """Which crystals are of the other setting: less than half."""
    return np.random.default_rng(4).random(90) < 0.4


@pytest.fixture(scope="module")
def folder(
    simulated: Simulated, other: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The stills in three files, and a job."""
    folder = tmp_path_factory.mktemp("ambiguous")
    stills = turned(simulated.stills, "P 43", other)
    for number, rows in enumerate((slice(0, 20), slice(20, 65), slice(65, 90))):
        inside = np.isin(stills.observations.crystal, np.arange(90)[rows])
        table = stills.observations.take(inside)
        part = replace(
            stills, crystals=stills.crystals.take(rows),
            observations=replace(table, crystal=table.crystal - np.int32(rows.start)),
        )  # fmt: skip
        write(folder / f"part{number}.h5", part)
    (folder / "job.toml").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def reference(simulated: Simulated) -> ReferenceSet:
    return ReferenceSet("truth.mtz", "P 43", np.array(P43.unit_cell), simulated.truth.reflections)


Read = Callable[..., Dataset]


@pytest.fixture
def read(folder: Path) -> Read:
    """Read the files; `told` has what the log said."""

    def read(
        reference: ReferenceSet | None = None, told: Any = None, d_max_A: float | None = None,
        paths: str = "part*.h5", space_group: str = "P 43", **symmetry: Any,
    ) -> Dataset:  # fmt: skip
        console = Console(file=told, width=1000) if told else Console()
        intake = Intake(
            Input(paths=[str(folder / paths)]), Symmetry(space_group=space_group, **symmetry),
            Selection(d_max_A=d_max_A), reference=reference,
        )  # fmt: skip
        return read_dataset(intake, SerialComm(), ConsoleLog(console, speaks=told is not None))

    return read


def test_crystals_come_into_the_setting_of_most(
    read: Read, simulated: Simulated, other: np.ndarray
) -> None:
    """As simulated, but for rounding: indices, orientations, cells, unique reflections."""
    data, stills = read(), simulated.stills
    np.testing.assert_array_equal(data.classes.reindexing, other)
    assert data.classes.reindexing.dtype == np.int8
    assert data.classes.reindexing_margin.min() > 3
    assert data.classes.reindexing_cc.min() > 0.3
    np.testing.assert_allclose(data.crystals.A, stills.crystals.A, atol=1e-15)
    np.testing.assert_allclose(data.crystals.cell, stills.crystals.cell)
    ours, theirs = (
        t.take(np.lexsort((packed_hkl(t.hkl), t.crystal)))
        for t in (data.observations, stills.observations)
    )
    np.testing.assert_array_equal(ours.hkl, theirs.hkl)
    np.testing.assert_array_equal(ours.intensity, theirs.intensity)
    plain = read(ambiguity="ignore")
    assert plain.classes.reindexing is None
    np.testing.assert_array_equal(data.n_observations, plain.n_observations)
    assert data.n_observations.sum() == len(ours)
    row = data.observations.reflection
    assert np.all(np.diff(data.observations.crystal * len(data.reflections) + row) >= 0)
    assert row.max() == len(data.reflections) - 1 < len(plain.reflections)


def test_crystals_outside_the_sample(
    read: Read, other: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are compared with the sample's merge, in batches."""
    monkeypatch.setattr(reindexing, "SAMPLE_CRYSTALS", 30)
    monkeypatch.setattr(reindexing, "BATCH_ROWS", 500)
    found = read().classes
    majority = found.reindexing == other
    assert majority.all() or not majority.any()  # most crystals of the sample
    assert found.reindexing_margin.min() > 2
    monkeypatch.setattr(reindexing, "BATCH_ROWS", 1 << 20)
    same_table(read().classes, found)


def test_the_setting_of_a_reference(
    read: Read, other: np.ndarray, reference: ReferenceSet, tmp_path: Path
) -> None:
    """Also where most crystals are of the other one, or few are there to agree."""
    with (tmp_path / "log.txt").open("w") as told:
        data = read(reference, told, paths="part0.h5")
    np.testing.assert_array_equal(data.classes.reindexing, other[:20])
    said = (tmp_path / "log.txt").read_text()
    n = int(np.count_nonzero(other[:20]))
    assert (
        f"of 20 crystals {20 - n} stay as indexed, reindexed are {n} by k,h,-l; 0 are unc" in said
    )
    moved = replace(reference.reflections, hkl=reference.reflections.hkl[:, [1, 0, 2]])
    keys = np.lexsort(moved.hkl.T[::-1])
    turned = replace(reference, reflections=moved.take(keys))
    np.testing.assert_array_equal(read(turned).classes.reindexing, ~other)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("sample", [30, 2000])
def test_both_ways_of_reading_agree(
    folder: Path, tmp_path: Path, ranks: int, sample: int, monkeypatch: pytest.MonkeyPatch,
    reference: ReferenceSet,
) -> None:  # fmt: skip
    """Settings, margins, orientations, rows: with parts of a few crystals and with all in one,
    among themselves and with a reference."""
    monkeypatch.setattr(reindexing, "SAMPLE_CRYSTALS", sample)
    paths, symmetry = [str(folder / "part*.h5")], Symmetry(space_group="P 43")
    for number, known in enumerate((None, reference)):
        data = whole(paths, symmetry, reference=known)
        made = make(
            tmp_path / str(number), paths, symmetry, part_rows=9000, ranks=ranks, reference=known
        )
        assert made.parts.n_parts > 3
        agree(made, data)
        assert data.classes.reindexing is not None
        assert 0 < data.classes.reindexing.sum() < 90
        assert "indexing ambiguity (k,h,-l)" in made.told


def test_a_restart_settles_nothing_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the stages found is kept, and comes out of the checkpoint as it was."""
    paths, symmetry = [str(folder / "part*.h5")], Symmetry(space_group="P 43")
    first = make(tmp_path, paths, symmetry, keep=True)
    kept = sorted(path.name for path in (tmp_path / "kept").glob("*.state"))
    assert kept == [
        f"{n:03d}-{name}.state"
        for n, name in enumerate(("read", "count", "sample", "settle", "sort"))
    ]
    monkeypatch.setattr(pieces.Pieces, "part", None)
    monkeypatch.setattr(pieces, "read_shard", None)
    again = make(tmp_path, paths, symmetry, keep=True, ranks=2)
    same_table(again.inventory.classes, first.inventory.classes)
    agree(again, whole(paths, symmetry))


def test_nothing_usable_is_told_alike(
    folder: Path, tmp_path: Path, reference: ReferenceSet
) -> None:
    """And before settings are looked for."""
    paths, symmetry = [str(folder / "part*.h5")], Symmetry(space_group="P 43")
    for number, known in enumerate((None, reference)):
        with pytest.raises(DataError, match="No usable observation is left") as theirs:
            whole(paths, symmetry, Selection(d_max_A=2.0), reference=known)
        with pytest.raises(DataError) as ours:
            make(tmp_path / str(number), paths, symmetry, Selection(d_max_A=2.0), reference=known)
        assert str(ours.value) == str(theirs.value)


def test_pseudo_symmetry_with_absences(tmp_path: Path) -> None:
    """b ≈ c and a screw axis along b and c but not a: the cell is told better once crystals agree,
    and what is absent in the right setting goes out."""
    cell = (60.0, 50.5, 50.0, 90.0, 90.0, 90.0)
    settings = StillsSettings(
        n_crystals=60, space_group="P 2 2 21", unit_cell=cell, d_min_A=2.6, profile_radius=0.0015
    )
    rows = np.arange(60) % 5 < 2
    stills = turned(simulate_stills(settings).stills, "P 2 2 21", rows)
    # noise where the setting is wrong: 0 0 l, l odd, written as 0 l 0
    wrong = rows[stills.observations.crystal] & (stills.observations.hkl[:, 0] > 0)
    first = np.flatnonzero(wrong)[0]
    hkl = stills.observations.hkl.copy()
    hkl[first] = 0, 5, 0
    write(tmp_path / "x.h5", replace(stills, observations=replace(stills.observations, hkl=hkl)))
    paths, symmetry = [str(tmp_path / "x.h5")], Symmetry(space_group="P 2 2 21")
    data = whole(paths, symmetry)
    agree(make(tmp_path / "work", paths, symmetry), data)
    np.testing.assert_array_equal(data.classes.reindexing, rows)
    np.testing.assert_allclose(data.cell, cell)
    assert sum(data.left_out.values()) + len(data.observations) == len(hkl)
    assert sum(data.left_out.values()) >= 1
    assert not np.any(np.all(data.reflections.hkl == [0, 0, 5], axis=1))


def test_noise_is_left_as_indexed(tmp_path: Path, simulated: Simulated) -> None:
    stills = simulated.stills
    noise = np.random.default_rng(0).permutation(stills.observations.intensity)
    table = replace(stills.observations, intensity=noise)
    write(tmp_path / "noise.h5", replace(stills, observations=table))
    with (tmp_path / "log.txt").open("w") as told:
        intake = Intake(
            Input(paths=[str(tmp_path / "noise.h5")]), Symmetry(space_group="P 43"), Selection()
        )
        log = ConsoleLog(Console(file=told, width=1000), speaks=True)
        data = read_dataset(intake, SerialComm(), log)
    assert not data.classes.reindexing.any()
    assert np.isnan(data.classes.reindexing_margin).all()
    said = (tmp_path / "log.txt").read_text()
    assert "WARNING" in said
    assert "All are left as indexed" in said


def test_references_that_cannot_tell(read: Read, reference: ReferenceSet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another crystal form cannot tell"):
        read(replace(reference, cell=np.array([90.0, 90, 38.2, 90, 90, 90])))
    low = reference.reflections.d_A > 13.0
    with pytest.raises(DataError, match="reflections in common with the data, too few"):
        read(replace(reference, reflections=reference.reflections.take(low)), d_max_A=12.0)
    with pytest.raises(InputError, match=r"ambiguity_reference: .*there is no 'none\.mtz'"):
        read(ambiguity_reference=str(tmp_path / "none.mtz"))
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup, mtz.cell = gemmi.SpaceGroup("P 43 21 2"), gemmi.UnitCell(*P43.unit_cell)
    mtz.add_dataset("x")
    mtz.add_column("IMEAN", "J")
    mtz.add_column("SIGIMEAN", "Q")
    mtz.set_data(np.array([[1, 0, 4, 10, 1], [2, 1, 4, 10, 1]], dtype=np.float32))
    mtz.write_to_file(str(tmp_path / "laue.mtz"))
    with pytest.raises(ConfigError, match=r"another symmetry\.ambiguity_reference"):
        read(ambiguity_reference=str(tmp_path / "laue.mtz"))


def test_ranks_agree(folder: Path, surroundings: dict[str, str]) -> None:
    """The same bits at any number of ranks, of which the third reads nothing, where most crystals
    are not in the sample."""
    told = []
    for ranks in (0, 3):
        command = launched([sys.executable, "-c", READ], ranks)
        done = subprocess.run(
            command, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        told.append(done.stdout)
    assert len(told[0].split()) >= 8
    assert told[0] == told[1]


def test_merging_gains(command: Any, folder: Path, sets: Any, results: Any) -> None:
    """CC½ shows that crystals are of one setting."""
    cc = {}
    for choice in ("resolve", "ignore"):
        settings = sets(f"output.folder={choice}", f"symmetry.ambiguity={choice}")
        done = command("run", "job.toml", *settings, cwd=folder)
        assert (done.status, done.err) == (0, "")
        assert ("reindexed are" in done.out) == (choice == "resolve")
        cc[choice] = results(folder / choice).statistics["overall"]["cc_half"]
    assert cc["resolve"] > cc["ignore"] + 0.05


def test_both_strategies_tell_the_same(command: Any, folder: Path, sets: Any, results: Any) -> None:
    """Which crystals were reindexed, by the job's files; CC½ gains in blocks too."""
    found = {}
    for name in ("global", "blocks"):
        settings = sets(
            f"output.folder=by-{name}", f"parallel.strategy={name}", "parallel.block_size=60",
            "parallel.overlap=30",
        )  # fmt: skip
        done = command("run", "job.toml", *settings, cwd=folder)
        assert (done.status, done.err) == (0, "")
        assert "reindexed are" in done.out
        found[name] = results(folder / f"by-{name}")
    ours, theirs = found["blocks"], found["global"]
    for name in ("reindexing", "reindexing_cc", "reindexing_margin", "cell_cluster"):
        np.testing.assert_array_equal(ours.frames[name], theirs.frames[name])
    assert ours.statistics["overall"]["cc_half"] == pytest.approx(
        theirs.statistics["overall"]["cc_half"], abs=0.01
    )


def test_nitrite_reductase(shared_data: Path, tmp_path: Path) -> None:
    """Of five stills in P 21 3 one is of the other setting than the reference; they are too few to
    tell among themselves, and are left as indexed."""
    paths = [str(shared_data / "stills/ssx_CuNiR/integrated.expt")]
    merged = str(shared_data / "reference/CuNiR_xia2ssx_merged.mtz")
    found = []
    for number, reference in enumerate((merged, None)):
        symmetry = Symmetry(space_group="P 21 3", ambiguity_reference=reference)
        data = whole(paths, symmetry)
        agree(make(tmp_path / str(number), paths, symmetry, part_rows=1000), data)
        found.append(data.classes)
    assert found[0].reindexing.tolist() == [1, 0, 0, 0, 0]
    assert found[0].reindexing_margin.min() > 4
    assert found[1].reindexing.tolist() == [0, 0, 0, 0, 0]
