"""The scaling job on experimental data, with figures that must not get worse."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.data import Reflections
from sfxproc.formats.reference import read_reference
from sfxproc.lsq.covariance import Unsolved
from sfxproc.merging.compare import match
from tests.e2_scores import E2Score, score_e2


@pytest.fixture
def scaled(tmp_path: Path, shared_data: Path, command: Any, sets: Any, results: Any) -> Any:
    """Scale one file of the shared data."""

    def run(space_group: str, path: str, *settings: str, kind: str = "scale") -> Any:
        job = tmp_path / "job.toml"
        job.write_text(f'job = "{kind}"\n[symmetry]\nspace_group = "{space_group}"\n')
        paths = f"input.paths={shared_data / 'stills' / path}"
        done = command("run", job, *sets(paths, *settings))
        assert (done.status, done.err) == (0, "")
        return results(tmp_path / "out")

    return run


def score(master: dict[str, Any], reference: Path) -> E2Score:
    """Agreement of the merge in frames.h5 with a reference, matched by hkl."""
    ours = Reflections(**{f.name: master[f.name] for f in fields(Reflections)})
    theirs = read_reference(reference).reflections
    i, j = match(ours, theirs)
    assert ours.intensity is not None
    assert ours.n_observations is not None
    assert theirs.intensity is not None
    return score_e2(ours.intensity[i], theirs.intensity[j], ours.s2[i], ours.n_observations[i])


def test_lysozyme(scaled: Any, shared_data: Path) -> None:
    """300 LCLS stills, strong spots only, against an independent merge of the same protein."""
    found = scaled("P 43 21 2", "LD91_lysozyme_300xtal.expt")
    told = found.statistics
    assert told["crystals"]["n_images"] == told["crystals"]["n_crystals"] == 300
    assert told["observations"]["read"] == 8790
    reference = shared_data / "reference" / "lysozyme_XFEL_merge118.mtz"
    agreement = score(found.master, reference)
    assert told["solver"]["converged"]
    assert agreement.n > 1000
    assert agreement.cc_e2 is not None
    assert agreement.cc_e2 >= 0.675
    assert agreement.cc_log is not None
    assert agreement.cc_log >= 0.735


def test_5ht2b(scaled: Any) -> None:
    """A CrystFEL stream with unindexed images and several lattices in one."""
    told = scaled("C 2 2 21", "5HT2B_70frames.stream").statistics
    assert told["crystals"]["n_images"] == 70
    assert told["crystals"]["n_crystals"] == 32
    assert told["observations"]["read"] == 7966
    assert told["observations"]["left_out"] == {"systematic absence": 6}
    assert told["space_group"] == "C 2 2 21"


def test_nitrite_reductase(scaled: Any) -> None:
    """Five integrated stills with partialities."""
    path = "ssx_CuNiR/integrated.expt"
    for partiality in ("ignore", "recorded"):
        settings = (f"scaling.partiality={partiality}", "output.overwrite=true")
        found = scaled("P 21 3", path, *settings)
        told = found.statistics
        assert told["crystals"]["n_crystals"] == 5
        assert told["observations"]["used"] == 4482
        assert told["observations"]["left_out"] == {"not integrated": 721}
        assert told["overall"]["n_unique"] == 4118
        assert "intensities are summed" in (found.folder / "log.txt").read_text()


def test_lysozyme_in_blocks(scaled: Any) -> None:
    """As all together, also where a block has little more than one observation a reflection."""
    path, folders = "LD91_lysozyme_300xtal.expt", "output.overwrite=true"
    together = scaled("P 43 21 2", path, "solver.tolerance=1e-12")
    for settings in ((), ("parallel.block_size=150", "parallel.overlap=75")):
        apart = scaled("P 43 21 2", path, folders, "parallel.strategy=blocks", *settings)
        warned = "observations a reflection, too few" in (apart.folder / "log.txt").read_text()
        assert warned == bool(settings)
        difference = apart.master["intensity"] - together.master["intensity"]
        assert np.sqrt(np.mean((difference / together.master["sigma"]) ** 2)) <= 0.01
        assert np.nanmax(np.abs(apart.frames["ln_G"] - together.frames["ln_G"])) <= 0.02
        assert apart.statistics["crystals"] == together.statistics["crystals"]


def test_lysozyme_postrefined(scaled: Any, shared_data: Path) -> None:
    """Some thirty strong spots a crystal: more than scaling gives, and no crystal lost."""
    settings = ("postrefine.partiality=lorentzian", "postrefine.size=0.003")
    found = scaled("P 43 21 2", "LD91_lysozyme_300xtal.expt", *settings, kind="postrefine")
    agreement = score(found.master, shared_data / "reference" / "lysozyme_XFEL_merge118.mtz")
    assert found.statistics["crystals"]["status"]["used"] == 299
    assert found.statistics["solver"]["converged"]
    assert agreement.n > 1000
    assert agreement.cc_e2 is not None
    assert agreement.cc_e2 >= 0.71
    assert agreement.cc_log is not None
    assert agreement.cc_log >= 0.765


@pytest.mark.parametrize("partiality", ["sphere", "lorentzian", "xsphere"])
def test_others_postrefined(partiality: str, scaled: Any) -> None:
    """Too few for orientations to be told: the job must end, with the priors holding them."""
    settings = (f"postrefine.partiality={partiality}", "output.overwrite=true")
    found = scaled("C 2 2 21", "5HT2B_70frames.stream", *settings, kind="postrefine")
    assert found.statistics["crystals"]["n_crystals"] == 32
    rotations = found.frames["theta_1_mrad"], found.frames["theta_2_mrad"]
    assert np.nanmax(np.abs(rotations)) < 20.0
    more = ("postrefine.size=0.001", *settings)
    found = scaled("P 21 3", "ssx_CuNiR/integrated.expt", *more, kind="postrefine")
    assert found.statistics["crystals"]["n_crystals"] == 5
    # where the data tell nothing, the prior does (σ(ln r₀) = 0.5): no more and no less
    assert (found.frames["sigma_size"] <= 0.51 * found.frames["size"]).all()
    assert (found.frames["sigma_size"] > 0.0).all()


def test_blocks_too_thin_to_refine_are_an_error(
    tmp_path: Path, shared_data: Path, command: Any, sets: Any
) -> None:
    """A merge without a single intensity is no result: 60 crystals show 0.6 of each reflection."""
    job = tmp_path / "job.toml"
    job.write_text('job = "scale"\n[symmetry]\nspace_group = "P 43 21 2"\n')
    paths = f"input.paths={shared_data / 'stills' / 'LD91_lysozyme_300xtal.expt'}"
    blocks = "parallel.strategy=blocks", "parallel.block_size=60", "parallel.overlap=30"
    with np.errstate(all="ignore"):
        done = command("run", job, *sets(paths, *blocks))
    assert done.status == 2
    assert "no reflection has a finite merged intensity" in " ".join(done.err.split())
    assert not (tmp_path / "out" / "DONE").exists()


def test_sigmas_without_a_joint_solution(scaled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncertainties that cannot be solved for jointly are told, and taken crystal by crystal: no
    result is lost, and none is far off."""
    joint = scaled("P 43 21 2", "LD91_lysozyme_300xtal.expt")

    def unsolved(*_: Any) -> Any:
        raise Unsolved("Not solved.")

    monkeypatch.setattr("sfxproc.refine.covariance.exact", unsolved)
    alone = scaled("P 43 21 2", "LD91_lysozyme_300xtal.expt", "output.overwrite=true")
    assert "WARNING: Not solved. What is given instead" in (alone.folder / "log.txt").read_text()
    ratio = alone.frames["sigma_ln_G"] / joint.frames["sigma_ln_G"]
    assert 0.7 < np.nanmedian(ratio) < 1.3
    assert np.isfinite(alone.master["sigma"]).all()


def test_more_ranks_than_chunks(
    shared_data: Path, tmp_path: Path, program: Any, sets: Any, scaled: Any
) -> None:
    """300 crystals are cut into four chunks: a fifth rank has none, and the result is the same."""
    expected = scaled("P 43 21 2", "LD91_lysozyme_300xtal.expt")
    paths = f"input.paths={shared_data / 'stills' / 'LD91_lysozyme_300xtal.expt'}"
    settings = sets(paths, "output.folder=five")
    done = program("run", tmp_path / "job.toml", *settings, cwd=tmp_path, ranks=5)
    assert (done.status, done.err) == (0, "")
    merged = [folder / "merged.mtz" for folder in (tmp_path / "five", expected.folder)]
    assert merged[0].read_bytes() == merged[1].read_bytes()
