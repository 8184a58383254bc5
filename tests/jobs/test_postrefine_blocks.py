"""Postrefinement in blocks: what all find together, the same bits on any ranks, after any end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.errors import ConfigError, DataError, OutputError, UserError
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.refine.blocks import tasks
from sfxproc.simulate.stills import Simulated, StillsSettings
from tests.jobs.partial_jobs import PARTIAL, against_truth, run_job, written
from tests.jobs.test_ranks import require_same_bits

FEW = PARTIAL | {"n_crystals": 100, "size_factor": 1.1}
BLOCKS = ("parallel.strategy=blocks", "parallel.block_size=40", "parallel.overlap=20")
CELLS = {
    "partiality": "lorentzian",
    "bandwidth": 0.0,
    "cell_sigma_percent": 0.1,
    "recorded_cell_error_percent": 0.1,
}
REFINED = ("ln_G", "B_A2", "theta_1_mrad", "theta_2_mrad", "size")
XSPHERE = ("postrefine.partiality=xsphere",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blocks")


@pytest.fixture(scope="module")
def partial(folder: Path) -> Simulated:
    return written(folder / "xsphere.h5", StillsSettings(**FEW))


@pytest.fixture(scope="module")
def calm(folder: Path, partial: Simulated) -> Any:
    """A job in blocks that nobody disturbs, on one rank."""
    return run_job("postrefine", folder / "calm", *settings_for(folder), *BLOCKS)


def settings_for(folder: Path) -> tuple[str, ...]:
    return (f"input.paths={folder}/xsphere.h5", *XSPHERE)


def require_alike(blocks: Any, together: Any, refined: tuple[str, ...]) -> None:
    """The same intensities, within a hundredth of σ, and crystals, within a twentieth."""
    ours, theirs = (
        np.array([r.master[n] for n in ("intensity", "sigma")]) for r in (blocks, together)
    )
    z = (ours[0] - theirs[0]) / theirs[1]
    assert np.sqrt(np.mean(z**2)) <= 0.01
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0.1)
    for name in refined:
        off = blocks.frames[name] - together.frames[name]
        assert np.sqrt(np.mean((off / together.frames[f"sigma_{name}"]) ** 2)) <= 0.05, name
    for name in ("status", "reason"):
        np.testing.assert_array_equal(blocks.frames[name], together.frames[name])
    np.testing.assert_allclose(
        blocks.frames["A_refined"], together.frames["A_refined"], rtol=0, atol=1e-6
    )
    solver = blocks.statistics["solver"]
    assert solver["converged"]
    assert solver["dof"] == together.statistics["solver"]["dof"]


def test_it_finds_what_all_together_find(folder: Path, calm: Any) -> None:
    together = run_job("postrefine", folder / "global", *settings_for(folder))
    require_alike(calm, together, REFINED)
    for name in ("n_observations", "n_overlaps"):
        np.testing.assert_array_equal(calm.frames[name], together.frames[name])
    assert calm.statistics["solver"]["n_blocks"] == 4
    ratios = [against_truth(r.folder, folder / "xsphere.h5")[0].r_ratio for r in (calm, together)]
    assert ratios[0] == pytest.approx(ratios[1], abs=0.003)
    assert (calm.folder / "refined.expt").is_file()


def test_cells_are_held_to_the_mean_of_all(folder: Path) -> None:
    """Not of a block or segment; with another model."""
    written(folder / "cells.h5", StillsSettings(**FEW | CELLS))
    settings = (
        f"input.paths={folder}/cells.h5",
        "postrefine.partiality=lorentzian",
        "postrefine.cell=true",
        "solver.tolerance=1e-10",
    )
    blocks = run_job("postrefine", folder / "cells-blocks", *settings, *BLOCKS)
    together = run_job("postrefine", folder / "cells-global", *settings)
    require_alike(blocks, together, (*REFINED, "strain_1", "strain_2"))
    np.testing.assert_allclose(
        blocks.frames["cell_refined"], together.frames["cell_refined"], rtol=5e-5
    )


def test_same_bits_on_three_ranks(folder: Path, calm: Any) -> None:
    settings = (*settings_for(folder), *BLOCKS)
    require_same_bits(run_job("postrefine", folder / "three", *settings, ranks=3), calm)


def test_gone_on_with_on_two_ranks(
    folder: Path, calm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an end in the midst of a stage."""
    settings = (*settings_for(folder), *BLOCKS)
    right = tasks.GRADIENT

    def full(work: Any, state: Any, first: int, last: int) -> Any:
        if first > 40:
            raise OutputError("the disk is full")
        return right.work(work, state, first, last)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "GRADIENT", replace(right, work=full))
        with pytest.raises(UserError, match="the disk is full"):
            run_job("postrefine", tmp_path / "out", *settings)
    assert (tmp_path / "out" / "checkpoint").is_dir()
    again = run_job("postrefine", tmp_path / "out", *settings, "output.resume=true", ranks=2)
    require_same_bits(again, calm)


