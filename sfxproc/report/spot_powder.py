"""The page of a powder pattern made of spots: the histogram, what was fitted, and the lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats
from sfxproc.report.page import Grid, Section, page_html
from sfxproc.report.plots import Plot, plain
from sfxproc.report.terminal import number

BINS_SHOWN = 2  # put together: a bin is a fifth of a ring's σ
FIRST_LINES = 20  # that indexing needs, shown once more by themselves


@dataclass(frozen=True, eq=False)
class SpotPowderStory:
    """What the job has to tell. edges (m + 1,) in Å⁻¹, counts, model, background (m,); lines :
    columns of equal length: q2, sigma, intensity, n_spots, significance, median_q2, n_rings."""

    title: str
    sentence: str
    figures: Mapping[str, object]
    edges: Floats
    counts: Floats
    model: Floats
    background: Floats
    lines: Mapping[str, NDArray[Any]]
    config_text: str
    log_text: str


def spot_powder_html(story: SpotPowderStory) -> str:
    """The page as text, to be written in UTF-8; it loads nothing from anywhere."""
    return page_html(
        title=story.title,
        sentence=story.sentence,
        figures=[(name, f"{value}") for name, value in story.figures.items()],
        sections=[
            Section("pattern", "Powder pattern of the spots", plots=pattern_plots(story)),
            Section("lines", "Lines", [line_grid(story.lines)]),
        ],
        config_text=story.config_text,
        log_text=story.log_text,
    )


def pattern_plots(story: SpotPowderStory) -> list[Plot]:
    """Spots per 10⁻³ Å⁻¹ against q with what was fitted and the lines: the first ones, and all."""
    m = len(story.counts) // BINS_SHOWN * BINS_SHOWN
    edges = story.edges[: m + 1 : BINS_SHOWN]
    density = {
        name: values[:m].reshape(-1, BINS_SHOWN).sum(axis=1) / np.diff(edges) / 1e3
        for name, values in (
            ("spots", story.counts),
            ("fitted", story.model),
            ("background", story.background),
        )
    }
    place = np.sqrt(story.lines["q2"])
    last = place[min(len(place), FIRST_LINES) - 1]
    return [
        _pattern(
            "first",
            f"The first {min(len(place), FIRST_LINES)} lines",
            edges,
            density,
            place,
            (float(edges[0]), float(1.04 * last)),
        ),
        _pattern("all", "All lines", edges, density, place, (float(edges[0]), float(edges[-1]))),
    ]


def _pattern(
    name: str,
    title: str,
    edges: Floats,
    density: Mapping[str, Floats],
    place: Floats,
    shown: tuple[float, float],
) -> Plot:
    middle = 0.5 * (edges[1:] + edges[:-1])
    inside = (middle >= shown[0]) & (middle <= shown[1])
    x = plain(middle[inside])
    styles: dict[str, dict[str, Any]] = {
        "spots": {"width": 1, "shape": "hvh"},
        "fitted": {"width": 1.5},
        "background": {"width": 1.5, "dash": "dot"},
    }
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": key,
            "x": x,
            "y": plain(values[inside]),
            "line": styles[key],
            "hovertemplate": "%{x:.5f} Å⁻¹: %{y:.4~g}<extra>" + key + "</extra>",
        }
        for key, values in density.items()
    ]
    lines = place[(place >= shown[0]) & (place <= shown[1])]
    low = -0.05 * float(density["spots"][inside].max(initial=1.0))
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "lines",
            "x": plain(lines),
            "y": [low] * len(lines),
            "text": [f"{1.0 / q:.4f}" for q in lines],
            "marker": {"symbol": "line-ns-open", "size": 10},
            "hovertemplate": "d = %{text} Å<br>q = %{x:.5f} Å⁻¹<extra></extra>",
        }
    )
    layout = {
        "xaxis": {"title": {"text": "q = 1/d / Å⁻¹"}, "range": list(shown)},
        "yaxis": {"title": {"text": "spots per 10⁻³ Å⁻¹"}},
    }
    return Plot(name, title, traces, layout)


def line_grid(lines: Mapping[str, NDArray[Any]]) -> Grid:
    """The lines as a table."""
    d_A = lines["q2"] ** -0.5
    columns = (
        [f"{n}" for n in range(1, len(d_A) + 1)],
        [f"{v:.4f}" for v in d_A],
        [f"{v:.4f}" for v in 0.5 * lines["sigma"] * d_A**3],
        [f"{v:.6f}" for v in lines["q2"]],
        [f"{v:.6f}" for v in lines["sigma"]],
        [number(v, 0) for v in lines["n_spots"].tolist()],
        [number(v, 1) for v in lines["significance"].tolist()],
        [f"{v:.6f}" for v in lines["median_q2"]],
        [f"{v}" for v in lines["n_rings"].tolist()],
        [f"{v:.4g}" for v in lines["intensity"].tolist()],
    )
    header = [
        "line",
        "d / Å",
        "σ(d) / Å",
        "q² / Å⁻²",
        "σ(q²) / Å⁻²",
        "spots",
        "significance",
        "median q² / Å⁻²",
        "rings",
        "intensity",
    ]
    return Grid(header, list(zip(*columns, strict=True)))
