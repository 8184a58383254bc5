"""The cells found for a powder pattern: a table for the terminal, and a page with the lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from sfxproc.data import Floats, Ints
from sfxproc.report.page import Grid, Section, page_html
from sfxproc.report.plots import Plot, plain
from sfxproc.report.terminal import DASH, narrow_table, number

N_TERMINAL = 10  # cells in the table of the terminal
N_LISTED = 3  # cells whose indices are listed
FIXED_DEG = (90.0, 120.0)
ANGLES = ("α", "β", "γ")
ROOM = 1.25  # of the axis of residuals, beyond the largest of a line that is explained
COLOURS = ("#d9691a", "#2a9d64", "#b3589a", "#8c6d31", "#5a9bd4")  # of cells
OBSERVED = "#2f81c4"
STEP = 0.09  # between rows of calculated lines, in units of the strongest observed line


@dataclass(frozen=True, eq=False)
class PowderStory:
    """What the job has to tell. told : what cells.json holds. calculated : of the first cells,
    hkl (m, 3) and q² (m,) of all lines, observed or not."""

    title: str
    sentence: str
    told: Mapping[str, Any]
    calculated: Sequence[tuple[Ints, Floats]]
    config_text: str
    log_text: str


def powder_html(story: PowderStory) -> str:
    """The page as text, to be written in UTF-8; it loads nothing from anywhere."""
    told = story.told
    cells, lines = told["cells"], told["lines"]
    plots = []
    if cells:
        plots = [pattern_plot(lines, cells, story.calculated), residual_plot(lines, cells)]
    sections = [
        Section("cells", "Cells", [cell_grid(cells)] if cells else [], text=_tried(told)),
        Section("pattern", "Observed and calculated lines", plots=plots),
        Section("lines", "Lines and their indices", [line_grid(lines, cells[:N_LISTED])]),
        *group_sections(cells[:1]),
    ]
    return page_html(
        title=story.title,
        sentence=story.sentence,
        figures=key_figures(told),
        sections=sections,
        config_text=story.config_text,
        log_text=story.log_text,
    )


def key_figures(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A handful of figures for the head of the page."""
    lines = told["lines"]
    d_A = lines["d_A"]
    figures = [("lines", f"{len(d_A)}, {d_A[0]:.3f} to {d_A[-1]:.3f} Å")]
    if told["cells"]:
        first = told["cells"][0]
        figures += [
            ("lattice", first["lattice"]),
            ("cell / Å, °", constants(first["cell"])),
            ("volume / Å³", f"{first['volume_A3']:,.1f}"),
            ("explained", explained(first, lines)),
            ("M₂₀", number(first["m20"], 1)),
            ("confidence", f"{first['confidence']:.3f}"),
        ]
    return figures


def constants(cell: Sequence[float], digits: int = 3) -> str:
    """a, b, c and the angles that are neither 90 nor 120°: `9.123 9.871 12.345 β 98.12`."""
    lengths = " ".join(f"{v:.{digits}f}" for v in cell[:3])
    angles = list(zip(ANGLES, cell[3:], strict=True))
    free = [(n, v) for n, v in angles if min(abs(v - fixed) for fixed in FIXED_DEG) > 1e-6]
    if len(free) == 3:
        free = [("", v) for _, v in free]
    return " ".join([lengths, *(f"{n} {v:.2f}".strip() for n, v in free)])


def explained(cell: Mapping[str, Any], lines: Mapping[str, Any]) -> str:
    """`19 of 20`."""
    return f"{cell['n_explained']} of {len(lines['q2'])}"


def _tried(told: Mapping[str, Any]) -> str:
    text = (
        f"Tried were the lattices {' '.join(told['lattices_tried'])}, {told['tasks_done']} of "
        f"{told['tasks_planned']} tasks."
    )
    if not told["sigma_known"]:
        text += " The errors of the lines were not given; each cell was judged by how well the "
        text += "lines agree with it."
    return text if told["cells"] else f"There is no cell to show. {text}"


# ---- tables --------------------------------------------------------------------------------


