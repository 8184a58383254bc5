"""Strategy blocks: the joint solution in rounds, the same bits on any ranks and after any end."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.config import load
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.jobs import JOBS
from sfxproc.parallel.comm import SerialComm
from sfxproc.report.log import open_log
from sfxproc.settings.scale import ScaleConfig
from sfxproc.simulate.stills import StillsSettings, simulate_stills
from tests.jobs.conftest import JOB, SCRIPT
from tests.jobs.test_ranks import require_same_bits
from tests.launch import launched

STILLS = StillsSettings(n_crystals=240, d_min_A=3.0, seed=8, outlier_fraction=0.01)
IN_BLOCKS = ("parallel.strategy=blocks", "parallel.block_size=80", "parallel.overlap=40")
TIMEOUT_s = 60
KILLS, MANY_KILLS = 3, 20
RANKS = (1, 2, 3, 4)


@pytest.fixture(scope="session")
def stills(tmp_path_factory: pytest.TempPathFactory, some: Any) -> Path:
    """A folder with 240 crystals in one file, in three of unequal size and formats."""
    folder = tmp_path_factory.mktemp("stills")
    made = simulate_stills(STILLS).stills
    write_h5(folder / "all.h5", made)
    write_h5(folder / "part0.h5", some(made, slice(0, 20)))
    write_h5(folder / "part1.h5", some(made, slice(20, 170)))
    write_h5(folder / "part2.h5", some(made, slice(170, 240)))
    (folder / "job.toml").write_text(JOB)
    return folder


@pytest.fixture(scope="session")
def run(stills: Path, program: Any, sets: Any, results: Any) -> Callable[..., Any]:
    """Run the job, in a process or ranks of its own; it must end well."""

    def run(folder: str, *settings: str, ranks: int = 0, resume: bool = False) -> Any:
        settings = ("input.paths=part*.h5", f"output.folder={folder}", *settings)
        more = ["--resume"] if resume else []
        done = program("run", "job.toml", *sets(*settings), *more, cwd=stills, ranks=ranks)
        assert (done.status, done.err) == (0, "")
        return results(stills / folder)

    return run


@pytest.fixture(scope="session")
def calm(run: Callable[..., Any]) -> Any:
    """What a job in blocks that nobody disturbs gives on one rank."""
    return run("calm", *IN_BLOCKS, "parallel.threads=1")


@pytest.fixture(scope="session")
def joint(run: Callable[..., Any]) -> Any:
    """What all crystals refined together give."""
    return run("joint", "solver.tolerance=1e-12")


@pytest.mark.parametrize(
    ("mode", "limit", "most"),
    [
        ("newton", "schur.MAX_CG_ITERATIONS", 1),
        ("average", "schur.MAX_CG_ITERATIONS", 1),
        ("newton", "rounds.MOST_REFITS", 0),
    ],
)
def test_rounds_whose_steps_are_not_solved_do_not_converge(
    mode: str, limit: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little they move in the end."""
    monkeypatch.setattr(f"sfxproc.lsq.{limit}", most)
    settings = [
        f"output.folder={tmp_path / 'out'}",
        "simulate.n_crystals=40",
        "simulate.d_min_A=4",
        "scaling.error_model=counting",
        "parallel.strategy=blocks",
        "parallel.block_size=20",
        "parallel.overlap=10",
        "parallel.round_tolerance_sigma=1e9",
        f"parallel.rounds_mode={mode}",
    ]
    demo = Path(__file__).resolve().parents[2] / "jobs" / "demo.toml"
    JOBS["scale"].run(load(demo, settings, ScaleConfig), SerialComm(), open_log())
    told = json.loads((tmp_path / "out" / "statistics.json").read_text(encoding="utf-8"))
    assert not told["solver"]["converged"]
    assert told["solver"]["termination"].startswith("Stopped after")


def distance(found: Any, expected: Any) -> tuple[float, float]:
    """R.m.s. difference of I over σ, and the largest of ln G."""
    ours, theirs = (
        np.array([r.master[n] for n in ("intensity", "sigma")]) for r in (found, expected)
    )
    ln_G = found.frames["ln_G"] - expected.frames["ln_G"]
    return float(np.sqrt(np.mean(((ours[0] - theirs[0]) / theirs[1]) ** 2))), np.abs(ln_G).max()


def test_the_rounds_end_at_the_joint_solution(calm: Any, joint: Any) -> None:
    intensity, ln_G = distance(calm, joint)
    assert intensity <= 0.01
    assert ln_G <= 0.01
    solver = calm.statistics["solver"]
    assert solver["converged"]
    assert solver["n_blocks"] == 5
    assert len(solver["rounds"]) <= 8
    assert solver["rounds"][-1]["step"] < 0.05 * solver["rounds"][1]["step"]
    assert calm.statistics["error_model"]["scatter"] == pytest.approx(
        joint.statistics["error_model"]["scatter"], rel=2e-3
    )
    assert solver["dof"] == joint.statistics["solver"]["dof"]
    np.testing.assert_allclose(
        calm.master["sigma"], joint.master["sigma"], rtol=0.02
    )  # correlations between crystals are left out
    for name in ("status", "reason", "n_observations", "n_overlaps"):
        np.testing.assert_array_equal(calm.frames[name], joint.frames[name])


