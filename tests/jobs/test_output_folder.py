"""One process at a time in an output folder; nothing in it that is not the program's is touched."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sfxproc.runs.names import LOCK
from tests.jobs.test_spot_powder import JOB as SPOTS

HERE = Path(__file__).resolve().parent
JOBS = HERE.parents[1] / "jobs"
POWDER = (
    JOBS / "powder.toml", 'search.lattices=["cP"]', "search.effort=0.1", "simulate.lattice=cP",
)  # fmt: skip
SPOT_POWDER = (SPOTS, "simulate.n_stills=200", "simulate.lattice=tP")
TIMEOUT_s = 60
FOREIGN = {
    "checkpoint/model.state": b"weights",
    "checkpoint/job.json": b'{"epochs": 3}',
    "groups/people.txt": b"names",
    "groups/light.mtz": b"mine",
    "refined/a.cif": b"structure",
    "cells/01-cP.cell": b"my cell",
    "notes.md": b"notes",
}


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def found(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def settings_of(job: Path, sets: Any) -> Callable[[str], list[Any]]:
    """The arguments of a small job of each kind."""

    def of(kind: str) -> list[Any]:
        if kind == "scale":
            return [job]
        path, *settings = POWDER if kind == "powder" else SPOT_POWDER
        return [path, *sets(*settings, "output.folder=out")]

    return of


KINDS = ("scale", "powder", "spot-powder")
FLAGS = ((), ("--overwrite",), ("--resume",), ("--resume", "--overwrite"))

# ---- two processes -----------------------------------------------------------------------------


@pytest.fixture
def paused(job: Path, surroundings: Any) -> Callable[..., Any]:
    """A scaling job in a process of its own that has claimed its folder and waits; it ends well
    after the block."""

    @contextmanager
    def run(*arguments: str, ends: bool = True) -> Iterator[subprocess.Popen[str]]:
        gate = job.parent / f"gate{time.monotonic_ns()}"
        command = [sys.executable, str(HERE / "paused.py"), str(gate), "run", job.name, *arguments]
        with subprocess.Popen(
            command, cwd=job.parent, env=surroundings, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                until = time.monotonic() + TIMEOUT_s
                while not gate.with_suffix(".waiting").exists():
                    assert process.poll() is None, process.communicate()
                    assert time.monotonic() < until
                    time.sleep(0.05)
                yield process
                gate.touch()
                out, err = process.communicate(timeout=TIMEOUT_s)
                assert (process.returncode, err) == (0, "") or not ends, out
            finally:
                if process.poll() is None:
                    process.kill()

    return run


def require_in_use(done: Any, pid: int) -> None:
    assert done.status == 2
    assert f"'out' is in use: process {pid} on {socket.gethostname()} has been writing" in done.err
    assert "sfxproc status out" in done.err


@pytest.mark.parametrize("flags", [(), ("--resume",), ("--overwrite",)])
def test_of_two_on_a_new_folder_one_runs(
    flags: tuple[str, ...], job: Path, paused: Any, command: Any, results: Any
) -> None:
    with paused(*flags) as first:
        require_in_use(command("run", job, *flags), first.pid)
        require_in_use(command("check", job), first.pid)
    assert len(results(job.parent / "out").merged["IMEAN"]) > 2000
    assert not (job.parent / "out" / LOCK).exists()


def stopped_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the next job in this process get SIGTERM when it has kept so many states."""
    calls: list[str] = []

    def save(self: Any, key: str, arrays: Any) -> None:
        kept(self, key, arrays)
        calls.append(key)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)

    kept = __import__("sfxproc.runs.run", fromlist=["Run"]).Run.save
    monkeypatch.setattr("sfxproc.runs.run.Run.save", save)


OFTEN = ("--set", "output.checkpoint_interval_s=0")


def test_of_two_that_go_on_one_does(
    job: Path, paused: Any, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped_at(patch, 2)
        assert command("run", job, *OFTEN).status == 75
    kept = found(job.parent / "out")
    assert "checkpoint/lm.state" in kept
    with paused("--resume") as first:
        require_in_use(command("run", job, "--resume"), first.pid)
        assert kept.items() <= found(job.parent / "out").items()
    assert "resumed after iteration" in (job.parent / "out" / "log.txt").read_text()


def test_a_new_one_beside_a_finished_one(job: Path, paused: Any, command: Any) -> None:
    assert command("run", job).status == 0
    with paused("--overwrite") as first:
        require_in_use(command("run", job, "--resume"), first.pid)
        require_in_use(command("run", job, "--overwrite"), first.pid)
    done = command("run", job, "--resume")
    assert (done.status, done.err) == (0, "")


def test_a_killed_job_hinders_nobody(job: Path, paused: Any, command: Any) -> None:
    out = job.parent / "out"
    with paused(ends=False) as first:
        first.kill()
        first.wait()
    assert json.loads((out / LOCK).read_bytes())["pid"] == first.pid
    assert (
        f"Process {first.pid} on {socket.gethostname()} is no more" in command("status", "out").out
    )
    done = command("run", job)
    assert (done.status, done.err) == (0, "")
    assert f"took over the lock of process {first.pid}" in done.out


# ---- what is not the program's -------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags", [(), ("--overwrite",), ("--resume",), ("--resume", "--overwrite")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_somebody_else_survives(
    kind: str, flags: tuple[str, ...], job: Path, command: Any, settings_of: Any
) -> None:
    """All of it, and each part of it alone; without --overwrite nothing is written besides."""
    out = job.parent / "out"
    put(out, FOREIGN)
    done = command("run", *settings_of(kind), *flags)
    assert done.status == 2, done.out
    assert found(out) == FOREIGN


