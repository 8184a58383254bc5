"""Comparison and relative scale of two merged sets, and the score of real data in E²."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.data import Floats, Ints, Reflections, packed_hkl
from sfxproc.merging.compare import (
    compare_sets,
    falloff,
    fit_scale,
    match,
    pearson,
)
from sfxproc.merging.shells import s2_of, shell_edges
from tests.e2_scores import score_e2


def reflection_table(
    hkl: Any, intensity: Any, sigma: Any = None, friedel: Any = None, s2: Any = None
) -> Reflections:
    hkl = np.asarray(hkl, dtype=np.int16)
    n = len(hkl)
    return Reflections(
        hkl=hkl,
        friedel=np.zeros(n, np.int8) if friedel is None else np.asarray(friedel, np.int8),
        s2=np.sum(hkl.astype(float) ** 2, axis=1) / 4e4 if s2 is None else np.asarray(s2),
        centric=np.zeros(n, bool),
        epsilon=np.ones(n, np.int16),
        intensity=np.asarray(intensity, float),
        sigma=np.ones(n) if sigma is None else np.asarray(sigma, float),
    )


def noisy_pair(
    seed: int, n: int, sigma_a: float, sigma_b: float, k: float = 3.0, B: float = 12.0
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Acentric Wilson intensities with ⟨I⟩ = 1000 exp(−40 s²) to 1.8 Å, seen in two sets."""
    rng = np.random.default_rng(seed)
    s2 = rng.uniform(0.001, 0.0772**1.5, n) ** (2 / 3)
    true = 1000 * np.exp(-40 * s2) * rng.exponential(1, n)
    b = true + sigma_b * rng.normal(size=n)
    a = k * (np.exp(-2 * B * s2) * true + sigma_a * rng.normal(size=n))
    return a, np.full(n, k * sigma_a), b, np.full(n, sigma_b), s2


def test_exact_data_give_the_exact_scale() -> None:
    a, _, b, _, s2 = noisy_pair(1, 500, 0.0, 0.0, k=0.02, B=-7.5)
    fit = fit_scale(a, None, b, None, s2)
    assert fit is not None
    assert fit.k == pytest.approx(0.02, rel=1e-9)
    assert abs(fit.B_A2 + 7.5) < 1e-6
    assert np.allclose(falloff(fit, s2) * b, a, rtol=1e-8)


@pytest.mark.parametrize("seed", range(12))
def test_a_scale_is_never_worse_than_none(seed: int) -> None:
    """A set of unrelated values, some of them very large: without b, Σ|I_a|/ΣI_a is 1."""
    rng = np.random.default_rng(seed)
    hkl = np.array([[h, k, 3] for h in range(1, 21) for k in range(1, 21)])
    a, b = rng.exponential(1.0, (2, 400))
    b[rng.random(400) < 0.02] *= 3e3
    x = reflection_table(hkl, a)
    fit = fit_scale(a, None, b, None, x.s2)
    assert fit is not None
    assert np.abs(a - falloff(fit, x.s2) * b).sum() > 3.0 * a.sum()  # the fault
    found = compare_sets(x, reflection_table(hkl, b))
    assert found.scale is not None
    assert found.overall.r is not None
    assert found.overall.r <= 1.0
    # no other k brings them nearer
    ks = found.scale.k * np.array([0.5, 0.9, 1.1, 2.0])
    assert all(np.abs(a - k * b).sum() >= found.overall.r * a.sum() for k in ks)
    assert compare_sets(x, reflection_table(hkl, 3.0 * a)).overall.r == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("sigma_a", "sigma_b"), [(20.0, 20.0), (100.0, 20.0), (20.0, 200.0)])
def test_noise_in_either_set_leaves_the_scale_right_within_its_uncertainty(
    sigma_a: float, sigma_b: float
) -> None:
    deviations = []
    for seed in range(10):
        fit = fit_scale(*noisy_pair(seed, 5000, sigma_a, sigma_b))
        assert fit is not None
        deviations.append(
            ((np.log(fit.k) - np.log(3.0)) / fit.sigma_ln_k, (fit.B_A2 - 12) / fit.sigma_B_A2)
        )
    z = np.array(deviations)
    assert np.all(np.abs(z.mean(axis=0)) < 3 / np.sqrt(10))
    assert np.all(z.std(axis=0) < 1.8)
    assert np.all(z.std(axis=0) > 0.4)


