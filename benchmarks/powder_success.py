"""`python -m benchmarks powder-success`: how often the right cell is found, lattice unknown.

Patterns are those of random structures, of structures in files, or measured ones; each answer is
written to a file as it comes, and a study that was interrupted goes on from there. A cell is right
if its lattice of points is the true one within 1 % and 1°.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from benchmarks.runs import Column, Figures, number, table
from benchmarks.svd_index import svd_index
from sfxproc.data import Floats, Ints
from sfxproc.errors import UserError
from sfxproc.formats.structures import read_structure
from sfxproc.powder.cells import fitting_lattices, primitive_cells, same_lattice
from sfxproc.powder.indexing import N_LINES, IndexSettings, confidences, index, lines_of
from sfxproc.powder.lattices import LATTICES
from sfxproc.powder.optimise import Accept
from sfxproc.powder.ranking import Cell, Lines
from sfxproc.powder.superstructures import sublattices
from sfxproc.reduction import bravais_symbol, niggli_cell
from sfxproc.simulate.powder import Pattern, PowderSettings, pattern_of, simulate_pattern
from sfxproc.symmetry import metric_tensors, space_group

COLUMNS: list[Column] = [
    ("lattice", lambda row: str(row["lattice"])),
    ("patterns", number("patterns")),
    *((f"first {n} %", number(f"top{n}", ".1f", 100.0)) for n in (1, 5, 20)),
    ("determined", number("determined")),
    ("of these first 1 %", number("top1_determined", ".1f", 100.0)),
    ("CPU s, median", number("median_s", ".1f")),
    ("most", number("most_s", ".1f")),
]


class Case(NamedTuple):
    """Lines, the Bravais lattice of the true cell and a primitive cell (6,) of it; whether the
    lines determine it (`determined`)."""

    name: str
    lattice: str
    lines: Lines
    true: Floats
    determined: bool = True


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command."""
    command = commands.add_parser("powder-success", help="how often powder indexing succeeds")
    command.add_argument("--lattices", nargs="*", default=list(LATTICES), choices=list(LATTICES))
    command.add_argument("--patterns", type=int, default=60, help="of each lattice")
    command.add_argument("--first", type=int, default=0, help="number of the first pattern")
    command.add_argument("--structures", type=Path, help="a folder of POSCARs and CIFs instead")
    command.add_argument("--measured", type=Path, help="a JSON-lines file of lists instead")
    command.add_argument("--sigma-two-theta", type=float, default=0.0, help="degrees")
    command.add_argument("--contaminants", type=int, default=0)
    command.add_argument("--within", type=int, default=0, help="lines that they are among")
    command.add_argument("--n-lines", type=int, default=N_LINES)
    command.add_argument("--effort", type=float, default=1.0)
    command.add_argument("--no-early-stop", action="store_true")
    command.add_argument("--method", choices=["search", "svd"], default="search")
    command.add_argument("--accept", choices=get_args(Accept), default="always")
    command.add_argument("--processes", type=int, default=1)
    command.add_argument("--out", type=Path, help="JSON lines of the answers; done ones are kept")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The table."""
    known = _earlier(options.out)
    jobs = [(name, make) for name, make in cases(options) if name not in known]
    rows = [*known.values()]
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # CPU seconds, not spinning
    with get_context("spawn").Pool(options.processes) as pool:
        for row in pool.imap_unordered(partial(answered, options=options), jobs):
            if row:
                _tell(row, options.out)
                rows.append(row)
    print(table(summary(rows), COLUMNS))
    return 0


def _earlier(path: Path | None) -> dict[str, Figures]:
    if path is None or not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text().splitlines())
    return {row["name"]: row for row in rows}


def _tell(row: Figures, path: Path | None) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    if path is not None:
        with path.open("a") as file:
            file.write(line + "\n")


# ---- patterns ------------------------------------------------------------------------------


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Case | None]]]:
    """Names of the patterns, and what makes each."""
    if options.measured:
        for text in options.measured.read_text().splitlines():
            entry = json.loads(text)
            for key in ("q2", "d_primary"):
                if key in entry:
                    yield f"{entry['id']} {key}", partial(measured, entry, key, options.n_lines)
        return
    settings = PowderSettings(
        sigma_two_theta_deg=options.sigma_two_theta,
        n_contaminants=options.contaminants,
        contaminants_within=options.within,
    )
    if options.structures:
        for path in sorted(p for p in options.structures.rglob("*") if p.is_file()):
            name = str(path.relative_to(options.structures))
            yield name, partial(of_file, path, name, settings, options.n_lines)
        return
    for symbol in options.lattices:
        for n in range(options.first, options.first + options.patterns):
            yield f"{symbol}-{n}", partial(simulated, symbol, n, settings, options.n_lines)


def simulated(symbol: str, n: int, settings: PowderSettings, n_lines: int) -> Case:
    """Pattern n of the random structures of a lattice."""
    pattern = simulate_pattern(settings, symbol, n)
    group = pattern.structure.space_group
    true = niggli_cell(pattern.structure.cell, group.centring)
    lines = lines_of(pattern.q2, None, n_lines)
    return Case(f"{symbol}-{n}", symbol, lines, true, determined(pattern, true, n_lines))


def determined(pattern: Pattern, true: Floats, n_lines: int) -> bool:
    """Whether no cell of ½, ⅓ or ¼ of the volume of the `true` primitive cell (6,), as symmetric
    as the lattice, has all the first lines at their true places."""
    fits = fitting_lattices(true, 0.01, 0.01)
    system = LATTICES[pattern.lattice].system
    fit = next((f for f in fits if f.lattice.system == system), fits[0])
    metric = metric_tensors(fit.cell)
    true_q2 = pattern.true_q2[:n_lines]
    true_q2 = true_q2[np.isfinite(true_q2)]
    most = np.floor(np.sqrt(1.001 * true_q2[-1] * np.diag(metric))).astype(np.int64)
    axes = [np.arange(-m, m + 1) for m in most]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[fit.lattice.allowed(hkl)]
    q2 = np.einsum("ni,ij,nj->n", hkl, np.linalg.inv(metric), hkl)
    line = np.abs(q2[:, None] - true_q2) < 1e-6 * true_q2  # (hkl, lines)
    hkl, line = hkl[line.any(axis=1)], line[line.any(axis=1)]
    every = sublattices(fit.lattice.symbol)
    members = every.members(hkl, np.flatnonzero(every.indices <= 4))
    return not any(line[member].any(axis=0).all() for member in members)


def of_file(path: Path, name: str, settings: PowderSettings, n_lines: int) -> Case | None:
    """The pattern of a structure; None if it has unknown elements or too few lines.

    POSCARs do not name their space group: it is the number in their file name, and their centring
    that of the lines.
    """
    structure = read_structure(path)
    digits = path.name.partition("-")[2].partition("-")[0]
    group = space_group(int(digits)) if digits.isdigit() else structure.space_group
    rng = np.random.default_rng([settings.seed, *name.encode()])
    try:
        pattern = pattern_of(structure, settings, bravais_symbol(group), rng)
    except UserError:
        return None
    if len(pattern.q2) < settings.min_lines:
        return None
    real = pattern.hkl[np.isfinite(pattern.true_q2)]
    true = niggli_cell(structure.cell, centring_of(real))
    sure = determined(pattern, true, n_lines)
    return Case(name, pattern.lattice, lines_of(pattern.q2, None, n_lines), true, sure)


def centring_of(hkl: Ints) -> str:
    """The centring that lets all of hkl (n, 3) reflect and has most lattice points."""
    h, k, l = hkl.T
    allowed = {
        "F": (h + k) % 2 + (k + l) % 2,
        "R": (-h + k + l) % 3,
        "I": (h + k + l) % 2,
        "A": (k + l) % 2,
        "B": (h + l) % 2,
        "C": (h + k) % 2,
    }
    return next((name for name, rest in allowed.items() if not rest.any()), "P")


def measured(entry: Figures, key: str, n_lines: int) -> Case:
    """A measured list; lines flagged 0 are left out."""
    values = np.array(entry[key], dtype=np.float64)
    if key == "q2" and "flag" in entry:
        values = values[np.array(entry["flag"]) == 1]
    q2 = np.sort(values if key == "q2" else values**-2.0)
    lattice = LATTICES[entry["bravais"]]
    true = primitive_cells(lattice, np.array(entry["cell"], dtype=np.float64))
    return Case(f"{entry['id']} {key}", lattice.symbol, lines_of(q2, None, n_lines), true)


# ---- answers -------------------------------------------------------------------------------


def answered(
    job: tuple[str, Callable[[], Case | None]], options: argparse.Namespace
) -> Figures | None:
    """Where the true cell stands among those found, counted from 1, and what that cost."""
    case = job[1]()
    if case is None:
        return None
    settings = IndexSettings(
        effort=options.effort, early_stop=not options.no_early_stop, accept=options.accept
    )
    begin = time.process_time()
    best = _method(options.method)(case.lines, settings)
    spent = time.process_time() - begin
    places = [n for n, c in enumerate(best, 1) if same_lattice(c.primitive, case.true)]
    right = best[places[0] - 1] if places else None
    return {
        "name": case.name,
        "lattice": case.lattice,
        "place": places[0] if places else None,
        "cpu_s": round(spent, 2),
        "lines": len(case.lines.q2),
        "determined": case.determined,
        "true": np.round(case.true, 3).tolist(),
        "confidence": round(float(confidences(best)[0]), 4) if best else 0.0,
        "first": _told(best[0]) if best else None,
        "right": _told(right) if right else None,
    }


def _method(name: str) -> Callable[[Lines, IndexSettings], list[Cell]]:
    return svd_index if name == "svd" else index


def _told(cell: Cell) -> list[object]:
    values = [*np.round(cell.conventional, 3).tolist(), round(cell.score, 1)]
    return [cell.lattice.symbol, *values, round(cell.scale, 3), cell.n_calculated]


def share(place: Floats, n: int = 1) -> float:
    """Of the true cells among the first n."""
    return float((place <= n).mean()) if len(place) else np.nan


def summary(rows: Sequence[Figures]) -> list[Figures]:
    """A row of the table for each lattice, and one for all."""
    out = []
    for symbol in [*LATTICES, "all"]:
        of = [row for row in rows if symbol in (row["lattice"], "all")]
        if not of:
            continue
        place = np.array([row["place"] or np.inf for row in of])
        cpu_s = np.array([row["cpu_s"] for row in of])
        shares = {f"top{n}": share(place, n) for n in (1, 5, 20)}
        sure = np.array([row["determined"] for row in of])
        shares |= {"determined": int(sure.sum()), "top1_determined": share(place[sure])}
        times = {"median_s": float(np.median(cpu_s)), "most_s": float(cpu_s.max())}
        out.append({"lattice": symbol, "patterns": len(of), **shares, **times})
    return out
