"""The command line: what it passes on, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

import sfxproc.__main__ as entry
import sfxproc.jobs
from sfxproc.data import Merged
from sfxproc.errors import DataError, LaunchError, Stopped
from sfxproc.formats.mtz_merged import write_merged
from sfxproc.formats.truth import read_truth
from sfxproc.jobs.settings import Input, Output, Section
from sfxproc.signals import StopNow
from sfxproc.symmetry import possible, space_group


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


@pytest.fixture(autouse=True)
def _plain_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    for name in [n for n in os.environ if n.startswith(("PMI", "OMPI", "SLURM"))]:
        monkeypatch.delenv(name)


@dataclass(frozen=True)
class Ended:
    """How the program ended, and what it printed with line breaks made spaces."""

    status: int
    out: str
    err: str
    lines: list[str]


Command = Callable[..., Ended]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the program in this process."""

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["sfxproc", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            entry.main()
        out, err = capsys.readouterr()
        folded = [" ".join(text.split()) for text in (out, err)]
        return Ended(int(done.value.code or 0), *folded, out.splitlines())

    return run


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


def test_help_does_not_import_what_takes_long() -> None:
    heavy = "{'numba', 'scipy', 'h5py', 'gemmi', 'mpi4py', 'msgspec'}"
    code = f"import sys, sfxproc.__main__, sfxproc.cli; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- simulate, show, compare -----------------------------------------------------------------

FEW = ("--crystals", "3", "--d-min", "4")


def test_simulated_stills_can_be_shown(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "few.h5"
    crystal = ("--unit-cell", "50 60 70 90 90 90", "--space-group", "P212121")
    ended = command("simulate", "stills", out, *FEW, *crystal, "--set", "gain=2")
    assert ended.status == 0
    assert "Wrote 3 crystals" in ended.out
    columns, settings = read_truth(tmp_path / "few.truth.h5")
    assert len(columns["crystals/ln_G"]) == 3
    assert '"gain":2.0' in settings
    n = len(columns["observations/outlier"])

    ended = command("show", out)
    assert ended.status == 0
    for part in (
        "few.h5", "format native HDF5", "images 3", "crystals 3", f"reflections {n:,}",
        "a 50.00 ± 0.00 b 60.00 ± 0.00 c 70.00 ± 0.00 Å", "wavelength 1.30000 Å", "panels 1",
        "–4.0", "columns panel, x_px, y_px", "columns missing partiality",
    ):  # fmt: skip
        assert part in ended.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("x.txt",), "Stills cannot be written as 'x.txt': its suffix must be one of .expt"),
        (("x.h5", "--crystals", "0"), "n_crystals = 0: must be a whole number at least 1"),
        (("x.h5", "--unit-cell", "1 2 3"), "unit_cell = [1.0, 2.0, 3.0]: must be a list of 6"),
        (("x.h5", "--unit-cell", "a b c"), "--unit-cell 'a b c': expected numbers"),
        (("x.h5", "--set", "photns=3"), "did you mean 'photons'?"),
        (("x.h5", "--partiality", "round"), "round"),
        (("x.h5", "--from", "none.pdb"), "none.pdb"),
        (("x.h5", "--from", "none.cif"), "none.cif"),
        (("there.h5", *FEW), "exists. Choose another name, or add --overwrite"),
        (("nowhere/x.h5", *FEW), "nowhere"),
    ],
)
def test_mistakes_in_a_simulation(
    arguments: tuple[str, ...], part: str, tmp_path: Path, command: Command
) -> None:
    Path("there.h5").write_text("precious")
    ended = command("simulate", "stills", *arguments)
    assert ended.status == 2
    assert part in ended.err
    assert [p.name for p in tmp_path.iterdir()] == ["there.h5"]
    assert Path("there.h5").read_text() == "precious"


def test_simulation_from_a_merged_set_takes_its_symmetry(tmp_path: Path, command: Command) -> None:
    merged = tmp_path / "merged.mtz"
    merged_set(merged, "P 21 3", [60.0, 60.0, 60.0, 90.0, 90.0, 90.0])
    assert command("simulate", "stills", tmp_path / "a.h5", *FEW, "--from", merged).status == 0
    columns, settings = read_truth(tmp_path / "a.truth.h5")
    assert '"space_group":"P 21 3","unit_cell":[60.0,60.0,60.0' in settings
    np.testing.assert_allclose(columns["crystals/cell"][:, :3], 60.0)


