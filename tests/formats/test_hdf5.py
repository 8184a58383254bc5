from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from sfxproc.data import (
    OPTIONAL_COLUMNS,
    BeamPolarisation,
    Correction,
    Observations,
    Stills,
    Table,
)
from sfxproc.errors import InputError, OutputError
from sfxproc.formats.base import Request
from sfxproc.formats.hdf5 import read, read_head, write

ALL = frozenset((*OPTIONAL_COLUMNS, "reflection"))


@pytest.fixture
def full(small_stills: Stills) -> Stills:
    """Every column filled, NaN and a name that is not UTF-8 among them."""
    intensity = small_stills.observations.intensity.copy()
    intensity[3] = np.nan
    observations = replace(
        small_stills.observations,
        intensity=intensity,
        reflection=np.arange(40, dtype=np.int32)[::-1].copy(),
    )
    file = small_stills.crystals.file.copy()
    file[1] = "run\udcff.h5"
    crystals = replace(small_stills.crystals, file=file)
    header = "geometry å\n" * 20_000  # longer than the 64 KiB of a plain attribute
    return replace(small_stills, crystals=crystals, observations=observations, header=header)


def same_bits(one: Table, two: Table) -> None:
    for f in fields(one):  # type: ignore[arg-type]
        a, b = getattr(one, f.name), getattr(two, f.name)
        assert a.dtype == b.dtype, f.name
        assert a.shape == b.shape, f.name
        assert list(a) == list(b) if a.dtype == object else a.tobytes() == b.tobytes(), f.name


def test_every_column_returns_bit_for_bit(full: Stills, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", full)
    again = read(tmp_path / "a.h5", Request("ignored", ALL))
    same_bits(full.crystals, again.crystals)
    same_bits(full.observations, again.observations)
    assert full.detector is not None
    assert again.detector is not None
    same_bits(full.detector, again.detector)
    assert (again.n_images, again.header) == (full.n_images, full.header)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_optional_columns_only_on_request(full: Stills, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", full)
    observations = read(tmp_path / "a.h5", Request("a", frozenset({"x_px"}))).observations
    filled = {f.name for f in fields(Observations) if getattr(observations, f.name) is not None}
    assert filled == {"crystal", "hkl", "intensity", "variance", "x_px"}


def test_columns_that_are_not_there_stay_none(small_stills: Stills, tmp_path: Path) -> None:
    bare = replace(small_stills.observations, panel=None, x_px=None)
    write(tmp_path / "a.h5", replace(small_stills, observations=bare, detector=None))
    again = read(tmp_path / "a.h5", Request("a", ALL))
    assert again.observations.panel is None
    assert again.observations.partiality is not None
    assert again.detector is None


def test_no_crystals_at_all(small_stills: Stills, tmp_path: Path) -> None:
    nothing = slice(0, 0)
    empty = replace(
        small_stills,
        crystals=small_stills.crystals.take(nothing),
        observations=small_stills.observations.take(nothing),
        n_images=12,
    )
    write(tmp_path / "a.h5", empty)
    again = read(tmp_path / "a.h5", Request("a", ALL))
    assert (len(again.crystals), len(again.observations), again.n_images) == (0, 0, 12)
    same_bits(again.crystals, empty.crystals)


def test_not_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_text("CrystFEL stream format 2.3\n" * 100)
    with pytest.raises(InputError, match=r"a\.h5' is not an HDF5 file"):
        read(path, Request("a"))


def test_hdf5_of_another_program_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "image.h5"
    with h5py.File(path, "w") as handle:
        handle.create_group("entry_1")
        handle["mask"] = np.zeros(4)
    with pytest.raises(InputError, match="not written by sfxproc; at its top it holds: entry_1, m"):
        read(path, Request("a"))


def test_other_content_and_version(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, small_stills)
    with h5py.File(path, "a") as handle:
        handle.attrs["version"] = 99
    with pytest.raises(InputError, match="format version 99, this program reads version 1"):
        read(path, Request("a"))
    with h5py.File(path, "a") as handle:
        handle.attrs["content"] = "frames"
    with pytest.raises(InputError, match="holds frames of sfxproc, where stills are needed"):
        read(path, Request("a"))


def test_truncated(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, small_stills)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match="is truncated"):
        read(path, Request("a"))


def test_missing_parts(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, small_stills)
    with h5py.File(path, "a") as handle:
        del handle["observations/intensity"]
    with pytest.raises(InputError, match="lacks the dataset '/observations/intensity'"):
        read(path, Request("a"))
    with h5py.File(path, "a") as handle:
        del handle["observations"]
    with pytest.raises(InputError, match="lacks the group 'observations'"):
        read(path, Request("a"))


@pytest.mark.parametrize("bad", [-1, 3, 1])
def test_crystal_rows_out_of_order_or_range(small_stills: Stills, tmp_path: Path, bad: int) -> None:
    path = tmp_path / "a.h5"
    write(path, small_stills)
    with h5py.File(path, "a") as handle:
        handle["observations/crystal"][0 if bad < 0 else -1] = bad
    with pytest.raises(InputError, match=r"/observations/crystal' is damaged"):
        read(path, Request("a"))


def test_unequal_columns(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, small_stills)
    with h5py.File(path, "a") as handle:
        del handle["crystals/bandwidth"]
        handle["crystals/bandwidth"] = np.zeros(7)
    with pytest.raises(InputError, match="group 'crystals', is damaged"):
        read(path, Request("a"))


def test_unwritable_folder(small_stills: Stills, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent"):
        write(tmp_path / "absent" / "a.h5", small_stills)


def test_what_is_known_of_corrections_returns(tmp_path: Path, small_stills: Stills) -> None:
    told = replace(
        small_stills,
        corrected=frozenset({Correction.POLARISATION, Correction.EFFICIENCY}),
        polarisation=BeamPolarisation(0.99, (0.0, 1.0, 0.0)),
        space_group="P 43 21 2",
    )
    path = tmp_path / "told.h5"
    write(path, told)
    again = read(path, Request("told"))
    assert again.corrected == told.corrected == read_head(path).corrected
    assert again.polarisation == told.polarisation
    assert again.space_group == "P 43 21 2"
    write(path, small_stills)
    again = read(path, Request("told"))
    assert (again.corrected, again.polarisation, again.space_group) == (frozenset(), None, "")
