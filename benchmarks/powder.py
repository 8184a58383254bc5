"""`python -m benchmarks powder`: the search for a cell, its speed and its success."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import get_args

import numpy as np

from benchmarks.runs import Column, Figures, number, table
from sfxproc.data import Floats
from sfxproc.powder.cells import random_cells, x_from_cells
from sfxproc.powder.lattices import LATTICES, Lattice
from sfxproc.powder.merit import merits
from sfxproc.powder.optimise import SETTINGS, Accept, Settings, optimise, volume_scaled
from sfxproc.powder.references import references

SYMBOLS = ["cP", "tP", "hP", "oP", "mP", "aP"]
SIZES = [500, 1000]
N_LINES = 20
N_FRESH = 1024
OBSERVED = 0.8  # share of the calculated lines that is observed

SPEED: list[Column] = [
    ("lattice", lambda row: str(row["lattice"])),
    ("parameters", number("parameters")),
    ("reference lines", number("lines")),
    ("candidate-iterations per CPU second", number("speed", ",.0f")),
]
SUCCESS: list[Column] = [
    ("lattice", lambda row: str(row["lattice"])),
    ("give up", lambda row: str(row["give_up"])),
    ("patterns", number("patterns")),
    ("found %", number("found", ".1f", 100.0)),
    ("candidates that find it %", number("hits", ".2f", 100.0)),
    ("µs a candidate", number("cost", ".0f", 1e6)),
    ("found in 0.01 CPU s %", number("soon", ".1f", 100.0)),
]


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command."""
    command = commands.add_parser("powder", help="speed and success of powder indexing")
    command.add_argument("--lattices", nargs="*", default=SYMBOLS, choices=list(LATTICES))
    command.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    command.add_argument("--patterns", type=int, default=30)
    command.add_argument("--candidates", type=int, default=500)
    command.add_argument("--noise", type=float, default=0.0, help="in units of σ(q²)")
    command.add_argument("--accept", choices=get_args(Accept), default="always")
    command.add_argument("--repeat", type=int, default=3)
    command.add_argument(
        "--give-up", nargs=2, type=float, action="append", metavar=("ITERATION", "NATS"), default=[]
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Both tables."""
    lattices = [LATTICES[symbol] for symbol in options.lattices]
    speeds = [speed(each, size, options) for each in lattices for size in options.sizes]
    print(table(speeds, SPEED))
    if options.patterns:
        print(f"\nPatterns of {N_LINES} lines, errors of {options.noise:g} σ:\n")
        limits = [(0, 0.0), *((int(i), nats) for i, nats in options.give_up)]
        found = [success(each, limit, options) for each in lattices for limit in limits]
        print(table(found, SUCCESS))
    return 0


def sigmas(q2: Floats) -> Floats:
    """Standard errors of the lines of serial data, Å⁻²."""
    return np.asarray(8.7e-5 + 9.2e-4 * q2)


def shapes(lattice: Lattice, n: int, rng: np.random.Generator) -> Floats:
    """x (n, p) of random cells of about 1 Å³."""
    return x_from_cells(lattice, random_cells(lattice, n, rng))


def pattern(
    lattice: Lattice, forms: Floats, rng: np.random.Generator, noise: float = 0.0
) -> tuple[Floats, Floats]:
    """The first observed lines (N_LINES,) of a random cell of 300 to 3000 Å³, and its x (p,).

    Lines closer than 0.001 q² to the one before are not resolved.
    """
    volume = np.exp(rng.uniform(np.log(300.0), np.log(3000.0)))
    x = shapes(lattice, 1, rng)[0] * volume ** (-2.0 / 3.0)
    lines: list[float] = []
    for q2 in np.sort(forms @ x):
        if (not lines or q2 - lines[-1] > 1e-3 * q2) and rng.random() < OBSERVED:
            lines.append(q2)
    q2 = np.array(lines[:N_LINES])
    return np.unique(q2 + noise * sigmas(q2) * rng.standard_normal(len(q2))), x


def speed(lattice: Lattice, size: int, options: argparse.Namespace) -> Figures:
    """A row of the first table: least CPU time of several."""
    rng = np.random.default_rng(5)
    forms = references(lattice.symbol, size).forms
    q2, _ = pattern(lattice, forms, rng)
    settings = SETTINGS[lattice.n_parameters]
    searches = [2, *[options.candidates] * options.repeat]  # the first compiles
    times = [searched(lattice, forms, q2, settings, n, rng)[1:3] for n in searches]
    return {
        "lattice": lattice.symbol,
        "parameters": lattice.n_parameters,
        "lines": len(forms),
        "speed": max(iterations / seconds for seconds, iterations in times[1:]),
    }


def searched(
    lattice: Lattice,
    forms: Floats,
    q2: Floats,
    settings: Settings,
    n: int,
    rng: np.random.Generator,
) -> tuple[Floats, float, int]:
    """Information (n,) of random candidates after the search, CPU seconds and iterations."""
    starts, fresh = (
        volume_scaled(forms, lattice.basis, q2, shapes(lattice, m, rng), settings, rng)
        for m in (n, N_FRESH)
    )
    begin = time.process_time()
    found = optimise(forms, lattice.basis, q2, sigmas(q2), starts, fresh, settings, seed=1)
    return found.information, time.process_time() - begin, int(found.iterations.sum())


def success(lattice: Lattice, limit: tuple[int, float], options: argparse.Namespace) -> Figures:
    """A row of the second table: a candidate finds the cell if it ends with the information of the
    true one, or more. With a share r of such candidates, which cost t each, the cell is found
    within T with probability 1 − exp(−r T/t)."""
    forms = references(lattice.symbol).forms
    settings = replace(
        SETTINGS[lattice.n_parameters],
        patience=limit[0],
        hopeless=limit[1],
        accept=options.accept,
    )
    warm = np.random.default_rng(5)
    searched(lattice, forms, pattern(lattice, forms, warm)[0], settings, 2, warm)  # compiles
    hits, seconds = [], 0.0
    for number_ in range(options.patterns):
        rng = np.random.default_rng((7, number_))
        q2, x = pattern(lattice, forms, rng, options.noise)
        true = merits(forms, lattice.basis, q2, sigmas(q2), x[None]).information[0]
        information, spent, _ = searched(lattice, forms, q2, settings, options.candidates, rng)
        hits.append((information > true - 0.5).mean())
        seconds += spent
    cost = seconds / (options.patterns * options.candidates)
    rates = np.array(hits)
    return {
        "lattice": lattice.symbol,
        "give_up": f"{limit[1]:g} at {limit[0]}" if limit[0] else "never",
        "patterns": options.patterns,
        "found": float((rates > 0).mean()),
        "hits": float(rates.mean()),
        "cost": cost,
        "soon": float((1.0 - np.exp(-rates * 0.01 / cost)).mean()),
    }
