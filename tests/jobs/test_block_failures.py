"""Tasks of strategy "blocks" that fail: what is lost with them, and what is not given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.errors import DataError
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.parallel.blocks import plan_blocks
from sfxproc.refine.blocks import tasks
from sfxproc.simulate.stills import StillsSettings, simulate_stills
from tests.jobs.partial_jobs import run_job

STILLS = StillsSettings(n_crystals=240, d_min_A=3.2, seed=8, outlier_fraction=0.01)
SIZE, OVERLAP = 82, 41
BLOCKS = (
    "parallel.strategy=blocks",
    f"parallel.block_size={SIZE}",
    f"parallel.overlap={OVERLAP}",
    "rejection.reject=false",
)
FIRST, LAST = 158, 164  # a segment of six crystals


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All crystals, and those that are not in the segment."""
    made = tmp_path_factory.mktemp("failures")
    stills = simulate_stills(STILLS).stills
    order = plan_blocks(240, SIZE, OVERLAP, 0).order
    write_h5(made / "all.h5", stills)
    left = np.setdiff1d(np.arange(240), order[FIRST:LAST])
    number = np.full(240, -1, dtype=np.int32)
    number[left] = np.arange(len(left))
    rows = stills.observations.take(number[stills.observations.crystal] >= 0)
    rows = replace(rows, crystal=number[rows.crystal])
    smaller = replace(stills, crystals=stills.crystals.take(left), observations=rows)
    write_h5(made / "left.h5", smaller)
    return made


