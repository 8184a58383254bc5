"""`python -m benchmarks fill_in`: size of the normal matrix and of its factor."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.fill_in_counts import (
    FillIn,
    count_fill_in,
    filled_by_formula,
    images_first,
    linked_images,
)
from benchmarks.problems import CASES, structure
from benchmarks.runs import Column, Figures, number, table

TALK = {
    "1000": (1001, 53_962, 807_748),
    "2000": (2001, 139_277, 3_082_628),
    "5000": (5001, 162_693, 8_165_673),
}
"""Images (numbered from 0: one more than the name says), reflections and pairs of the talk."""
SIZES = ["200", "300", "500", "800", "1000"]


def percent(name: str) -> Callable[[Figures], str]:
    """A fraction in per cent."""
    return number(name, ".2f", 100.0)


COLUMNS: list[Column] = [
    ("images", number("images")),
    ("parameters N", number("parameters")),
    ("N²", number("square", ".0e")),
    ("non-zeros, normal", number("normal")),
    ("%", percent("normal_fraction")),
    ("factor, I first", number("factor")),
    ("%", percent("factor_fraction")),
    ("factor, G B first", number("factor_worst")),
    ("%", percent("factor_worst_fraction")),
    ("image pairs linked %", number("linked", ".2f", 100.0)),
]


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command."""
    command = commands.add_parser("fill_in", help="fill-in of the Cholesky factor, counted")
    command.add_argument("--sizes", nargs="*", default=SIZES, choices=list(CASES))
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Both tables."""
    print("From the formulas, at the sizes of the talk:\n")
    formulas = [
        figures(filled_by_formula(*sizes), filled_by_formula(*sizes, reflections_last=True))
        for sizes in TALK.values()
    ]
    print(table(formulas, COLUMNS[:-1]))
    print("\nCounted, by symbolic factorisation of simulated structures:\n")
    print(table([counted(size) for size in options.sizes], COLUMNS))
    return 0


def counted(name: str) -> Figures:
    """Exact counts of a simulated structure in both orders."""
    made = structure(CASES[name])
    best = count_fill_in(made.image, made.reflection)
    order = images_first(best.images, best.reflections)
    worst = count_fill_in(made.image, made.reflection, order)
    return {**figures(best, worst), "linked": linked_images(made.image, made.reflection)}


def figures(best: FillIn, worst: FillIn) -> Figures:
    """A row of the table."""
    return {
        "images": best.images,
        "parameters": best.parameters,
        "square": best.parameters**2,
        "normal": best.normal,
        "normal_fraction": best.normal_fraction,
        "factor": best.factor,
        "factor_fraction": best.factor_fraction,
        "factor_worst": worst.factor,
        "factor_worst_fraction": worst.factor_fraction,
    }
