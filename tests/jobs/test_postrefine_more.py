"""Postrefinement of cells and wavelengths, its schemes, and the choice of a partiality model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.errors import ConfigError, DataError
from sfxproc.partiality import PARTIALITIES
from sfxproc.simulate.stills import StillsSettings
from sfxproc.symmetry import space_group, symmetrised_cell
from tests.jobs.partial_jobs import PARTIAL, against_truth, run_job, written
from tests.jobs.test_ranks import require_same_bits

ERRORS = {
    "right": {},
    "cells": {"recorded_cell_error_percent": 0.1},
    "wavelengths": {"wavelength_error_percent": 0.05},
    "lorentzian": {"partiality": "lorentzian", "bandwidth": 0.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("more")
    for name, settings in ERRORS.items():
        written(made / f"{name}.h5", StillsSettings(**{**PARTIAL, **settings}))
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Callable[..., Any]:
    """A job on one of the files; each is run once."""
    done: dict[str, Any] = {}

    def run(data: str, *settings: str, partiality: str = "xsphere", ranks: int = 1) -> Any:
        name = "-".join([data, partiality, str(ranks), *settings]).replace(".", "-")
        if name not in done:
            done[name] = run_job(
                "postrefine",
                folder / name,
                f"input.paths={folder / data}.h5",
                f"postrefine.partiality={partiality}",
                *settings,
                ranks=ranks,
            )
        return done[name]

    return run


# ---- cells and wavelengths ---------------------------------------------------------------------


def test_cells(run: Callable[..., Any], folder: Path) -> None:
    data = folder / "cells.h5"
    as_recorded, refined = run("cells"), run("cells", "postrefine.cell=true")
    before, crystals_before = against_truth(as_recorded.folder, data)
    after, crystals = against_truth(refined.folder, data)
    assert crystals["cell_recorded_percent"] == pytest.approx(0.1, rel=0.2)
    assert crystals["cell_refined_percent"] < 0.4 * crystals["cell_recorded_percent"]
    recorded = crystals["cell_recorded_percent"]
    assert crystals_before["cell_refined_percent"] == pytest.approx(recorded)
    assert crystals["orientation_refined_mrad"] < crystals_before["orientation_refined_mrad"]
    assert after.r < before.r
    assert after.r_ratio < 1.05
    assert "cell_refined" not in as_recorded.frames


def test_refined_cells_obey_the_symmetry(run: Callable[..., Any]) -> None:
    frames = run("cells", "postrefine.cell=true").frames
    group = space_group("P 43 21 2")
    exact = np.array([symmetrised_cell(group, cell) for cell in frames["cell_refined"]])
    np.testing.assert_allclose(frames["cell_refined"], exact, rtol=1e-9)
    assert {"strain_1", "sigma_strain_1", "strain_2", "sigma_strain_2"} <= set(frames)
    assert "strain_3" not in frames
    assert (frames["sigma_strain_1"] > 0).all()
    assert frames["sigma_strain_1"].max() < 0.002  # what the prior alone says


def test_wavelengths(run: Callable[..., Any], folder: Path) -> None:
    data = folder / "wavelengths.h5"
    refined = run("wavelengths", "postrefine.wavelength=true")
    before, _ = against_truth(run("wavelengths").folder, data)
    after, _ = against_truth(refined.folder, data)
    assert after.r < before.r
    assert after.r_ratio < 1.05
    off = refined.frames["wavelength_refined_A"] / PARTIAL["wavelength_A"] - 1.0
    assert np.sqrt(np.mean(off**2)) < 0.4 * 0.0005
    pulls = (off - np.median(off)) / refined.frames["sigma_ln_wavenumber"]
    assert np.sqrt(np.mean(pulls**2)) < 1.5


def test_both_on_two_ranks(run: Callable[..., Any]) -> None:
    settings = ("cells", "postrefine.cell=true", "postrefine.wavelength=true")
    found = run(*settings, ranks=2)
    require_same_bits(found, run(*settings))
    np.testing.assert_array_equal(
        found.frames["cell_refined"], run(*settings).frames["cell_refined"]
    )


# ---- schemes -----------------------------------------------------------------------------------


def test_no_scheme_is_better_than_the_joint_one(run: Callable[..., Any], folder: Path) -> None:
    """Where cells are off, so that crystals differ from what the first merge had of them."""
    found = {}
    for scheme in ("joint", "cycles", "crystal-by-crystal"):
        done = run("cells", "postrefine.cell=true", f"postrefine.scheme={scheme}")
        found[scheme], _ = against_truth(done.folder, folder / "cells.h5")
    assert found["joint"].r <= 1.005 * found["cycles"].r
    assert found["joint"].r < found["crystal-by-crystal"].r


@pytest.mark.parametrize("scheme", ["cycles", "crystal-by-crystal"])
def test_other_schemes_on_two_ranks(scheme: str, run: Callable[..., Any]) -> None:
    settings = ("right", f"postrefine.scheme={scheme}", "postrefine.cycles=2")
    require_same_bits(run(*settings, ranks=2), run(*settings))


def test_crystal_by_crystal_against_a_reference(run: Callable[..., Any], folder: Path) -> None:
    """Crystals are refined against it; what is written is their merge, not the reference."""
    reference = run("right").folder / "merged.mtz"
    scheme = "postrefine.scheme=crystal-by-crystal"
    alone = run("right", scheme)
    guided = run("right", scheme, f"reference.path={reference}")
    _, theirs = against_truth(alone.folder, folder / "right.h5")
    _, ours = against_truth(guided.folder, folder / "right.h5")
    assert ours["orientation_refined_mrad"] < theirs["orientation_refined_mrad"]


# ---- the choice of a model ---------------------------------------------------------------------


@pytest.mark.parametrize(("data", "model"), [("right", "xsphere"), ("lorentzian", "lorentzian")])
def test_the_likeliest_model_is_taken(
    data: str, model: str, run: Callable[..., Any], folder: Path
) -> None:
    found = run(data, partiality="auto")
    told = found.statistics["partiality_models"]
    assert told[0]["name"] == model
    assert told[0]["excess"] == 0.0
    excess = [one["excess"] for one in told]
    assert excess == sorted(excess)
    assert excess[1] > 10.0
    able = {n for n, m in PARTIALITIES.items() if data == "right" or not m.uses_bandwidth}
    assert {one["name"] for one in told} == able
    log = (found.folder / "log.txt").read_text()
    assert f'partiality = "{model}"' in log
    require_same_bits(found, run(data, partiality=model))
    require_same_bits(run(data, partiality="auto", ranks=2), found)
    agreement, _ = against_truth(found.folder, folder / f"{data}.h5")
    assert agreement.r_ratio < 1.05


def test_models_that_cannot_be_told_apart_are_named(run: Callable[..., Any]) -> None:
    """sphere and eta_deff are one profile but for a factor."""
    told = {
        one["name"]: one["excess"]
        for one in run("right", partiality="auto").statistics["partiality_models"]
    }
    assert told["sphere"] == pytest.approx(told["eta_deff"], abs=1.0)


# ---- what goes wrong ---------------------------------------------------------------------------

MISTAKES = [
    ("postrefine.partiality=ball", "is not a partiality model"),
    ("scaling.partiality=recorded", 'does not go with job = "postrefine"'),
    ("postrefine.scheme=both", "scheme"),
    ("postrefine.cell_prior_percent=0", "cell_prior_percent"),
]


@pytest.mark.parametrize(("setting", "said"), MISTAKES)
def test_mistakes(setting: str, said: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        run_job("postrefine", tmp_path / "out", f"input.paths={folder}/right.h5", setting)
