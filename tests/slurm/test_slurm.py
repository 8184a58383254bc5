"""Jobs under a real SLURM: the shipped scripts, signals, lost nodes, arrays, a wrong launcher."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.simulate.stills import StillsSettings, simulate_stills
from tests.launch import launched

SLURM = Path(__file__).resolve().parents[2] / "slurm"
PROGRAM = Path(sys.executable).with_name("sfxproc")
SIZE = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1")
PAIR = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
N_SETS = 3
JOB = """\
job = "scale"
[symmetry]
space_group = "P 43 21 2"
[input]
paths = ["*.h5"]
"""
REFINED = ("merged.mtz", "half1.mtz", "half2.mtz", "merged.hkl", "half1.hkl", "half2.hkl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 300 crystals in three files and a job file."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(N_SETS):
        settings = StillsSettings(n_crystals=100, first_crystal=100 * number, d_min_A=2.5, seed=7)
        write_h5(folder / f"set{number + 1}.h5", simulate_stills(settings).stills)
    (folder / "job.toml").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def alone(data: Path) -> Callable[..., Path]:
    """Do the job without SLURM, without MPI unless ranks are given; returns the output folder."""

    def run(folder: str, *settings: str, ranks: int = 0) -> Path:
        command = [str(PROGRAM), "run", "job.toml", "--set", f"output.folder={folder}"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "SLURM", "OMPI"))}
        for setting in settings:
            command += ["--set", setting]
        command = launched(command, ranks)
        subprocess.run(command, cwd=data, env=kept, check=True, capture_output=True, timeout=300)
        return data / folder

    return run


@pytest.fixture(scope="module")
def expected(alone: Callable[..., Path]) -> Path:
    return alone("expected")


@pytest.fixture
def place(data: Path, tmp_path: Path) -> Path:
    """A folder to submit from: the data, the job file, and the program where scripts expect it."""
    for path in (*data.glob("*.h5"), data / "job.toml"):
        (tmp_path / path.name).symlink_to(path)
    program = tmp_path / ".venv" / "bin" / "sfxproc"
    program.parent.mkdir(parents=True)
    program.symlink_to(PROGRAM)
    return tmp_path


def require_same_bits(found: Path, expected: Path) -> None:
    assert (found / "DONE").exists()
    for name in REFINED:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    with h5py.File(found / "frames.h5") as ours, h5py.File(expected / "frames.h5") as theirs:
        for table in ("crystals", "reflections"):
            assert set(ours[table]) == set(theirs[table])
            for name, values in theirs[table].items():
                np.testing.assert_array_equal(ours[table][name][...], values[...], err_msg=name)


def made(place: Path, *arguments: str) -> str:
    """What `sfxproc slurm` prints, a rank on each of two nodes."""
    command = [PROGRAM, "slurm", "job.toml", *PAIR, *arguments]
    done = subprocess.run(command, cwd=place, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---- one job ---------------------------------------------------------------------------------


def test_the_shipped_script_as_it_stands(slurm: Any, place: Path, expected: Path) -> None:
    job = slurm.submit(*SIZE, SLURM / "job.sbatch", "job.toml", cwd=place)
    states = slurm.wait(job)
    said = (place / f"sfxproc-{job}.log").read_text()
    assert states == ["COMPLETED"], said
    assert "ranks: 4, threads of each: 1" in said
    assert said.endswith(f"Results are complete in 'sfxproc-{job}'.\n")
    require_same_bits(place / f"sfxproc-{job}", expected)


def test_a_launcher_of_another_mpi_is_refused(slurm: Any, place: Path, expected: Path) -> None:
    """Two processes that do not see each other, on a folder that holds unfinished results."""
    shutil.copytree(expected, place / "out")
    (place / "out" / "DONE").unlink()
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (place / "out").iterdir()}
    script = made(place).replace("--mpi=pmi2", "--mpi=none")
    job = slurm.submit(cwd=place, stdin=script)
    assert slurm.wait(job) == ["FAILED"]
    said = " ".join((place / f"sfxproc-{job}.log").read_text().split())
    assert said.count("A launcher started 2 processes but MPI") == 1
    assert "`srun --mpi=pmi2 sfxproc run …`" in said
    assert said.endswith("'out' is not complete.")
    after = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (place / "out").iterdir()}
    assert after == before


# ---- many data sets --------------------------------------------------------------------------


def test_an_array_does_the_job_on_each_data_set(
    slurm: Any, place: Path, alone: Callable[..., Path], expected: Path
) -> None:
    pair = '["set2.h5", "set3.h5"]'
    (place / "sets.lst").write_text(f"set1.h5\n\nset?.h5\n{pair}\n")
    script = made(place, "--template=array", "--list=sets.lst")
    job = slurm.submit("--nodes=1", cwd=place, stdin=script)
    assert slurm.wait(job) == ["COMPLETED"] * N_SETS
    apart = [alone("one", "input.paths=set1.h5"), expected, alone("two", f"input.paths={pair}")]
    for number, same in enumerate(apart, start=1):
        said = (place / f"sfxproc-{job}-{number}.log").read_text()
        assert f"complete in 'out-{number}'" in said
        require_same_bits(place / f"out-{number}", same)


# ---- interrupted and gone on with ------------------------------------------------------------

# Some seconds of refinement, with the state kept at every step.
LONG = ("solver.method=schur-dense", "output.checkpoint_interval_s=0")


@pytest.fixture(scope="module")
def expected_long(alone: Callable[..., Path]) -> Path:
    return alone("expected-long", *LONG)


def underway(slurm: Any, place: Path) -> str:
    """Queue a job that queues itself again; returns its number when it has kept its state."""
    settings = [part for setting in LONG for part in ("--set", setting)]
    job = str(slurm.submit(cwd=place, stdin=made(place, "--template=requeue", *settings)))

    def kept() -> bool:
        names = {p.name for p in (place / "out" / "checkpoint").glob("[!.]*")}
        return bool(names - {"job.json", "progress.json"})

    slurm.until(kept, log=place / f"sfxproc-{job}.log")
    return job


def require_gone_on(slurm: Any, job: str, place: Path, expected: Path) -> str:
    """The job ends well on its second start; returns the log."""
    states = slurm.wait(job)
    said = (place / f"sfxproc-{job}.log").read_text()
    assert states == ["COMPLETED"], said
    assert slurm.job(job)["Restarts"] == "1"
    assert said.count("ranks: 2, threads of each: 1") == 2
    assert said.count("going on with the job in 'out'") == 1
    assert said.endswith("Results are complete in 'out'.\n")
    require_same_bits(place / "out", expected)
    return said


def test_a_job_told_to_stop_queues_itself_again(
    slurm: Any, place: Path, expected_long: Path
) -> None:
    job = underway(slurm, place)
    slurm("scancel", "--signal=USR1", job)  # as --signal=USR1@120 does when time runs out
    said = require_gone_on(slurm, job, place, expected_long)
    assert "stopped by SIGUSR1" in said
    assert "sfxproc stopped (srun returned 75); 'out' goes on when the queue allows." in said


def test_a_job_that_loses_a_node_goes_on_elsewhere(
    slurm: Any, place: Path, expected_long: Path
) -> None:
    job = underway(slurm, place)
    nodes = slurm("scontrol", "show", "hostnames", slurm.job(job)["NodeList"]).split()
    lost = f"nodename={nodes[1]}"
    slurm("scontrol", "update", lost, "state=down", "reason=test")
    try:
        require_gone_on(slurm, job, place, expected_long)
        assert nodes[1] not in slurm("scontrol", "show", "hostnames", slurm.job(job)["NodeList"])
    finally:
        slurm("scontrol", "update", lost, "state=resume")


# More than the minute that SLURM gives it, in many small tasks.
HOURS = (
    "input.paths=set1.h5",
    "parallel.strategy=blocks",
    "parallel.block_size=40",
    "parallel.overlap=20",
    'parallel.rounds_mode="average"',
    "parallel.rounds=400",
    "scaling.error_model=scatter",
)


@pytest.mark.long
def test_a_job_longer_than_its_time_limit(
    slurm: Any, place: Path, alone: Callable[..., Path]
) -> None:
    """A limit of one minute, the signal half a minute before it, as often as it takes."""
    settings = [part for setting in HOURS for part in ("--set", setting)]
    script = made(place, "--template=requeue", *settings)
    job = slurm.submit("--time=1", "--signal=USR1@30", cwd=place, stdin=script)
    states = slurm.wait(job, timeout_s=600)
    said = (place / f"sfxproc-{job}.log").read_text()
    assert states == ["COMPLETED"], said
    assert int(slurm.job(job)["Restarts"]) >= 1
    assert "stopped by SIGUSR1" in said
    assert "TIME LIMIT" not in said
    require_same_bits(place / "out", alone("expected-hours", *HOURS, ranks=2))
