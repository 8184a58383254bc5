"""The truth file gives back every column bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfxproc.errors import InputError, OutputError
from sfxproc.formats.hdf5 import create
from sfxproc.formats.truth import read_truth, truth_path, write_truth


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
