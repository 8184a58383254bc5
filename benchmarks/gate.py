"""`python -m benchmarks gate`: small problems against the committed baseline.

Tight on what must not change (iterations, objective), loose on time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.runs import Figures, machine, measure, told
from benchmarks.worker import Spec

BASELINE = Path(__file__).with_name("baseline.json")
OBJECTIVE = 1e-7  # relative
ITERATIONS = 1
CG_ITERATIONS = 0.25  # relative, and 2
SLOWER, SECONDS = 3.0, 0.2  # times the baseline, and this
KEPT = ("iterations", "cg_iterations", "objective", "cpu_s")


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command."""
    command = commands.add_parser("gate", help="compare small problems with the baseline")
    command.add_argument("--baseline", type=Path, default=BASELINE)
    command.add_argument("--update", action="store_true", help="write the baseline anew")
    command.add_argument("--repeat", type=int, default=2, help="runs; the fastest counts")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1 if anything is worse than the baseline allows."""
    record = json.loads(options.baseline.read_text())
    print(told(machine()))
    complaints: list[str] = []
    for entry in record["problems"]:
        now = measure(Spec(**{k: v for k, v in entry.items() if k not in KEPT}), options.repeat)
        if options.update and "failed" not in now:
            entry.update({name: now[name] for name in KEPT})
        problem = f"{entry['case']} at {entry['i_over_sigma']:g}, {entry['method']}"
        found = differences(entry, now)
        complaints += [f"{problem}: {text}" for text in found]
        print(f"{'WORSE' if found else 'ok':>5}  {problem}", flush=True)
    for text in complaints:
        print(text)
    if options.update:
        options.baseline.write_text(json.dumps(record, indent=1) + "\n")
    print("The gate is open." if not complaints else "The gate is shut.")
    return int(bool(complaints))


def differences(entry: Figures, now: Figures) -> list[str]:
    """What is worse than the baseline entry allows."""
    if "failed" in now:
        return [f"failed: {now['failed']}"]
    out = []
    if not now["converged"]:
        out.append("did not converge")
    if abs(now["objective"] - entry["objective"]) > OBJECTIVE * entry["objective"]:
        out.append(f"objective {now['objective']!r}, was {entry['objective']!r}")
    if now["iterations"] > entry["iterations"] + ITERATIONS:
        out.append(f"{now['iterations']} iterations, were {entry['iterations']}")
    if now["cg_iterations"] > entry["cg_iterations"] * (1.0 + CG_ITERATIONS) + 2:
        out.append(f"{now['cg_iterations']} CG iterations, were {entry['cg_iterations']}")
    if now["cpu_s"] > SLOWER * entry["cpu_s"] + SECONDS:
        out.append(f"{now['cpu_s']:.3f} CPU s, were {entry['cpu_s']:.3f}")
    return out
