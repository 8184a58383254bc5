"""The postrefinement job, from files to merge."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills
from tests.jobs.conftest import SCRIPT
from tests.jobs.test_ranks import require_same_bits

PARTIAL = StillsSettings(
    n_crystals=160,
    d_min_A=2.6,
    profile_radius=0.0024,
    partiality="xsphere",
    bandwidth=1e-3,
    orientation_error_mrad=0.65,
    photons=300.0,
    background_counts=5.0,
    outlier_fraction=0.01,
    seed=11,
)
MODEL = "postrefine.partiality=xsphere"
JOB = 'job = "postrefine"\n[symmetry]\nspace_group = "P 43 21 2"\n'
TIMEOUT_s = 60


@pytest.fixture(scope="module")
def partial() -> Simulated:
    return simulate_stills(PARTIAL)


@pytest.fixture(scope="module")
def folder(partial: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("partial")
    write_h5(made / "partial.h5", partial.stills)
    (made / "post.toml").write_text(JOB + '[input]\npaths = ["partial.h5"]\n')
    (made / "scale.toml").write_text(JOB.replace("postrefine", "scale"))
    return made


@pytest.fixture(scope="module")
def run(folder: Path, program: Any, sets: Any, results: Any) -> Callable[..., Any]:
    def run(name: str, *settings: str, ranks: int = 0, resume: bool = False) -> Any:
        more = ["--resume"] if resume else []
        chosen = sets(MODEL, f"output.folder={name}", *settings)
        done = program("run", "post.toml", *chosen, *more, cwd=folder, ranks=ranks)
        assert (done.status, done.err) == (0, "")
        return results(folder / name)

    return run


@pytest.fixture(scope="module")
def found(run: Callable[..., Any]) -> Any:
    return run("found", "parallel.threads=1")


def test_orientations_sizes_and_intensities(found: Any, partial: Simulated) -> None:
    """With one observation in a hundred spoilt, and the default settings."""
    truth = partial.truth
    turned = found.frames["A_refined"] @ np.linalg.inv(truth.A)
    about = np.stack([turned[:, 2, 1] - turned[:, 1, 2], turned[:, 0, 2] - turned[:, 2, 0]]) / 2
    assert 1e3 * np.sqrt(np.mean(about**2)) < 0.05  # the beam is along z
    assert np.mean(found.frames["size"]) == pytest.approx(0.0024, rel=0.02)
    pulls = (found.frames["size"] / 0.0024 - 1.0) / (
        found.frames["sigma_size"] / found.frames["size"]
    )
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1.0, abs=0.3)
    assert found.statistics["crystals"]["status"] == {"used": 160}
    assert found.statistics["solver"]["converged"]
    assert found.statistics["error_model"]["scatter"] < 0.05


def test_it_is_better_than_scaling_alone(
    found: Any, folder: Path, program: Any, sets: Any, results: Any
) -> None:
    settings = sets("input.paths=partial.h5", "output.folder=scaled")
    assert program("run", "scale.toml", *settings, cwd=folder).status == 0
    alone = results(folder / "scaled").statistics["overall"]
    ours = found.statistics["overall"]
    assert ours["r_split"] < 0.5 * alone["r_split"]
    assert ours["cc_half"] > alone["cc_half"]


@pytest.mark.parametrize(("ranks", "threads"), [(0, 2), (2, 1), (3, 1)])
def test_same_bits(ranks: int, threads: int, run: Callable[..., Any], found: Any) -> None:
    again = run(f"bits{ranks}{threads}", f"parallel.threads={threads}", ranks=ranks)
    require_same_bits(again, found)


def test_killed_and_gone_on_with(
    folder: Path, run: Callable[..., Any], found: Any, surroundings: Any, sets: Any
) -> None:
    """In the first joint pass, where orientations have begun to move."""
    settings = sets(MODEL, "output.folder=killed", "output.checkpoint_interval_s=0")
    kept = folder / "killed" / "checkpoint" / "pass-1.state"
    command = [str(SCRIPT), "run", "post.toml", *settings]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=surroundings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            end = time.monotonic() + TIMEOUT_s
            while not kept.exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.002)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert kept.exists(), "it was over before it could be killed"
    require_same_bits(run("killed", ranks=2, resume=True), found)
    assert "resumed after iteration" in (folder / "killed" / "log.txt").read_text()


def test_scale_and_b_alone_are_refined_on_request(run: Callable[..., Any]) -> None:
    fixed = run("fixed", "postrefine.orientation=false", "postrefine.refine_size=false")
    assert not fixed.frames["theta_1_mrad"].any()
    np.testing.assert_allclose(fixed.frames["size"], 0.0024, rtol=1e-12)
    with h5py.File(fixed.folder / "frames.h5") as handle:
        recorded = handle["crystals/A"][...]
    np.testing.assert_allclose(fixed.frames["A_refined"], recorded, rtol=1e-12)


# ---- what goes wrong ---------------------------------------------------------------------------


@pytest.fixture
def told(
    folder: Path, partial: Simulated, tmp_path: Path, program: Any, sets: Any
) -> Callable[..., str]:
    """The message of a job that must be refused; `changed` replaces columns of the crystals."""

    def told(*settings: str, **changed: Any) -> str:
        crystals = replace(partial.stills.crystals, **changed)
        write_h5(tmp_path / "changed.h5", replace(partial.stills, crystals=crystals))
        (tmp_path / "post.toml").write_text(JOB + '[input]\npaths = ["changed.h5"]\n')
        done = program("run", "post.toml", *sets(MODEL, *settings), cwd=tmp_path)
        assert done.status == 2
        assert "Traceback" not in done.err
        return str(done.err)

    return told


def test_no_such_model(told: Callable[..., str]) -> None:
    said = told("postrefine.partiality=ball")
    assert 'postrefine.partiality = "ball" is not a partiality model' in said
    assert "sphere" in said


def test_recorded_partialities_have_no_place(told: Callable[..., str]) -> None:
    assert 'does not go with job = "postrefine"' in told("scaling.partiality=recorded")


def test_no_orientation(told: Callable[..., str]) -> None:
    nothing = np.full((160, 3, 3), np.nan)
    assert "None of the 160 crystals has an orientation" in told(A=nothing)


def test_no_radius(told: Callable[..., str], partial: Simulated) -> None:
    nothing = np.full(160, np.nan)
    said = told(profile_radius=nothing)
    assert "The files record no profile radius" in said
    assert "Set postrefine.size" in said


def test_all_partialities_below_the_cut(told: Callable[..., str]) -> None:
    said = told("postrefine.size=1e-6", "postrefine.bandwidth=0")
    assert "observations are expected to show at least 2 %" in said
    assert "Set a larger postrefine.size" in said


def test_a_reference_of_another_space_group(
    told: Callable[..., str], found: Any, folder: Path
) -> None:
    said = told(f"reference.path={found.folder / 'merged.mtz'}", "symmetry.space_group=P 1")
    assert "has space group P 43 21 2" in said


def test_no_wavelength(told: Callable[..., str]) -> None:
    assert "no wavelength recorded" in told(wavelength_A=np.full(160, np.nan))


def test_crystals_without_orientation_are_left_out(
    folder: Path, partial: Simulated, tmp_path: Path, program: Any, sets: Any, results: Any
) -> None:
    """And those without a radius start with the median of the others."""
    A, radius = np.array(partial.stills.crystals.A), np.full(160, 0.0024)
    A[:5], radius[5:9] = np.nan, np.nan
    crystals = replace(partial.stills.crystals, A=A, profile_radius=radius)
    write_h5(tmp_path / "some.h5", replace(partial.stills, crystals=crystals))
    (tmp_path / "post.toml").write_text(JOB + '[input]\npaths = ["some.h5"]\n')
    done = program("run", "post.toml", *sets(MODEL), cwd=tmp_path)
    assert done.status == 0, done.err
    some = results(tmp_path / "out")
    assert some.statistics["crystals"]["reasons"] == {"no orientation": 5}
    assert np.isnan(some.frames["theta_1_mrad"][:5]).all()
    assert np.mean(some.frames["size"][5:9]) == pytest.approx(0.0024, rel=0.05)
