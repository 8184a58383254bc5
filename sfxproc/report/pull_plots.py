"""Plots of how far observations lie from the model, by what they should have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sfxproc.report.plots import Plot, plain


def partiality_plot(bins: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Mean pull of observations by their partiality; 0 where the partiality model is right."""
    if not bins:
        return []
    x = plain([row["partiality"] for row in bins])
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": plain([row["pull"] for row in bins]),
        "text": [f"{row['n']:,} observations<br>χ² {row['chi2']:.3g}" for row in bins],
        "hovertemplate": "partiality %{x}<br>mean pull %{y:.3~g}<br>%{text}<extra></extra>",
    }
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 1],
        "y": [0, 0],
        "line": {"dash": "dash", "width": 1},
        "hoverinfo": "skip",
    }
    layout = {
        "xaxis": {"title": {"text": "partiality as modelled"}, "range": [0, 1]},
        "yaxis": {"title": {"text": "mean of (observed − modelled)/σ"}},
        "showlegend": False,
    }
    note = "ideal: 0; a curve says that the partiality model is not that of these crystals"
    return [Plot("partiality", "Pulls by partiality", [trace, ideal], layout, note)]
