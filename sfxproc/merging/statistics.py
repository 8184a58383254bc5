"""Quality of merged data, overall and by resolution shell.

With I₁, I₂ the intensities of a reflection merged from the two half sets of crystals, I, σ from
all of them, and I_i its n scaled observations:

    CC½     Pearson correlation of I₁ and I₂ (Karplus & Diederichs 2012, Science 336, 1030)
    CC*     √(2 CC½ / (1 + CC½)), the expected correlation of I with the true intensity (ibid.)
    R_split Σ |I₁ − I₂| / (√2 · ½ Σ (I₁ + I₂))  (White et al. 2012, J. Appl. Cryst. 45, 335)
    R_merge Σ_h Σ_i |I_i − ⟨I⟩| / Σ_h Σ_i I_i over n ≥ 2
    R_meas  Σ_h √(n/(n−1)) Σ_i |I_i − ⟨I⟩| / Σ_h Σ_i I_i over n ≥ 2
            (Diederichs & Karplus 1997, Nat. Struct. Biol. 4, 269)
    CC_anom correlation of Δ₁ = I₁(+) − I₁(−) and Δ₂ = I₂(+) − I₂(−)
    RCR     √(Σ (Δ₁ + Δ₂)² / Σ (Δ₁ − Δ₂)²), the r.m.s. correlation ratio (Evans 2006, Acta Cryst.
            D62, 72): 1 without an anomalous signal
    signal  ⟨|ΔI|⟩ / ⟨σ(ΔI)⟩ with ΔI = I(+) − I(−): √(2/π) ≈ 0.8 without an anomalous signal

The standard error of a correlation r of n pairs is (1 − r²)/√(n − 3) (Fisher 1921, Metron 1, 3);
it is of normal variates, and rather too small for the skew distribution of intensities. That of
CC* follows by its derivative. All but R_merge, R_meas and the last three are of the mean of Friedel
mates; R_merge and R_meas are about
the mean of each mate where mates are kept apart. Overall values are over all reflections at once,
not averages of the shells. What cannot be computed is None. Fractions are fractions (0.05, not
5 %), resolutions are in Å.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, Ints, Mask, Merged, Reflections, packed_hkl
from sfxproc.merging.compare import Agreement, cc_star, compare_sets, pearson
from sfxproc.merging.resolution import CC_HALF_LIMIT, fit_cc_half, resolution_estimate
from sfxproc.merging.shells import assign, d_of, s2_of, shell_edges
from sfxproc.merging.wilson import intensity_shells, second_moment, wilson_line


def statistics(
    merged: Merged,
    possible: Reflections,
    *,
    n_shells: int = 10,
    d_min_A: float | None = None,
    d_max_A: float | None = None,
    reference: Reflections | None = None,
    n_crystals: int = 0,
) -> dict[str, Any]:
    """Statistics of a merged set, ready for JSON: `overall`, `shells` and what is said once.

    possible : every reflection that could have been measured, with the Friedel setting of
    merged. d_min_A, d_max_A : limits, by default those of possible; nothing outside them counts.
    reference : merged intensities to compare with, friedel 0; only a scale and a B are fitted.

    `overall` and each of `shells` (equal volume, low resolution first) hold d_max_A, d_min_A,
    n_unique, n_possible, completeness, n_observations, multiplicity, mean_i_over_sigma, cc_half,
    cc_star, r_split, r_merge, r_meas, cc_reference, r_reference, sigma_cc_half and sigma_cc_star;
    with Friedel mates apart also n_bijvoet_pairs, cc_anom, sigma_cc_anom, rcr_anom and
    anomalous_signal. Beside them: n_crystals, anomalous, d_cc_half_A (see `resolution_estimate`),
    resolution.cc_half_fit (`fit_cc_half`; s0 and r in Å⁻²), wilson (`wilson_line` and the shells
    of `intensity_shells`), second_moment, and reference_k, reference_B_A2, the scale and B that
    bring the reference onto the data. Raises ValueError where possible is empty.
    """
    anomalous = bool(np.any(possible.friedel) or np.any(merged.reflections.friedel))
    possible_s2 = possible.s2[np.unique(packed_hkl(possible.hkl), return_index=True)[1]]
    limits = s2_of(d_max_A or d_of(possible_s2.min()), d_min_A or d_of(possible_s2.max()))
    edges = shell_edges(limits, n_shells)

    mean = merge_friedel(merged)
    plus, minus = bijvoet_rows(merged.reflections)
    comparison = (
        compare_sets(mean.reflections, reference, edges=edges) if reference is not None else None
    )
    agreements: list[Agreement | None] = [None] * (n_shells + 1)
    if comparison is not None:
        agreements = [*comparison.shells, comparison.overall]
    shells = {
        "possible": assign(possible_s2, edges),
        "apart": assign(merged.reflections.s2, edges),
        "mean": assign(mean.reflections.s2, edges),
        "pairs": assign(merged.reflections.s2[plus], edges),
    }

    def row(k: int | None) -> dict[str, Any]:
        inside = {name: s >= 0 if k is None else s == k for name, s in shells.items()}
        low, high = (0, n_shells) if k is None else (k, k + 1)
        n_possible = int(inside["possible"].sum())
        values: dict[str, Any] = {
            "d_max_A": d_of(float(edges[low])),
            "d_min_A": d_of(float(edges[high])),
            "n_possible": n_possible,
        }
        values |= _counts(mean, inside["mean"])
        values["completeness"] = values["n_unique"] / n_possible if n_possible else None
        values |= _half_sets(mean, inside["mean"]) | _spread(merged, inside["apart"])
        values |= _against(agreements[-1 if k is None else k])
        if anomalous:
            values |= _anomalous(merged, plus[inside["pairs"]], minus[inside["pairs"]])
        return values

    rows = [row(k) for k in range(n_shells)]
    scale = comparison.scale if comparison else None
    return {
        "n_crystals": n_crystals,
        "anomalous": anomalous,
        "d_cc_half_A": resolution_estimate(rows),
        "resolution": {"cc_half_fit": _cc_half_fit(rows)},
        **_wilson(mean.reflections.take(shells["mean"] >= 0)),
        "reference_k": scale.k if scale else None,
        "reference_B_A2": scale.B_A2 if scale else None,
        "overall": row(None),
        "shells": rows,
    }


def merge_friedel(merged: Merged) -> Merged:
    """Friedel mates combined: one row an hkl, friedel 0, hkl ascending.

    Intensities, of the whole and of each half set, are means weighted with 1/σ²; counts and sums
    are added, so that abs_deviation stays about the mean of each mate. Rows with a σ that is not
    positive have no weight. A set without mates is returned as it is.
    """
    reflections = merged.reflections
    if not np.any(reflections.friedel):
        return merged
    _, first, group = np.unique(packed_hkl(reflections.hkl), return_index=True, return_inverse=True)
    size = len(first)

    def combined(intensity: Floats, sigma: Floats) -> tuple[Floats, Floats]:
        good = np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0)
        weight = np.divide(1.0, sigma**2, out=np.zeros(len(sigma)), where=good)
        total = np.bincount(group, weight, size)
        value = np.bincount(group, weight * np.where(good, intensity, 0.0), size)
        missing = np.full(size, np.nan)
        return (
            np.divide(value, total, out=missing.copy(), where=total > 0),
            np.divide(1.0, np.sqrt(total), out=missing.copy(), where=total > 0),
        )

    def added(values: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(group, values, size).astype(values.dtype)

    intensity, sigma, n = _measured_columns(reflections)
    whole = combined(intensity, sigma)
    halves = [combined(merged.half_intensity[h], merged.half_sigma[h]) for h in (0, 1)]
    return Merged(
        replace(
            reflections.take(first),
            friedel=np.zeros(size, dtype=reflections.friedel.dtype),
            intensity=whole[0],
            sigma=whole[1],
            n_observations=added(n),
        ),
        half_intensity=np.stack([h[0] for h in halves]),
        half_sigma=np.stack([h[1] for h in halves]),
        half_n=np.stack([added(merged.half_n[h]) for h in (0, 1)]),
        sum_intensity=added(merged.sum_intensity),
        abs_deviation=added(merged.abs_deviation),
    )


def bijvoet_rows(reflections: Reflections) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows (plus, minus) of the I(+) and the I(−) of every hkl that has both."""
    plus, minus = (np.flatnonzero(reflections.friedel == sign) for sign in (1, -1))
    _, i, j = np.intersect1d(
        packed_hkl(reflections.hkl[plus]), packed_hkl(reflections.hkl[minus]), return_indices=True
    )
    return plus[i], minus[j]


