"""Jobs whose crystals begin where an earlier job left them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.data import Stills
from sfxproc.errors import ConfigError, DataError, InputError
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.simulate.stills import StillsSettings
from tests.jobs.partial_jobs import PARTIAL, run_job, written
from tests.jobs.test_ranks import require_same_bits

KINDS = ("scale", "postrefine")
MODEL = {"scale": (), "postrefine": ("postrefine.partiality=xsphere",)}
CRYSTALS = (
    "ln_G",
    "B_A2",
    "theta_1_mrad",
    "theta_2_mrad",
    "size",
    "strain_1",
    "strain_2",
    "ln_wavenumber",
    "A_refined",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, some: Callable[..., Stills]) -> Path:
    """All stills, and the first sixty of the eighty."""
    made = tmp_path_factory.mktemp("again")
    stills = written(made / "all.h5", StillsSettings(**PARTIAL)).stills
    write_h5(made / "some.h5", some(stills, slice(0, 60)))
    written(made / "others.h5", StillsSettings(**{**PARTIAL, "first_crystal": 5000}))
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Callable[..., Any]:
    def run(kind: str, name: str, *settings: str, data: str = "all", ranks: int = 1) -> Any:
        where = f"input.paths={folder / data}.h5"
        return run_job(kind, folder / f"{kind}-{name}", where, *MODEL[kind], *settings, ranks=ranks)

    return run


@pytest.fixture(scope="module")
def first(run: Callable[..., Any]) -> dict[str, Any]:
    return {kind: run(kind, "first") for kind in KINDS}


@pytest.fixture(scope="module")
def again(run: Callable[..., Any], first: dict[str, Any]) -> Callable[..., Any]:
    """Merged only, with crystals as the first job found them."""

    def again(kind: str, name: str, *settings: str, **more: Any) -> Any:
        frames = f"start.frames={first[kind].folder}"
        return run(kind, name, frames, "start.refine=false", *settings, **more)

    return again


def in_sigma(found: Any, expected: Any) -> np.ndarray:
    """Differences of the intensities that both have, in standard uncertainties."""
    tables = [table.merged for table in (found, expected)]
    hkl = [[*map(tuple, np.stack([m[k] for k in "HKL"], axis=1).tolist())] for m in tables]
    row = {indices: n for n, indices in enumerate(hkl[1])}
    at = np.array([row.get(indices, -1) for indices in hkl[0]])
    assert np.count_nonzero(at >= 0) >= 0.99 * min(len(rows) for rows in hkl)
    ours, theirs = tables[0]["IMEAN"][at >= 0], tables[1]["IMEAN"][at[at >= 0]]
    off = (ours - theirs) / tables[1]["SIGIMEAN"][at[at >= 0]]
    return np.asarray(off[np.isfinite(off)])


def require_same_crystals(found: Any, expected: Any) -> None:
    """To the rounding of ln G to a mean of 0, and of a size to its logarithm."""
    common = [name for name in CRYSTALS if name in expected.frames]
    assert set(common) <= set(found.frames)
    for name in common:
        np.testing.assert_allclose(
            found.frames[name], expected.frames[name], rtol=1e-12, atol=1e-13, err_msg=name
        )


# ---- only merged -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_again(kind: str, again: Callable[..., Any], first: dict[str, Any]) -> None:
    found = again(kind, "same")
    require_same_crystals(found, first[kind])
    off = in_sigma(found, first[kind])
    assert np.sqrt(np.mean(off**2)) < 1e-4
    assert np.abs(off).max() < 2e-3
    assert found.statistics["solver"]["converged"]
    assert not found.frames["sigma_ln_G"].any()  # they are given
    log = (found.folder / "log.txt").read_text()
    assert "80 of 80 crystals begin where" in log
    assert ("pass 1" in log, "merging with crystals as they were" in log) == (
        False,
        kind == "postrefine",
    )


def test_cells_and_wavelengths_too(
    run: Callable[..., Any], again: Callable[..., Any], first: dict[str, Any]
) -> None:
    more = ("postrefine.cell=true", "postrefine.wavelength=true")
    whole = run("postrefine", "cells", *more)
    settings = (f"start.frames={whole.folder / 'frames.h5'}", "start.refine=false")
    found = run("postrefine", "cells-again", *settings, *more)
    require_same_crystals(found, whole)
    off = in_sigma(found, whole)
    assert np.sqrt(np.mean(off**2)) < 1e-3


def test_same_bits_on_two_ranks(again: Callable[..., Any]) -> None:
    expected = again("postrefine", "one-rank")
    require_same_bits(again("postrefine", "two-ranks", ranks=2), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_at_another_resolution(kind: str, again: Callable[..., Any], first: dict[str, Any]) -> None:
    """Scales are those of all data but for the gauge, which has not moved."""
    found = again(kind, "cut", "selection.d_min_A=4")
    require_same_crystals(found, first[kind])
    assert 4.0 <= 0.5 / np.sqrt(found.master["s2"].max()) < 4.1
    # the error model is of other data
    assert np.sqrt(np.mean(in_sigma(found, first[kind]) ** 2)) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_with_mates_apart(kind: str, again: Callable[..., Any], first: dict[str, Any]) -> None:
    found = again(kind, "mates", "symmetry.anomalous=true")
    require_same_crystals(found, first[kind])
    assert {"I(+)", "I(-)", "DANO"} <= set(found.merged)
    assert found.statistics["overall"]["cc_anom"] == pytest.approx(0.0, abs=0.2)
    off = in_sigma(found, first[kind])
    assert np.sqrt(np.mean(off**2)) < 0.5


def test_crystals_that_the_earlier_job_did_not_have(run: Callable[..., Any]) -> None:
    """Merged only, they are left out; refined, they begin as ever."""
    few = run("postrefine", "few", data="some")
    settings = (f"start.frames={few.folder}",)
    found = run("postrefine", "unknown", *settings, "start.refine=false")
    crystals = found.statistics["crystals"]
    assert crystals["status"] == {"used": 60, "left_out": 20}
    assert crystals["reasons"] == {"not refined before": 20}
    assert np.sqrt(np.mean(in_sigma(found, few) ** 2)) < 1e-2
    refined = run("postrefine", "all", *settings)
    assert refined.statistics["crystals"]["status"] == {"used": 80}
    assert "60 of 80 crystals begin where" in (refined.folder / "log.txt").read_text()


# ---- refined from there ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_refined_again_it_ends_where_it_was(
    kind: str, run: Callable[..., Any], first: dict[str, Any]
) -> None:
    found = run(kind, "refined", f"start.frames={first[kind].folder / 'frames.h5'}")
    assert found.statistics["solver"]["converged"]
    off = in_sigma(found, first[kind])
    assert np.abs(off).max() < 5e-3
    for name in ("ln_G", "B_A2"):
        moved = found.frames[name] - first[kind].frames[name]
        assert np.abs(moved / first[kind].frames[f"sigma_{name}"]).max() < 1e-2


def test_what_an_earlier_job_did_not_refine_begins_as_recorded(
    run: Callable[..., Any], first: dict[str, Any]
) -> None:
    """Scales come from a scaling job, orientations and sizes, which it does not have, from the
    files."""
    settings = (f"start.frames={first['scale'].folder}", "start.refine=false")
    found = run("postrefine", "of-scales", *settings)
    np.testing.assert_allclose(found.frames["size"], PARTIAL["profile_radius"], rtol=1e-12)
    assert not found.frames["theta_1_mrad"].any()
    moved = found.frames["ln_G"] - first["scale"].frames["ln_G"]
    np.testing.assert_allclose(moved, 0.0, atol=1e-12)


# ---- what goes wrong ---------------------------------------------------------------------------


def test_no_such_file(run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"start\.frames: .*none\.h5"):
        run("scale", "none", f"start.frames={tmp_path / 'none.h5'}")


def test_a_folder_without_frames(run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"start\.frames: .*frames\.h5"):
        run("scale", "empty", f"start.frames={tmp_path}")


def test_no_frames_at_all(run: Callable[..., Any], folder: Path) -> None:
    with pytest.raises(InputError, match="frames"):
        run("scale", "stills", f"start.frames={folder / 'all.h5'}")


@pytest.mark.parametrize("ranks", [1, 2])
def test_frames_of_other_data(ranks: int, run: Callable[..., Any], first: dict[str, Any]) -> None:
    settings = (f"start.frames={first['scale'].folder}", "start.refine=false")
    with pytest.raises(DataError, match="has none of this job's crystals") as told:
        run("scale", f"others{ranks}", *settings, data="others", ranks=ranks)
    assert "'simulated//005000'" in str(told.value)
    assert "Give the frames.h5 of a job on the same files" in str(told.value)


def test_not_in_blocks(run: Callable[..., Any], first: dict[str, Any]) -> None:
    settings = (f"start.frames={first['scale'].folder}", "parallel.strategy=blocks")
    with pytest.raises(ConfigError, match=r"start\.frames = .* does not go with parallel\.strat"):
        run("scale", "blocks", *settings)
