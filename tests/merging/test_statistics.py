"""Statistics of merged data: by hand, against theory, and against another program's merge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.data import Floats, Merged, Reflections
from sfxproc.merging.shells import s2_of
from sfxproc.merging.statistics import (
    bijvoet_rows,
    cc_star,
    correlation_error,
    merge_friedel,
    statistics,
    summary_sentence,
)


def reflection_table(hkl: Any, s2: Any, friedel: Any = None) -> Reflections:
    n = len(hkl)
    return Reflections(
        hkl=np.asarray(hkl, np.int16),
        friedel=np.zeros(n, np.int8) if friedel is None else np.asarray(friedel, np.int8),
        s2=np.asarray(s2, float),
        centric=np.zeros(n, bool),
        epsilon=np.ones(n, np.int16),
    )


def merged_set(
    reflections: Reflections,
    halves: Any,
    *,
    half_sigma: float = 1.0,
    half_n: int = 2,
    total: Any = 0.0,
    deviation: Any = 0.0,
) -> Merged:
    """A set whose half sets (2, n) have equal σ and n; NaN in a half means nothing measured."""
    halves = np.asarray(halves, float)
    size = len(reflections)
    counts = np.where(np.isfinite(halves), half_n, 0).astype(np.int32)
    measured = np.isfinite(halves)
    weight = measured.sum(axis=0)
    intensity = np.full(size, np.nan)
    np.divide(np.where(measured, halves, 0).sum(axis=0), weight, out=intensity, where=weight > 0)
    sigma = np.full(size, np.nan)
    np.divide(half_sigma, np.sqrt(weight), out=sigma, where=weight > 0)
    return Merged(
        replace(
            reflections,
            intensity=intensity,
            sigma=sigma,
            n_observations=counts.sum(axis=0).astype(np.int32),
        ),
        half_intensity=halves,
        half_sigma=np.where(measured, half_sigma, np.nan),
        half_n=counts,
        sum_intensity=np.broadcast_to(np.asarray(total, float), size).copy(),
        abs_deviation=np.broadcast_to(np.asarray(deviation, float), size).copy(),
    )


def with_intensity(reflections: Reflections, value: Any) -> Reflections:
    n = len(reflections)
    values = np.broadcast_to(np.asarray(value, float), n).copy()
    return replace(reflections, intensity=values, sigma=np.full(n, 1e-3))


def line_of(n: int, friedel: Any = None) -> Reflections:
    """n reflections (1..n, 0, 0), low resolution first, evenly spread in s² over 10 to 2 Å."""
    hkl = np.stack([np.arange(1, n + 1), np.zeros(n), np.zeros(n)], axis=1)
    return reflection_table(hkl, np.linspace(*s2_of(10.0, 2.0), n), friedel)


def test_every_number_by_hand() -> None:
    possible = line_of(5)
    one, two = [10.0, 20.0, 30.0, 8.0, np.nan], [12.0, 18.0, 33.0, np.nan, np.nan]
    merged = merged_set(
        possible, [one, two], half_sigma=2.0, total=[44, 76, 126, 16, 0], deviation=[4, 6, 8, 1, 0]
    )
    result = statistics(merged, possible, n_shells=1, n_crystals=7)
    row = result["overall"]
    assert result["shells"] == [row]
    assert (row["n_unique"], row["n_possible"], row["completeness"]) == (4, 5, 0.8)
    assert (row["n_observations"], row["multiplicity"]) == (14, 3.5)
    assert (row["d_max_A"], row["d_min_A"]) == (pytest.approx(10), pytest.approx(2))
    expected = ((11 + 19 + 31.5) * np.sqrt(2) / 2 + 8 / 2) / 4
    assert row["mean_i_over_sigma"] == pytest.approx(expected)
    cc = np.corrcoef(one[:3], two[:3])[0, 1]
    assert row["cc_half"] == pytest.approx(cc)
    assert row["cc_star"] == pytest.approx(np.sqrt(2 * cc / (1 + cc)))
    assert row["r_split"] == pytest.approx((2 + 2 + 3) / np.sqrt(2) / (123 / 2))
    assert row["r_merge"] == pytest.approx(19 / 262)
    assert row["r_meas"] == pytest.approx((18 * np.sqrt(4 / 3) + np.sqrt(2)) / 262)
    assert row["cc_reference"] is None
    assert "cc_anom" not in row
    assert row["sigma_cc_half"] is None  # of three pairs
    assert result["second_moment"] is None
    assert result["resolution"]["cc_half_fit"]["d_0p3_A"] is None
    mean = [np.log(np.mean([11, 19, 31.5, 8]))]
    assert [s["ln_mean_intensity"] for s in result["wilson"]["shells"]] == pytest.approx(mean)


def test_r_meas_needs_two_observations() -> None:
    possible = line_of(3)
    merged = merged_set(possible, np.ones((2, 3)), half_n=1, total=10.0, deviation=1.0)
    merged.half_n[1, 0] = 0
    assert merged.reflections.n_observations is not None
    merged.reflections.n_observations[0] = 1
    row = statistics(merged, possible, n_shells=1)["overall"]
    assert row["r_merge"] == pytest.approx(2 / 20)
    assert row["r_meas"] == pytest.approx(2 * np.sqrt(2) / 20)


def test_shells_add_up_and_limits_hold() -> None:
    possible = line_of(400)
    halves = np.random.default_rng(1).exponential(1, (2, 400))
    result = statistics(
        merged_set(possible, halves), possible, n_shells=4, d_min_A=2.5, d_max_A=8.0
    )
    inside = np.sum((possible.d_A >= 2.5) & (possible.d_A <= 8.0))
    assert result["overall"]["n_unique"] == inside
    for key in ("n_unique", "n_possible", "n_observations"):
        assert sum(row[key] for row in result["shells"]) == result["overall"][key]
    assert (result["shells"][0]["d_max_A"], result["shells"][-1]["d_min_A"]) == (8.0, 2.5)


def test_nothing_measured_is_null_in_json_and_no_warning() -> None:
    possible = line_of(30)
    merged = merged_set(possible, np.full((2, 30), np.nan))
    result = statistics(merged, possible, n_shells=3, reference=with_intensity(possible, 1.0))
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text) == result
    row = result["overall"]
    assert (row["n_unique"], row["completeness"]) == (0, 0)
    computable = {"d_max_A", "d_min_A", "n_unique", "n_possible", "completeness", "n_observations"}
    assert all(value is None for key, value in row.items() if key not in computable)
    assert summary_sentence(result) == "0 reflections to 2.00 Å: nothing was merged."
    assert result["wilson"] == {"B_A2": None, "sigma_B_A2": None, "ln_k": None, "shells": []}
    assert set(result["resolution"]["cc_half_fit"].values()) == {None}


def test_half_sets_follow_theory() -> None:
    """CC½ = V/(V + σ²), CC* the correlation with the truth, R_split = σ√(2/π)/⟨I⟩."""
    n, sigma = 40_000, 0.8
    rng = np.random.default_rng(2)
    true = rng.exponential(1, n)
    possible = line_of(n // 2)
    possible = reflection_table(
        np.concatenate([possible.hkl, possible.hkl + np.array([0, 1, 0])]), np.tile(possible.s2, 2)
    )
    merged = merged_set(possible, true + sigma * rng.normal(size=(2, n)), half_sigma=sigma)
    result = statistics(merged, possible, n_shells=1, reference=with_intensity(possible, true))
    row = result["overall"]
    assert row["cc_half"] == pytest.approx(1 / (1 + sigma**2), abs=0.015)
    assert row["cc_star"] == pytest.approx(1 / np.sqrt(1 + sigma**2 / 2), abs=0.01)
    assert row["cc_star"] == pytest.approx(row["cc_reference"], abs=0.01)
    assert row["r_split"] == pytest.approx(sigma * np.sqrt(2 / np.pi), rel=0.02)
    assert row["mean_i_over_sigma"] == pytest.approx(np.sqrt(2) / sigma, rel=0.02)
    assert result["reference_k"] == pytest.approx(1, abs=0.03)
    assert abs(result["reference_B_A2"]) < 1
    expected = np.abs(true - (merged.half_intensity.mean(axis=0))).sum() / true.sum()
    assert row["r_reference"] == pytest.approx(expected, rel=0.03)


def test_reference_on_another_scale_agrees_in_every_shell() -> None:
    possible = line_of(300)
    true = np.random.default_rng(3).exponential(1, 300)
    reference = with_intensity(possible, 0.01 * true * np.exp(2 * 9.0 * possible.s2))
    merged = merged_set(possible, np.stack([true, true]))
    result = statistics(merged, possible, n_shells=3, reference=reference)
    assert result["reference_k"] == pytest.approx(100, rel=1e-6)
    assert result["reference_B_A2"] == pytest.approx(9.0, abs=1e-4)
    assert all(row["r_reference"] < 1e-6 for row in [*result["shells"], result["overall"]])


def test_no_cc_star_of_anticorrelated_halves() -> None:
    assert cc_star(-0.1) is None
    assert cc_star(None) is None
    assert cc_star(0.0) == 0
    row = statistics(merged_set(line_of(3), [[1, 2, 3], [3, 2, 1]]), line_of(3), n_shells=1)
    assert (row["overall"]["cc_half"], row["overall"]["cc_star"]) == (pytest.approx(-1), None)


def friedel_set() -> Merged:
    """(1,0,0)+, (1,0,0)−, centric (2,0,0), and (3,0,0)− whose mate was not measured."""
    hkl = [(1, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (3, 0, 0)]
    table = reflection_table(hkl, [0.01, 0.01, 0.02, 0.03, 0.03], [1, -1, 0, 1, -1])
    halves = [[10, 20, 5, np.nan, 7], [12, 24, 6, np.nan, np.nan]]
    merged = merged_set(table, halves, total=[1, 2, 3, 0, 4], deviation=[0.1, 0.2, 0.3, 0, 0.4])
    merged.half_sigma[0, 1] = 2.0
    return merged


def test_friedel_mates_are_combined_by_their_weights() -> None:
    combined = merge_friedel(friedel_set())
    assert combined.reflections.hkl[:, 0].tolist() == [1, 2, 3]
    assert not combined.reflections.friedel.any()
    assert combined.half_intensity[0].tolist() == pytest.approx([(10 + 20 / 4) / 1.25, 5, 7])
    assert combined.half_sigma[0].tolist() == pytest.approx([1 / np.sqrt(1.25), 1, 1])
    assert combined.half_intensity[1].tolist() == pytest.approx([18, 6, np.nan], nan_ok=True)
    assert combined.half_n.tolist() == [[4, 2, 2], [4, 2, 0]]
    assert combined.reflections.intensity is not None
    assert combined.reflections.intensity.tolist() == pytest.approx([16.5, 5.5, 7])
    assert combined.reflections.n_observations is not None
    assert combined.reflections.n_observations.tolist() == [8, 4, 2]
    assert combined.sum_intensity.tolist() == pytest.approx([3, 3, 4])
    assert combined.abs_deviation.tolist() == pytest.approx([0.3, 0.3, 0.4])
    assert merge_friedel(combined) is combined


def test_bijvoet_pairs_are_counted_where_both_mates_are_measured() -> None:
    merged = friedel_set()
    plus, minus = bijvoet_rows(merged.reflections)
    assert (plus.tolist(), minus.tolist()) == ([0, 3], [1, 4])
    row = statistics(merged, merged.reflections, n_shells=1)["overall"]
    assert (row["n_bijvoet_pairs"], row["cc_anom"]) == (1, None)
    assert (row["n_unique"], row["n_possible"]) == (3, 3)
    assert row["r_merge"] == pytest.approx(1.0 / 10)


def test_anomalous_correlation_follows_theory() -> None:
    """Differences of variance V seen with noise 2σ² a half correlate by V/(V + 2σ²)."""
    n, sigma, signal = 20_000, 0.5, 0.6
    rng = np.random.default_rng(4)
    base = line_of(n)
    table = reflection_table(
        np.repeat(base.hkl, 2, axis=0), np.repeat(base.s2, 2), np.tile([1, -1], n)
    )
    true = np.repeat(rng.exponential(10, n), 2)
    true += np.repeat(signal * rng.normal(size=n), 2) * np.tile([0.5, -0.5], n)
    merged = merged_set(table, true + sigma * rng.normal(size=(2, 2 * n)), half_sigma=sigma)
    row = statistics(merged, table, n_shells=1)["overall"]
    assert row["n_bijvoet_pairs"] == n
    expected = signal**2 / (signal**2 + 2 * sigma**2)
    assert row["cc_anom"] == pytest.approx(expected, abs=0.025)
    assert abs(row["cc_anom"] - expected) < 4 * row["sigma_cc_anom"]
    # (Δ₁ + Δ₂) and (Δ₁ − Δ₂) have variances 4V + 4σ² and 4σ²
    assert row["rcr_anom"] == pytest.approx(np.sqrt(1 + signal**2 / sigma**2), rel=0.03)
    spread = np.hypot(signal, sigma)  # of the differences, whose σ is that of one half
    assert row["anomalous_signal"] == pytest.approx(np.sqrt(2 / np.pi) * spread / sigma, rel=0.02)


def test_errors_of_correlations_are_their_spread() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, 2000, 60))
    y = 0.6 * x + 0.8 * y
    cc = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
    assert correlation_error(0.6, 60) == pytest.approx(float(np.std(cc)), rel=0.06)
    assert correlation_error(0.6, 3) is None
    assert correlation_error(None, 100) is None


def test_error_of_cc_star_follows_that_of_cc_half() -> None:
    possible = line_of(60)
    halves = np.random.default_rng(8).exponential(1, (2, 60)) + np.linspace(0, 3, 60)
    row = statistics(merged_set(possible, halves), possible, n_shells=1)["overall"]
    step = 1e-6
    slope = (cc_star(row["cc_half"] + step) - row["cc_star"]) / step  # type: ignore[operator]
    assert row["sigma_cc_star"] == pytest.approx(slope * row["sigma_cc_half"], rel=1e-4)


@pytest.mark.parametrize(
    ("cc_last", "limit", "end"),
    [
        (0.45, 1.9, "(0.45 in the last shell), R_split 5.2 %."),
        (0.1, 2.13, "R_split 5.2 %; CC½ falls below 0.3 at about 2.13 Å."),
        (0.1, None, "CC½ is below 0.3 in every shell, so these data carry little signal."),
        (None, 1.95, "(unknown in the last shell), R_split 5.2 %; CC½ falls below 0.3 at about "),
    ],
)
def test_summary_says_how_good_the_data_are(
    cc_last: float | None, limit: float | None, end: str
) -> None:
    overall = {
        "n_unique": 1234,
        "d_min_A": 1.9,
        "completeness": 0.991,
        "multiplicity": 12.34,
        "cc_half": 0.987,
        "r_split": 0.052,
    }
    text = summary_sentence(
        {
            "n_crystals": 498,
            "overall": overall,
            "shells": [{"cc_half": cc_last, "d_min_A": 1.9}],
            "d_cc_half_A": limit,
            "wilson": {"B_A2": None, "sigma_B_A2": None},
            "resolution": {"cc_half_fit": {"d_0p3_A": None, "sigma_A": None}},
        }
    )
    assert text.startswith(
        "1,234 reflections to 1.90 Å from 498 crystals: completeness 99.1 %, multiplicity 12.3, "
        "CC½ 0.987 ("
    )
    assert end in text


def test_summary_tells_wilson_b_and_the_fitted_resolution() -> None:
    overall = {
        "n_unique": 1234,
        "d_min_A": 1.9,
        "completeness": 0.991,
        "multiplicity": 12.34,
        "cc_half": 0.987,
        "r_split": 0.052,
    }
    text = summary_sentence(
        {
            "n_crystals": 1,
            "overall": overall,
            "shells": [{"cc_half": 0.1, "d_min_A": 1.9}],
            "d_cc_half_A": 2.13,
            "wilson": {"B_A2": 21.34, "sigma_B_A2": 0.52},
            "resolution": {"cc_half_fit": {"d_0p3_A": 2.11, "sigma_A": 0.034}},
        }
    )
    assert text.endswith("Wilson B 21.3 ± 0.5 Å²; CC½ falls below 0.3 at about 2.11 ± 0.03 Å.")


def test_half_sets_of_another_program_give_its_figures(shared_data: Path) -> None:
    """CuNiR merged elsewhere: overall CC½ 0.945 over 342,219 observations."""
    gemmi = pytest.importorskip("gemmi")
    mtz = gemmi.read_mtz_file(str(shared_data / "reference" / "CuNiR_xia2ssx_merged.mtz"))

    def column(*labels: str) -> Floats:
        return np.stack([np.array(mtz.column_with_label(name)) for name in labels]).astype(float)

    hkl = column("H", "K", "L").T
    table = reflection_table(hkl, np.sum(hkl**2, axis=1) / (4 * mtz.cell.a**2))
    counts = np.nan_to_num(column("N", "NHALF1", "NHALF2")).astype(np.int32)
    merged = Merged(
        replace(
            table,
            intensity=column("IMEAN")[0],
            sigma=column("SIGIMEAN")[0],
            n_observations=counts[0],
        ),
        half_intensity=column("IHALF1", "IHALF2"),
        half_sigma=column("SIGIHALF1", "SIGIHALF2"),
        half_n=counts[1:],
        sum_intensity=np.zeros(len(hkl)),
        abs_deviation=np.zeros(len(hkl)),
    )
    result = statistics(merged, table, n_shells=10)
    assert result["overall"]["cc_half"] == pytest.approx(0.945, abs=6e-4)
    assert result["overall"]["n_observations"] == 342_219
    assert result["shells"][0]["cc_half"] > 0.9
    json.dumps(result, allow_nan=False)
