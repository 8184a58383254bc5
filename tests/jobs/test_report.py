"""What jobs write besides the merge: a page to read, refined geometry, scaled observations."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from sfxproc.data import Crystals
from sfxproc.errors import ConfigError
from sfxproc.formats import dials
from sfxproc.formats.dials_expt import read_experiments
from sfxproc.simulate.stills import Simulated, StillsSettings
from tests.jobs.partial_jobs import PARTIAL, run_job, written

DATA = {**PARTIAL, "n_crystals": 60, "wrong_indexed_fraction": 0.05}
MODEL = "postrefine.partiality=xsphere"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def made(folder: Path) -> Simulated:
    made = written(folder / "data.h5", StillsSettings(**DATA))
    dials.write(folder / "data.expt", made.stills)
    return made


@pytest.fixture(scope="module")
def run(folder: Path, made: Simulated) -> Callable[..., Any]:
    def run(kind: str, name: str, *settings: str, data: str = "data.h5", ranks: int = 1) -> Any:
        model = (MODEL,) if kind == "postrefine" else ()
        where = f"input.paths={folder / data}"
        return run_job(kind, folder / name, where, *model, *settings, ranks=ranks)

    return run


@pytest.fixture(scope="module")
def jobs(run: Callable[..., Any]) -> dict[str, Any]:
    cells = ("postrefine.cell=true", "postrefine.wavelength=true")
    return {
        "scale": run("scale", "scale"),
        "blocks": run("scale", "blocks", "parallel.strategy=blocks", "rejection.reject=false"),
        "postrefine": run("postrefine", "postrefine", "output.unmerged=true", *cells),
    }


# ---- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scale", "blocks", "postrefine"])
def test_every_job_has_a_page(kind: str, jobs: dict[str, Any]) -> None:
    job = jobs[kind]
    page = (job.folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    words = " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())
    overall = job.statistics["overall"]
    assert f"{overall['n_unique']:,}" in words
    assert f"{100 * overall['completeness']:.1f}" in words
    assert f"{overall['cc_half']:.3f}" in words
    for shell in job.statistics["shells"]:
        assert f"{shell['n_unique']:,}" in words
    sentence = (job.folder / "log.txt").read_text().strip().splitlines()[-1].split(" s  ", 1)[1]
    assert " ".join(sentence.split()) in words
    tags = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["']?\w+://""", tags)


def test_the_page_tells_who_was_left_out(jobs: dict[str, Any], made: Simulated) -> None:
    job = jobs["postrefine"]
    assert job.statistics["crystals"]["reasons"] == {"unrelated": int(made.truth.wrong.sum())}
    page = unescape((job.folder / "report.html").read_text(encoding="utf-8"))
    assert "unrelated" in page
    for event in made.stills.crystals.event[made.truth.wrong]:
        assert str(event) in page


# ---- refined geometry --------------------------------------------------------------------------


def refined(folder: Path) -> Crystals:
    return read_experiments(folder / "refined.expt", "x").crystals


def test_refined_experiments_have_what_was_refined(jobs: dict[str, Any]) -> None:
    job = jobs["postrefine"]
    used = job.frames["status"] == b"used"
    crystals = refined(job.folder)
    assert len(crystals) == used.sum() < len(used)
    np.testing.assert_allclose(crystals.A, job.frames["A_refined"][used], rtol=0, atol=1e-15)
    wavelength = job.frames["wavelength_refined_A"][used]
    np.testing.assert_allclose(crystals.wavelength_A, wavelength, rtol=1e-14)
    assert not np.allclose(crystals.A, job.frames["A"][used], rtol=0, atol=1e-7)
    np.testing.assert_allclose(crystals.cell, job.frames["cell_refined"][used], rtol=1e-9)


def test_scaling_alone_refines_no_geometry(jobs: dict[str, Any]) -> None:
    assert not (jobs["scale"].folder / "refined.expt").exists()


def test_an_experiment_list_is_written_again(run: Callable[..., Any], made: Simulated) -> None:
    """Crystals keep their names, so that reflection tables of the input still fit."""
    known = (f"postrefine.size={DATA['profile_radius']}", "postrefine.bandwidth=1e-3")
    job = run("postrefine", "expt", *known, data="data.expt")  # which such lists do not record
    crystals = refined(job.folder)
    used = job.frames["status"] == b"used"
    assert crystals.event.tolist() == [e.decode() for e in job.frames["event"][used]]
    np.testing.assert_allclose(crystals.A, job.frames["A_refined"][used], rtol=0, atol=1e-15)


# ---- scaled observations -----------------------------------------------------------------------


def test_unmerged_observations_are_those_that_were_merged(jobs: dict[str, Any]) -> None:
    job = jobs["postrefine"]
    mtz = gemmi.read_mtz_file(str(job.folder / "unmerged.mtz"))
    assert mtz.spacegroup.hm == "P 43 21 2"
    used = job.frames["status"] == b"used"
    used_rows = job.statistics["observations"]["used"]
    assert 0.9 * used_rows < mtz.nreflections < used_rows  # without those that show next to nothing
    assert len(mtz.batches) == used.sum()
    cells = np.array([batch.cell.parameters for batch in mtz.batches])
    np.testing.assert_allclose(cells, job.frames["cell_refined"][used], rtol=1e-5)
    columns = dict(zip(mtz.column_labels(), mtz.array.T, strict=True))
    counts = np.unique(columns["BATCH"], return_counts=True)[1]
    assert (counts <= job.frames["n_observations"][used]).all()


def test_unmerged_observations_are_not_written_unasked(jobs: dict[str, Any]) -> None:
    assert not (jobs["scale"].folder / "unmerged.mtz").exists()


def test_unmerged_observations_of_two_ranks(run: Callable[..., Any], jobs: dict[str, Any]) -> None:
    settings = ("output.unmerged=true", "postrefine.cell=true", "postrefine.wavelength=true")
    again = run("postrefine", "two", *settings, ranks=2)
    for name in ("unmerged.mtz", "refined.expt"):
        ours, theirs = ((job.folder / name).read_bytes() for job in (again, jobs["postrefine"]))
        assert ours == theirs


def test_results_of_an_earlier_job_are_cleared_away(run: Callable[..., Any]) -> None:
    first = run("postrefine", "twice", "output.unmerged=true", "merging.groups.all=*")
    extra = ("unmerged.mtz", "refined.expt", "groups/all.mtz")
    assert all((first.folder / name).exists() for name in extra)
    run("scale", "twice", "output.overwrite=true")
    assert not any((first.folder / name).exists() for name in extra)
    assert not (first.folder / "groups").exists()


# ---- what goes wrong ---------------------------------------------------------------------------


def test_not_in_blocks(run: Callable[..., Any], folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[start\] asks for what"):
        run("scale", "refused", "parallel.strategy=blocks", "start.refine=false")
    assert not (folder / "refused").exists()