def summary_sentence(statistics: dict[str, Any]) -> str:
    """One sentence on how good the data are, and how far they reach."""
    overall, last = statistics["overall"], statistics["shells"][-1]
    crystals = statistics["n_crystals"]
    origin = f" from {crystals:,} crystal{'' if crystals == 1 else 's'}" if crystals else ""
    head = f"{overall['n_unique']:,} reflections to {overall['d_min_A']:.2f} Å{origin}"
    if overall["n_unique"] == 0:
        return f"{head}: nothing was merged."
    parts = [
        f"completeness {_percent(overall['completeness'])}",
        f"multiplicity {_number(overall['multiplicity'], 1)}",
        f"CC½ {_number(overall['cc_half'], 3)} ({_number(last['cc_half'], 2)} in the last shell)",
        f"R_split {_percent(overall['r_split'])}",
    ]
    B, sigma_B = (statistics["wilson"][key] for key in ("B_A2", "sigma_B_A2"))
    if B is not None:
        parts.append(f"Wilson B {B:.1f} ± {sigma_B:.1f} Å²")
    fitted = statistics["resolution"]["cc_half_fit"]
    limit, error = statistics["d_cc_half_A"], ""
    if limit is not None and fitted["d_0p3_A"] is not None:
        limit, error = fitted["d_0p3_A"], f" ± {fitted['sigma_A']:.2f}"
    if overall["cc_half"] is None:
        end = "; too few reflections are in both half sets to say how good they are."
    elif limit is None:
        end = f"; CC½ is below {CC_HALF_LIMIT} in every shell, so these data carry little signal."
    elif limit > last["d_min_A"]:
        end = f"; CC½ falls below {CC_HALF_LIMIT} at about {limit:.2f}{error} Å."
    else:
        end = "."
    return f"{head}: {', '.join(parts)}{end}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _measured_columns(reflections: Reflections) -> tuple[Floats, Floats, Ints]:
    if (
        reflections.intensity is None
        or reflections.sigma is None
        or reflections.n_observations is None
    ):
        raise ValueError("merged reflections need intensity, sigma and n_observations")
    return reflections.intensity, reflections.sigma, reflections.n_observations


