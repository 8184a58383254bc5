"""Arrays come back as they were kept, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from sfxproc.errors import OutputError
from sfxproc.formats.checkpoint import Checkpoint

ARRAYS = {
    "float": np.array([[1.0, -0.0], [np.nan, np.inf]]),
    "single": np.arange(5, dtype=np.float32)[::2],
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "flags": np.array([True, False]),
    "none": np.empty((0, 3), dtype=np.int64),
    "scalar": np.array(3.5),
    "names": np.array(["a", "é"]),
    "file": np.zeros(1),
}


@pytest.fixture
def store(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize("key", ["lm", "round-003/refine-00007"])
def test_what_is_kept_comes_back(key: str, store: Checkpoint) -> None:
    assert store.load(key) is None
    store.save(key, {"old": np.zeros(3)})
    store.save(key, ARRAYS)
    found = store.load(key)
    assert found is not None
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert np.signbit(found["float"][0, 1])
    store.save("nothing", {})
    assert store.load("nothing") == {}
    assert store.notes == []


def test_keys_are_sorted_and_dropped_by_prefix(store: Checkpoint) -> None:
    assert store.keys() == []
    for key in ("survey-00012", "round-3/refine-7", "round-3/refine-10", "round-30/a", "lm.2"):
        store.save(key, {})
    (store.folder / "job.json").write_text("{}")
    (store.folder / ".lm.state.17.part").write_text("of a process that was killed")
    assert store.keys() == [
        "lm.2",
        "round-3/refine-10",
        "round-3/refine-7",
        "round-30/a",
        "survey-00012",
    ]
    assert store.keys("round-3/") == ["round-3/refine-10", "round-3/refine-7"]
    store.drop("round-3/")
    store.drop("round-4")
    assert store.keys() == ["lm.2", "round-30/a", "survey-00012"]
    assert store.load("round-3/refine-7") is None
    assert store.load("lm.2") == {}


def test_no_pickles(store: Checkpoint) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        store.save("lm", {"objects": np.array([{}], dtype=object)})
    assert store.keys() == []


def damaged(store: Checkpoint, data: bytes) -> None:
    """Kept as these bytes, it is not there, and where it went is noted."""
    (store.folder / "a" / "lm.state").write_bytes(data)
    store.notes.clear()
    assert store.load("a/lm") is None
    aside = store.folder / "a" / "lm.damaged"
    assert aside.read_bytes() == data
    assert store.keys() == []
    assert store.notes == [f"'{aside}' is damaged and not used (it is not as it was written)."]
    assert store.load("a/lm") is None
    assert len(store.notes) == 1


def test_damage_anywhere_is_noticed(store: Checkpoint) -> None:
    store.save("a/lm", {"x": np.arange(3.0), "y": np.ones((2, 2))})
    whole = (store.folder / "a" / "lm.state").read_bytes()
    for place in range(len(whole)):
        damaged(store, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for length in (0, 1, 64, 65, len(whole) // 2, len(whole) - 1):
        damaged(store, whole[:length])
    damaged(store, whole + b"\0")
    store.save("a/lm", {"x": np.arange(3.0)})
    assert store.load("a/lm") is not None


def test_what_cannot_be_read_is_noted(store: Checkpoint) -> None:
    (store.folder / "lm.state").mkdir(parents=True)
    assert store.load("lm") is None
    assert "Is a directory" in store.notes[0]


def test_a_full_disk_keeps_what_was_there(
    store: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.save("lm", {"x": np.arange(3.0)})
    monkeypatch.setattr("sfxproc.formats.atomic.os.fsync", full)
    with pytest.raises(OutputError, match=r"lm\.state': No space left on device"):
        store.save("lm", {"x": np.zeros(3)})
    assert [path.name for path in store.folder.iterdir()] == ["lm.state"]
    found = store.load("lm")
    assert found is not None
    np.testing.assert_array_equal(found["x"], np.arange(3.0))


def test_a_folder_that_cannot_be_made(store: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)  # who runs the tests may be allowed everything
    with pytest.raises(OutputError, match=r"Cannot write '.*checkpoint/lm\.state': Permission"):
        store.save("lm", {})
