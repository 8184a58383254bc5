"""A job that was stopped, or killed, goes on and ends with the bits of one that was not."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sfxproc import __version__
from sfxproc.formats.inputs import list_inputs, read_input
from sfxproc.intake.simulated import simulated_inputs
from sfxproc.parallel.comm import SerialComm
from sfxproc.report.log import ConsoleLog
from sfxproc.runs.contents import Claim
from sfxproc.runs.names import LOCK
from sfxproc.runs.run import opened
from sfxproc.settings.sections import Input, Output
from sfxproc.simulate.stills import StillsSettings
from tests.jobs.test_ranks import heed_interruptions, require_same_bits
from tests.launch import launched

HERE = Path(__file__).resolve().parent
SETTINGS = ("input.paths=part*.h5", "symmetry.anomalous=true", "output.checkpoint_interval_s=0")
LAST_KEPT = 3  # of about six iterations
TIMEOUT_s = 60
AS_BEFORE = "with `sfxproc run JOB --resume` and the same settings."

End = tuple[int, str]


@pytest.fixture(scope="module")
def expected(samples: Path, base: Any, program: Any, sets: Any, results: Any) -> Any:
    """What a job that nobody disturbs gives."""
    done = program("run", "base.toml", *sets(*SETTINGS, "output.folder=calm"), cwd=samples)
    assert (done.status, done.err) == (0, "")
    return results(samples / "calm")


@pytest.fixture
def interrupted(samples: Path, base: Any, surroundings: Any, sets: Any) -> Callable[..., End]:
    """Run until a signal to `target` at a `moment` (see signalled.py) ends it; status, message."""

    def run(
        folder: Path, name: str, moment: object, target: object = 0, ranks: int = 0, *more: str
    ) -> End:
        command = [sys.executable, str(HERE / "signalled.py"), name, str(moment), str(target)]
        command = launched(command, ranks)
        command += ["run", "base.toml", *sets(*SETTINGS, f"output.folder={folder}"), *more]
        with subprocess.Popen(
            command, cwd=samples, env=surroundings, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed_interruptions,
        ) as process:  # fmt: skip
            try:
                _, err = process.communicate(timeout=TIMEOUT_s)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, " ".join(err.split())

    return run


@pytest.fixture
def resumed(samples: Path, program: Any, sets: Any, results: Any) -> Callable[..., Any]:
    """Go on in a folder; returns what the log says and the results."""

    def run(folder: Path, *settings: str, ranks: int = 0) -> tuple[str, Any]:
        settings = (*SETTINGS, f"output.folder={folder}", *settings)
        done = program("run", "base.toml", "--resume", *sets(*settings), cwd=samples, ranks=ranks)
        assert (done.status, done.err) == (0, "")
        assert not (folder / "checkpoint").exists()
        assert (folder / "DONE").exists()
        return done.out, results(folder)

    return run


def require_same_solve(found: Any, expected: Any) -> None:
    """As `require_same_bits`, and the solver took the same way."""
    require_same_bits(found, expected)
    ways = [timeless(r.statistics["solver"]) for r in (found, expected)]
    assert ways[0] == ways[1]


def timeless(tree: Any) -> Any:
    """Without any times."""
    if isinstance(tree, dict):
        return {key: timeless(value) for key, value in tree.items() if key != "seconds"}
    return [timeless(value) for value in tree] if isinstance(tree, list) else tree


# ---- the bits --------------------------------------------------------------------------------


def test_killed_under_mpi_and_gone_on_with_at_any_number_of_ranks(
    tmp_path: Path, interrupted: Any, resumed: Any, expected: Any
) -> None:
    killed = tmp_path / "killed"
    status, _ = interrupted(killed, "SIGKILL", LAST_KEPT, 1, 2)
    assert status not in (0, 2, 75)
    assert sorted(p.name for p in killed.iterdir()) == [LOCK, "checkpoint", "manifest.json"]
    for ranks in (0, 2, 3):
        folder = tmp_path / f"on{ranks}"
        shutil.copytree(killed, folder)
        out, results = resumed(folder, "parallel.threads=1", ranks=ranks)
        assert "took over the lock of process" in out
        assert f"resumed after iteration {LAST_KEPT}" in out
        assert f"iteration {LAST_KEPT}:" not in out
        assert f"iteration {LAST_KEPT + 1}:" in out
        require_same_solve(results, expected)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_stops_a_job_that_goes_on_later(
    name: str, tmp_path: Path, interrupted: Any, resumed: Any, expected: Any
) -> None:
    """Twice: what was gone on with can be stopped and gone on with again. The first time nothing
    is kept but for the signal."""
    out = tmp_path / "out"
    seldom = ("--set", "output.checkpoint_interval_s=1000")
    status, err = interrupted(out, name, "trial", 0, 0, *seldom)
    told = f"What was done so far is kept in '{out}/checkpoint'; go on {AS_BEFORE}"
    assert (status, err) == (75, f"sfxproc: stopped by {name} after iteration 3. {told}")
    status, err = interrupted(out, name, 1, 0, 0, "--resume")
    assert (status, err) == (75, f"sfxproc: stopped by {name} after iteration 4. {told}")
    log, results = resumed(out)
    assert "resumed after iteration 4" in log
    require_same_solve(results, expected)


@pytest.mark.parametrize(
    ("name", "target"),
    [("SIGINT", "launcher"), ("SIGTERM", "launcher"), ("SIGUSR1", 0), ("SIGTERM", 1)],
)
def test_all_ranks_stop_whoever_got_the_signal(
    name: str, target: object, tmp_path: Path, interrupted: Any, resumed: Any, expected: Any
) -> None:
    out = tmp_path / "out"
    status, err = interrupted(out, name, LAST_KEPT, target, 2)
    assert status == 75
    by = "a signal to another rank" if target == 1 else name
    assert err.count("sfxproc: ") == 1
    assert f"sfxproc: stopped by {by} after iteration {LAST_KEPT}. What was done" in err
    assert "Traceback" not in err
    log, results = resumed(out)
    assert f"resumed after iteration {LAST_KEPT}" in log
    require_same_solve(results, expected)


def test_two_interruptions_do_not_wait(
    tmp_path: Path, interrupted: Any, resumed: Any, expected: Any
) -> None:
    assert interrupted(tmp_path / "out", "SIGINT", "twice") == (130, "sfxproc: interrupted")
    log, results = resumed(tmp_path / "out")
    assert "resumed after iteration 1" in log
    require_same_solve(results, expected)


def test_a_damaged_state_is_told_and_not_used(
    tmp_path: Path, interrupted: Any, resumed: Any, expected: Any
) -> None:
    out = tmp_path / "out"
    interrupted(out, "SIGTERM", LAST_KEPT)
    kept = out / "checkpoint" / "lm.state"
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 4
    kept.write_bytes(data)
    log, results = resumed(out)
    assert f"WARNING: '{kept.with_suffix('.damaged')}' is damaged and not used" in log
    assert "resumed after" not in log
    require_same_solve(results, expected)


# ---- nothing kept ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "moment", "target", "ranks"),
    [
        ("SIGUSR1", "import", 0, 0),
        ("SIGTERM", "import", 0, 0),
        ("SIGTERM", "begin", 0, 0),
        ("SIGUSR1", "begin", 1, 2),
        ("SIGINT", "begin", "launcher", 2),
    ],
)
def test_before_anything_is_kept_a_signal_ends_the_job_at_once(
    name: str, moment: str, target: object, ranks: int, tmp_path: Path, interrupted: Any
) -> None:
    out = tmp_path / "out"
    status, err = interrupted(out, name, moment, target, ranks)
    assert status == 75
    assert f"stopped by {name}. Nothing was kept yet; begin again {AS_BEFORE}" in err
    assert err.count("sfxproc: ") == 1
    assert "Traceback" not in err
    # the first rank, ended by another, cannot clear up: its lock names a process that is no more
    left = [LOCK] if target == 1 else []
    assert not out.exists() or [p.name for p in out.iterdir()] == left


def test_where_there_is_nothing_to_go_on_with_it_begins(
    tmp_path: Path, resumed: Any, expected: Any
) -> None:
    out = tmp_path / "out"
    log, results = resumed(out)
    assert f"there is no job to go on with in '{out}': it begins anew" in log
    require_same_solve(results, expected)


def test_a_job_may_simulate_its_inputs_and_keeps_them(tmp_path: Path) -> None:
    """Until it is complete; without a state the rest is not kept, but for a kill."""
    out = tmp_path / "out"
    state = {"x": np.arange(3)}

    class Killed(BaseException):
        pass

    def log_of(resume: bool, settings: StillsSettings | None) -> tuple[Input, str]:
        log = ConsoleLog(Console(quiet=True))
        claim = Claim("scale", given, Output(str(out), resume=resume), list, ())
        inputs = given
        with suppress(Killed), opened(claim, SerialComm(), log) as run:
            inputs = simulated_inputs(settings, given, run)
            if settings is not None:
                run.save("state", state)
            raise Killed
        return inputs, log.text

    given = Input(["a.h5"], strict=True)
    assert log_of(False, None) == (given, "")
    assert not out.exists()
    few = StillsSettings(n_crystals=2, d_min_A=5.0)
    inputs, _ = log_of(False, few)
    simulated = out / "simulated.h5"
    assert inputs == Input([str(simulated)], strict=True)
    (file,) = list_inputs(inputs.paths, [], tmp_path)
    assert read_input(file, (), True).n_images == 2
    assert (out / "checkpoint" / "job.json").is_file()

    changed = simulated.stat().st_mtime_ns
    assert log_of(True, few)[0] == inputs
    assert simulated.stat().st_mtime_ns == changed
    (out / "simulated.truth.h5").unlink()  # the job was killed before it wrote this one
    assert "simulating 2 crystals" in log_of(True, few)[1]
    assert simulated.stat().st_mtime_ns > changed


# ---- whose it is -----------------------------------------------------------------------------


@pytest.fixture
def stopped(job: Path, command: Any, sets: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a job in this process that found no space when it kept its second state."""

    def full(file: int) -> None:
        if ".state." in os.readlink(f"/proc/self/fd/{file}"):
            calls.append(file)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr("sfxproc.formats.atomic.os.fsync", full)
        done = command("run", job, *sets("output.checkpoint_interval_s=0"))
    assert done.status == 2
    assert "lm.state': No space left on device" in done.err
    return job.parent / "out"


