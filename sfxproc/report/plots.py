"""Plots of the report, as data for plotly.js: arrays and statistics in, `Plot` out.

Histograms are binned and scatters thinned here, so that a page stays small however many crystals
a job has. An axis is cut where values lie further than REACH interquartile ranges beyond the
quartiles, so that a few outliers do not squash the rest; the note below the plot counts them.
Resolution axes are linear in 1/d², Å⁻², with ticks labelled by d. Intensities that span decades
and may be negative are drawn against asinh(I/2c), which is linear near 0 and logarithmic beyond c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats, Merged
from sfxproc.report.terminal import resolution_range

F8 = NDArray[np.float64]

REACH = 4.0  # interquartile ranges; beyond, values count as outliers of a plot
MOST_BINS = 60
MOST_POINTS = 5000  # of a scatter plot
N_RESOLUTION_TICKS = 7
SAMPLE_SEED = 1
DIGITS = 7  # significant ones in the page

MOST_R = 100.0  # %, where the axis of R ends unless all are below
SHELL_PLOTS: tuple[tuple[str, str, str, float, dict[str, str]], ...] = (
    (
        "cc",
        "Correlation of half sets",
        "CC",
        1.0,
        {"cc_half": "CC½", "cc_star": "CC*", "cc_anom": "CC anom", "cc_reference": "CC reference"},
    ),
    (
        "r-split",
        "Disagreement of half sets",
        "R / %",
        100.0,
        {"r_split": "R_split", "r_reference": "R to the reference"},
    ),
    ("completeness", "Completeness", "completeness / %", 100.0, {"completeness": ""}),
    ("multiplicity", "Multiplicity", "observations of a reflection", 1.0, {"multiplicity": ""}),
    ("anomalous", "Anomalous signal", "⟨|ΔI|⟩/⟨σ(ΔI)⟩", 1.0, {"anomalous_signal": ""}),
    ("i-over-sigma", "Signal to noise", "⟨I/σ(I)⟩", 1.0, {"mean_i_over_sigma": ""}),
)
"""Plots by shell: id, title, label of the axis, factor, and what is shown under which name."""


@dataclass(frozen=True)
class Plot:
    """One plot: `id` is unique in a page; traces and layout are those of plotly.js; the note is
    one line of text below."""

    id: str
    title: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def plain(values: Sequence[float | None] | NDArray[Any]) -> list[float | None]:
    """Numbers for JSON, of DIGITS significant digits; None for what is not finite."""
    return [
        float(f"{v:.{DIGITS}g}") if v is not None and math.isfinite(v) else None for v in values
    ]


def shell_plots(
    shells: Sequence[Mapping[str, Any]], fit: Mapping[str, Any] | None = None
) -> list[Plot]:
    """Statistics against resolution, one plot for each of SHELL_PLOTS that has any values, with
    standard errors where they are told. fit : `s0` and `r`, Å⁻², of the curve of CC½ against s²,
    ½(1 − tanh((s² − s0)/r))."""
    edges = [
        tuple(1.0 / d**2 if (d := shell.get(key)) else 0.0 for key in ("d_max_A", "d_min_A"))
        for shell in shells
    ]
    if not edges:
        return []
    middle = plain([(low + high) / 2 for low, high in edges])
    ranges = [resolution_range(shell.get("d_max_A"), shell.get("d_min_A")) for shell in shells]
    plots = []
    for name, title, label, factor, curves in SHELL_PLOTS:
        traces, shown = [], list[float | None]()
        for key, curve in curves.items():
            values = [None if (v := shell.get(key)) is None else factor * v for shell in shells]
            if all(v is None for v in plain(values)):
                continue
            shown += plain(values)
            hover = "%{text} Å<br>%{y:.4~g}<extra>" + curve + "</extra>"
            errors = plain([shell.get(f"sigma_{key}") for shell in shells])
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": curve,
                    "x": middle,
                    "error_y": {
                        "array": errors,
                        "visible": any(errors),
                        "thickness": 1,
                        "width": 2,
                    },
                    "y": plain(values),
                    "text": ranges,
                    "hovertemplate": hover,
                }
            )
        if name == "cc" and traces and fit and fit.get("s0") is not None:
            x = np.linspace(edges[0][0], edges[-1][1], 60)
            y = 0.5 * (1.0 - np.tanh((x / 4.0 - fit["s0"]) / fit["r"]))
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": "CC½ fitted",
                    "x": plain(x),
                    "y": plain(y),
                    "line": {"dash": "dot", "width": 1},
                    "hoverinfo": "skip",
                }
            )
        if traces:
            axis: dict[str, Any] = {"title": {"text": label}, "rangemode": "tozero"}
            layout = {
                "xaxis": resolution_axis(edges[0][0], edges[-1][1]),
                "yaxis": axis,
                "showlegend": len(traces) > 1,
            }
            note = ""
            if label == "R / %" and any(v is not None and v > MOST_R for v in shown):
                axis["range"], note = [0, MOST_R], "double-click to see values beyond 100 %"
            plots.append(Plot(name, title, traces, layout, note))
    return plots


def resolution_axis(low: float, high: float) -> dict[str, Any]:
    """An axis linear in 1/d² from low to high, Å⁻², with ticks labelled by d in Å."""
    steps = np.linspace(low, high, N_RESOLUTION_TICKS)
    labels = [f"{1.0 / math.sqrt(x):.2f}" for x in steps if x > 0]
    margin = 0.02 * (high - low)
    return {
        "title": {"text": "resolution d / Å (linear in 1/d²)"},
        "range": [low - margin, high + margin],
        "tickvals": plain([1.0 / float(label) ** 2 for label in labels if float(label) > 0]),
        "ticktext": labels,
    }


def wilson_plot(shells: Sequence[Mapping[str, Any]], line: Mapping[str, Any]) -> list[Plot]:
    """ln⟨I/ε⟩ of shells against s², and the line ln k − 2Bs² if it has `ln_k` and `B_A2`."""
    shells = [row for row in shells if row.get("ln_mean_intensity") is not None]
    if not shells:
        return []
    s2 = np.array([row["s2"] for row in shells], dtype=np.float64)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "shells",
            "x": plain(s2),
            "y": plain([row["ln_mean_intensity"] for row in shells]),
            "text": [f"{row.get('n', 0):,} reflections" for row in shells],
            "hovertemplate": "s² = %{x:.4~g} Å⁻²<br>%{y:.4~g}<br>%{text}<extra></extra>",
        }
    ]
    B, ln_k = line.get("B_A2"), line.get("ln_k")
    if B is not None and ln_k is not None:
        ends = np.array([s2.min(), s2.max()])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"B = {B:.1f} Å²",
                "x": plain(ends),
                "y": plain(ln_k - 2.0 * B * ends),
            }
        )
    layout = {
        "xaxis": {"title": {"text": "s² = 1/(4d²) / Å⁻²"}},
        "yaxis": {"title": {"text": "ln⟨I/ε⟩"}},
    }
    return [Plot("wilson", "Wilson plot", traces, layout)]


def histogram(
    name: str, title: str, label: str, values: Mapping[str, Floats], of_what: str
) -> list[Plot]:
    """Numbers of values in bins of equal width, the same for all of `values` (by name of the
    trace); nothing if no value is finite. of_what : what is counted, for the axis."""
    finite = {key: np.asarray(v, dtype=np.float64)[np.isfinite(v)] for key, v in values.items()}
    finite = {key: v for key, v in finite.items() if len(v)}
    if not finite:
        return []
    together = np.concatenate(list(finite.values()))
    low, high = inner_range(together)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value, but for rounding
        low, high = low - 0.01 * (abs(low) or 1.0), high + 0.01 * (abs(high) or 1.0)
    n_bins = min(max(math.isqrt(max(map(len, finite.values()))), 7) | 1, MOST_BINS)
    traces = []
    for key, v in finite.items():
        counts, edges = np.histogram(v, bins=n_bins, range=(low, high))
        traces.append(
            {
                "type": "bar",
                "name": key,
                "x": plain((edges[1:] + edges[:-1]) / 2),
                "y": counts.tolist(),
                "width": float(f"{edges[1] - edges[0]:.6g}"),
                "opacity": 1.0 if len(finite) == 1 else 0.6,
                "hovertemplate": "%{x:.5~g}: %{y:,}<extra>" + key + "</extra>",
            }
        )
    notes = [f"{key} median {np.median(v):.4g}".strip() for key, v in finite.items()]
    notes.insert(0, f"{max(map(len, finite.values())):,} {of_what}")
    layout = {
        "xaxis": {"title": {"text": label}, "range": [low, high]},
        "yaxis": {"title": {"text": of_what}},
        "barmode": "overlay",
        "showlegend": len(finite) > 1,
    }
    return [Plot(name, title, traces, layout, "; ".join([*notes, *beyond(together, low, high)]))]


def inner_range(values: Floats) -> tuple[float, float]:
    """Range of finite values without outliers: REACH interquartile ranges beyond the quartiles, or
    all there is where that is less or half of them are the same."""
    q25, q75 = np.percentile(values, [25, 75])
    reach = REACH * (q75 - q25) or math.inf
    return float(max(values.min(), q25 - reach)), float(min(values.max(), q75 + reach))


def beyond(values: Floats, low: float, high: float) -> list[str]:
    """How many values an axis does not show, for the note of a plot."""
    n = int(np.count_nonzero((values < low) | (values > high)))
    if n == 0:
        return []
    return [f"{n:,} beyond the axis (all: {values.min():.4g} to {values.max():.4g})"]


def sampled(n: int) -> NDArray[np.intp]:
    """Rows of n to show in a scatter plot, ascending: all, or MOST_POINTS drawn at random but
    always the same."""
    if n <= MOST_POINTS:
        return np.arange(n)
    drawn = np.random.default_rng(SAMPLE_SEED).choice(n, MOST_POINTS, replace=False)
    return np.sort(drawn)


def half_set_plot(merged: Merged) -> list[Plot]:
    """Intensities of the two half sets against each other, at most MOST_POINTS reflections."""
    both = np.flatnonzero(np.isfinite(merged.half_intensity).all(axis=0))
    if not len(both):
        return []
    sigma = merged.half_sigma[np.isfinite(merged.half_sigma) & (merged.half_sigma > 0)]
    unit = 2.0 * float(np.median(sigma)) if len(sigma) else 1.0
    shown = both[sampled(len(both))]
    one, two = np.arcsinh(merged.half_intensity[:, shown] / unit)
    ends = [min(one.min(), two.min()), max(one.max(), two.max())]
    points = zip(merged.reflections.hkl[shown], merged.half_intensity[:, shown].T, strict=True)
    names = [f"{h} {k} {l}<br>{i:.4g}, {j:.4g}" for (h, k, l), (i, j) in points]
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": plain(ends),
            "y": plain(ends),
            "hoverinfo": "skip",
            "line": {"width": 1},
        },
        {
            "type": "scatter",
            "mode": "markers",
            "marker": {"size": 4, "opacity": 0.5},
            "x": plain(one),
            "y": plain(two),
            "text": names,
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]
    layout: dict[str, Any] = {"showlegend": False}
    ticks = _asinh_ticks(np.sinh(ends) * unit, unit)
    for axis, half in (("xaxis", 1), ("yaxis", 2)):
        label = f"I, half set {half}"
        layout[axis] = {"title": {"text": label}, **ticks}
    note = how_many(len(shown), len(both), "reflections")
    return [Plot("half-sets", "One half set against the other", traces, layout, note)]


def _asinh_ticks(ends: F8, unit: float) -> dict[str, Any]:
    """Ticks at 0 and powers of ten, for an axis in asinh(I/unit) that spans ends (in I)."""
    first = math.ceil(math.log10(unit))
    last = math.floor(math.log10(max(np.abs(ends).max(), 10.0**first)))
    powers = [10.0**k for k in range(first, last + 1)]
    ticks = [v for v in (*(-p for p in powers[::-1]), 0.0, *powers) if ends[0] <= v <= ends[1]]
    return {
        "tickvals": plain(np.arcsinh(np.array(ticks) / unit)),
        "ticktext": [f"{v:g}" for v in ticks],
    }


def how_many(n_shown: int, n: int, of_what: str) -> str:
    """How many points a plot shows, for its note."""
    return (
        f"{n:,} {of_what}" if n_shown == n else f"{n_shown:,} of {n:,} {of_what}, drawn at random"
    )


def signal_plot(merged: Merged) -> list[Plot]:
    """Distribution of I/σ(I) over merged reflections."""
    intensity, sigma = merged.reflections.intensity, merged.reflections.sigma
    if intensity is None or sigma is None:
        return []
    known = np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0)
    ratio = intensity[known] / sigma[known]
    return histogram("signal", "Distribution of I/σ(I)", "I/σ(I)", {"": ratio}, "reflections")


def convergence_plots(iterations: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """The objective at the start of each iteration and the decrease its step promised."""
    plots = []
    wanted = (
        ("objective", "Objective", "objective", "linear"),
        ("predicted", "Promised decrease", "predicted decrease of the objective", "log"),
    )
    for key, title, label, scale in wanted:
        values = plain([i.get(key) for i in iterations])
        if scale == "log":
            values = [v if v is not None and v > 0 else None for v in values]
        if all(v is None for v in values):
            continue
        taken = [i.get("accepted", True) for i in iterations]
        note = "" if all(taken) else "open symbols: steps that were rejected"
        symbols = ["circle" if good else "circle-open" for good in taken]
        trace = {
            "type": "scatter",
            "mode": "lines+markers",
            "y": values,
            "x": [i.get("number", k + 1) for k, i in enumerate(iterations)],
            "marker": {"symbol": symbols},
            "text": ["" if good else "rejected" for good in taken],
            "hovertemplate": "iteration %{x}: %{y:.7~g} %{text}<extra></extra>",
        }
        axes: dict[str, Any] = {
            "xaxis": {"title": {"text": "iteration"}, "tickformat": "d"},
            "yaxis": {"title": {"text": label}, "type": scale},
        }
        plots.append(Plot(key, title, [trace], axes, note))
    return plots


def error_model_plot(bins: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Normalised χ² in bins of intensity; 1 where the error model tells the truth."""
    known = [
        row for row in bins if row.get("intensity") is not None and row.get("chi2") is not None
    ]
    if not known:
        return []
    unit = min((abs(row["intensity"]) for row in known if row["intensity"]), default=1.0)
    intensity = np.array([row["intensity"] for row in known], dtype=np.float64)
    x = np.arcsinh(intensity / unit)
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": plain(x),
        "y": plain([row["chi2"] for row in known]),
        "text": [
            f"I = {row['intensity']:.4g}<br>{row.get('n', 0):,} observations" for row in known
        ],
        "hovertemplate": "%{text}<br>χ² = %{y:.4~g}<extra></extra>",
    }
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "x": plain([x.min(), x.max()]),
        "y": [1, 1],
        "line": {"dash": "dash", "width": 1},
        "hoverinfo": "skip",
    }
    ends = np.array([intensity.min(), intensity.max()])
    layout = {
        "xaxis": {"title": {"text": "I"}, **_asinh_ticks(ends, unit)},
        "yaxis": {"title": {"text": "normalised χ²"}, "rangemode": "tozero"},
        "showlegend": False,
    }
    return [Plot("error-model", "Error model", [trace, ideal], layout, "ideal: 1")]
