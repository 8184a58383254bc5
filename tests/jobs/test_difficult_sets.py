"""Data that are sound file by file but hard to scale: told in words, and the rest goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.data import Observations, Stills
from sfxproc.formats.hdf5 import write
from sfxproc.simulate.stills import Simulated, StillsSettings, simulate_stills

CLASSES = 2  # of reflections, told apart by the parity of h + k + l over the asymmetric unit


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return simulate_stills(StillsSettings(n_crystals=40, d_min_A=3.5, photons=400.0))


def rows(stills: Stills, kept: np.ndarray) -> Stills:
    return replace(stills, observations=stills.observations.take(kept))


def parity(observations: Observations) -> np.ndarray:
    return np.asarray(np.abs(observations.hkl.astype(int)).sum(axis=1) % CLASSES)


@pytest.fixture
def run(job: Path, command: Any, sets: Any) -> Any:
    """Write stills and scale them; returns how it ended and the folder."""

    def scale(stills: Stills, *settings: str) -> tuple[Any, Path]:
        write(job.parent / "hard.h5", stills)
        done = command("run", job, *sets("input.paths=hard.h5", "output.folder=hard", *settings))
        return done, job.parent / "hard"

    return scale


def test_sets_without_a_reflection_in_common_have_each_their_gauge(
    simulated: Simulated, run: Any, results: Any
) -> None:
    """Even crystals keep reflections of even h + k + l, which equivalents in 422 share, odd
    crystals those of odd: two sets that nothing joins."""
    stills = simulated.stills
    odd = stills.observations.crystal % CLASSES
    done, folder = run(rows(stills, parity(stills.observations) == odd))
    assert done.status == 0, done.err
    assert "2 sets without any reflection in common (of 20, 20 crystals)" in done.out
    frames = results(folder).frames
    for number in (0, 1):
        own = np.arange(40) % CLASSES == number
        assert np.mean(frames["ln_G"][own]) == pytest.approx(0.0, abs=1e-9)
        assert np.mean(frames["B_A2"][own]) == pytest.approx(0.0, abs=1e-9)
        truth = simulated.truth.ln_G[own]
        assert np.corrcoef(frames["ln_G"][own], truth)[0, 1] > 0.99


def test_a_crystal_with_one_observation_is_fixed_or_left_out(
    simulated: Simulated, run: Any, results: Any
) -> None:
    stills = simulated.stills
    first = stills.observations.crystal == 0
    kept = ~first | (np.cumsum(first) == 1)
    done, folder = run(rows(stills, kept))
    assert done.status == 0
    found = results(folder)
    assert found.statistics["crystals"]["reasons"] == {"too few observations": 1}
    assert np.isnan(found.frames["ln_G"][0])
    done, folder = run(rows(stills, kept), "selection.min_observations=1", "output.overwrite=true")
    assert done.status == 0
    found = results(folder)
    assert found.statistics["crystals"]["reasons"] == {"too few overlaps": 1}
    assert found.statistics["crystals"]["status"]["fixed"] == 1
    assert np.isfinite(found.frames["ln_G"][0])


def test_a_reflection_seen_once_has_its_own_intensity(
    simulated: Simulated, run: Any, results: Any
) -> None:
    done, folder = run(simulated.stills)
    assert done.status == 0
    found = results(folder)
    once = found.master["n_observations"] == 1
    assert once.any()
    assert np.isfinite(found.master["intensity"][once]).all()
    assert (found.master["sigma"][once] > 0).all()


def test_without_any_weight_there_is_nothing_to_scale(simulated: Simulated, run: Any) -> None:
    observations = simulated.stills.observations
    zero = replace(observations, variance=np.zeros_like(observations.variance))
    done, folder = run(replace(simulated.stills, observations=zero))
    assert done.status == 2
    assert "variance not positive" in done.err
    assert not (folder / "merged.mtz").exists()


def test_what_is_not_finite_is_left_out_and_changes_nothing_else(
    simulated: Simulated, run: Any, results: Any
) -> None:
    stills = simulated.stills
    bad = np.zeros(len(stills.observations), dtype=bool)
    bad[::50] = True
    intensity = np.where(bad, np.nan, stills.observations.intensity).astype(np.float32)
    spoilt = replace(stills, observations=replace(stills.observations, intensity=intensity))
    marked = results(run(spoilt)[1])
    assert marked.statistics["observations"]["left_out"] == {"not finite": int(bad.sum())}
    without = results(run(rows(stills, ~bad), "output.overwrite=true")[1])
    for name in ("intensity", "sigma"):
        np.testing.assert_array_equal(marked.master[name], without.master[name])


def test_a_crystal_without_observations_is_left_out(simulated: Simulated, run: Any) -> None:
    stills = simulated.stills
    done, _ = run(rows(stills, stills.observations.crystal > 0))
    assert done.status == 0
    assert "too few observations 1" in done.out