def _ratio(numerator: float, denominator: float) -> float | None:
    return float(numerator) / float(denominator) if denominator > 0 else None


def _counts(mean: Merged, inside: Mask) -> dict[str, Any]:
    intensity, sigma, n = _measured_columns(mean.reflections)
    measured = inside & (n > 0) & np.isfinite(intensity)
    usable = measured & (sigma > 0)
    n_unique, n_observations = int(measured.sum()), int(n[measured].sum())
    return {
        "n_unique": n_unique,
        "n_observations": n_observations,
        "multiplicity": _ratio(n_observations, n_unique),
        "mean_i_over_sigma": _ratio(
            float(np.sum(intensity[usable] / sigma[usable])), int(usable.sum())
        ),
    }


def _half_sets(mean: Merged, inside: Mask) -> dict[str, Any]:
    both = inside & (mean.half_n > 0).all(axis=0) & np.isfinite(mean.half_intensity).all(axis=0)
    one, two = mean.half_intensity[:, both]
    cc_half = pearson(one, two)
    sigma = correlation_error(cc_half, len(one))
    star = cc_star(cc_half)
    # dCC*/dCC½ = 1 / (CC* (1 + CC½)²)
    slope = 1.0 / (star * (1.0 + cc_half) ** 2) if star and cc_half else None
    return {
        "cc_half": cc_half,
        "sigma_cc_half": sigma,
        "cc_star": star,
        "sigma_cc_star": sigma * slope if sigma is not None and slope else None,
        "r_split": _ratio(float(np.abs(one - two).sum()), np.sqrt(0.5) * float((one + two).sum())),
    }