@pytest.mark.parametrize("part", ["checkpoint", "groups", "refined", "cells", "notes.md"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_part_of_it_survives(
    part: str, kind: str, job: Path, command: Any, settings_of: Any, sets: Any
) -> None:
    out = job.parent / "out"
    theirs = {name: content for name, content in FOREIGN.items() if name.startswith(part)}
    put(out, theirs)
    arguments = settings_of(kind)
    for flags in ((), ("--resume",)):
        assert command("run", *arguments, *flags).status == 2
        assert found(out) == theirs
    done = command("run", *arguments, "--overwrite")
    assert theirs.items() <= found(out).items()
    if part in ("checkpoint", "cells") and done.status == 2:
        assert f"'out' holds '{part}" in done.err
        assert "It is not touched: move it away" in done.err
        return
    assert (done.status, done.err) == (0, "")
    for flags in (("--overwrite",), ("--resume",)):
        assert command("run", *arguments, *flags).status == 0
        assert theirs.items() <= found(out).items()
    assert not (out / "checkpoint").exists()


def test_names_that_groups_need_are_looked_at_beforehand(
    job: Path, command: Any, sets: Any
) -> None:
    put(job.parent / "out", {"groups/light.mtz": b"mine"})
    settings = sets("merging.groups.light=*")
    for verb, flags in (("run", ["--overwrite"]), ("check", sets("output.overwrite=true"))):
        done = command(verb, job, *settings, *flags)
        assert done.status == 2
        assert "'out' holds 'groups/light.mtz', which is not of this program" in done.err
        assert "observations used" not in done.out
    assert found(job.parent / "out") == {"groups/light.mtz": b"mine"}


@pytest.mark.parametrize("name", ["merged.mtz", "manifest.json", "statistics.json", "log.txt"])
def test_a_file_of_a_result_s_name(name: str, job: Path, command: Any) -> None:
    out = job.parent / "out"
    put(out, {name: b"{}"})
    assert command("run", job, "--overwrite").status == 2
    assert found(out) == {name: b"{}"}


def test_only_what_was_written_is_removed(job: Path, command: Any, sets: Any, results: Any) -> None:
    """Of the job before, which wrote more."""
    out = job.parent / "out"
    more = sets("merging.groups.all=*", "output.unmerged=true")
    assert command("run", job, *more).status == 0
    theirs = {"groups/mine.txt": b"mine", "notes.md": b"notes", ".x.3.part": b"theirs"}
    put(out, theirs)
    assert command("run", job, "--overwrite").status == 0
    left = found(out)
    assert theirs.items() <= left.items()
    assert not {"unmerged.mtz", "groups/all.mtz"} & set(left)
    told = json.loads((out / "manifest.json").read_text())
    assert set(told["files"]) == set(left) - set(theirs) - {"manifest.json"}
    (out / "groups" / "mine.txt").unlink()
    assert command("run", job, "--overwrite").status == 0
    assert not (out / "groups").exists()


def test_results_made_before_there_were_manifests(job: Path, command: Any) -> None:
    """Their names count, of files at the top of the folder only."""
    out = job.parent / "out"
    assert command("run", job).status == 0
    (out / "manifest.json").unlink()
    theirs = {"groups/mine.txt": b"mine"}
    put(out, {**theirs, "unmerged.mtz": b"old"})
    done = command("run", job, "--resume")
    assert (done.status, "complete already" in done.out) == (0, True)
    assert command("run", job, "--overwrite").status == 0
    assert "unmerged.mtz" not in found(out)
    assert theirs.items() <= found(out).items()


# ---- nothing left behind ---------------------------------------------------------------------


def test_a_refused_job_leaves_nothing(job: Path, command: Any, sets: Any) -> None:
    settings = sets("output.folder=a/b/out", "selection.d_max_A=2")
    assert command("run", job, *settings).status == 2
    assert not (job.parent / "a").exists()
    job.write_text(job.read_text().replace('paths = ["small.h5"]', ""))
    simulate = sets("simulate.n_crystals=20", "simulate.d_min_A=5", "scaling.min_overlaps=5000")
    assert command("run", job, *settings[:2], *simulate).status == 2
    assert not (job.parent / "a").exists()


def test_a_refused_overwrite_leaves_what_was_there(job: Path, command: Any, sets: Any) -> None:
    assert command("run", job).status == 0
    before = found(job.parent / "out")
    assert command("run", job, "--overwrite", *sets("selection.d_max_A=2")).status == 2
    del before["DONE"]
    assert found(job.parent / "out") == before


# ---- inputs ----------------------------------------------------------------------------------


def test_an_input_in_the_output_folder_is_not_replaced(job: Path, command: Any, sets: Any) -> None:
    out = job.parent / "out"
    assert command("run", job, *sets("output.unmerged=true")).status == 0
    before = found(out)
    for setting in (
        "input.paths=out/unmerged.mtz", "reference.path=out/merged.mtz", "start.frames=out",
        "symmetry.ambiguity_reference=out/merged.mtz",
    ):  # fmt: skip
        done = command("run", job, "--overwrite", *sets(setting))
        assert done.status == 2
        assert "which this job reads and results would replace. Move it out" in done.err
        assert found(out) == before
    put(out, {"own.h5": (job.parent / "part1.h5").read_bytes()})
    assert command("run", job, "--overwrite", *sets("input.paths=out/own.h5")).status == 0
    assert (out / "own.h5").read_bytes() == (job.parent / "part1.h5").read_bytes()


CHANGES = [("scale", "other input"), ("scale", "input replaced")]  # other kinds simulate theirs


@pytest.mark.parametrize(("kind", "change"), [*CHANGES, *((k, "other settings") for k in KINDS)])
def test_results_of_another_job_are_not_this_one_s(
    change: str, kind: str, job: Path, command: Any, settings_of: Any, sets: Any
) -> None:
    arguments = settings_of(kind)
    data = job.parent / "small.h5"
    content = data.read_bytes()
    data.unlink()
    data.write_bytes(content)
    assert command("run", *arguments).status == 0
    before = found(job.parent / "out")
    same = command("run", *arguments, "--resume")
    assert (same.status, "complete already" in same.out) == (0, True)
    settings: tuple[str, ...] = ()
    if change == "other settings":
        seed = {"scale": "seed=7", "powder": "simulate.seed=7", "spot-powder": "simulate.seed=7"}
        settings, line = (seed[kind],), f"- {seed[kind].split('=')[0]}: "
    elif change == "other input":
        settings, line = ("input.paths=part1.h5",), '- input.paths: ["small.h5"] → ["part1.h5"]'
    else:
        os.utime(data, ns=(0, 1_000_000_007))
        line = f"- file '{data}': "
    done = command("run", *arguments, "--resume", *sets(*settings))
    assert done.status == 2
    assert "The job that is complete in 'out' is not this one (there → here):" in done.err
    assert line in done.err
    assert found(job.parent / "out") == before


@pytest.mark.parametrize("fate", ["replaced", "removed"])
def test_an_input_that_changes_meanwhile_is_told(
    fate: str, job: Path, paused: Any, command: Any, sets: Any
) -> None:
    """A reference is read before the pause."""
    assert command("run", job, *sets("output.folder=first")).status == 0
    reference = job.parent / "first" / "merged.mtz"
    with paused("--set", f"reference.path={reference}"):
        if fate == "removed":
            reference.unlink()
        else:
            os.utime(reference, ns=(0, 0))
    log = (job.parent / "out" / "log.txt").read_text()
    assert f"WARNING: the input '{reference}' " in log
    assert ("is no longer there" in log) == (fate == "removed")
    assert "An input file changed while the job ran" in log.splitlines()[-1]
    assert "changed while the job ran" not in (job.parent / "first" / "log.txt").read_text()


def test_home(job: Path, command: Any, sets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home = job.parent / "home"
    home.mkdir()
    (home / "mine.h5").symlink_to((job.parent / "small.h5").resolve())
    monkeypatch.setenv("HOME", str(home))
    first = sets("input.paths=~/mine.h5", "output.folder=~/out")
    assert command("run", job, *first).status == 0
    assert (home / "out" / "DONE").exists()
    again = sets("reference.path=~/out/merged.mtz", "start.frames=~/out", "output.folder=~/again")
    assert command("run", job, *first[:2], *again).status == 0
    assert (home / "again" / "DONE").exists()
    assert not (job.parent / "~").exists()


# ---- names of groups -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("../../mine", '"../../mine" cannot be the name of a file'),
        ("light/dark", '"light/dark" cannot be the name of a file'),
        ("..", '".." cannot be'),
        ("", '"" cannot be'),
        (".hidden", '".hidden" cannot be'),
        ("a\\nb", "cannot be the name of a file"),
        ("x" * 101, "is too long for a file"),
        ("a-minus-b", '"a-minus-b" is what the difference of "a" and "b" is called'),
    ],
)
def test_names_of_groups(name: str, part: str, job: Path, command: Any) -> None:
    groups = f'\n[merging.groups]\na = "*"\nb = "*"\n"{name}" = "*"\n'
    job.write_text(job.read_text() + groups)
    for verb in ("check", "run"):
        done = command(verb, job)
        assert done.status == 2
        assert part in done.err
        assert "observations used" not in done.out
    assert not (job.parent / "out").exists()
