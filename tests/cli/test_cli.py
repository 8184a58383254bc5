"""The command line: what it passes on, what it prints, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

import sfxproc.__main__ as entry
import sfxproc.jobs
from sfxproc.errors import DataError, LaunchError, Stopped
from sfxproc.settings.sections import Input, Output, Section
from sfxproc.signals import StopNow
from tests.cli.conftest import Command


class DemoConfig(Section, frozen=True):
    job: Literal["demo"]
    input: Input = Input()
    output: Output = Output()


@dataclass
class Demo:
    """A stand-in for a job: remembers its configurations and ends as told."""

    fault: BaseException | None = None
    configs: list[DemoConfig] = field(default_factory=list)
    config = DemoConfig

    def run(self, config: DemoConfig, comm: Any, log: Any) -> None:
        assert comm.size >= 1
        self.check(config, log)

    def check(self, config: DemoConfig, log: Any) -> None:
        self.configs.append(config)
        if self.fault:
            raise self.fault
        log("at work")
        log("All is well.")


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Demo:
    job = Demo()
    monkeypatch.setattr(sfxproc.jobs, "JOBS", {"demo": job}, raising=False)
    return job


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.toml"
    path.write_text('job = "demo"\n[input]\npaths = ["a.h5"]\n')
    return path


# ---- run and check ---------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_job_gets_its_config_and_is_heard(
    verb: str, demo: Demo, job_file: Path, command: Command
) -> None:
    settings = ["--set", "output.folder=elsewhere", "--set", "input.paths=b.h5"]
    ended = command(verb, job_file, *settings)
    assert ended.status == 0
    expected = DemoConfig("demo", Input(["b.h5"]), Output("elsewhere", overwrite=False))
    assert demo.configs == [expected]
    assert [line.split(" s  ")[1] for line in ended.lines] == ["at work", "All is well."]


@pytest.mark.parametrize("name", ["overwrite", "resume"])
def test_a_flag_is_a_setting(name: str, demo: Demo, job_file: Path, command: Command) -> None:
    assert command("run", job_file, f"--{name}").status == 0
    output = demo.configs[0].output
    assert (output.overwrite, output.resume) == (name == "overwrite", name == "resume")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[input]\npaths = ["a"]\n', "the kind of job is missing"),
        ('job = "demmo"\n', 'there is no job "demmo"; did you mean "demo"?'),
        ('job = "xyz"\n', 'there is no job "xyz"; known are "demo".'),
        ('job = ["demo"]\n', "there is no job"),
        ('job = "demo"\n[output]\nfoldr = "x"\n', "did you mean 'output.folder'?"),
        ('job = "demo"\n[output]\nn_shells = 0\n', "output.n_shells = 0: must be a whole number"),
        ("job = demo\n", "line 1, column 7"),
    ],
)
def test_a_mistake_in_the_job_file_is_one_message_and_status_2(
    text: str, part: str, demo: Demo, job_file: Path, command: Command
) -> None:
    job_file.write_text(text)
    ended = command("run", job_file)
    assert ended.status == 2
    assert ended.out == ""
    assert ended.err.startswith("sfxproc: ")
    assert part in ended.err
    assert job_file.name in ended.err
    assert demo.configs == []


# ---- how it ends -----------------------------------------------------------------------------


def test_messages_are_folded_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    folded = entry.paragraph("word " * 30 + "\n- " + "item " * 20)
    assert max(map(len, folded.splitlines())) <= 40
    assert "\n- item" in folded
    assert "\n  item" in folded


@pytest.mark.parametrize(
    ("fault", "status"),
    [(KeyboardInterrupt(), 130), (Stopped("interrupted"), 75), (StopNow("interrupted"), 75)],
)
def test_an_interruption_is_one_line(
    fault: BaseException, status: int, demo: Demo, job_file: Path, command: Command
) -> None:
    demo.fault = fault
    ended = command("run", job_file)
    assert (ended.status, ended.err) == (status, "sfxproc: interrupted")


def test_a_bug_keeps_its_traceback(
    demo: Demo, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.fault = ZeroDivisionError("a bug")
    monkeypatch.setattr(sys, "argv", ["sfxproc", "run", str(job_file)])
    with pytest.raises(ZeroDivisionError):
        entry.main()


@pytest.mark.parametrize(("rank", "start"), [(0, "sfxproc: too"), (3, "sfxproc: rank 3: too")])
def test_a_mistake_on_one_rank_ends_all(
    rank: int,
    start: str,
    demo: Demo,
    job_file: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aborted: list[int] = []
    waited: list[float] = []
    comm = SimpleNamespace(rank=rank, size=4, abort=aborted.append)
    monkeypatch.setattr("sfxproc.parallel.comm.world", lambda: comm)
    monkeypatch.setattr(entry.time, "sleep", waited.append)
    demo.fault = DataError("too few crystals")
    ended = command("run", job_file)
    assert ended.status == 2
    assert aborted == [2]
    assert bool(waited) == (rank > 0)  # rank 0 speaks first
    assert ended.err.startswith(start)


def test_a_failed_launch_is_told_by_rank_0_only(
    demo: Demo, job_file: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise LaunchError("no MPI here")

    monkeypatch.setattr("sfxproc.parallel.comm.world", refuse)
    demo.fault = LaunchError("no MPI here")
    ended = command("run", job_file)
    assert (ended.status, ended.err) == (2, "sfxproc: no MPI here")
    monkeypatch.setenv("SLURM_PROCID", "2")
    ended = command("run", job_file)
    assert (ended.status, ended.err) == (2, "")


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sfxproc", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )


def test_the_program_itself() -> None:
    done = program("--version", stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, f"sfxproc {sfxproc.__version__}\n")
    done = program("compare", "none_a.mtz", "none_b.mtz", stdout=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.startswith("sfxproc: ")
    assert "none_a.mtz" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_message() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = program("--help", stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