def test_exchanging_the_sets_inverts_the_scale() -> None:
    a, sa, b, sb, s2 = noisy_pair(3, 2000, 60.0, 150.0)
    ab, ba = fit_scale(a, sa, b, sb, s2), fit_scale(b, sb, a, sa, s2)
    assert ab is not None
    assert ba is not None
    assert ab.k * ba.k == pytest.approx(1, rel=1e-8)
    assert abs(ab.B_A2 + ba.B_A2) < 1e-6


def test_wild_outliers_and_missing_values_do_not_matter() -> None:
    a, sa, b, sb, s2 = noisy_pair(4, 2000, 50.0, 50.0)
    clean = fit_scale(a[20:], sa[20:], b[20:], sb[20:], s2[20:])
    a[:10] *= 1e4
    a[10:15], sb[15:20] = np.nan, np.inf
    fit = fit_scale(a, sa, b, sb, s2)
    assert clean is not None
    assert fit is not None
    assert fit.n == 1990
    assert abs(np.log(fit.k / clean.k)) < clean.sigma_ln_k
    assert abs(fit.B_A2 - clean.B_A2) < clean.sigma_B_A2


def test_few_reflections_give_a_scale_without_B_and_none_gives_none() -> None:
    fit = fit_scale(np.array([2.0, 4.0, 6.0]), None, np.array([1.0, 2.0, 3.0]), None, np.ones(3))
    assert fit is not None
    assert (fit.k, fit.B_A2) == (pytest.approx(2.0), 0.0)
    same_s2 = fit_scale(2 * np.arange(1.0, 40), None, np.arange(1.0, 40), None, np.full(39, 0.02))
    assert same_s2 is not None
    assert (same_s2.k, same_s2.B_A2) == (pytest.approx(2.0), 0.0)
    assert fit_scale(np.ones(2), None, np.ones(2), None, np.ones(2)) is None
    assert fit_scale(-np.ones(5), None, np.ones(5), None, np.ones(5)) is None


def test_match_pairs_hkl_and_friedel_sign() -> None:
    a = reflection_table([(1, 2, 3), (1, 2, 3), (0, 0, 4)], [1, 2, 3], friedel=[1, -1, 0])
    b = reflection_table([(0, 0, 4), (9, 9, 9), (1, 2, 3)], [3, 9, 2], friedel=[0, 0, -1])
    ia, ib = match(a, b)
    assert sorted(zip(ia.tolist(), ib.tolist(), strict=True)) == [(1, 2), (2, 0)]


def test_comparison_by_hand() -> None:
    a = reflection_table([(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)], [2.0, 8.0, 5.0, np.nan])
    b = reflection_table([(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)], [1.0, 3.0, 3.5, 1.0])
    comparison = compare_sets(a, b, n_shells=1)
    assert comparison.overall.n_common == 3
    assert comparison.overall.cc == pytest.approx(np.corrcoef([2, 8, 5], [1, 3, 3.5])[0, 1])
    scale = comparison.scale
    assert scale is not None
    expected = (abs(2 - scale.k) + abs(8 - 3 * scale.k) + abs(5 - 3.5 * scale.k)) / 15
    assert comparison.overall.r == pytest.approx(expected)
    assert comparison.shells[0] == comparison.overall


def test_comparison_by_shell_adds_up_and_keeps_to_given_edges() -> None:
    a, sa, b, sb, s2 = noisy_pair(5, 3000, 30.0, 30.0)
    hkl = np.stack([np.arange(3000), np.zeros(3000), np.zeros(3000)], axis=1)
    set_a, set_b = (reflection_table(hkl, i, s, s2=s2) for i, s in ((a, sa), (b, sb)))
    comparison = compare_sets(set_a, set_b, n_shells=6)
    assert sum(shell.n_common for shell in comparison.shells) == comparison.overall.n_common == 3000
    assert [s.d_min_A for s in comparison.shells[:-1]] == [s.d_max_A for s in comparison.shells[1:]]
    assert comparison.overall.d_min_A == pytest.approx(0.5 / np.sqrt(s2.max()))
    inner = compare_sets(set_a, set_b, edges=shell_edges(s2_of(10.0, 3.0), 2))
    assert inner.overall.n_common == np.sum((s2 >= s2_of(10.0)) & (s2 <= s2_of(3.0)))