def cells_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """The first cells for the terminal, within 80 columns; obs: lines explained, calc: lines
    calculated."""
    table = narrow_table("Cells")
    for name in ("", "", "a b c, angles / Å, °", "V / Å³", "obs", "calc", "M20", "score", "conf"):
        table.add_column(name, justify="left" if name.startswith("a") else "right", no_wrap=True)
    for cell in cells[:N_TERMINAL]:
        table.add_row(
            f"{cell['rank']}",
            cell["lattice"],
            constants(cell["cell"]),
            f"{cell['volume_A3']:,.0f}",
            f"{cell['n_explained']}",
            f"{cell['n_calculated']}",
            number(cell["m20"], 1),
            number(cell["score"], 1),
            f"{cell['confidence']:.2f}",
        )
    return table


def in_multiples(of: Mapping[str, float] | None) -> str:
    """`2 × 1`, twice as large as the cell of rank 1, `1/2 × 1` or nothing."""
    if of is None:
        return ""
    times = of["times"]
    return f"{times:.0f} × {of['rank']}" if times > 1.0 else f"1/{1.0 / times:.0f} × {of['rank']}"


def cell_grid(cells: Sequence[Mapping[str, Any]]) -> Grid:
    """All cells for the page, with standard errors; "σ ×" is the factor of the lines' σ, "or" the
    other lattices that the cell fits as well, "multiple" of which better cell it is one or a
    part."""
    header = [
        "rank",
        "lattice",
        "a / Å",
        "b / Å",
        "c / Å",
        "α / °",
        "β / °",
        "γ / °",
        "V / Å³",
        "lines",
        "calculated",
        "M₂₀",
        "score",
        "confidence",
        "σ ×",
        "or",
        "multiple",
    ]
    rows = [
        [
            f"{cell['rank']}",
            cell["lattice"],
            *map(with_error, cell["cell"], cell["sigma_cell"]),
            f"{cell['volume_A3']:,.1f}",
            f"{cell['n_explained']}",
            f"{cell['n_calculated']}",
            number(cell["m20"], 1),
            number(cell["score"], 1),
            f"{cell['confidence']:.3f}",
            f"{cell['sigma_factor']:.2g}",
            " ".join(cell["alternatives"]) or DASH,
            in_multiples(cell["multiple_of"]) or DASH,
        ]
        for cell in cells
    ]
    return Grid(header, rows)


def with_error(value: float, sigma: float | None) -> str:
    """`9.123(4)`: the error in units of the last digit; 90 where there is none."""
    if sigma is None:
        return f"{value:.2f}"
    if sigma <= 0.0:
        return f"{value:g}"
    digits = int(np.clip(np.ceil(-np.log10(sigma / 1.95)), 0, 6))
    return f"{value:.{digits}f}({max(round(sigma * 10**digits), 1)})"


