from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sfxproc.data import Merged, Reason, Reflections, Status, Stills
from sfxproc.errors import InputError
from sfxproc.formats.base import Request
from sfxproc.formats.frames import read_frames, write_frames
from sfxproc.formats.hdf5 import read


@pytest.fixture
def columns() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "status": np.array([Status.USED, Status.FIXED, Status.LEFT_OUT]),
        "reason": np.array([Reason.NONE, Reason.TOO_FEW_OVERLAPS, Reason.CELL_OFF_TARGET]),
        "ln_G": np.array([0.1, 0.0, np.nan]),
        "n_observations": np.array([25, 0, 15], dtype=np.int32),
    }


@pytest.fixture
def merged() -> Merged:
    rng = np.random.default_rng(3)
    n = 5
    return Merged(
        Reflections(
            hkl=np.arange(3 * n, dtype=np.int16).reshape(n, 3),
            friedel=np.array([0, 1, -1, 1, -1], dtype=np.int8),
            s2=rng.uniform(0, 0.1, n),
            centric=np.array([True, False, False, False, False]),
            epsilon=np.ones(n, dtype=np.int16),
            intensity=rng.normal(size=n),
            sigma=rng.uniform(size=n),
            n_observations=np.arange(n, dtype=np.int32),
        ),
        half_intensity=rng.normal(size=(2, n)),
        half_sigma=rng.uniform(size=(2, n)),
        half_n=np.ones((2, n), dtype=np.int32),
        sum_intensity=rng.normal(size=n),
        abs_deviation=rng.uniform(size=n),
        scale_variance=rng.uniform(size=n),
    )


def test_round_trip(
    small_stills: Stills, columns: dict[str, Any], merged: Merged, tmp_path: Path
) -> None:
    path = tmp_path / "frames.h5"
    write_frames(path, small_stills.crystals, columns, {"space_group": "P 1", "n": 4}, merged)
    again = read_frames(path)
    assert again.crystals.identity == small_stills.crystals.identity
    assert again.crystals.A.tobytes() == small_stills.crystals.A.tobytes()
    assert dict(again.attributes) == {"space_group": "P 1", "n": 4}
    assert set(again.columns) == set(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(again.columns[name], values)
    assert again.merged is not None
    for f in fields(Reflections):
        old, new = getattr(merged.reflections, f.name), getattr(again.merged.reflections, f.name)
        assert (new.dtype, new.tobytes()) == (old.dtype, old.tobytes()), f.name
    for f in fields(Merged)[1:]:
        old, new = getattr(merged, f.name), getattr(again.merged, f.name)
        assert (new.dtype, new.shape, new.tobytes()) == (old.dtype, old.shape, old.tobytes())


def test_words_stand_in_the_file(
    small_stills: Stills, columns: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "frames.h5"
    write_frames(path, small_stills.crystals, columns, {})
    with h5py.File(path) as handle:
        group = handle["crystals"]
        assert list(group["status"].asstr()) == ["used", "fixed", "left out"]
        assert list(group["reason"].asstr()) == ["none", "too few overlaps", "cell off target"]
        assert group["identity"].asstr()[2] == "run2/b.h5////0"
    assert read_frames(path).merged is None


def test_wrong_length_and_unknown_word(
    small_stills: Stills, columns: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "frames.h5"
    with pytest.raises(ValueError, match="column ln_G: 2 rows, 3 crystals"):
        write_frames(path, small_stills.crystals, columns | {"ln_G": np.zeros(2)}, {})
    assert not list(tmp_path.iterdir())
    write_frames(path, small_stills.crystals, columns, {})
    with h5py.File(path, "a") as handle:
        handle["crystals/status"][1] = "lost"
    with pytest.raises(InputError, match="'/crystals/status' holds 'lost', which is none of: used"):
        read_frames(path)


def test_frames_are_no_input(small_stills: Stills, columns: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    write_frames(path, small_stills.crystals, columns, {})
    with pytest.raises(InputError, match="holds frames of sfxproc, where stills are needed"):
        read(path, Request("frames.h5"))


def test_crystals_without_rows(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    none = np.zeros(0, dtype=np.int8)
    crystals = small_stills.crystals.take(slice(0, 0))
    write_frames(path, crystals, {"status": none, "reason": none}, {})
    assert len(read_frames(path).crystals) == 0