def test_comparison_without_common_reflections_is_all_none() -> None:
    a, b = reflection_table([(1, 0, 0)], [2.0]), reflection_table([(2, 0, 0)], [1.0])
    comparison = compare_sets(a, b, n_shells=2)
    assert comparison.scale is None
    assert (comparison.overall.n_common, comparison.overall.cc, comparison.overall.r) == (0,) + (
        None,
    ) * 2


def test_correlation_of_too_little_is_none() -> None:
    assert pearson(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None
    assert pearson(np.full(3, 0.1), np.array([1.0, 2.0, 3.0])) is None
    assert pearson(np.array([1e200, 2e200, 3e200]), np.array([1.0, 2.0, 3.0])) == pytest.approx(1)


def test_score_ignores_scale_and_falloff_by_shell() -> None:
    rng = np.random.default_rng(6)
    s2 = np.repeat(np.linspace(0.01, 0.05, 10), 30)
    true = rng.exponential(1, 300)
    n = np.full(300, 3)
    assert score_e2(5 * np.exp(-80 * s2) * true, true, s2, n).cc_e2 == pytest.approx(1)
    n[:100] = 2
    s2[200:] = 0.001
    score = score_e2(true, true, s2, n)
    assert (score.n, score.cc_log) == (100, pytest.approx(1))


def test_score_takes_logarithms_of_positive_intensities_only() -> None:
    a, b = np.array([1.0, 2.0, 4.0, -1.0, 3.0]), np.array([2.0, 4.0, 8.0, 5.0, -1.0])
    score = score_e2(a, b, np.full(5, 0.02), np.full(5, 3), n_shells=1)
    assert (score.n, score.cc_log) == (5, pytest.approx(1))
    assert score.cc_e2 == pytest.approx(np.corrcoef(a, b)[0, 1])


def lysozyme_asu(hkl: Ints) -> Ints:
    """4/mmm by hand: h ≥ k ≥ 0, l ≥ 0."""
    positive = np.abs(hkl.astype(np.int64))
    return np.concatenate([np.sort(positive[:, :2], axis=1)[:, ::-1], positive[:, 2:]], axis=1)


@pytest.mark.parametrize(
    ("by_median", "cc_e2", "cc_log"), [(False, 0.608, 0.678), (True, 0.685, 0.736)]
)
def test_lysozyme_stills_score_as_known(
    shared_data: Path, by_median: bool, cc_e2: float, cc_log: float
) -> None:
    """300 LCLS stills against a merged XFEL set: plain mean, and each crystal over its median."""
    from sfxproc.formats.base import Request
    from sfxproc.formats.dials import FORMAT
    from sfxproc.formats.reference import read_reference

    stills = FORMAT.read(shared_data / "stills" / "LD91_lysozyme_300xtal.refl", Request("LD91"))
    reference = read_reference(shared_data / "reference" / "lysozyme_XFEL_merge118.mtz")
    observed = stills.observations
    intensity = observed.intensity.astype(np.float64)
    if by_median:
        for crystal in np.unique(observed.crystal):
            rows = observed.crystal == crystal
            intensity[rows] /= np.median(intensity[rows])
    key, first, row, n = np.unique(
        packed_hkl(lysozyme_asu(observed.hkl)),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    assert len(key) == 2867
    mean = np.bincount(row, intensity) / n
    assert reference.reflections.intensity is not None
    known = packed_hkl(lysozyme_asu(reference.reflections.hkl))
    _, i, j = np.intersect1d(key, known, return_indices=True)
    hkl = lysozyme_asu(observed.hkl)[first[i]]
    s2 = np.sum((hkl / np.array([79.03, 79.03, 38.16])) ** 2, axis=1) / 4
    score = score_e2(mean[i], reference.reflections.intensity[j], s2, n[i])
    assert score.n == 1085
    assert score.cc_e2 == pytest.approx(cc_e2, abs=6e-4)
    assert score.cc_log == pytest.approx(cc_log, abs=6e-4)
