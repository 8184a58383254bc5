"""The page and the table of cells, from what cells.json holds."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sfxproc.report.powder import (
    PowderStory,
    cells_table,
    constants,
    in_multiples,
    pattern_plot,
    powder_html,
    residual_plot,
    with_error,
)

HOSTILE = "<script>alert('x')</script>&é"


def told(n_cells: int = 3, intensity: bool = True) -> dict[str, Any]:
    """A list of lines of a cubic cell of 5 Å, the last one foreign, and some cells."""
    hkl = np.array([(1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 0, 0), (2, 1, 0)])
    q2 = (hkl**2).sum(axis=1) / 25.0
    delta = np.array([1e-5, -2e-5, 1.5e-5, -1e-5, 4e-3])
    cells = [
        {
            "rank": rank,
            "lattice": "cP",
            "cell": [5.0 * rank, 5.0 * rank, 5.0 * rank, 90.0, 90.0, 90.0],
            "sigma_cell": [0.0012, 0.0012, 0.0012, 0.0, 0.0, 0.0],
            "volume_A3": 125.0 * rank**3,
            "score": 50.0 / rank,
            "confidence": 0.9 if rank == 1 else 0.01,
            "m20": 80.0 / rank,
            "sigma_factor": 0.5,
            "n_explained": 4,
            "n_calculated": 5 * rank,
            "alternatives": ["tP"] if rank == 1 else [],
            "multiple_of": {"rank": 1, "times": 8.0} if rank == 2 else None,
            "space_groups": [
                {
                    "space_groups": ["P m -3 m", "P 2 3"],
                    "share": 0.97,
                    "n_violations": 0,
                    "n_absent_tested": 2,
                },
            ],
            "lines": {
                "hkl": (rank * hkl).tolist(),
                "q2_calculated": q2.tolist(),
                "residual": delta.tolist(),
                "probability": [1.0, 1.0, 1.0, 1.0, 0.01],
            },
        }
        for rank in range(1, n_cells + 1)
    ]
    return {
        "lattices_tried": ["cP", "tP"],
        "tasks_done": 3,
        "tasks_planned": 9,
        "sigma_known": False,
        "lines": {
            "q2": (q2 + delta).tolist(),
            "d_A": ((q2 + delta) ** -0.5).tolist(),
            "intensity": [100.0, 25.0, 4.0, 1.0, 9.0] if intensity else None,
        },
        "cells": cells,
    }


def story(tree: dict[str, Any]) -> PowderStory:
    hkl = np.array([(1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 0, 0)])
    drawn = [(hkl, (hkl**2).sum(axis=1) / 25.0) for _ in tree["cells"]]
    return PowderStory(HOSTILE, f"Found {HOSTILE}.", tree, drawn, HOSTILE, HOSTILE)


def test_the_page_says_what_it_was_told_and_asks_nothing_of_the_network() -> None:
    page = powder_html(story(told()))
    assert HOSTILE not in page
    assert 'src="http' not in page
    assert page == powder_html(story(told()))
    for part in (
        "5.0000(12)",
        "<td>80.0</td>",
        "(2 1 0)",
        "P m -3 m or P 2 3",
        "4 of 5",
        "tP",
        "<td>8 × 1</td>",
    ):
        assert part in page, part
    for unclear in ("nan", "None", "Undefined"):
        assert f">{unclear}<" not in page


def test_multiples_of_better_cells() -> None:
    assert in_multiples({"rank": 3, "times": 2.0}) == "2 × 3"
    assert in_multiples({"rank": 1, "times": 1.0 / 7.0}) == "1/7 × 1"
    assert in_multiples(None) == ""


def test_the_page_without_cells_and_without_intensities() -> None:
    page = powder_html(story(told(n_cells=0)))
    assert "There is no cell to show." in page
    assert json.loads(page.split('id="drawn">')[1].split("</script>")[0]) == []
    page = powder_html(story(told(intensity=False)))
    assert ">–<" in page
    assert "observed" in page


def test_sticks_and_rows_of_ticks() -> None:
    tree = told()
    lines, cells = tree["lines"], tree["cells"]
    plot = pattern_plot(lines, cells, story(tree).calculated)
    sticks, tops, *rows = plot.traces
    assert len(sticks["x"]) == 3 * 5
    assert sticks["x"][2] is None
    assert tops["y"] == pytest.approx([1.0, 0.5, 0.2, 0.1, 0.3])
    assert [row["name"] for row in rows] == [
        f"{n}: cP {5 * n}.00 {5 * n}.00 {5 * n}.00" for n in (1, 2, 3)
    ]
    assert len({row["y"][0] for row in rows}) == 3
    assert all(row["y"][0] < 0 for row in rows)
    assert rows[0]["x"] == pytest.approx([0.04, 0.08, 0.12, 0.16])


def test_residuals_of_foreign_lines_do_not_squash_the_others() -> None:
    tree = told(n_cells=2)
    plot = residual_plot(tree["lines"], tree["cells"])
    low, high = plot.layout["yaxis"]["range"]
    assert -low == high == pytest.approx(0.25)
    assert plot.traces[0]["y"][0] == pytest.approx(0.1)
    assert plot.traces[0]["marker"]["symbol"] == ["circle"] * 4 + ["circle-open"]
    assert "2 of them lie beyond the axis" in plot.note


def test_table_for_the_terminal_fits_80_columns() -> None:
    tree = told(n_cells=12)
    for cell in tree["cells"]:
        cell["cell"] = [10.123, 20.456, 30.789, 81.11, 97.22, 106.33]
        cell["volume_A3"] = 12345.6
    out = io.StringIO()
    Console(file=out, width=80).print(cells_table(tree["cells"]))
    lines = out.getvalue().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert "10.123 20.456 30.789 81.11 97.22 106.33 12,346" in lines[3]
    assert "…" not in out.getvalue()
    assert sum("cP" in line for line in lines) == 10


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ((5.0, 5.0, 5.0, 90.0, 90.0, 90.0), "5.000 5.000 5.000"),
        ((5.0, 6.0, 7.0, 90.0, 101.5, 90.0), "5.000 6.000 7.000 β 101.50"),
        ((5.0, 5.0, 7.0, 90.0, 90.0, 120.0), "5.000 5.000 7.000"),
        ((5.0, 6.0, 7.0, 80.0, 101.5, 99.0), "5.000 6.000 7.000 80.00 101.50 99.00"),
        ((5.0, 6.0, 7.0, 90.0, 101.5, 99.0), "5.000 6.000 7.000 β 101.50 γ 99.00"),
    ],
)
def test_constants(cell: tuple[float, ...], text: str) -> None:
    assert constants(cell) == text


@pytest.mark.parametrize(
    ("value", "sigma", "text"),
    [
        (9.12345, 0.0012, "9.1235(12)"),
        (9.12345, 0.004, "9.123(4)"),
        (9.12345, 3.0, "9(3)"),
        (9.12345, 1e-9, "9.123450(1)"),
        (90.0, 0.0, "90"),
        (9.12345, None, "9.12"),
    ],
)
def test_values_with_errors(value: float, sigma: float | None, text: str) -> None:
    assert with_error(value, sigma) == text