def test_averages_do_not_get_there(run: Callable[..., Any], calm: Any, joint: Any) -> None:
    """They stay where they were after the first round, and rounds end when they do."""
    mode = 'parallel.rounds_mode="average"'
    after = [run(f"average{n}", *IN_BLOCKS, mode, f"parallel.rounds={n}") for n in (1, 12)]
    far = [distance(found, joint)[0] for found in after]
    assert far[1] > 10 * distance(calm, joint)[0]
    assert far[1] > 0.5 * far[0]
    solver = after[1].statistics["solver"]
    assert solver["converged"]
    assert "not the joint solution" in solver["termination"]
    assert 3 <= len(solver["rounds"]) < 12
    assert solver["rounds"][-1]["step"] <= 0.002
    assert not after[0].statistics["solver"]["converged"]
    exact = run(
        "exact", *IN_BLOCKS, mode, "parallel.round_tolerance_sigma=1e-6", "parallel.rounds=20"
    )
    rounds = exact.statistics["solver"]["rounds"]
    assert len(rounds) > len(solver["rounds"])
    assert rounds[-1]["step"] <= 1e-6


def test_averages_have_the_error_model_of_the_job(run: Callable[..., Any], joint: Any) -> None:
    """All three of its parameters, of all observations."""
    average = run("errors", *IN_BLOCKS, 'parallel.rounds_mode="average"', "parallel.rounds=12")
    ours, theirs = (found.statistics["error_model"] for found in (average, joint))
    for name in ("background", "gain", "scatter"):
        assert ours[name] == pytest.approx(theirs[name], rel=0.02, abs=0.002), name
    ratio = average.master["sigma"] / joint.master["sigma"]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("ranks", "threads"), [(0, 2), (1, 1), (2, 1), (3, 2), (4, 1)])
def test_same_bits(ranks: int, threads: int, run: Callable[..., Any], calm: Any) -> None:
    settings = (*IN_BLOCKS, f"parallel.threads={threads}")
    require_same_bits(run(f"bits{ranks}{threads}", *settings, ranks=ranks), calm)


def test_one_block_is_the_joint_problem(run: Callable[..., Any], joint: Any) -> None:
    found = run("one", "parallel.strategy=blocks", "parallel.round_tolerance_sigma=1e-4")
    assert found.statistics["solver"]["n_blocks"] == 1
    assert distance(found, joint)[0] < 1e-3


def test_other_choices(run: Callable[..., Any], calm: Any) -> None:
    """Anomalous pairs, variances as given, no loss, one scale each, a reference."""
    reference = f"reference.path={calm.folder / 'merged.mtz'}"
    choices = (
        "symmetry.anomalous=true",
        "scaling.error_model=given",
        "scaling.loss=none",
        "scaling.b_factor=false",
        "solver.tolerance=1e-12",
        reference,
    )
    apart, together = run("apart", *IN_BLOCKS, *choices), run("together", *choices)
    intensity, ln_G = distance(apart, together)
    assert intensity <= 0.01
    assert ln_G <= 0.01


@pytest.mark.parametrize("source", ["small.stream", "small.expt", "small.mtz"])
def test_other_formats(source: str, job: Path, scale: Callable[..., Any]) -> None:
    """Converted once, then as from any other file; what is left out is counted the same."""
    settings = (f"input.paths={source}", "selection.d_min_A=3.2")
    blocks = ("parallel.strategy=blocks", "parallel.block_size=20", "parallel.overlap=10")
    found = scale("apart", *settings, *blocks)
    expected = scale("together", *settings, "scaling.covariance=sampled")
    assert distance(found, expected)[0] < 0.05
    for name in ("crystals", "observations"):
        assert found.statistics[name] == expected.statistics[name]
    assert not (found.folder / "checkpoint").exists()


# ---- what goes wrong ---------------------------------------------------------------------------


def test_an_overlap_as_large_as_a_block(refused: Callable[..., str]) -> None:
    said = refused("parallel.strategy=blocks", "parallel.block_size=50", "parallel.overlap=50")
    assert "parallel.overlap = 50 must be smaller than parallel.block_size = 50" in said


def test_a_damaged_input_ends_all_ranks(job: Path, program: Any, sets: Any) -> None:
    """Whoever reads it; nothing is left behind that stands in the way of another try."""
    (job.parent / "part1.h5").unlink()
    (job.parent / "part1.h5").write_text("no HDF5")
    settings = sets("input.paths=part*.h5", "parallel.strategy=blocks")
    done = program("run", job, *settings, cwd=job.parent, ranks=3)
    assert done.status == 2
    assert done.err.count("sfxproc: ") == 1
    assert "part1.h5' is not an HDF5 file" in done.err
    settings = sets("input.paths=part2.h5", "parallel.strategy=blocks")
    assert program("run", job, *settings, cwd=job.parent, ranks=2).status == 0


