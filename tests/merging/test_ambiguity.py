"""Settings of crystals, from ranks of intensities that scales and partialities have spoilt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from sfxproc.merging import ambiguity

N_REFLECTIONS = 600
GROUPS = {  # settings s and t after each other; what is relative to setting t
    "two": np.array([[0, 1], [1, 0]]),
    "four": np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]),
}


@dataclass(frozen=True, eq=False)
class Crystals:
    """Crystals with the settings that undo how each was indexed."""

    start: np.ndarray
    row: np.ndarray
    z: np.ndarray
    undo: np.ndarray
    truth: np.ndarray
    images: np.ndarray


def made(relative: np.ndarray, n: int, each: int = 60, noise: float = 0.0) -> Crystals:
    """Reflections in orbits of k, each operator exchanging those of an orbit."""
    rng = np.random.default_rng(8)
    k = len(relative)
    orbit, member = np.divmod(np.arange(N_REFLECTIONS), k)
    images = (orbit[:, None] * k + relative[member]).astype(np.int64)
    truth = rng.exponential(size=N_REFLECTIONS)
    s2 = rng.uniform(0.001, 0.06, N_REFLECTIONS // k)[orbit]
    undo = rng.choice(k, n, p=(1.0 + (np.arange(k) == k - 1)) / (k + 1))  # the last most often
    parts, intensities, all_s2 = [], [], []
    for s in undo:
        shown = rng.choice(N_REFLECTIONS, each, replace=False)  # as they truly are
        partiality, scale, B = rng.random(each), np.exp(rng.normal()), 10 * rng.normal()
        intensity = partiality * truth[shown] + noise * rng.normal(size=each)
        intensities.append(scale * np.exp(-2 * B * s2[shown]) * intensity)
        parts.append(images[images[shown, s]])  # each operator is its own inverse here
        all_s2.append(s2[shown])
    start = np.arange(n + 1) * each
    z = ambiguity.ranks(start, np.concatenate(all_s2), np.concatenate(intensities))
    return Crystals(start, np.concatenate(parts), z, undo, truth, images)


@pytest.mark.parametrize("group", GROUPS)
def test_settings_are_found_without_a_reference(group: str) -> None:
    """Up to one choice for all, which is such that most crystals stay."""
    relative = GROUPS[group]
    x = made(relative, 150)
    choice, merge = ambiguity.resolve(x.start, x.row, x.z, N_REFLECTIONS, relative)
    gauge = int(np.argmax(np.bincount(x.undo)))
    expected = relative[x.undo, gauge]
    assert np.count_nonzero(choice.setting != expected) <= 1
    assert choice.setting.dtype == np.int8
    assert np.bincount(choice.setting).argmax() == 0
    assert np.mean(choice.cc) > 0.4
    assert np.mean(choice.cc_next) < 0.2
    assert ambiguity.trusted(choice.margin, reference=False)
    # the merge is that of the crystals, as they are then indexed
    mean = merge.total / np.maximum(merge.number, 1)
    original = x.images[np.arange(N_REFLECTIONS), gauge]
    assert np.corrcoef(mean, np.argsort(np.argsort(x.truth[original])))[0, 1] > 0.8
    assert merge.number.sum() == len(x.z)


def test_settings_of_weak_crystals_and_how_sure_they_are() -> None:
    """Crystals with a small margin are those that may be wrong."""
    x = made(GROUPS["two"], 400, each=40, noise=0.3)
    choice, _ = ambiguity.resolve(x.start, x.row, x.z, N_REFLECTIONS, GROUPS["two"])
    gauge = int(np.argmax(np.bincount(x.undo)))
    wrong = choice.setting != GROUPS["two"][x.undo, gauge]
    sure = choice.margin >= ambiguity.SIGNIFICANT
    assert 50 < np.count_nonzero(sure) < 350
    assert not wrong[sure].any()
    assert 0 < wrong.mean() < 0.05


@pytest.mark.parametrize("group", GROUPS)
def test_noise_is_not_trusted(group: str) -> None:
    for n in (3, 10, 200):
        x = made(GROUPS[group], n)
        z = np.random.default_rng(n).permutation(x.z)
        choice, _ = ambiguity.resolve(x.start, x.row, z, N_REFLECTIONS, GROUPS[group])
        assert not ambiguity.trusted(choice.margin, reference=False)
        noise = ambiguity.merged_ranks(np.full(N_REFLECTIONS, 0.01), x.truth)
        assert not ambiguity.trusted(
            ambiguity.decide(x.start, x.row, z, noise).margin, reference=True
        )


@pytest.mark.parametrize("group", GROUPS)
def test_settings_are_those_of_a_reference(group: str) -> None:
    """Of few crystals, whatever most of them have; reflections that it lacks are passed over."""
    x = made(GROUPS[group], 12, each=200)
    merge = ambiguity.merged_ranks(np.full(N_REFLECTIONS, 0.01), x.truth)
    row = np.where(np.arange(N_REFLECTIONS)[x.row] < 100, -1, x.row)
    choice = ambiguity.decide(x.start, row, x.z, merge)
    np.testing.assert_array_equal(choice.setting, x.undo)
    assert ambiguity.trusted(choice.margin, reference=True)
    assert np.all(choice.cc > choice.cc_next)


def test_scale_and_falloff_do_not_count() -> None:
    rng = np.random.default_rng(1)
    start, s2, I = np.array([0, 500]), rng.uniform(0, 0.06, 500), rng.exponential(size=500)
    z = ambiguity.ranks(start, s2, I)
    np.testing.assert_array_equal(z, ambiguity.ranks(start, s2, 7 * I))
    assert np.corrcoef(z, ambiguity.ranks(start, s2, I * np.exp(-30 * s2)))[0, 1] > 0.98
    assert abs(z.mean()) < 1e-12
    assert np.abs(z).max() < 1


def test_crystals_without_anything_in_common_stay() -> None:
    start, row = np.array([0, 2, 4]), np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    z = np.array([-0.5, 0.5, -0.5, 0.5])
    choice, _ = ambiguity.resolve(start, row, z, 8, GROUPS["two"])
    np.testing.assert_array_equal(choice.margin, 0.0)
    assert not ambiguity.trusted(choice.margin, reference=False)
