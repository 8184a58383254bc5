"""Plots of the report about crystals: distributions of what was refined of them, and of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Floats, Status
from sfxproc.report.plots import (
    Plot,
    beyond,
    histogram,
    how_many,
    inner_range,
    plain,
    sampled,
)

F8 = NDArray[np.float64]

CONSTANT = 1e-6  # Å or °: a smaller range of a cell's constant is rounding
CELL_NAMES = ("a", "b", "c", "α", "β", "γ")
CELL_UNITS = ("Å", "Å", "Å", "°", "°", "°")


class Shown(Protocol):
    """A parameter of crystals: its column of frames.h5 with the title of that, and the title of its
    histogram, if it has one; those that share it are drawn as length of a vector."""

    @property
    def column(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def histogram(self) -> str: ...


def crystal_plots(
    crystals: Crystals, frames: Mapping[str, NDArray[Any]], parameters: Sequence[Shown] = ()
) -> list[Plot]:
    """Distributions over the crystals that were not left out, and ln G against B."""
    kept = np.asarray(frames["status"]) != Status.LEFT_OUT
    columns = {name: np.asarray(v)[kept] for name, v in frames.items() if np.ndim(v) == 1}
    wanted = (
        ("cc_to_merge", "cc-to-merge", "Agreement with the merge", "CC to merge"),
        ("delta_cc_half", "delta-cc-half", "Influence on CC½", "ΔCC½"),
        ("reindexing_margin", "margin", "Certainty of the indexing", "margin / standard errors"),
    )
    found = [parameter_plot(together, columns) for together in drawn_together(parameters)]
    found += [
        histogram(name, title, label, {"": columns[key]}, "crystals")
        for key, name, title, label in wanted
        if key in columns
    ]
    for k, (name, unit) in enumerate(zip(CELL_NAMES, CELL_UNITS, strict=True)):
        values = {kind: cells[:, k] for kind, cells in cells_of(crystals, frames).items()}
        together = np.concatenate(list(values.values()))
        together = together[np.isfinite(together)]
        if len(together) and np.ptp(together) > CONSTANT:  # angles often are not free
            label = f"{name} / {unit}"
            found.append(
                histogram(f"cell-{k + 1}", f"Unit cell: {name}", label, values, "crystals")
            )
    if "ln_G" in columns and "B_A2" in columns:
        names = np.array(crystals.identity, dtype=object)[kept]
        found.append(_scales(columns["B_A2"], columns["ln_G"], names))
    return [plot for plots in found for plot in plots]


def drawn_together(parameters: Sequence[Shown]) -> list[list[Shown]]:
    """The parameters of each histogram."""
    plots: dict[str, list[Shown]] = {}
    for parameter in parameters:
        if parameter.histogram:
            plots.setdefault(parameter.histogram, []).append(parameter)
    return list(plots.values())


def parameter_plot(together: Sequence[Shown], columns: Mapping[str, NDArray[Any]]) -> list[Plot]:
    """The histogram of a parameter, or of the length of a vector of several in one unit."""
    first = together[0]
    values, label = columns[first.column], first.title
    if len(together) > 1:
        values = np.sqrt(sum(columns[p.column] ** 2 for p in together))
        symbols, per, unit = zip(*(p.title.partition(" / ") for p in together), strict=True)
        label = f"√({' + '.join(f'{symbol}²' for symbol in symbols)}){per[0]}{unit[0]}"
    name = first.column.lower().replace("_", "-")
    return histogram(name, first.histogram, label, {"": values}, "crystals")


def cells_of(crystals: Crystals, frames: Mapping[str, NDArray[Any]]) -> dict[str, F8]:
    """Cells (n, 6), Å and degrees, of the crystals that were not left out: `recorded` and, where
    there are any, `refined`."""
    kept = np.asarray(frames["status"]) != Status.LEFT_OUT
    found = {"recorded": crystals.cell, "refined": frames.get("cell_refined")}
    return {k: np.asarray(v, dtype=np.float64)[kept] for k, v in found.items() if v is not None}


def _scales(B_A2: Floats, ln_G: Floats, names: NDArray[np.object_]) -> list[Plot]:
    """ln G against B, a point a crystal; the view without outliers."""
    known = np.flatnonzero(np.isfinite(B_A2) & np.isfinite(ln_G))
    if not len(known):
        return []
    shown = known[sampled(len(known))]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "marker": {"size": 4, "opacity": 0.6},
        "x": plain(B_A2[shown]),
        "y": plain(ln_G[shown]),
        "text": [escape(name, quote=False) for name in names[shown]],
        "hovertemplate": "%{text}<br>B = %{x:.4~g} Å²<br>ln G = %{y:.4~g}<extra></extra>",
    }
    axes = {}
    notes = [how_many(len(shown), len(known), "crystals")]
    for axis, label, values in (("xaxis", "B / Å²", B_A2), ("yaxis", "ln G", ln_G)):
        low, high = inner_range(values[known])
        margin = 0.05 * (high - low) or 1.0
        axes[axis] = {"title": {"text": label}, "range": plain([low - margin, high + margin])}
        notes += [f"{label.split()[0]}: {text}" for text in beyond(values[known], low, high)]
    return [Plot("ln-g-b", "Scale against B", [trace], axes, "; ".join(notes))]