def test_a_full_disk_ends_the_job_with_what_was_kept(
    job: Path, command: Any, sets: Any, results: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = ("parallel.strategy=blocks", "parallel.block_size=40", "parallel.overlap=20")
    right, calls = os.fsync, itertools.count()

    def fsync(number: int) -> None:
        if next(calls) >= 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        right(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        done = command("run", job, *sets(*blocks))
    assert done.status == 2
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err
    folder = job.parent / "out" / "checkpoint"
    assert len(list(folder.rglob("*.state"))) >= 3
    again = command("run", job, "--resume", *sets(*blocks))
    assert again.status == 0, again.err
    assert command("run", job, *sets(*blocks, "output.folder=whole")).status == 0
    require_same_bits(results(job.parent / "out"), results(job.parent / "whole"))


# ---- killed, stopped ---------------------------------------------------------------------------


def killed(
    stills: Path, folder: str, ranks: int, after_s: float, surroundings: Any, sets: Any, seed: int
) -> bool:
    """Begin or go on, and kill one rank after a time; whether the job was still running."""
    settings = ("input.paths=part*.h5", f"output.folder={folder}", *IN_BLOCKS)
    command = [str(SCRIPT), "run", "job.toml", "--resume", *sets(*settings)]
    command = launched(command, ranks if ranks > 1 else 0)
    with subprocess.Popen(
        command,
        cwd=stills,
        env=surroundings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            time.sleep(after_s)
            running = process.poll() is None
            victims = _ranks_of(process.pid) if running else []
            if victims:
                os.kill(random.Random(seed).choice(victims), signal.SIGKILL)
            process.wait(timeout=TIMEOUT_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return running and process.returncode != 0


def _ranks_of(pid: int) -> list[int]:
    """The processes of the program among a process and its descendants."""
    found, below = [], [pid]
    while below:
        one = below.pop()
        try:
            if b"job.toml" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(one)
            below += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
        except OSError:
            continue
    leaves = [p for p in found if not any(q in found for q in _children(p))]
    return sorted(leaves)


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_and_go_on(
    times: int, stills: Path, run: Callable[..., Any], calm: Any, surroundings: Any, sets: Any
) -> int:
    """Kill a random rank at random moments, each time with another number of ranks, until `times`
    kills hit; then go on to the end, which must have the bits of an undisturbed job."""
    rng = random.Random(times)
    hits, job, most_s = 0, 0, 6.0
    while hits < times:
        job += 1
        folder = f"killed{times}-{job}"
        for attempt in range(4):
            ranks = RANKS[(hits + attempt) % len(RANKS)]
            after_s = rng.uniform(0.5, most_s)
            if not killed(stills, folder, ranks, after_s, surroundings, sets, rng.getrandbits(32)):
                break
            hits += 1
        if not (stills / folder / "DONE").exists():
            require_same_bits(run(folder, *IN_BLOCKS, ranks=RANKS[hits % 4], resume=True), calm)
        assert (stills / folder / "DONE").exists()
    return hits


def test_killed_and_resumed(
    stills: Path, run: Callable[..., Any], calm: Any, surroundings: Any, sets: Any
) -> None:
    assert kill_and_go_on(KILLS, stills, run, calm, surroundings, sets) >= KILLS


@pytest.mark.long
def test_killed_and_resumed_many_times(
    stills: Path, run: Callable[..., Any], calm: Any, surroundings: Any, sets: Any
) -> None:
    assert kill_and_go_on(MANY_KILLS, stills, run, calm, surroundings, sets) >= MANY_KILLS


@pytest.mark.parametrize("ranks", [1, 2])
def test_stopped_and_resumed(
    ranks: int, stills: Path, run: Callable[..., Any], calm: Any, surroundings: Any, sets: Any
) -> None:
    """SIGTERM once the first results are kept: status 75, and what is kept is gone on from."""
    folder = f"stopped{ranks}"
    settings = ("input.paths=part*.h5", f"output.folder={folder}", *IN_BLOCKS)
    command = [str(SCRIPT), "run", "job.toml", *sets(*settings)]
    command = launched(command, ranks if ranks > 1 else 0)
    with subprocess.Popen(
        command,
        cwd=stills,
        env=surroundings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert any("overlapping by" in line for line in process.stdout)
            os.kill(_ranks_of(process.pid)[-1], signal.SIGTERM)
            _, err = process.communicate(timeout=TIMEOUT_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 75, err
    assert "--resume" in err
    assert "Traceback" not in err
    assert (stills / folder / "checkpoint").is_dir()
    assert not (stills / folder / "DONE").exists()
    for path in sorted((stills / folder / "checkpoint").rglob("*.state"))[:3]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1  # a damaged one is done again
        path.write_bytes(content)
    require_same_bits(run(folder, *IN_BLOCKS, ranks=3, resume=True), calm)
    assert ".damaged' is damaged and not used" in (stills / folder / "log.txt").read_text()
