"""Pieces and the runs read from them; native files read in part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest

from sfxproc.data import Observations, Reason, Rows, Stills, concatenate
from sfxproc.errors import InputError, OutputError
from sfxproc.formats import hdf5
from sfxproc.formats.base import Request
from sfxproc.formats.pieces import PieceHead, read_piece_head, read_run, write_piece

NO_COUNTS = np.zeros(3, dtype=np.int64)
NOT_FEW = np.zeros(30, dtype=bool)


@dataclass(frozen=True, eq=False)
class Written:
    """Pieces on disk, and the rows of all crystals in their order."""

    heads: list[PieceHead]
    to_job: list[np.ndarray]
    whole: Rows


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """30 crystals, some without rows, dealt at random to four pieces, one of them empty."""
    rng = np.random.default_rng(2)
    folder = tmp_path_factory.mktemp("pieces")
    n_crystals, job_keys = 30, np.sort(rng.choice(10_000, 80, replace=False)) << 2
    n_rows = rng.integers(0, 12, n_crystals) * rng.integers(0, 2, n_crystals)
    n_rows[17] = 40
    total = int(n_rows.sum())
    whole = Rows(
        np.repeat(np.arange(n_crystals, dtype=np.int32), n_rows),
        np.concatenate([np.sort(rng.integers(0, 80, n)) for n in n_rows]).astype(np.int32),
        rng.normal(size=total).astype(np.float32),
        rng.uniform(size=total).astype(np.float32),
        rng.uniform(size=total).astype(np.float32),
    )
    heads, to_job = [], []
    piece_of = rng.choice([0, 1, 3], n_crystals)
    for number in range(4):
        position = np.flatnonzero(piece_of == number)
        mine = whole.take(np.isin(whole.crystal, position))
        keys, local = np.unique(job_keys[mine.reflection], return_inverse=True)
        mine = replace(
            mine,
            crystal=np.searchsorted(position, mine.crystal).astype(np.int32),
            reflection=local.astype(np.int32),
        )
        path = folder / f"{number}.h5"
        write_piece(path, keys, position, mine, np.array([0, number, 7]), position % 2 == 0)
        heads.append(read_piece_head(path))
        to_job.append(np.searchsorted(job_keys, keys).astype(np.int32))
    return Written(heads, to_job, whole)


def same(one: Rows, two: Rows) -> None:
    assert list(one.columns()) == list(two.columns())
    for name, values in one.columns().items():
        other = two.columns()[name]
        assert values.dtype == other.dtype, name
        np.testing.assert_array_equal(values, other, err_msg=name)


def test_heads(written: Written) -> None:
    positions = np.concatenate([head.position for head in written.heads])
    assert sorted(positions) == list(range(30))
    assert len(written.heads[2].position) == len(written.heads[2].keys) == 0
    for number, head in enumerate(written.heads):
        assert head.left_out.tolist() == [0, number, 7]
        np.testing.assert_array_equal(head.too_few, head.position % 2 == 0)
        counts = np.bincount(written.whole.crystal, minlength=30)
        np.testing.assert_array_equal(head.n_rows, counts[head.position])
        assert head.n_rows.dtype == np.int32


@pytest.mark.parametrize("partiality", [False, True])
def test_any_run_is_that_of_the_whole(written: Written, partiality: bool) -> None:
    for first in range(31):
        for last in range(first, 31, 3):
            inside = (written.whole.crystal >= first) & (written.whole.crystal < last)
            wanted = written.whole.take(inside)
            wanted = replace(
                wanted,
                crystal=wanted.crystal - np.int32(first),
                partiality=wanted.partiality if partiality else None,
            )
            run = read_run(written.heads, written.to_job, first, last, partiality)
            same(run, wanted)


def test_indices_are_kept_on_request(written: Written, tmp_path: Path) -> None:
    """Rows are observations then, from several pieces in one order."""
    columns = written.whole.columns()
    hkl = np.stack(
        [written.whole.reflection, np.arange(len(written.whole)), -written.whole.crystal]
    )
    whole = Observations(hkl=hkl.T.astype(np.int16), **columns)
    heads = []
    for number in range(2):
        mine = whole.take(whole.crystal % 2 == number)
        place = (mine.crystal // 2).astype(np.int32)
        path = tmp_path / f"{number}.h5"
        position = np.arange(number, 30, 2)
        rows = replace(mine, crystal=place)
        write_piece(path, np.arange(80), position, rows, NO_COUNTS, NOT_FEW[:15])
        heads.append(read_piece_head(path))
    to_job = [np.arange(80, dtype=np.int32)] * 2
    run = read_run(heads, to_job, 5, 21, partiality=True, hkl=True)
    wanted = whole.take((whole.crystal >= 5) & (whole.crystal < 21))
    same(run, replace(wanted, crystal=wanted.crystal - np.int32(5)))


def test_a_run_does_not_depend_on_the_order_of_the_pieces(written: Written) -> None:
    run = read_run(written.heads, written.to_job, 3, 25)
    turned = read_run(written.heads[::-1], written.to_job[::-1], 3, 25)
    same(run, turned)


def test_only_the_stretch_of_each_piece_is_read(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def spy(group: h5py.Group, name: str, rows: slice | None = None) -> np.ndarray:
        values = hdf5.read_array(group, name, rows)
        read.append((name, len(values)))
        return values

    monkeypatch.setattr("sfxproc.formats.pieces.read_array", spy)
    run = read_run(written.heads, written.to_job, 10, 20)
    for name in ("intensity", "variance", "reflection"):
        assert sum(n for read_name, n in read if read_name == name) == len(run)
    assert {name for name, _ in read} == {"intensity", "variance", "reflection"}


def test_a_column_that_is_not_there(written: Written, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    rows = replace(written.whole, partiality=None)
    write_piece(path, np.arange(80), np.arange(30), rows, NO_COUNTS, NOT_FEW)
    head, to_job = read_piece_head(path), np.arange(80, dtype=np.int32)
    same(read_run([head], [to_job], 0, 30), rows)
    with pytest.raises(InputError, match=r"a\.h5' lacks the dataset '/partiality'"):
        read_run([head], [to_job], 0, 30, partiality=True)


def test_crystals_out_of_order_are_refused(written: Written, tmp_path: Path) -> None:
    keys, rows = np.arange(80), written.whole
    position = np.arange(30)
    with pytest.raises(ValueError, match="in their order"):
        write_piece(tmp_path / "a.h5", keys, position[::-1], rows, NO_COUNTS, NOT_FEW)
    with pytest.raises(ValueError, match="in their order"):
        write_piece(
            tmp_path / "a.h5", keys, position, rows.take(slice(None, None, -1)), NO_COUNTS, NOT_FEW
        )
    assert not list(tmp_path.iterdir())


def test_pieces_that_are_absent_truncated_or_no_pieces(
    written: Written, small_stills: Stills, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match=r"a\.h5' cannot be read"):
        read_piece_head(path)
    hdf5.write(path, small_stills)
    with pytest.raises(InputError, match="holds stills of sfxproc, where piece are needed"):
        read_piece_head(path)
    path.write_bytes(written.heads[0].path.read_bytes()[:-40])
    with pytest.raises(InputError, match="is truncated"):
        read_piece_head(path)
    with pytest.raises(OutputError, match="absent"):
        write_piece(
            tmp_path / "absent" / "a.h5",
            np.arange(80),
            np.arange(30),
            written.whole,
            NO_COUNTS,
            NOT_FEW,
        )


# ---- native files in part --------------------------------------------------------------------


@pytest.fixture
def native(small_stills: Stills, tmp_path: Path) -> Path:
    path = tmp_path / "native.h5"
    hdf5.write(
        path,
        replace(
            small_stills,
            n_images=9,
            counts={Reason.NOT_INDEXED: np.int64(4), Reason.OVERLOADED: 2},
            notes=("one å \udcff", "two\nlines"),
        ),
    )
    return path


def test_head_counts_and_notes_return(native: Path, small_stills: Stills) -> None:
    head = hdf5.read_head(native)
    whole = hdf5.read(native, Request("a"))
    assert head.crystals.identity == small_stills.crystals.identity
    assert head.n_images == 9
    assert head.has_detector
    assert {"crystal", "hkl", "partiality", "x_px"} <= head.columns
    assert "reflection" not in head.columns
    for one in (head, whole):
        assert one.counts == {Reason.NOT_INDEXED: 4, Reason.OVERLOADED: 2}
        assert one.notes == ("one å \udcff", "two\nlines")
    assert small_stills.detector is not None
    assert hdf5.read_detector(native).name.tolist() == small_stills.detector.name.tolist()


def test_a_file_without_counts_has_none(small_stills: Stills, tmp_path: Path) -> None:
    hdf5.write(tmp_path / "a.h5", replace(small_stills, detector=None))
    head = hdf5.read_head(tmp_path / "a.h5")
    assert (head.counts, head.notes, head.has_detector) == ({}, (), False)


@pytest.mark.parametrize("most", [1, 7, 24, 25, 26, 39, 40, 41, 100])
def test_cuts_fall_between_crystals_and_give_all_rows(
    native: Path, small_stills: Stills, most: int
) -> None:
    cuts = hdf5.read_cuts(native, most)  # rows of the three crystals: 25, 0, 15
    assert cuts[0].tolist() == [0, 0]
    assert cuts[-1].tolist() == [3, 40]
    assert (len(cuts) == 3) == (most in (1, 7, 25, 26, 39))  # a run may exceed by one crystal
    parts = [
        hdf5.read_rows(native, {"x_px"}, (int(a), int(b)), (int(r), int(s)))
        for (a, r), (b, s) in pairwise(cuts)
    ]
    whole = hdf5.read(native, Request("a", frozenset({"x_px"}))).observations
    for name, values in concatenate(parts).columns().items():
        np.testing.assert_array_equal(values, whole.columns()[name])
    assert concatenate(parts).panel is None


def test_cuts_of_many_crystals_have_about_the_rows_wanted(
    small_stills: Stills, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    n_rows = np.random.default_rng(1).integers(0, 9, 500)
    n_rows[100:120] = 0
    n_rows[200] = 90
    obs, crystals = small_stills.observations, small_stills.crystals
    rows = obs.take(np.zeros(n_rows.sum(), dtype=np.int64))
    rows = replace(rows, crystal=np.repeat(np.arange(500, dtype=np.int32), n_rows))
    chosen = crystals.take(np.zeros(500, dtype=np.int64))
    hdf5.write(path, replace(small_stills, crystals=chosen, observations=rows))
    cuts = hdf5.read_cuts(path, 60)
    before = np.concatenate([[0], np.cumsum(n_rows)])
    np.testing.assert_array_equal(before[cuts[:, 0]], cuts[:, 1])
    lengths = np.diff(cuts[:, 1])
    assert np.all(lengths > 0)
    assert np.all(lengths < 60 + 90)
    assert np.sum((lengths < 52) | (lengths > 68)) <= 3  # around the large crystal, and at the end


def test_a_file_without_crystals_or_rows(small_stills: Stills, tmp_path: Path) -> None:
    path, nothing = tmp_path / "a.h5", slice(0, 0)
    empty = small_stills.observations.take(nothing)
    hdf5.write(path, replace(small_stills, observations=empty))
    assert hdf5.read_cuts(path, 10).tolist() == [[0, 0], [3, 0]]
    assert len(hdf5.read_rows(path, (), (0, 3), (0, 0))) == 0
    crystals = small_stills.crystals.take(nothing)
    hdf5.write(path, replace(small_stills, crystals=crystals, observations=empty))
    assert hdf5.read_cuts(path, 10).tolist() == [[0, 0], [0, 0]]


def test_damage_is_told(native: Path) -> None:
    with h5py.File(native, "a") as handle:
        handle["observations/crystal"][30:] = 7
    with pytest.raises(InputError, match=r"/observations/crystal' is damaged"):
        hdf5.read_cuts(native, 35)
    with pytest.raises(InputError, match=r"/observations/crystal' is damaged"):
        hdf5.read_rows(native, (), (2, 3), (25, 40))
    hdf5.read_rows(native, (), (0, 2), (0, 25))
    with h5py.File(native, "a") as handle:
        del handle["observations/x_px"]
        handle["observations/x_px"] = np.zeros(50)
    with pytest.raises(InputError, match="'observations', is damaged: its columns have from 40"):
        hdf5.read_head(native)
    with h5py.File(native, "a") as handle:
        del handle["observations/hkl"]
    with pytest.raises(InputError, match="lacks the dataset '/observations/hkl'"):
        hdf5.read_head(native)
