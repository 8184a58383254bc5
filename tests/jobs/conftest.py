"""Running the program as a user does, and a small simulated data set in every format."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import h5py
import numpy as np
import pytest

import sfxproc.__main__ as entry
from sfxproc.data import Stills
from sfxproc.formats import FORMATS
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills
from tests.launch import Ended, ended, launched

SCRIPT = Path(sys.executable).with_name("sfxproc")
LAUNCHERS = ("PMI", "OMPI", "SLURM", "MPI_")
JOB = 'job = "scale"\n[symmetry]\nspace_group = "P 43 21 2"\n'
TIMEOUT_s = 180  # a first run compiles


@dataclass(frozen=True)
class Results:
    """What a job wrote: the merge by column of the MTZ, frames by dataset, statistics."""

    folder: Path
    merged: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]
    master: dict[str, np.ndarray]
    statistics: dict[str, Any]


Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def surroundings() -> dict[str, str]:
    """The environment without a launcher's variables, with a plain terminal."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    return kept | {"COLUMNS": "100", "TERM": "dumb", "PYTHONWARNINGS": "error::RuntimeWarning"}


@pytest.fixture(scope="session")
def program(surroundings: dict[str, str]) -> Run:
    """`sfxproc arguments…` as a process of its own, under mpiexec if ranks are given."""

    def run(*arguments: object, cwd: Path, ranks: int = 0) -> Ended:
        command = launched([str(SCRIPT), *map(str, arguments)], ranks)
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=surroundings,
            text=True,
            encoding="utf-8",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=TIMEOUT_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                pytest.fail(f"{' '.join(command)} did not end:\n{out}\n{err}")
        return ended(process.returncode, out, err)

    return run


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """`sfxproc arguments…` in this process, through the same entry point, in tmp_path."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    for name in [n for n in os.environ if n.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)

    def run(*arguments: object, cwd: Path = tmp_path) -> Ended:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["sfxproc", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            entry.main()
        out, err = capsys.readouterr()
        return ended(int(done.value.code or 0), out, err)

    return run


@pytest.fixture
def job(tmp_path: Path, samples: Path) -> Path:
    """A job file in tmp_path, beside links to the samples."""
    for path in samples.iterdir():
        (tmp_path / path.name).symlink_to(path)
    path = tmp_path / "job.toml"
    path.write_text(JOB + '[input]\npaths = ["small.h5"]\n')
    return path


@pytest.fixture
def scale(command: Run, job: Path) -> Callable[..., Results]:
    """Scale in this process with the settings given; the job must end well."""

    def run(folder: str, *settings: str) -> Results:
        done = command("run", job, *sets(f"output.folder={folder}", *settings))
        assert done.status == 0, done.err
        return results(job.parent / folder)

    return run


@pytest.fixture
def refused(command: Run, job: Path) -> Callable[..., str]:
    """Run with settings that must be refused; returns the message, line breaks made spaces."""

    def run(*settings: str) -> str:
        done = command("run", job, *sets(*settings))
        assert done.status == 2
        assert done.err.startswith("sfxproc: ")
        assert "Traceback" not in done.err
        assert "results are in" not in done.out.lower()
        out = job.parent / "out"
        assert not out.exists() or list(out.iterdir()) == []
        return str(done.err)

    return run


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def results(folder: Path) -> Results:
    mtz = gemmi.read_mtz_file(str(folder / "merged.mtz"))
    with h5py.File(folder / "frames.h5") as handle:
        frames = {name: data[...] for name, data in handle["crystals"].items()}
        master = {name: data[...] for name, data in handle["reflections"].items()}
    return Results(
        folder,
        dict(zip(mtz.column_labels(), mtz.array.T, strict=True)),
        frames,
        master,
        json.loads((folder / "statistics.json").read_text(), parse_constant=_no_json),
    )


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


@pytest.fixture(name="sets", scope="session")
def _sets() -> Callable[..., list[str]]:
    return sets


@pytest.fixture(name="results", scope="session")
def _results() -> Callable[[Path], Results]:
    return results


# ---- data ------------------------------------------------------------------------------------

SMALL = StillsSettings(n_crystals=60, d_min_A=3.0, seed=5)


@pytest.fixture(scope="session")
def small() -> Simulated:
    """60 crystals to 3 Å, complete reflections."""
    return simulate_stills(SMALL)


@pytest.fixture(scope="session")
def samples(small: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the data as small.h5, .expt/.refl, .stream and .mtz, and in three parts."""
    folder = tmp_path_factory.mktemp("samples")
    for fmt in FORMATS:
        if fmt.write is not None:
            fmt.write(folder / f"small{fmt.suffixes[0]}", small.stills)
    for number, rows in enumerate((slice(0, 10), slice(10, 45), slice(45, 60))):
        write_h5(folder / f"part{number}.h5", some(small.stills, rows))
    yield folder
    shutil.rmtree(folder)


def some(stills: Stills, crystals: slice) -> Stills:
    """Some of the crystals, with their observations."""
    obs = stills.observations
    inside = (obs.crystal >= crystals.start) & (obs.crystal < crystals.stop)
    chosen = obs.take(np.asarray(inside))
    return Stills(
        stills.crystals.take(crystals),
        type(obs)(**{**chosen.columns(), "crystal": chosen.crystal - crystals.start}),
        n_images=crystals.stop - crystals.start,
        detector=stills.detector,
    )


@pytest.fixture(name="some", scope="session")
def _some() -> Callable[[Stills, slice], Stills]:
    return some


@pytest.fixture(scope="session")
def base(samples: Path, program: Run) -> Results:
    """The result of small.h5, by a process of its own."""
    (samples / "base.toml").write_text(JOB)
    done = program(
        "run", "base.toml", *sets("input.paths=small.h5", "output.folder=base"), cwd=samples
    )
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("Results are in 'base'.")
    return results(samples / "base")