@pytest.fixture(scope="module")
def never(folder: Path) -> Any:
    """A job that never had the crystals of the segment."""
    return run_job("scale", folder / "never", f"input.paths={folder}/left.h5", *BLOCKS)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have tasks of a kind fail that begin at a crystal, or all of them; from some call on."""

    def spoil(name: str, at: int | None = None, after: int = 0) -> None:
        right, calls = getattr(tasks, name), []

        def wrong(work: Any, state: Any, first: int, last: int) -> Any:
            if first == at or at is None:
                calls.append(first)
                if len(calls) > after:
                    raise FloatingPointError("cannot be done")
            return right.work(work, state, first, last)

        monkeypatch.setattr(tasks, name, replace(right, work=wrong))

    return spoil


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("SURVEY", 0),
        ("GRADIENT", 0),
        ("GRADIENT", 2),
        ("VALUE", 0),
        ("MOMENTS", 0),
        ("AGREEMENT", 0),
        ("MERGE", 0),
        ("DEVIATE", 0),
    ],
)
def test_a_segment_that_fails_is_as_if_it_had_never_been(
    name: str, after: int, folder: Path, never: Any, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    spoil(name, FIRST, after)
    found = run_job("scale", tmp_path / "out", f"input.paths={folder}/all.h5", *BLOCKS)
    kind = name.lower()
    assert f"tasks of the stage '{kind}' failed twice" in (tmp_path / "out" / "log.txt").read_text()
    crystals = found.statistics["crystals"]
    assert crystals["status"] == {"used": 234, "left_out": 6}
    assert crystals["reasons"] == {"task failed": 6}
    left = found.frames["status"] == never.frames["status"][0]
    assert not found.frames["n_observations"][~left].any()
    for column in ("ln_G", "cc_to_others"):
        assert np.isnan(found.frames[column][~left]).all()

    ours, theirs = found.statistics, never.statistics
    for key in ("dof", "n_residuals", "n_parameters"):
        assert ours["solver"][key] == theirs["solver"][key]
    assert ours["solver"]["converged"]
    assert ours["solver"]["chi2"] == pytest.approx(theirs["solver"]["chi2"], rel=1e-3)
    for key in ("background", "gain", "scatter"):
        assert ours["error_model"][key] == pytest.approx(
            theirs["error_model"][key], rel=5e-3, abs=1e-3
        )
    assert ours["overall"]["mean_i_over_sigma"] == pytest.approx(
        theirs["overall"]["mean_i_over_sigma"], rel=1e-3
    )
    sigma = never.frames["sigma_ln_G"]
    off = (found.frames["ln_G"][left] - never.frames["ln_G"]) / sigma
    assert np.abs(off).max() < 0.02
    np.testing.assert_allclose(found.frames["sigma_ln_G"][left], sigma, rtol=5e-3)
    np.testing.assert_array_equal(found.frames["n_overlaps"][left], never.frames["n_overlaps"])
    rows = np.isfinite(found.master["intensity"])
    assert rows.sum() == len(never.master["intensity"])
    off = (found.master["intensity"][rows] - never.master["intensity"]) / never.master["sigma"]
    assert np.sqrt(np.mean(off**2)) < 0.01
    np.testing.assert_allclose(found.master["sigma"][rows], never.master["sigma"], rtol=5e-3)


@pytest.mark.parametrize("ranks", [1, 3])
def test_too_much_of_the_data_is_not_given_up(
    ranks: int, folder: Path, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    """A segment of a sixth; what is done is kept, and once the cause is gone the job goes on."""
    settings = (f"input.paths={folder}/all.h5", *BLOCKS)
    with pytest.MonkeyPatch.context() as patch:
        right = tasks.GRADIENT

        def wrong(work: Any, state: Any, first: int, last: int) -> Any:
            if first == 41:
                raise FloatingPointError("cannot be done")
            return right.work(work, state, first, last)

        patch.setattr(tasks, "GRADIENT", replace(right, work=wrong))
        with pytest.raises(DataError, match="failed twice, with 17 % of the data") as told:
            run_job("scale", tmp_path / "out", *settings, ranks=ranks)
    assert "FloatingPointError: cannot be done" in str(told.value)
    assert not (tmp_path / "out" / "DONE").exists()
    again = run_job("scale", tmp_path / "out", *settings, "output.resume=true")
    assert again.statistics["crystals"]["status"] == {"used": 240}


def test_nothing_works(folder: Path, tmp_path: Path, spoil: Callable[..., None]) -> None:
    spoil("REFINE")
    with pytest.raises(DataError, match="5 of 5 tasks of the stage 'refine' failed twice") as told:
        run_job("scale", tmp_path / "out", f"input.paths={folder}/all.h5", *BLOCKS)
    assert "FloatingPointError" in str(told.value)


def test_a_block_that_fails_is_done_without(
    folder: Path, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    """The first round's average and every step come from the others; crystals that no other block
    holds are judged by themselves."""
    settings = (f"input.paths={folder}/all.h5", "rejection.reject=false")
    joint = run_job("scale", tmp_path / "joint", *settings)
    spoil("REFINE", 0)
    spoil("STEP", 123)
    found = run_job("scale", tmp_path / "out", *settings, *BLOCKS)
    assert found.statistics["crystals"]["status"] == {"used": 240}
    assert found.statistics["solver"]["converged"]
    assert np.abs(found.frames["ln_G"] - joint.frames["ln_G"]).max() < 0.01
    for name in ("status", "reason", "n_overlaps"):
        np.testing.assert_array_equal(found.frames[name], joint.frames[name])


def test_averages_lose_crystals_that_no_solved_block_holds(
    folder: Path, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    """They have no scale, and are not merged with ln G = 0."""
    size = ("parallel.block_size=125", "parallel.overlap=120", "parallel.rounds=3")
    settings = (
        f"input.paths={folder}/all.h5",
        *BLOCKS,
        *size,
        'parallel.rounds_mode="average"',
    )
    spoil("REFINE", 0)
    found = run_job("scale", tmp_path / "out", *settings)
    assert found.statistics["crystals"]["status"] == {"used": 235, "left_out": 5}
    assert found.statistics["crystals"]["reasons"] == {"task failed": 5}
    lost = plan_blocks(240, 125, 120, 0).order[:5]
    assert np.isnan(found.frames["ln_G"][lost]).all()
    assert not found.frames["n_observations"][lost].any()


def test_averages_do_not_give_up_a_sixth(
    folder: Path, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    spoil("REFINE", 0)
    settings = (f"input.paths={folder}/all.h5", *BLOCKS, 'parallel.rounds_mode="average"')
    with pytest.raises(DataError, match="1 of 5 tasks of the stage 'refine' failed twice, with 17"):
        run_job("scale", tmp_path / "out", *settings)