def test_a_block_that_fails_is_done_without(
    folder: Path, calm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crystals that no block has solved begin where they are recorded, and get there."""
    right = tasks.REFINE

    def wrong(work: Any, state: Any, first: int, last: int) -> Any:
        if first == 0:
            raise FloatingPointError("cannot be done")
        return right.work(work, state, first, last)

    monkeypatch.setattr(tasks, "REFINE", replace(right, work=wrong))
    found = run_job("postrefine", tmp_path / "out", *settings_for(folder), *BLOCKS)
    assert found.statistics["crystals"]["reasons"] == {}
    require_alike(found, calm, REFINED)


def test_a_segment_that_fails_is_left_out(
    folder: Path, calm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four crystals, between the ends of two blocks."""
    right = tasks.GRADIENT

    def wrong(work: Any, state: Any, first: int, last: int) -> Any:
        if first == 56:
            raise FloatingPointError("cannot be done")
        return right.work(work, state, first, last)

    monkeypatch.setattr(tasks, "GRADIENT", replace(right, work=wrong))
    blocks = (*BLOCKS, "parallel.block_size=40", "parallel.overlap=12")
    found = run_job("postrefine", tmp_path / "out", *settings_for(folder), *blocks)
    assert found.statistics["crystals"]["reasons"] == {"task failed": 4}
    assert np.isnan(found.frames["size"]).sum() == 4
    left = np.isfinite(found.frames["size"])
    off = (found.frames["ln_G"] - calm.frames["ln_G"])[left]
    off -= off.mean()  # each has a mean of zero, of its own crystals
    assert np.sqrt(np.mean((off / calm.frames["sigma_ln_G"][left]) ** 2)) < 0.3
    solver = found.statistics["solver"]
    assert solver["converged"]
    assert solver["dof"] < calm.statistics["solver"]["dof"]


# ---- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("postrefine.partiality=auto", 'postrefine.partiality = "auto" does not go with par'),
        ("postrefine.scheme=cycles", 'postrefine.scheme = "cycles" does not go with par'),
    ],
)
def test_what_blocks_do_not_do(setting: str, said: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        run_job("postrefine", tmp_path / "out", *settings_for(folder), *BLOCKS, setting)


@pytest.mark.parametrize(
    ("changed", "setting", "said"),
    [
        ({"A": np.full((100, 3, 3), np.nan)}, "", "None of the 100 crystals has an orientation"),
        ({"profile_radius": np.full(100, np.nan)}, "", "record no profile radius"),
        ({"wavelength_A": np.full(100, np.nan)}, "", "have no wavelength recorded"),
        ({}, "postrefine.size=1e-5", "are expected to show at least 2 %"),
    ],
)
def test_mistakes_are_told_as_by_the_global_strategy(
    changed: dict[str, Any], setting: str, said: str, partial: Simulated, tmp_path: Path
) -> None:
    """And nothing stands in the way of another try."""
    stills = replace(partial.stills, crystals=replace(partial.stills.crystals, **changed))
    write_h5(tmp_path / "wrong.h5", stills)
    settings = [f"input.paths={tmp_path}/wrong.h5", *XSPHERE, *([setting] if setting else [])]
    messages = []
    for strategy in ((), BLOCKS):
        with pytest.raises(DataError, match=said) as refused:
            run_job("postrefine", tmp_path / "out", *settings, *strategy)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert not (tmp_path / "out" / "checkpoint").exists()
