"""Tables keep to their width; the log speaks on rank 0, with a bar or plain lines."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console
from rich.table import Table

from sfxproc.report.log import ConsoleLog
from sfxproc.report.terminal import counts_table, number, statistics_table

SHELL = {
    "d_max_A": 39.52,
    "d_min_A": 19.76,
    "n_unique": 12867,
    "n_possible": 12954,
    "completeness": 0.99328,
    "multiplicity": 1234.5,
    "mean_i_over_sigma": 123.44,
    "cc_half": 0.9991,
    "cc_star": 0.99977,
    "r_split": 0.1234,
    "r_meas": 1.2341,
    "cc_reference": -0.987,
}


def printed(table: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_statistics_fit_the_width_uncut(width: int) -> None:
    table = statistics_table({"shells": [SHELL, SHELL], "overall": SHELL}, "Merged")
    lines = printed(table, width)
    assert lines[0] == "Merged"
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    cells = "39.52–19.76 12,867 12,954 99.3 1,234 123.4 0.999 1.000 12.3 123.4 -0.987"
    rows = [" ".join(line.split()) for line in lines if line.startswith("39.52")]
    assert rows == [cells] * 3


def test_statistics_of_friedel_mates_apart_fit_80_columns() -> None:
    shell = {**SHELL, "cc_anom": -0.123, "anomalous_signal": 1.063}
    lines = printed(statistics_table({"shells": [shell], "overall": shell}), 80)
    assert "…" not in "".join(lines)
    cells = "39.52–19.76 12,867 99.3 1,234 123.4 0.999 1.000 12.3 123.4 -0.12 1.06 -0.987"
    rows = [" ".join(line.split()) for line in lines if line.startswith("39.52")]
    assert rows == [cells] * 2


def test_missing_numbers_are_dashes_and_empty_columns_are_left_out() -> None:
    bare = {**SHELL, "cc_half": math.nan, "r_split": None, "cc_reference": None}
    other = {**SHELL, "cc_reference": None}
    lines = printed(statistics_table({"shells": [bare, other], "overall": bare}), 80)
    header = " ".join(lines[:2])
    assert "CC½" in header
    assert "CCref" not in header
    row = next(line for line in lines if line.startswith("39.52")).split()
    assert row[6:] == ["–", "1.000", "–", "123.4"]


def test_statistics_without_shells() -> None:
    lines = printed(statistics_table({"shells": [], "overall": SHELL}), 80)
    assert sum("12,867" in line for line in lines) == 1


def test_counts() -> None:
    lines = printed(counts_table("Left out", {"not finite": 12345, "share": 0.25, "x": None}), 80)
    assert lines[0] == "Left out"
    assert [line.split() for line in lines[1:]] == [
        ["not", "finite", "12,345"],
        ["share", "0.250"],
        ["x", "–"],
    ]


def test_number() -> None:
    assert [number(v) for v in (1.0, -0.5, None, math.nan, math.inf, 1234.567)] == [
        "1.000",
        "-0.500",
        "–",
        "–",
        "–",
        "1,235",
    ]
    assert number(0.123, 1, 100) == "12.3"


class Clock:
    """Seconds that pass only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def log_on(stream: io.StringIO, terminal: bool = False, speaks: bool = True) -> ConsoleLog:
    console = Console(file=stream, width=60, force_terminal=terminal, color_system=None)
    return ConsoleLog(console, speaks, Clock())


def test_lines_carry_the_time_since_the_start_and_are_kept_whole() -> None:
    stream = io.StringIO()
    log = log_on(stream)
    log.clock.now += 2.25
    long = "read [bold] " + "x" * 100
    log(long)
    assert log.text == f"     2.2 s  {long}\n"
    assert stream.getvalue() == log.text


def test_tables_are_kept_in_the_text() -> None:
    log = log_on(io.StringIO())
    log.show(counts_table("Left out", {"not finite": 3}))
    log("done")
    assert "\n\nLeft out\n not finite  3\n\n" in f"\n{log.text}"
    assert log.text.endswith(" s  done\n")


def test_batch_progress_is_a_line_now_and_then() -> None:
    log = log_on(io.StringIO())
    with log.progress(40, "reading") as advance:
        for _ in range(40):
            log.clock.now += 1
            advance()
    lines = log.text.splitlines()
    assert [line.split("  ")[-1] for line in lines] == [
        f"reading: {n} of 40 ({n * 100 // 40} %)" for n in (10, 20, 30, 40)
    ]


def test_terminal_progress_is_a_bar_and_not_in_the_text() -> None:
    stream = io.StringIO()
    log = log_on(stream, terminal=True)
    with log.progress(3, "reading [files]") as advance:
        advance(3)
    assert "reading [files]" in stream.getvalue()
    assert "3/3" in stream.getvalue()
    assert log.text == ""


def test_other_ranks_are_silent() -> None:
    stream = io.StringIO()
    log = log_on(stream, terminal=True, speaks=False)
    log("hello")
    log.show(counts_table("Left out", {"not finite": 3}))
    with log.progress(3, "reading") as advance:
        advance()
    assert stream.getvalue() == ""
    assert log.text == ""
