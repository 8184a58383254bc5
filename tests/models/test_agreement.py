"""Which crystals are left out for what they show: wrong ones, and no weak ones."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from sfxproc.data import Observations, Reason
from sfxproc.lsq import Engine, LevenbergMarquardt, Loss, Point
from sfxproc.models.agreement import Agreement, Criteria, agreement_of, judged
from sfxproc.models.scale_start import scale_problem
from sfxproc.parallel.chunks import ChunkSums, plan_chunks
from sfxproc.parallel.comm import SerialComm
from sfxproc.symmetry import space_group, unique_keys
from tests.models.partial_stills import SETTINGS, Partials, partials, set_up
from tests.models.stills import StillData, scaling_of, still_data
from tests.problems import on_ranks

Ints = np.ndarray[Any, np.dtype[np.int64]]
ROBUST = Loss("cauchy", 3.0)
N = 200
WRONG = np.arange(3, N, 20)  # 5 %


def halves(n: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    return (np.arange(n) % 2).astype(np.int8)


def scaled(data: Partials, outliers: bool = False) -> Agreement:
    """As if intensities were full."""
    o = replace(data.observations, partiality=None)
    chunks = plan_chunks(
        np.bincount(o.crystal, minlength=data.n), len(data.reflections), SerialComm()
    )
    engine = Engine(ChunkSums(SerialComm(), chunks))
    settings = replace(SETTINGS, outliers=outliers)
    problem = scale_problem(engine, o, chunks.local_bounds, data.reflections, settings)
    result = LevenbergMarquardt(loss=ROBUST).solve(engine, problem.model, problem.start)
    return agreement_of(result.model, result.point, ROBUST, halves(data.n))


def permuted(o: Observations, crystals: Ints) -> Observations:
    """The intensities of some crystals given to reflections at random."""
    rng = np.random.default_rng(11)
    rows = np.arange(len(o))
    for m in crystals:
        own = np.flatnonzero(o.crystal == m)
        rows[own] = rng.permutation(own)
    return replace(o, intensity=o.intensity[rows], variance=o.variance[rows])


def other_setting(data: Partials, crystals: Ints) -> Partials:
    """Some crystals of P 4₃ indexed the other way, (k, h, −l)."""
    o = data.observations
    group = space_group(data.made.truth.settings.space_group)
    known = unique_keys(group, data.reflections.hkl, False)
    hkl = np.array(o.hkl)
    wrong = np.isin(o.crystal, crystals)
    hkl[wrong] = hkl[wrong][:, [1, 0, 2]] * np.array([1, 1, -1], dtype=hkl.dtype)
    keys = unique_keys(group, hkl, False)
    reflection = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    o = replace(o, hkl=hkl, reflection=reflection.astype(np.int32)).take(known[reflection] == keys)
    assert o.reflection is not None
    return replace(data, observations=o.take(np.lexsort([o.reflection, o.crystal])))


def require_named(agreement: Agreement, wrong: Ints) -> None:
    """The wrong crystals, and no others, are called unrelated."""
    reasons = judged(agreement, Criteria())
    np.testing.assert_array_equal(np.flatnonzero(reasons), wrong)
    assert (reasons[wrong] == Reason.UNRELATED).all()


FULL: dict[str, Any] = {"n_crystals": N, "orientation_error_mrad": 0.0}


def test_weak_crystals_stay() -> None:
    """Intensities that spread by a factor of 1000, most crystals with a handful of photons a
    reflection."""
    found = scaled(partials("unity", photons=20.0, sigma_ln_G=1.0, background_counts=20.0, **FULL))
    assert np.nanmin(found.cc) < 0.5  # weak they are
    assert not judged(found, Criteria()).any()
    z = (1.0 - found.signal) / found.signal_sigma
    assert np.abs(np.mean(z)) < 0.5
    assert z.max() < 2.0
    np.testing.assert_allclose(np.median(found.cc / found.cc_expected), 1.0, atol=0.05)
    np.testing.assert_allclose(np.median(found.chi2), 1.0, atol=0.2)


def test_permuted_crystals_are_found_among_outliers() -> None:
    """What a robust loss takes for a heap of outliers."""
    data = partials("unity", photons=50.0, outlier_fraction=0.01, **FULL)
    data = replace(data, observations=permuted(data.observations, WRONG))
    found = scaled(data, outliers=True)
    require_named(found, WRONG)
    assert np.abs(found.signal[WRONG]).max() < 0.3
    assert np.median(found.n_outliers[WRONG]) > 5.0 * np.median(found.n_outliers)
    assert np.median((found.delta_cc_half / found.delta_sigma)[WRONG]) < -2.0
    assert np.median(found.delta_cc_half / found.delta_sigma) > 2.0


def test_the_other_setting_is_found() -> None:
    data = partials("unity", photons=50.0, space_group="P 43", **FULL)
    require_named(scaled(other_setting(data, WRONG)), WRONG)


@pytest.mark.parametrize("known", [False, True], ids=["as full", "partialities"])
@pytest.mark.parametrize("name", ["gaussian", "xsphere"])
def test_permuted_partial_stills_are_found(name: str, known: bool) -> None:
    data = partials(name, photons=100.0, outlier_fraction=0.01)
    wrong = np.arange(5, data.n, 20)
    data = replace(data, observations=permuted(data.observations, wrong))
    if not known:
        require_named(scaled(data), wrong)
        return
    _, model, start = set_up(data)
    require_named(agreement_of(model.at(start), start, ROBUST, halves(data.n)), wrong)


def test_noise_does_not_lower_the_signal() -> None:
    """One crystal in ten scatters three times as much as the error model says."""
    data = still_data(300, 500, 150, photons=100.0, scatter=0.0)
    o, noisy = data.observations, data.observations.crystal % 10 == 0
    noise = np.random.default_rng(2).normal(size=len(o)) * np.sqrt(8.0 * o.variance) * noisy
    o = replace(o, intensity=(o.intensity + noise).astype(np.float32))
    found = at_truth(replace(data, observations=o))
    assert not judged(found, Criteria()).any()
    assert np.median(found.signal[::10]) == pytest.approx(1.0, abs=0.1)
    assert np.median(found.chi2[::10]) > 2.0
    assert np.median(found.cc[::10]) < np.median(found.cc) - 0.02


def at_truth(data: StillData, comm: Any = None) -> Agreement:
    """Without solving."""
    engine, problem = scaling_of(data, comm)
    model = problem.model
    first = engine.sums.place(model.layout.n_local)
    own = slice(first, first + model.layout.n_local)
    point = Point(np.stack([data.ln_G[own], data.B_A2[own]], axis=1), data.I)
    return agreement_of(model, point, ROBUST, halves(len(data.ln_G))[own])


@pytest.mark.parametrize("each", [8, 40])
def test_none_of_many_good_crystals_is_left_out(each: int) -> None:
    found = at_truth(still_data(8000, 300, each, photons=30.0))
    assert not judged(found, Criteria()).any()
    assert np.nanmax((1.0 - found.signal) / found.signal_sigma) < 4.0


@pytest.mark.parametrize("size", [2, 9])
def test_the_same_bits_on_any_number_of_ranks(size: int) -> None:
    data = still_data(40, 80, 30, scatter=0.1)
    serial = at_truth(data)
    parts = on_ranks(size, lambda comm: at_truth(data, comm))
    for field in fields(Agreement):
        values = [getattr(part, field.name) for part in parts]
        expected = getattr(serial, field.name)
        if field.name == "n_crystals":
            assert set(values) == {expected} == {40}
        else:
            np.testing.assert_array_equal(np.concatenate(values), expected)


def test_crystals_alone_say_nothing() -> None:
    """No reflection twice, and a crystal without observations."""
    data = still_data(3, 1000, 20)
    o = data.observations
    apart = np.arange(len(o), dtype=np.int32)
    data = replace(data, observations=replace(o, reflection=apart).take(o.crystal != 1))
    found = at_truth(data)
    assert not found.n.any()
    assert np.isnan(found.cc).all()
    assert not judged(found, Criteria(min_cc=0.5)).any()


def agreement(**columns: list[float]) -> Agreement:
    n = len(next(iter(columns.values())))
    good = {
        "cc": 0.9,
        "cc_expected": 0.9,
        "signal": 1.0,
        "signal_sigma": 0.1,
        "delta_cc_half": 1e-4,
        "delta_sigma": 1e-5,
    }
    arrays = {f.name: np.full(n, good.get(f.name, 1.0)) for f in fields(Agreement)}
    arrays |= {name: np.array(values) for name, values in columns.items()}
    arrays.pop("n_crystals")
    return Agreement(**arrays, n_crystals=n)


def test_reasons() -> None:
    nan = float("nan")
    a = agreement(
        signal=[1.0, 0.0, 0.0, 0.6, 0.6, 0.95, nan, 0.3],
        signal_sigma=[0.1, 0.1, 0.4, 0.05, 0.05, 0.1, nan, 0.1],
        delta_cc_half=[1e-4, 1e-4, -1e-4, -1e-4, -1e-5, -1e-4, nan, -1e-4],
        cc=[0.9, 0.0, 0.1, 0.5, 0.5, 0.9, nan, 0.3],
    )
    U, H, L = Reason.UNRELATED, Reason.HARMFUL, Reason.CC_TOO_LOW
    usual = Criteria(fewest_crystals=8)
    assert judged(a, usual).tolist() == [0, U, 0, H, 0, 0, 0, U]
    assert judged(a, replace(usual, unrelated_signal=0.2)).tolist() == [0, U, 0, H, 0, 0, 0, H]
    assert judged(a, replace(usual, min_cc=0.2)).tolist() == [0, U, L, H, 0, 0, 0, U]
    assert not judged(a, Criteria()).any()  # too few to tell


def test_the_threshold_rises_with_the_number_of_crystals() -> None:
    assert Criteria().threshold(1) == pytest.approx(2.326, abs=1e-3)
    assert Criteria().threshold(100_000) == pytest.approx(5.199, abs=1e-3)
    assert Criteria(false_alarms=5.0).threshold(2) == 0.0
