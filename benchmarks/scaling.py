"""`python -m benchmarks scaling` and `growth`: solvers over sizes and signal, over size alone."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys

from benchmarks.problems import WEIGHTS, case_of
from benchmarks.runs import Column, Figures, machine, measure, number, table, told, write_json
from benchmarks.worker import PEERS, Spec
from sfxproc.lsq import SOLVERS

COLUMNS: list[Column] = [
    ("case", lambda f: f["case"]),
    ("I/σ", number("i_over_sigma", "g")),
    ("method", lambda f: f["method"]),
    ("parameters", number("parameters")),
    ("observations", number("observations")),
    ("CPU s", number("cpu_s", ".3f")),
    ("wall s", number("wall_s", ".3f")),
    ("set-up CPU s", number("set_up_cpu_s", ".3f")),
    ("peak MB", number("peak_MB")),
    ("iterations", number("iterations")),
    ("CG or evaluations", lambda f: _inner(f)),
    ("objective", number("objective", ".4f")),
    ("above lowest", number("above", ".1e")),
    ("CC(I) %", number("cc_I", ".3f", 100.0)),
    ("CC(G) %", number("cc_G", ".3f", 100.0)),
    ("CC(B) %", number("cc_B", ".2f", 100.0)),
    ("load", number("load", ".1f")),
]
GROWTH_COLUMNS: list[Column] = [
    ("case", lambda f: f["case"]),
    ("parameters", number("parameters")),
    ("observations", number("observations")),
    ("solve CPU s", number("cpu_s", ".2f")),
    ("wall s", number("wall_s", ".2f")),
    ("ns/observation", number("ns_per_observation", ".0f")),
    ("set-up CPU s", number("set_up_cpu_s", ".2f")),
    ("peak GB", number("peak_MB", ".2f", 1e-3)),
    ("iterations", number("iterations")),
    ("CG", number("cg_iterations")),
    ("CC(I)", number("cc_I", ".6f")),
    ("converged", lambda f: "yes" if f.get("converged") else "no"),
    ("load", number("load", ".1f")),
]


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The two commands."""
    scaling = commands.add_parser("scaling", help="solvers and peers over sizes and signal")
    scaling.add_argument("--sizes", nargs="+", type=known, default=["200", "500", "1000", "5000"])
    scaling.add_argument("--signals", nargs="+", type=float, default=[143.0, 45.0, 4.6])
    scaling.add_argument("--methods", nargs="+", default=["schur-cg"], choices=list(SOLVERS))
    scaling.add_argument("--peers", nargs="*", choices=list(PEERS), help="none named: all")
    scaling.add_argument("--cctbx-python", default="python", help="interpreter with cctbx-base")
    scaling.set_defaults(run=run_scaling)
    growth = commands.add_parser("growth", help="cost per observation over size")
    growth.add_argument(
        "--sizes", nargs="+", type=known, default=["500-full", "5000-full", "20000-full"]
    )
    growth.add_argument("--signals", nargs="+", type=float, default=[45.0])
    growth.add_argument("--methods", nargs="+", default=["schur-cg"], choices=list(SOLVERS))
    growth.set_defaults(run=run_growth)
    for command in (scaling, growth):
        command.add_argument("--weights", choices=WEIGHTS, default="given")
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--repeat", type=int, default=1, help="runs; the fastest is shown")
        command.add_argument("--json", metavar="FILE")


def known(name: str) -> str:
    """The name of a case."""
    try:
        case_of(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


def run_scaling(options: argparse.Namespace) -> int:
    """Every method, then every peer, on each problem."""
    before = machine()
    peers = list(PEERS) if options.peers == [] else (options.peers or [])
    absent = _absent(options.cctbx_python) if peers else ""
    rows: list[Figures] = []
    for case in options.sizes:
        for signal in options.signals:
            here = [_run(options, case, signal, method) for method in options.methods]
            for peer in peers:
                row = {"case": case, "i_over_sigma": signal, "method": peer, "failed": absent}
                here.append(row if absent else _run(options, case, signal, peer))
            rows += _compared(here)
    print(table(rows, COLUMNS))
    return _end(options, rows, before)


def run_growth(options: argparse.Namespace) -> int:
    """Each size with each method."""
    before = machine()
    rows: list[Figures] = []
    for case in options.sizes:
        for signal in options.signals:
            for method in options.methods:
                row = _run(options, case, signal, method)
                if "cpu_s" in row:
                    row["ns_per_observation"] = 1e9 * row["cpu_s"] / row["observations"]
                rows.append(row)
    print(table(rows, GROWTH_COLUMNS))
    return _end(options, rows, before)


def _end(options: argparse.Namespace, rows: list[Figures], before: Figures) -> int:
    print("\nBefore:", told(before))
    print("After: ", told(machine()))
    write_json(options.json, rows, before)
    return int(any("failed" in row for row in rows if row["method"] not in PEERS))


def _run(options: argparse.Namespace, case: str, signal: float, method: str) -> Figures:
    python = getattr(options, "cctbx_python", "")
    spec = Spec(case, signal, method, options.weights, options.threads, cctbx_python=python)
    row = measure(spec, 1 if method in PEERS else options.repeat)
    took = f"{row['cpu_s']:.3f} CPU s" if "cpu_s" in row else f"failed: {row['failed']}"
    print(f"{case}, I/σ {signal:g}, {method}: {took}", file=sys.stderr, flush=True)
    return row


def _compared(rows: list[Figures]) -> list[Figures]:
    """The same rows, each told how far above the lowest objective it ended."""
    known = [row["objective"] for row in rows if "objective" in row]
    for row in rows:
        if "objective" in row:
            row["above"] = row["objective"] / min(known) - 1.0
    return rows


def _absent(python: str) -> str:
    """Why the peers cannot run; empty if they can."""
    if shutil.which(python) is None:
        return f"no interpreter '{python}'"
    asked = subprocess.run([python, "-c", "import cctbx.examples.merging"], capture_output=True)
    return f"no cctbx-base in '{python}' (see --cctbx-python)" if asked.returncode else ""


def _inner(figures: Figures) -> str:
    name = "evaluations" if figures["method"] in PEERS else "cg_iterations"
    return number(name)(figures)
