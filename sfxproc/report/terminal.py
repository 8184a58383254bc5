"""Tables for the terminal and the log, readable at 80 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

DASH = "–"


@dataclass(frozen=True)
class _Column:
    """One column of the table of statistics: value times `factor` with `digits` decimals."""

    key: str
    title: str
    digits: int
    factor: float = 1.0


COLUMNS = (
    _Column("n_unique", "unique", 0),
    _Column("n_possible", "possible", 0),
    _Column("completeness", "compl.\n%", 1, 100),
    _Column("multiplicity", "mult.", 1),
    _Column("mean_i_over_sigma", "I/σ", 1),
    _Column("cc_half", "CC½", 3),
    _Column("cc_star", "CC*", 3),
    _Column("r_split", "Rsplit\n%", 1, 100),
    _Column("r_meas", "Rmeas\n%", 1, 100),
    _Column("cc_anom", "CCano", 2),
    _Column("anomalous_signal", "ΔI\n/σ", 2),
    _Column("cc_reference", "CCref", 3),
    # of two merged sets
    _Column("n_common", "common", 0),
    _Column("cc", "CC", 3),
    _Column("r", "R\n%", 1, 100),
    # of a merge and the truth
    _Column("r_ideal", "Rideal\n%", 1, 100),
    _Column("r_ratio", "ratio", 2),
    _Column("rms_z", "z\nr.m.s.", 2),
    _Column("rms_z_strong", "strong\nz", 2),
    _Column("sigma_cc", "σ(CC\n−CC*)", 4),
)


def number(value: float | None, digits: int = 3, factor: float = 1.0) -> str:
    """A number as text with thousands separators; a dash for None and what is not finite.

    From 1000 on, decimals are dropped.
    """
    if value is None or not math.isfinite(value):
        return DASH
    value *= factor
    if abs(value) >= 1000:
        digits = 0
    return f"{value:,.{digits}f}"


def resolution_range(d_max_A: float | None, d_min_A: float | None) -> str:
    """`50.00–2.10`, as in a shell's first column."""
    return f"{number(d_max_A, 2)}–{number(d_min_A, 2)}"


def statistics_table(statistics: Mapping[str, Any], title: str = "") -> Table:
    """Merging statistics by resolution shell, then overall.

    statistics : {"shells": [shell, …], "overall": shell} as in `statistics.json`; fractions
    (completeness, R) are shown in percent. A column empty in every shell is left out. The same
    for the agreement of two sets: n_common, cc, r.
    """
    shells, overall = statistics["shells"], statistics["overall"]
    everything = [*shells, overall]
    columns = [c for c in COLUMNS if any(number(s.get(c.key)) != DASH for s in everything)]
    if any(c.key == "cc_anom" for c in columns):  # to stay within 80 columns
        columns = [c for c in columns if c.key != "n_possible"]
    table = narrow_table(title)
    table.add_column("d / Å", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    for shell in everything:
        if shell is overall and shells:
            table.add_section()
        table.add_row(
            resolution_range(shell.get("d_max_A"), shell.get("d_min_A")),
            *(number(shell.get(c.key), c.digits, c.factor) for c in columns),
            style="bold" if shell is overall else None,
        )
    return table


def counts_table(
    title: str, counts: Mapping[str, object], justify: JustifyMethod = "right"
) -> Table:
    """Two columns: what, and how many (whole numbers with separators, other values as text)."""
    table = narrow_table(title)
    table.show_header = False
    table.padding = (0, 0, 0, 1)
    table.add_column("", overflow="fold")
    table.add_column("", justify=justify, overflow="fold")
    for name, value in counts.items():
        table.add_row(Text(name), Text(_count(value)))
    return table


def _count(value: object) -> str:
    if isinstance(value, float) or value is None:
        return number(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def narrow_table(title: str) -> Table:
    """An empty table in this program's style."""
    return Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,  # the box divides columns by one space
    )
