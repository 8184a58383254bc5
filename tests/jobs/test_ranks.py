"""The same bits on any number of ranks and threads, and a prompt end when one rank fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.runs.names import LOCK
from sfxproc.simulate.stills import StillsSettings, simulate_stills

HANGS_s = 120.0  # what has not ended by then never does
FEW = StillsSettings(n_crystals=2, d_min_A=5.0)
RENAMED = ("--set", "output.folder=renamed")
RICH = (
    "input.paths=part*.h5",  # three files: the fourth rank reads none
    "symmetry.anomalous=true",
    "scaling.loss=huber",
    "reference.path=base/merged.mtz",
)


@pytest.fixture(scope="session")
def expected(samples: Path, program: Any, sets: Any, results: Any, base: Any) -> Any:
    """What one process with one thread gives."""
    settings = sets(*RICH, "parallel.threads=1", "output.folder=bits")
    assert program("run", "base.toml", *settings, cwd=samples).status == 0
    return results(samples / "bits")


def require_same_bits(found: Any, expected: Any) -> None:
    for table in ("frames", "master", "merged"):
        ours, theirs = getattr(found, table), getattr(expected, table)
        assert set(ours) == set(theirs)
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values, err_msg=f"{table}: {name}")
    for name in ("merged.mtz", "half1.mtz", "half2.mtz", "merged.hkl", "half1.hkl"):
        assert (found.folder / name).read_bytes() == (expected.folder / name).read_bytes(), name
    for key in ("overall", "shells", "crystals", "observations", "error_model"):
        assert found.statistics[key] == expected.statistics[key]


@pytest.mark.parametrize(("ranks", "threads"), [(0, 2), (1, 1), (2, 1), (2, 2), (3, 1), (4, 1)])
def test_same_bits(
    ranks: int, threads: int, samples: Path, program: Any, sets: Any, results: Any, expected: Any
) -> None:
    folder = f"bits{ranks}{threads}"
    settings = sets(*RICH, f"parallel.threads={threads}", f"output.folder={folder}")
    done = program("run", "base.toml", *settings, cwd=samples, ranks=ranks)
    assert (done.status, done.err) == (0, "")
    assert done.out.count("Results are in") == 1
    require_same_bits(results(samples / folder), expected)


def test_more_ranks_than_crystals(job: Path, program: Any, scale: Any, results: Any) -> None:
    write_h5(job.parent / "few.h5", simulate_stills(FEW).stills)
    expected = scale("few", "input.paths=few.h5")
    done = program("run", "few/job.resolved.toml", *RENAMED, cwd=job.parent, ranks=3)
    assert (done.status, done.err) == (0, "")
    require_same_bits(results(job.parent / "renamed"), expected)


def test_a_damaged_file_on_one_rank_ends_all(job: Path, program: Any, sets: Any) -> None:
    """The second file is rank 1's; ranks 0 and 2 wait for it in vain."""
    (job.parent / "part1.h5").unlink()
    (job.parent / "part1.h5").write_text("no HDF5")
    done = program("run", job, *sets("input.paths=part*.h5"), cwd=job.parent, ranks=3)
    assert done.status != 0
    assert done.err.count("sfxproc: ") == 1
    assert "rank 1: " in done.err
    assert "part1.h5' is not an HDF5 file" in done.err
    assert "Traceback" not in done.err
    # the first rank, ended by another, cannot clear up: its lock names a process that is no more
    assert {path.name for path in (job.parent / "out").iterdir()} <= {LOCK}


def test_a_mistake_that_all_ranks_meet_is_told_once(job: Path, program: Any, sets: Any) -> None:
    done = program("run", job, *sets("input.paths=none.h5"), cwd=job.parent, ranks=2)
    assert done.status == 2
    assert done.err.count("sfxproc: ") == 1
    assert "there is no 'none.h5'" in done.err
    assert "sfxproc: rank" not in done.err


def heed_interruptions() -> None:
    """A shell that runs the tests in the background has them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interruption_leaves_nothing_half_written(
    job: Path, surroundings: dict[str, str]
) -> None:
    """Ctrl-C while the job simulates its own, too large, input."""
    job.write_text(job.read_text().replace('paths = ["small.h5"]', "paths = []"))
    with job.open("a") as handle:
        handle.write("[simulate]\nn_crystals = 30000\n")
    command = [sys.executable, "-m", "sfxproc", "run", str(job)]
    with subprocess.Popen(
        command,
        cwd=job.parent,
        env=surroundings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=heed_interruptions,
    ) as process:
        try:
            assert process.stdout is not None
            assert any("simulating 30,000 crystals" in line for line in process.stdout)
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=HANGS_s)
        finally:
            process.kill()
    assert process.returncode == 75
    assert " ".join(err.split()) == (
        "sfxproc: stopped by SIGINT. Nothing was kept yet; begin again with `sfxproc run JOB "
        "--resume` and the same settings."
    )
    assert not (job.parent / "out").exists()
