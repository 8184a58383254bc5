"""Merges of parts of the crystals, and half sets that are refined by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from sfxproc.errors import DataError
from sfxproc.formats.frames import read_frames
from sfxproc.results.tables import in_pattern
from sfxproc.simulate.stills import StillsSettings
from tests.jobs.partial_jobs import PARTIAL, run_job, written
from tests.jobs.test_ranks import require_same_bits

# crystals are called simulated//000000 and so on
EVEN, ODD = "*//*[02468]", "*//*[13579]"
GROUPS = ("merging.groups.even=" + EVEN, "merging.groups.odd=" + ODD)
WEAK = {**PARTIAL, "photons": 20.0}
MODEL = "postrefine.partiality=xsphere"
PAIR = "even-minus-odd"
BLOCKS = ("parallel.strategy=blocks", "parallel.block_size=40", "parallel.overlap=20")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("groups")
    written(made / "strong.h5", StillsSettings(**PARTIAL))
    written(made / "weak.h5", StillsSettings(**WEAK))
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Callable[..., Any]:
    def run(
        name: str, *settings: str, data: str = "strong", kind: str = "postrefine", ranks: int = 1
    ) -> Any:
        model = (MODEL,) if kind == "postrefine" else ()
        where = f"input.paths={folder / data}.h5"
        return run_job(kind, folder / name, where, *model, *settings, ranks=ranks)

    return run


@pytest.fixture(scope="module")
def found(run: Callable[..., Any]) -> Any:
    return run("found", *GROUPS)


def columns(path: Path) -> dict[str, np.ndarray]:
    mtz = gemmi.read_mtz_file(str(path))
    return dict(zip(mtz.column_labels(), mtz.array.T.astype(np.float64), strict=True))


# ---- groups ------------------------------------------------------------------------------------


def test_what_is_written(found: Any) -> None:
    names = {p.name for p in (found.folder / "groups").iterdir()}
    assert names == {"even.mtz", "odd.mtz", f"{PAIR}.mtz"}
    told = found.statistics["groups"]
    assert [(one["group"], one["n_crystals"]) for one in told["each"]] == [
        ("even", 40),
        ("odd", 40),
    ]
    assert told["pairs"][0]["groups"] == "even, odd"
    log = (found.folder / "log.txt").read_text()
    assert 'group "even": 40 crystals' in log


def test_patterns(found: Any) -> None:
    crystals = read_frames(found.folder / "frames.h5").crystals
    even = in_pattern(crystals, EVEN)
    np.testing.assert_array_equal(even, np.arange(80) % 2 == 0)
    np.testing.assert_array_equal(in_pattern(crystals, ODD), ~even)
    assert not in_pattern(crystals, "*//*[a-f]").any()


def test_groups_combine_to_the_whole(found: Any) -> None:
    """With inverse variances, which hold nothing of the scales that all have in common."""
    even, odd = (columns(found.folder / "groups" / f"{name}.mtz") for name in ("even", "odd"))
    whole = columns(found.folder / "merged.mtz")
    np.testing.assert_array_equal(even["N"] + odd["N"], whole["N"])
    weight = [np.where(np.isfinite(g["SIGIMEAN"]), g["SIGIMEAN"] ** -2.0, 0.0) for g in (even, odd)]
    value = [np.nan_to_num(g["IMEAN"]) for g in (even, odd)]
    both = (weight[0] > 0) & (weight[1] > 0)
    combined = (weight[0] * value[0] + weight[1] * value[1])[both] / (weight[0] + weight[1])[both]
    off = (combined - whole["IMEAN"][both]) / whole["SIGIMEAN"][both]
    assert np.abs(off).max() < 0.05
    sigma = 1.0 / np.sqrt((weight[0] + weight[1])[both])
    ratio = sigma / whole["SIGIMEAN"][both]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


def test_the_difference_is_noise(run: Callable[..., Any]) -> None:
    """Of crystals that are all alike. A robust loss draws the groups together a little: weights
    come from residuals to the intensities that all have in common."""
    groups = run("plain", *GROUPS, "scaling.loss=none").folder / "groups"
    told = columns(groups / f"{PAIR}.mtz")
    even, odd = (columns(groups / f"{name}.mtz") for name in ("even", "odd"))
    both = np.isfinite(even["IMEAN"]) & np.isfinite(odd["IMEAN"])
    np.testing.assert_allclose(
        told["DI"], (even["IMEAN"] - odd["IMEAN"])[both], rtol=1e-5, atol=0.1
    )
    pulls = told["DI"] / told["SIGDI"]
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1.0, abs=0.06)
    assert np.mean(pulls) == pytest.approx(0.0, abs=0.1)
    np.testing.assert_array_equal(told["N1"], even["N"][both])


def test_crystals_of_no_group_and_of_several(run: Callable[..., Any], found: Any) -> None:
    settings = ("merging.groups.all=*", "merging.groups.ten=*//00000?")
    other = run("overlap", *settings)
    told = other.statistics["groups"]["each"]
    assert [one["n_crystals"] for one in told] == [80, 10]
    everything = columns(other.folder / "groups" / "all.mtz")
    whole = columns(found.folder / "merged.mtz")
    for name in ("IMEAN", "SIGIMEAN", "N", "IHALF1"):
        np.testing.assert_array_equal(everything[name], whole[name])
    np.testing.assert_array_equal(other.merged["IMEAN"], found.merged["IMEAN"])


@pytest.mark.parametrize("kind", ["scale", "postrefine"])
def test_same_bits(kind: str, run: Callable[..., Any]) -> None:
    runs = [run(f"{kind}-{ranks}", *GROUPS, kind=kind, ranks=ranks) for ranks in (1, 2)]
    require_same_bits(*runs)
    for name in ("even", "odd", PAIR):
        ours, theirs = ((r.folder / "groups" / f"{name}.mtz").read_bytes() for r in runs)
        assert ours == theirs


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_group_without_crystals(ranks: int, run: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r'no crystal in use is named like "run9\*"') as told:
        run(f"empty{ranks}", "merging.groups.none=run9*", kind="scale", ranks=ranks)
    assert 'group "none"' in str(told.value)
    assert "'simulated//000000'" in str(told.value)


@pytest.mark.parametrize("kind", ["scale", "postrefine"])
def test_groups_of_blocks(kind: str, run: Callable[..., Any]) -> None:
    """As of all crystals together."""
    together = run(f"{kind}-groups-together", *GROUPS, kind=kind)
    blocks = run(f"{kind}-groups-blocks", *GROUPS, *BLOCKS, kind=kind)
    for told, expected in zip(
        blocks.statistics["groups"]["each"], together.statistics["groups"]["each"], strict=True
    ):
        assert (told["group"], told["n_crystals"]) == (expected["group"], expected["n_crystals"])
    for name in ("even", "odd"):
        ours, theirs = (columns(r.folder / "groups" / f"{name}.mtz") for r in (blocks, together))
        np.testing.assert_array_equal(ours["N"], theirs["N"])
        seen = np.isfinite(theirs["IMEAN"])
        off = ((ours["IMEAN"] - theirs["IMEAN"]) / theirs["SIGIMEAN"])[seen]
        assert np.sqrt(np.mean(off**2)) < 0.01
        ratio = (ours["SIGIMEAN"] / theirs["SIGIMEAN"])[seen]
        assert np.median(ratio) == pytest.approx(1.0, abs=0.005)
    again = run(f"{kind}-groups-blocks-2", *GROUPS, *BLOCKS, kind=kind, ranks=2)
    require_same_bits(again, blocks)
    for name in ("even", "odd", PAIR):
        ours, theirs = (r.folder / "groups" / f"{name}.mtz" for r in (again, blocks))
        assert ours.read_bytes() == theirs.read_bytes()


def test_an_empty_group_of_blocks(run: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r'no crystal in use is named like "run9\*"'):
        run("empty-blocks", "merging.groups.none=run9*", *BLOCKS, kind="scale", ranks=2)


# ---- half sets by themselves -------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves(run: Callable[..., Any]) -> tuple[Any, Any]:
    """Weak data, with half sets that share scales and with such as do not."""
    shared = run("shared", data="weak")
    return shared, run("apart", "merging.independent_halves=true", data="weak")


def test_the_merge_is_the_same(halves: tuple[Any, Any]) -> None:
    shared, apart = halves
    for name in ("IMEAN", "SIGIMEAN", "N", "NHALF1", "NHALF2"):
        np.testing.assert_array_equal(apart.merged[name], shared.merged[name])
    np.testing.assert_array_equal(apart.frames["ln_G"], shared.frames["ln_G"])


def test_half_sets_that_know_nothing_of_each_other_agree_less(halves: tuple[Any, Any]) -> None:
    shared, apart = (h.statistics["overall"] for h in halves)
    assert 0.9 < apart["cc_half"] <= shared["cc_half"]
    assert apart["r_split"] >= shared["r_split"]


def test_half_sets_are_on_one_scale(halves: tuple[Any, Any]) -> None:
    apart = halves[1].merged
    known = np.isfinite(apart["IHALF1"]) & np.isfinite(apart["IHALF2"])
    one, two = apart["IHALF1"][known], apart["IHALF2"][known]
    weight = 1.0 / (apart["SIGIHALF1"] ** 2 + apart["SIGIHALF2"] ** 2)[known]
    slope = np.sum(weight * one * two) / np.sum(weight * two**2)
    assert slope == pytest.approx(1.0, abs=0.03)
    before = np.isfinite(halves[0].merged["IHALF1"]) & np.isfinite(halves[0].merged["IHALF2"])
    assert not np.any(known & ~before)
    assert known.sum() > 0.99 * before.sum()


def test_half_sets_apart_on_two_ranks(halves: tuple[Any, Any], run: Callable[..., Any]) -> None:
    again = run("apart-2", "merging.independent_halves=true", data="weak", ranks=2)
    require_same_bits(again, halves[1])


def test_half_sets_apart_of_scaling(run: Callable[..., Any]) -> None:
    shared = run("scale-shared", data="weak", kind="scale").statistics["overall"]
    apart = run("scale-apart", "merging.independent_halves=true", data="weak", kind="scale")
    assert apart.statistics["overall"]["cc_half"] <= shared["cc_half"] + 1e-3


def test_half_sets_apart_of_blocks(run: Callable[..., Any]) -> None:
    """As of all crystals together; the merge is the one with common scales."""
    halves = "merging.independent_halves=true"
    tight = ("parallel.round_tolerance_sigma=1e-4", "parallel.rounds=12")
    together = run("halves-together", halves, "solver.tolerance=1e-12", kind="scale")
    blocks = run("halves-blocks", halves, *BLOCKS, *tight, kind="scale")
    shared = run("halves-shared", *BLOCKS, *tight, kind="scale")
    for name in ("IMEAN", "SIGIMEAN", "N", "NHALF1"):
        np.testing.assert_array_equal(blocks.merged[name], shared.merged[name])
    assert np.nanmax(np.abs(blocks.merged["IHALF1"] - shared.merged["IHALF1"])) > 0.0
    for side in ("1", "2"):
        ours, theirs = (r.merged[f"IHALF{side}"] for r in (blocks, together))
        sigma = together.merged[f"SIGIHALF{side}"]
        seen = np.isfinite(theirs)
        np.testing.assert_array_equal(np.isfinite(ours), seen)
        assert np.sqrt(np.mean(((ours - theirs) / sigma)[seen] ** 2)) < 0.01