def correlation_error(cc: float | None, n: int) -> float | None:
    """Standard error (1 − r²)/√(n − 3) of a correlation of n pairs; None with fewer than 4."""
    return None if cc is None or n < 4 else (1.0 - cc**2) / float(np.sqrt(n - 3))


def _cc_half_fit(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    curve = fit_cc_half(rows)
    found = {c: curve.d_at(c) if curve else None for c in (CC_HALF_LIMIT, 0.143)}
    (d, sigma), (further, sigma_further) = (f or (None, None) for f in found.values())
    return {
        "d_0p3_A": d,
        "sigma_A": sigma,
        "d_0p143_A": further,
        "sigma_0p143_A": sigma_further,
        "s0": curve.s0 if curve else None,
        "r": curve.r if curve else None,
    }


def _wilson(mean: Reflections) -> dict[str, Any]:
    """`wilson` and `second_moment` of reflections whose Friedel mates are combined."""
    shells = intensity_shells(mean)
    line = wilson_line(shells)
    return {
        "wilson": {
            "B_A2": line.B_A2 if line else None,
            "sigma_B_A2": line.sigma_B_A2 if line else None,
            "ln_k": line.ln_k if line else None,
            "shells": [
                {
                    "s2": float(s2),
                    "ln_mean_intensity": float(np.log(m)) if m > 0 else None,
                    "n": int(n),
                }
                for s2, m, n in zip(shells.s2, shells.mean, shells.n, strict=True)
            ],
        },
        "second_moment": second_moment(mean, shells),
    }


def _spread(merged: Merged, inside: Mask) -> dict[str, Any]:
    _, _, n = _measured_columns(merged.reflections)
    repeated = inside & (n > 1)
    total = float(merged.sum_intensity[repeated].sum())
    count, deviation = n[repeated], merged.abs_deviation[repeated]
    return {
        "r_merge": _ratio(float(deviation.sum()), total),
        "r_meas": _ratio(float((np.sqrt(count / (count - 1)) * deviation).sum()), total),
    }


def _against(agreement: Agreement | None) -> dict[str, Any]:
    if agreement is None:
        return {"cc_reference": None, "r_reference": None}
    return {"cc_reference": agreement.cc, "r_reference": agreement.r}


def _anomalous(merged: Merged, plus: Ints, minus: Ints) -> dict[str, Any]:
    intensity, sigma, n = _measured_columns(merged.reflections)
    difference = merged.half_intensity[:, plus] - merged.half_intensity[:, minus]
    in_both = ((merged.half_n[:, plus] > 0) & (merged.half_n[:, minus] > 0)).all(axis=0)
    in_both &= np.isfinite(difference).all(axis=0)
    one, two = difference[:, in_both]
    cc_anom = pearson(one, two)
    across = float(np.sum((one - two) ** 2))
    whole = np.abs(intensity[plus] - intensity[minus])
    error = np.hypot(sigma[plus], sigma[minus])
    known = np.isfinite(whole) & np.isfinite(error)
    return {
        "n_bijvoet_pairs": int(((n[plus] > 0) & (n[minus] > 0)).sum()),
        "cc_anom": cc_anom,
        "sigma_cc_anom": correlation_error(cc_anom, len(one)),
        "rcr_anom": None
        if cc_anom is None or not across > 0
        else float(np.sqrt(np.sum((one + two) ** 2) / across)),
        "anomalous_signal": _ratio(float(whole[known].sum()), float(error[known].sum())),
    }