def test_a_full_disk_ends_the_job_and_costs_no_more_than_the_last_state(
    stopped: Path, job: Path, command: Any
) -> None:
    kept = {p.name for p in (stopped / "checkpoint").iterdir()}
    assert kept - {"progress.json"} == {"job.json", "lm.state"}
    done = command("run", job, "--resume")
    assert (done.status, done.err) == (0, "")
    assert "resumed after iteration 1" in done.out
    assert not (stopped / "checkpoint").exists()


def test_without_resume_a_stopped_job_is_not_touched(
    stopped: Path, job: Path, command: Any, sets: Any
) -> None:
    for verb in ("run", "check"):
        done = command(verb, job)
        assert done.status == 2
        assert "'out' holds a job that was stopped. Go on with it by --resume" in done.err
        assert "--overwrite" in done.err
    assert command("check", job, *sets("output.resume=true")).status == 0
    assert (stopped / "checkpoint" / "lm.state").exists()
    done = command("run", job, "--overwrite")
    assert (done.status, done.err) == (0, "")
    assert "resumed" not in done.out
    assert not (stopped / "checkpoint").exists()


def test_a_job_goes_on_only_from_its_own_state(
    stopped: Path, job: Path, command: Any, sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = job.parent / "small.h5"
    source = data.resolve()
    data.unlink()
    shutil.copy(source, data)
    os.utime(data, ns=(0, 1_000_000_007))
    monkeypatch.setattr("sfxproc.runs.manifest.__version__", "9.9")
    changes = sets("selection.d_min_A=3.5", "scaling.loss=huber")
    done = command("run", job, "--resume", "--overwrite", *changes)
    assert done.status == 2
    assert "job that was stopped in 'out' is not this one (there → here): - sfxproc:" in done.err
    for line in (
        f"- sfxproc: {__version__} → 9.9", "- selection.d_min_A: not set → 3.5",
        "- scaling.loss: cauchy → huber", f"- file '{data}': {data.stat().st_size:,} bytes, ",
        f"→ {data.stat().st_size:,} bytes, changed 1970-01-01 00:00:01.000000007 UTC",
    ):  # fmt: skip
        assert line in done.err
    assert done.err.count(" - ") == 4
    assert "begin anew with --overwrite, without --resume" in done.err
    assert (stopped / "checkpoint" / "lm.state").exists()


def test_what_cannot_change_results_may_change(
    stopped: Path, job: Path, command: Any, sets: Any
) -> None:
    stopped.rename(job.parent / "moved")
    settings = sets("output.folder=moved", "parallel.threads=2", "output.checkpoint_interval_s=7")
    done = command("run", job, "--resume", "--overwrite", *settings)
    assert (done.status, done.err) == (0, "")
    assert "going on with the job in 'moved'" in done.out
    assert "resumed after iteration 1" in done.out


@pytest.mark.parametrize("text", ["{", "[1]", '{"name": "somebody"}'])
@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_manifest_that_cannot_be_read(
    text: str, flag: str, stopped: Path, job: Path, command: Any
) -> None:
    (stopped / "manifest.json").write_text(text)
    done = command("run", job, flag)
    assert done.status == 2
    assert "manifest.json' cannot be read as the list of what a job wrote" in done.err
    assert (stopped / "manifest.json").read_text() == text
    assert (stopped / "checkpoint" / "lm.state").exists()


def test_complete_results_are_left_alone(job: Path, scale: Any, command: Any) -> None:
    out = scale("out").folder
    (out / "checkpoint").mkdir()  # the job was killed when all was done
    (out / "checkpoint" / "job.json").write_text('{"sfxproc": "0"}')
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.*")}
    done = command("run", job, "--resume")
    assert (done.status, done.err) == (0, "")
    assert "The results in 'out' are complete already: nothing to do." in done.out
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.*")} == before
    assert not (out / "checkpoint").exists()


def test_strange_files_are_not_gone_on_with(job: Path, command: Any) -> None:
    out = job.parent / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    done = command("run", job, "--resume")
    assert done.status == 2
    assert "'out' holds files but no job that can be gone on with" in done.err
    (out / ".merged.mtz.17.part").touch()  # of a process that was killed
    assert command("run", job, "--resume", "--overwrite").status == 0
    assert not list(out.glob(".*"))


def test_another_solver_keeps_nothing_and_stops_at_once(
    job: Path, command: Any, sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def solve(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("sfxproc.lsq.lbfgs.Lbfgs.solve", solve)
    done = command("run", job, *sets("solver.method=lbfgs", "output.checkpoint_interval_s=0"))
    assert done.status == 75
    assert "stopped by SIGTERM. Nothing was kept yet" in done.err
    assert not (job.parent / "out").exists()