def test_show_names_every_file_it_cannot_read(tmp_path: Path, command: Command) -> None:
    good = tmp_path / "good.h5"
    assert command("simulate", "stills", good, *FEW).status == 0
    bad = [tmp_path / "bad1.h5", tmp_path / "bad2.h5"]
    for path in bad:
        path.write_text("no HDF5")
    ended = command("show", bad[0], good, bad[1])
    assert ended.status == 2
    assert "crystals 3" in ended.out
    assert all(path.name in ended.err for path in bad)


def merged_set(path: Path, group: str, cell: list[float], k: float = 1.0, B: float = 0.0) -> None:
    """A small merged MTZ with the same intensities for the same group and cell but for k and B."""
    table = possible(space_group(group), cell, 4.0, None, anomalous=False)
    n = len(table)
    true = np.random.default_rng(1).exponential(1000.0, n)
    intensity = true / (k * np.exp(-2 * B * table.s2))
    table = replace(
        table,
        intensity=intensity,
        sigma=0.01 * intensity + 1.0,
        n_observations=np.full(n, 4, dtype=np.int32),
    )
    halves = np.stack([intensity, intensity])
    merged = Merged(
        table, halves, np.ones((2, n)), np.full((2, n), 2, np.int32), 4 * intensity, np.zeros(n)
    )
    write_merged(path, merged, group, np.array(cell), 1.0)


CELL = [79.1, 79.1, 38.2, 90.0, 90.0, 90.0]


def test_compare_finds_scale_and_B(tmp_path: Path, command: Command) -> None:
    a, b = tmp_path / "a.mtz", tmp_path / "b.mtz"
    merged_set(a, "P 43 21 2", CELL)
    merged_set(b, "P 43 21 2", CELL, k=3.0, B=10.0)
    ended = command("compare", a, b, "--shells", "4", "--d-min", "4.5")
    assert ended.status == 0
    rows = [line.split() for line in ended.lines if "–" in line]
    assert len(rows) == 5  # four shells and overall
    assert all(float(row[0].split("–")[1]) >= 4.49 for row in rows)
    assert all(row[3] == "0.0" for row in rows)
    assert "multiplying B by 3 exp(−2 · 10.00 Å² · s²)" in ended.out


def test_figures_are_written_as_json(tmp_path: Path, command: Command) -> None:
    a, b, figures = tmp_path / "a.mtz", tmp_path / "b.mtz", tmp_path / "figures.json"
    merged_set(a, "P 43 21 2", CELL)
    merged_set(b, "P 43 21 2", CELL, k=3.0)
    assert command("compare", a, b, "--shells", "4", "--json", figures).status == 0
    told = json.loads(figures.read_text())
    assert len(told["shells"]) == 4
    assert told["overall"]["cc"] == pytest.approx(1.0)
    assert told["scale"]["k"] == pytest.approx(3.0)
    ended = command("compare", a, b, "--json", tmp_path / "none" / "figures.json")
    assert ended.status == 2
    assert "none" in ended.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "compare needs one thing to compare A with"),
        (("b.mtz", "--truth", "t.h5"), "compare needs one thing to compare A with"),
        (("--truth", "t.h5", "--space-group", "P422"), "--space-group has no place beside"),
        (("--truth", "none.truth.h5"), "none.truth.h5"),
    ],
)
def test_compare_with_one_thing(
    arguments: tuple[str, ...], part: str, tmp_path: Path, command: Command
) -> None:
    merged_set(tmp_path / "a.mtz", "P 43 21 2", CELL)
    ended = command("compare", "a.mtz", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert part in ended.err


def test_sets_of_other_symmetry_need_a_space_group(tmp_path: Path, command: Command) -> None:
    a, b = tmp_path / "a.mtz", tmp_path / "b.mtz"
    merged_set(a, "P 43 21 2", CELL)
    merged_set(b, "P 21 21 21", CELL)
    ended = command("compare", a, b)
    assert ended.status == 2
    assert "Laue class 4/mmm" in ended.err
    ended = command("compare", a, b, "--space-group", "P422")
    assert ended.status == 0
    assert "in P 4 2 2" in ended.out
    assert command("compare", a, b, "--space-group", "P4222222").status == 2


def test_compare_real_data(shared_data: Path, command: Command) -> None:
    path = shared_data / "reference" / "CuNiR_xia2ssx_merged.mtz"
    ended = command("compare", path, path, "--d-min", "3")
    assert ended.status == 0
    assert "CC 1.000, R 0.0 %" in ended.out


def test_show_real_data(shared_data: Path, command: Command) -> None:
    ended = command("show", shared_data / "stills" / "LD91_lysozyme_300xtal.refl")
    assert ended.status == 0
    for part in ("images 300", "reflections 8,790", "a 79.03", "1.38530 Å", "panels 64"):
        assert part in ended.out
