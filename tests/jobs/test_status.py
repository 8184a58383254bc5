"""What `sfxproc status` makes of the files in a job's folder, and how a job leaves them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from sfxproc.commands.status import status_of
from sfxproc.errors import InputError
from sfxproc.runs.lock import this_process
from sfxproc.runs.names import LOCK, PROGRESS
from sfxproc.runs.progress import STOPPED, SignsOfLife, read_progress

NOW = 1_800_000_000.0
SIGN = {
    "stage": "scaling blocks",
    "done": 12,
    "total": 40,
    "round": 3,
    "rounds": 8,
    "objective": 123456.789,
    "iteration": None,
    "time": NOW,
    "ranks": 64,
    "host": "n17",
    "pid": 321,
}


def signed(folder: Path, **changes: Any) -> Path:
    (folder / PROGRESS).parent.mkdir(parents=True, exist_ok=True)
    (folder / PROGRESS).write_text(json.dumps(SIGN | changes))
    return folder


# ---- writing ---------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    began = time.time()
    SignsOfLife(tmp_path).tell("solving", 5, 9, iteration=5, objective=1.5)
    sign = read_progress(tmp_path)
    assert sign is not None
    assert (sign.stage, sign.done, sign.total, sign.iteration) == ("solving", 5, 9, 5)
    assert (sign.objective, sign.round, sign.rounds, sign.ranks) == (1.5, None, None, 1)
    assert sign.pid == os.getpid()
    assert began <= sign.time <= time.time()
    assert set(json.loads((tmp_path / PROGRESS).read_text())) == set(SIGN)
    assert [p.name for p in (tmp_path / PROGRESS).parent.iterdir()] == ["progress.json"]


def test_only_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 11.9, 12.1, 12.2))
    monkeypatch.setattr("sfxproc.runs.progress.time.monotonic", lambda: next(clock))
    seen, life = [], SignsOfLife(tmp_path)
    for done, force in ((1, False), (2, False), (3, False), (4, True)):
        life.tell("solving", done, 9, force=force)
        seen.append(read_progress(tmp_path))
    assert [sign.done for sign in seen if sign] == [1, 1, 3, 4]


def test_other_ranks_are_silent(tmp_path: Path) -> None:
    SignsOfLife(tmp_path, ranks=2, speaks=False).tell("solving", force=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hindrance", ["checkpoint", PROGRESS])
def test_a_job_does_not_end_for_want_of_a_progress_file(
    tmp_path: Path, hindrance: str | Path
) -> None:
    """A file where the folder should be, a folder where the file should be."""
    if hindrance == PROGRESS:
        (tmp_path / PROGRESS / "x").mkdir(parents=True)
    else:
        (tmp_path / hindrance).write_text("")
    SignsOfLife(tmp_path).tell("solving", 1, 9, force=True)
    assert read_progress(tmp_path) is None


# ---- reading ---------------------------------------------------------------------------------


def test_finished(tmp_path: Path) -> None:
    signed(tmp_path)
    (tmp_path / "log.txt").write_text("     0.1 s  sfxproc\n\n    12.3 s  All is well, 0.5 s.\n\n")
    (tmp_path / "DONE").touch()
    told = status_of(tmp_path)
    assert (told.finished, told.text) == (True, "Finished. All is well, 0.5 s.")
    (tmp_path / "log.txt").unlink()
    assert status_of(tmp_path).text == "Finished."


@pytest.mark.parametrize(
    ("age_s", "words"),
    [
        (-5, "Last sign of life 0 s ago."),
        (12, "Last sign of life 12 s ago."),
        (600, "No sign of life for 10 min: it is in a long step, or was killed."),
        (7300, "No sign of life for 2 h: it was probably killed; go on with --resume."),
        (400_000, "No sign of life for 5 days: it was probably killed; go on with --resume."),
    ],
)
def test_at_work_or_silent(tmp_path: Path, age_s: float, words: str) -> None:
    told = status_of(signed(tmp_path), NOW + age_s)
    assert not told.finished
    assert told.text == (
        "Not finished. scaling blocks: 12 of 40 (30 %), round 3 of at most 8, objective 123457; "
        f"64 ranks, the first on n17 as process 321. {words}"
    )


def test_little_is_known(tmp_path: Path) -> None:
    """Nothing counted, no rounds, one rank."""
    sign = {"total": 0, "done": 0, "round": None, "objective": None, "iteration": 7, "ranks": 1}
    told = status_of(signed(tmp_path, **sign), NOW).text
    assert "scaling blocks, iteration 7; 1 rank, " in told


def test_stopped_when_asked(tmp_path: Path) -> None:
    text = status_of(signed(tmp_path, stage=STOPPED), NOW + 300).text
    assert text.endswith("It saved its state and stopped 5 min ago: go on with --resume.")


@pytest.mark.parametrize("damaged", [None, "", "{", '{"stage": "x"}'])
def test_without_a_readable_sign_the_files_tell(tmp_path: Path, damaged: str | None) -> None:
    (tmp_path / "job.resolved.toml").touch()
    if damaged is not None:
        signed(tmp_path)
        (tmp_path / PROGRESS).write_text(damaged)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.utime(path, (NOW, NOW))
    told = status_of(tmp_path, NOW + 7200)
    assert not told.finished
    assert told.text.startswith("Not finished. No sign of life for 2 h: it was probably killed")


def test_not_a_folder_of_a_job(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="is not the folder of a job"):
        status_of(tmp_path)
    with pytest.raises(InputError, match="There is no folder"):
        status_of(tmp_path / "none")


def test_a_lock_tells_of_a_process_that_is_no_more(tmp_path: Path) -> None:
    here = this_process()
    lock = signed(tmp_path) / LOCK
    for owner, killed in (
        (here, False),
        (replace(here, pid=1 << 30), True),  # there is none of this number
        (replace(here, began=here.began + 1), True),  # there is another one of this number
        (replace(here, host="elsewhere", pid=1 << 30), False),  # who knows
    ):
        lock.write_bytes(msgspec.json.encode(owner))
        told = status_of(tmp_path, NOW + 5).text
        assert ("is no more: it was killed; go on with --resume." in told) == killed
        assert ("Last sign of life 5 s ago." in told) != killed


# ---- the command -----------------------------------------------------------------------------


def test_exit_status(tmp_path: Path, command: Any) -> None:
    signed(tmp_path / "out", time=time.time())
    done = command("status", "out")
    assert (done.status, done.err) == (1, "")
    assert "12 of 40 (30 %)" in done.out
    (tmp_path / "out" / "DONE").touch()
    assert command("status", "out").status == 0
    refused = command("status", "none")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith("sfxproc: There is no folder 'none'.")