def line_grid(lines: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> Grid:
    """The lines with their indices in the first cells; a line that is probably not the cell's has
    them in brackets."""
    header = ["line", "d / Å", "q² / Å⁻²", "intensity"]
    columns = [
        [f"{n}" for n in range(1, len(lines["q2"]) + 1)],
        [f"{v:.4f}" for v in lines["d_A"]],
        [f"{v:.6f}" for v in lines["q2"]],
        [DASH if v is None else f"{v:.4g}" for v in _intensity(lines)],
    ]
    for cell in cells:
        name = f"{cell['rank']}, {cell['lattice']}"
        header += [f"hkl of {name}", f"10⁵ Δq² of {name}"]
        of_cell = cell["lines"]
        columns.append(
            [
                _indices(hkl) if p > 0.5 else f"({_indices(hkl)})"
                for hkl, p in zip(of_cell["hkl"], of_cell["probability"], strict=True)
            ]
        )
        columns.append([f"{1e5 * v:z.1f}" for v in of_cell["residual"]])
    return Grid(header, list(zip(*columns, strict=True)))


def group_sections(cells: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The space groups that the absences of the first cell speak for, if they were looked at."""
    found = [c for cell in cells for c in cell["space_groups"]]
    if not found:
        return []
    rows = [
        [
            " or ".join(c["space_groups"]),
            f"{c['share']:.3f}",
            f"{c['n_violations']}",
            f"{c['n_absent_tested']}",
        ]
        for c in found
    ]
    header = ["space groups", "confidence", "lines against", "absences tested"]
    return [Section("groups", "Space groups of the first cell", [Grid(header, rows)])]


def _indices(hkl: Sequence[int]) -> str:
    return " ".join(f"{v}" for v in hkl)


def _intensity(lines: Mapping[str, Any]) -> Sequence[float | None]:
    return lines["intensity"] or [None] * len(lines["q2"])


# ---- plots ---------------------------------------------------------------------------------


def pattern_plot(
    lines: Mapping[str, Any],
    cells: Sequence[Mapping[str, Any]],
    calculated: Sequence[tuple[Ints, Floats]],
) -> Plot:
    """Observed lines as sticks, and below them a row of ticks for each of the first cells."""
    q2 = np.array(lines["q2"])
    if lines["intensity"]:
        height = np.sqrt(np.array(lines["intensity"]) / max(lines["intensity"]))
    else:
        height = np.ones(len(q2))
    stems = np.stack([q2, q2, np.full(len(q2), np.nan)], axis=1).ravel()
    tops = np.stack([np.zeros(len(q2)), height, np.full(len(q2), np.nan)], axis=1).ravel()
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "observed",
            "x": plain(stems),
            "y": plain(tops),
            "line": {"width": 1.5, "color": OBSERVED},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": plain(q2),
            "y": plain(height),
            "text": [f"line {n}: d = {d:.4f} Å" for n, d in enumerate(lines["d_A"], 1)],
            "marker": {"size": 5, "color": OBSERVED},
            "showlegend": False,
            "hovertemplate": "%{text}<br>q² = %{x:.6f} Å⁻²<extra></extra>",
        },
    ]
    for row, (cell, (hkl, place)) in enumerate(zip(cells, calculated, strict=False), 1):
        name = _name(cell)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": plain(place),
                "y": [-STEP * row] * len(place),
                "text": [
                    f"{_indices(h)}<br>d = {v**-0.5:.4f} Å"
                    for h, v in zip(hkl.tolist(), place.tolist(), strict=True)
                ],
                "marker": {
                    "symbol": "line-ns-open",
                    "size": 9,
                    "color": _colour(row - 1),
                    "line": {"width": 1.3},
                },
                "hovertemplate": "%{text}<br>q² = %{x:.6f} Å⁻²<extra>" + name + "</extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "q² = 1/d² / Å⁻²"}, "range": [0.0, float(1.04 * q2[-1])]},
        "yaxis": {
            "title": {"text": "√(I / strongest)" if lines["intensity"] else "observed"},
            "zeroline": False,
            "tickvals": [0, 0.5, 1] if lines["intensity"] else [],
        },
    }
    note = "Ticks: all lines that the lattice of a cell allows, observed or not."
    return Plot("pattern", "Pattern", traces, layout, note)


def residual_plot(lines: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> Plot:
    """Differences of observed and calculated lines of the first cells."""
    q2 = np.array(lines["q2"])
    traces: list[dict[str, Any]] = []
    most = 0.0
    for row, cell in enumerate(cells[:N_LISTED]):
        delta = 1e4 * np.array(cell["lines"]["residual"])
        right = np.array(cell["lines"]["probability"]) > 0.5
        most = max(most, float(np.abs(delta[right]).max(initial=0.0)))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": _name(cell),
                "x": plain(q2),
                "y": plain(delta),
                "text": [_indices(hkl) for hkl in cell["lines"]["hkl"]],
                "marker": {
                    "symbol": ["circle" if good else "circle-open" for good in right],
                    "size": 8,
                    "color": _colour(row),
                },
                "hovertemplate": "%{text}<br>%{y:.3f}·10⁻⁴ Å⁻²<extra>" + _name(cell) + "</extra>",
            }
        )
    limit = ROOM * most or 1.0
    beyond = sum(int(np.sum(np.abs(np.array(t["y"])) > limit)) for t in traces)
    layout = {
        "xaxis": {"title": {"text": "q² = 1/d² / Å⁻²"}, "range": [0.0, float(1.04 * q2[-1])]},
        "yaxis": {"title": {"text": "observed − calculated / 10⁻⁴ Å⁻²"}, "range": [-limit, limit]},
    }
    note = "Open symbols: lines that are probably not the cell's."
    if beyond:
        note += f" {beyond} of them lie beyond the axis."
    return Plot("residuals", "Observed less calculated", traces, layout, note)


def _name(cell: Mapping[str, Any]) -> str:
    return f"{cell['rank']}: {cell['lattice']} {constants(cell['cell'], 2)}"


def _colour(row: int) -> str:
    return COLOURS[row % len(COLOURS)]
