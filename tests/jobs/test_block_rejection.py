"""Crystals that disagree with all others: blocks leave out those that the global strategy does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.simulate.stills import StillsSettings
from tests.jobs.partial_jobs import PARTIAL, run_job, written

WRONG = {"n_crystals": 100, "wrong_indexed_fraction": 0.06}
BLOCKS = (
    "parallel.strategy=blocks",
    "parallel.block_size=50",
    "parallel.overlap=25",
    "parallel.rounds=5",
)
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "scale": ({"d_min_A": 3.2, "profile_radius": 0.0024, "seed": 5}, ()),
    "postrefine": (PARTIAL, ("postrefine.partiality=xsphere",)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_crystals_are_left_out(kind: str, tmp_path: Path) -> None:
    simulated, settings = KINDS[kind]
    wrong = written(tmp_path / "a.h5", StillsSettings(**simulated | WRONG)).truth.wrong
    settings = (f"input.paths={tmp_path}/a.h5", *settings)
    together = run_job(kind, tmp_path / "global", *settings)
    found = run_job(kind, tmp_path / "blocks", *settings, *BLOCKS)
    assert wrong.sum() >= 6
    np.testing.assert_array_equal(np.isnan(found.frames["ln_G"]), wrong)
    for name in ("status", "reason", "n_observations", "n_overlaps"):
        np.testing.assert_array_equal(found.frames[name], together.frames[name])
    for name in ("crystals", "observations"):
        assert found.statistics[name] == together.statistics[name]
    assert found.statistics["solver"]["dof"] == together.statistics["solver"]["dof"]
    right = ~wrong
    for name in ("cc_to_others", "signal", "delta_cc_half", "n_outliers"):
        ours, theirs = found.frames[name], together.frames[name]
        np.testing.assert_allclose(ours[right], theirs[right], atol=0.01 * np.std(theirs[right]))
    assert found.frames["signal"][wrong].max() < 0.5 < found.frames["signal"][right].min()
    ours, theirs, sigma = (
        np.array(v)
        for v in (found.master["intensity"], together.master["intensity"], together.master["sigma"])
    )
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))  # only wrong ones showed them
    assert np.sqrt(np.nanmean(((ours - theirs) / sigma) ** 2)) < 0.01


def test_all_are_kept_on_request(tmp_path: Path) -> None:
    written(tmp_path / "a.h5", StillsSettings(**KINDS["scale"][0] | WRONG))
    settings = (f"input.paths={tmp_path}/a.h5", "rejection.reject=false")
    few = "parallel.rounds=2"
    found = run_job("scale", tmp_path / "blocks", *settings, *BLOCKS, few)
    assert found.statistics["crystals"]["status"] == {"used": 100}
    assert (found.frames["signal"] < 0.5).sum() == 7
