"""Whose a folder is: taken once, kept while the owner lives, taken over when it is gone."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from sfxproc.errors import OutputError
from sfxproc.runs.lock import (
    Owner,
    SILENT_s,
    lock_problem,
    read_owner,
    take_lock,
    this_process,
    why_gone,
)
from sfxproc.runs.names import LOCK

NOBODY = 1 << 30  # no process has such a number


def put(folder: Path, owner: Owner, age_s: float = 0.0) -> None:
    path = folder / LOCK
    path.write_bytes(msgspec.json.encode(owner))
    changed = path.stat().st_mtime - age_s
    os.utime(path, (changed, changed))


def test_taken_once_and_released(tmp_path: Path) -> None:
    lock = take_lock(tmp_path)
    assert lock.held()
    assert lock.note == ""
    words = f"process {os.getpid()} on "
    assert words in (lock_problem(tmp_path) or "")
    with pytest.raises(OutputError, match=f"'{tmp_path}' is in use: {words}"):
        take_lock(tmp_path)
    lock.release()
    assert list(tmp_path.iterdir()) == []
    assert lock_problem(tmp_path) is None
    take_lock(tmp_path).release()


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    """From an owner that is gone, too."""
    put(tmp_path, replace(this_process(), pid=NOBODY))
    taken, start = [], threading.Barrier(8)

    def take() -> None:
        start.wait()
        with suppress(OutputError):
            taken.append(take_lock(tmp_path))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert taken[0].held()
    assert f"process {NOBODY} on " in taken[0].note
    taken[0].release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("age_s", [0.0, SILENT_s + 60.0])
def test_of_another_machine_it_counts_until_it_is_silent(tmp_path: Path, age_s: float) -> None:
    put(tmp_path, replace(this_process(), host="elsewhere", pid=NOBODY), age_s)
    if age_s == 0.0:
        with pytest.raises(OutputError, match="on elsewhere has been writing"):
            take_lock(tmp_path)
        assert (read_owner(tmp_path / LOCK) or Owner()).host == "elsewhere"
    else:
        lock = take_lock(tmp_path)
        assert "on elsewhere (no sign of life for" in lock.note
        lock.release()


def test_who_is_gone() -> None:
    here = this_process()
    again = replace(here, host="elsewhere", slurm="17", restarts=0)
    assert why_gone(here, 1e9) is None  # it runs, however long it says nothing
    assert why_gone(replace(here, began=here.began - 1), 0.0) is not None
    assert why_gone(replace(here, pid=NOBODY), 0.0) is not None
    assert why_gone(replace(here, namespace="another", pid=NOBODY), 0.0) is None
    assert why_gone(again, 0.0) is None
    assert why_gone(again, SILENT_s + 1.0) is not None


def test_a_requeued_job_takes_over_from_its_earlier_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    before = replace(this_process(), host="elsewhere", restarts=0)
    assert why_gone(before, 0.0) is not None
    assert why_gone(replace(before, restarts=1), 0.0) is None  # another step of this start
    assert why_gone(replace(before, slurm="18"), 0.0) is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_lock_that_cannot_be_read_counts_until_it_is_old(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(OutputError, match="is in use"):
        take_lock(tmp_path)
    changed = (tmp_path / LOCK).stat().st_mtime - SILENT_s - 60
    os.utime(tmp_path / LOCK, (changed, changed))
    take_lock(tmp_path).release()


def test_a_lock_that_was_taken_over_is_not_removed(tmp_path: Path) -> None:
    lock = take_lock(tmp_path)
    put(tmp_path, replace(this_process(), host="elsewhere"))
    assert not lock.held()
    lock.release()
    assert (tmp_path / LOCK).exists()
