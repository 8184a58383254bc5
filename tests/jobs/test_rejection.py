"""Crystals that disagree with all others, in jobs from files to merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.runs.run import Run
from sfxproc.simulate.stills import Simulated, StillsSettings
from tests.jobs.partial_jobs import PARTIAL, against_truth, run_job, written
from tests.jobs.test_ranks import require_same_bits

SPOILT = {"outlier_fraction": 0.01}
WRONG = {**SPOILT, "wrong_indexed_fraction": 0.05}
DATA = {
    "wrong": WRONG,
    "spoilt": SPOILT,
    "weak": {"photons": 10.0},
    "worse": {**SPOILT, "wrong_indexed_fraction": 0.25},
}
USED, LEFT_OUT = b"used", b"left out"
TOLD = {
    "cc_to_others",
    "cc_expected",
    "signal",
    "sigma_signal",
    "delta_cc_half",
    "sigma_delta_cc_half",
    "n_outliers",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rejection")


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, Simulated]:
    return {
        name: written(folder / f"{name}.h5", StillsSettings(**{**PARTIAL, **more}))
        for name, more in DATA.items()
    }


@pytest.fixture(scope="module")
def run(made: dict[str, Simulated], folder: Path) -> Callable[..., Any]:
    """A postrefinement of one of the files, or a scaling of it, in a folder of its own."""

    def run(name: str, data: str, *settings: str, kind: str = "postrefine", ranks: int = 1) -> Any:
        model = ["postrefine.partiality=xsphere"] if kind == "postrefine" else []
        where = f"input.paths={folder / data}.h5"
        return run_job(kind, folder / name, where, *model, *settings, ranks=ranks)

    return run


@pytest.fixture(scope="module")
def found(run: Callable[..., Any]) -> Any:
    return run("found", "wrong")


def test_the_wrong_ones_are_left_out_and_no_other(found: Any, made: dict[str, Simulated]) -> None:
    wrong = made["wrong"].truth.wrong
    assert wrong.sum() == 4
    np.testing.assert_array_equal(found.frames["status"] == LEFT_OUT, wrong)
    assert (found.frames["reason"][wrong] == b"unrelated").all()
    crystals = found.statistics["crystals"]
    assert crystals["status"] == {"used": 76, "left_out": 4}
    assert crystals["reasons"] == {"unrelated": 4}


def test_their_observations_are_counted_and_not_merged(
    found: Any, made: dict[str, Simulated]
) -> None:
    n = np.bincount(made["wrong"].stills.observations.crystal)
    wrong = made["wrong"].truth.wrong
    told = found.statistics["observations"]
    assert told["left_out"] == {"crystal left out": n[wrong].sum()}
    assert told["used"] == n[~wrong].sum()
    assert found.merged["N"].sum() == pytest.approx(told["used"], rel=0.01)  # a few show nothing
    np.testing.assert_array_equal(found.frames["n_observations"], np.where(wrong, 0, n))
    assert np.isnan(found.frames["ln_G"][wrong]).all()
    assert np.isfinite(found.frames["ln_G"][~wrong]).all()


def test_how_each_agrees_is_told(found: Any, made: dict[str, Simulated]) -> None:
    """Of those left out, too: what they were left out for."""
    wrong = made["wrong"].truth.wrong
    assert set(found.frames) >= TOLD
    signal, sigma = found.frames["signal"], found.frames["sigma_signal"]
    assert signal[wrong].max() < 0.3
    assert signal[~wrong].min() > 0.7
    assert (1.0 - signal[wrong] > 4.0 * sigma[wrong]).all()
    assert found.frames["cc_to_others"][wrong].max() < found.frames["cc_to_others"][~wrong].min()


def test_the_merge_is_that_without_them(found: Any, run: Callable[..., Any], folder: Path) -> None:
    """As good as if none had been wrong, but for what fewer crystals are worth."""
    ours, _ = against_truth(found.folder, folder / "wrong.h5")
    theirs, _ = against_truth(run("spoilt", "spoilt").folder, folder / "spoilt.h5")
    assert ours.r < 1.2 * theirs.r


def test_on_request_they_are_kept(
    run: Callable[..., Any], made: dict[str, Simulated], folder: Path
) -> None:
    kept = run("kept", "wrong", "rejection.reject=false")
    assert kept.statistics["crystals"]["status"] == {"used": 80}
    wrong = made["wrong"].truth.wrong
    assert kept.frames["signal"][wrong].max() < kept.frames["signal"][~wrong].min()
    ours, crystals = against_truth(folder / "found", folder / "wrong.h5")
    theirs, _ = against_truth(kept.folder, folder / "wrong.h5")
    assert ours.r < theirs.r
    assert crystals["wrong_kept"] == crystals["right_left_out"] == 0


def test_of_weak_data_nobody_is_lost(run: Callable[..., Any]) -> None:
    for kind in ("postrefine", "scale"):
        weak = run(f"weak-{kind}", "weak", kind=kind)
        assert weak.statistics["crystals"]["status"] == {"used": 80}


def test_scaling_leaves_them_out_too(run: Callable[..., Any], made: dict[str, Simulated]) -> None:
    found = run("scaled", "wrong", kind="scale")
    left_out = found.frames["status"] == LEFT_OUT
    np.testing.assert_array_equal(left_out, made["wrong"].truth.wrong)
    assert found.statistics["crystals"]["reasons"] == {"unrelated": 4}
    log = (found.folder / "log.txt").read_text()
    assert "4 crystals are left out from here on: unrelated 4" in log


def test_one_in_four(run: Callable[..., Any], made: dict[str, Simulated]) -> None:
    found = run("worse", "worse")
    wrong, left_out = made["worse"].truth.wrong, found.frames["status"] == LEFT_OUT
    assert wrong.sum() > 12
    np.testing.assert_array_equal(left_out, wrong)


def test_a_lowest_correlation(run: Callable[..., Any], found: Any) -> None:
    """Crystals below it are left out for that, unless there is a better reason."""
    cc = found.frames["cc_to_others"]
    good = found.frames["status"] == USED
    least = float(np.sort(cc[good])[:2].mean())
    strict = run("strict", "wrong", f"rejection.min_cc={least}")
    reasons = strict.statistics["crystals"]["reasons"]
    assert reasons["unrelated"] == 4
    assert reasons["cc too low"] >= 1
    lost = good & (strict.frames["status"] == LEFT_OUT)
    assert (strict.frames["reason"][lost] == b"cc too low").all()


# ---- the same bits -----------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3])
def test_same_bits(ranks: int, run: Callable[..., Any], found: Any) -> None:
    require_same_bits(run(f"bits{ranks}", "wrong", ranks=ranks), found)


def test_gone_on_with_after_crystals_were_left_out(
    run: Callable[..., Any], found: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that is kept is of a smaller problem than that which the job began with."""

    class Killed(BaseException):
        pass

    save = Run.save

    def killed(self: Run, key: str, arrays: Any) -> None:
        save(self, key, arrays)
        if key == "pass-2":
            raise Killed

    often = "output.checkpoint_interval_s=0"
    with monkeypatch.context() as patched:
        patched.setattr(Run, "save", killed)
        with pytest.raises(Killed):
            run("killed", "wrong", often)
    assert (folder / "killed" / "checkpoint" / "pass-2.state").exists()
    assert not (folder / "killed" / "DONE").exists()
    again = run("killed", "wrong", often, "output.resume=true", ranks=2)
    require_same_bits(again, found)
    log = (folder / "killed" / "log.txt").read_text()
    assert log.count("resumed after iteration") == 3  # scaling, pass 1 and pass 2
