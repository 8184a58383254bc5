"""The truth file gives back every column bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfxproc.errors import InputError, OutputError
from sfxproc.formats.hdf5 import create
from sfxproc.formats.truth import (
    NEEDED,
    SUMS,
    Columns,
    read_truth,
    read_truth_set,
    truth_path,
    write_truth,
)


def test_columns_and_settings_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    columns = {
        "crystals/A": rng.normal(size=(5, 3, 3)),
        "crystals/event": np.array(["a", "ü", "", "d//1", "e"], dtype=object),
        "reflections/hkl": rng.integers(-9, 9, (7, 3)).astype(np.int16),
        "empty": np.empty(0, dtype=np.float32),
    }
    path = truth_path(tmp_path / "stills.stream")
    assert path == tmp_path / "stills.truth.h5"
    write_truth(path, columns, '{"seed": 1}')
    back, settings = read_truth(path)
    assert settings == '{"seed": 1}'
    assert set(back) == set(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(back[name], values, strict=True)


def test_another_file_is_refused(tmp_path: Path) -> None:
    with create(tmp_path / "a.h5", "stills"):
        pass
    with pytest.raises(InputError, match="holds stills"):
        read_truth(tmp_path / "a.h5")
    with pytest.raises(InputError, match=r"none\.h5"):
        read_truth(tmp_path / "none.h5")


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="none"):
        write_truth(tmp_path / "none" / "a.h5", {}, "")


def part(first: int, n: int, **more: np.ndarray) -> Columns:
    """The truth of some crystals of a set."""
    columns = {
        name: np.full(n if name.startswith("crystals/") else 4, float(first)) for name in NEEDED
    }
    columns |= {"reflections/hkl": np.arange(12).reshape(4, 3), "observations/outlier": np.ones(2)}
    columns |= {"crystals/number": first + np.arange(n), "reflections/intensity": np.arange(4.0)}
    return columns | more


def test_parts_of_a_set_are_put_together(tmp_path: Path) -> None:
    paths = [tmp_path / "a.truth.h5", tmp_path / "b.truth.h5"]
    for path, columns in zip(paths, (part(1, 2), part(3, 5)), strict=True):
        write_truth(path, columns, f'{{"first_crystal": {columns["crystals/number"][0]}}}')
    whole, settings = read_truth_set(paths)
    assert settings == '{"first_crystal": 1}'
    np.testing.assert_array_equal(whole["crystals/number"], [1, 2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(whole["crystals/ln_G"], [1, 1, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(whole["reflections/intensity"], np.arange(4.0))
    for name in SUMS:
        np.testing.assert_array_equal(whole[name], np.full(4, 4.0))
    assert len(whole["observations/outlier"]) == 4
    np.testing.assert_array_equal(read_truth_set(paths[:1])[0][SUMS[0]], np.ones(4))


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (part(2, 1), "hold crystal 2 more than once"),
        (part(3, 2, **{"reflections/intensity": np.ones(4)}), "other true reflections"),
        (part(3, 2, **{"reflections/ideal_weight": np.ones(5)}), "other true reflections"),
        ({"crystals/number": np.ones(1)}, "b.h5' lacks crystals/ln_G, .* by an earlier version"),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path: Path, second: Columns, text: str) -> None:
    write_truth(tmp_path / "a.h5", part(1, 2), "{}")
    write_truth(tmp_path / "b.h5", second, "{}")
    with pytest.raises(InputError, match=text):
        read_truth_set([tmp_path / "a.h5", tmp_path / "b.h5"])
