"""Do the sigmas of merged intensities mean something? z = (I − truth)/σ should have r.m.s. 1.

The naive σ² = 1/Σw takes the scales as known; the others add what uncertain scales contribute,
exactly or sampled. Twelve observations a reflection, few an image, so that scales are uncertain.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.ours import set_up
from benchmarks.problems import F8, Case, Problem, make
from benchmarks.runs import Figures, machine, number, table, told
from sfxproc.lsq import LevenbergMarquardt, Loss
from sfxproc.lsq.covariance import exact
from sfxproc.lsq.sampled import sampled

MULTIPLICITY = 12
CASES = {  # images, observations an image, I/σ
    "200 × 150": (200, 150, 45.0),
    "500 × 150": (500, 150, 45.0),
    "500 × 450": (500, 450, 4.6),
    "500 × 450 strong": (500, 450, 143.0),
    "1000 × 60": (1000, 60, 45.0),
    "2000 × 150": (2000, 150, 45.0),
}
STRATA = 20
COLUMNS = [
    ("images × observations", lambda f: str(f["case"])),
    ("I/σ", number("signal", "g")),
    ("share of σ² from scales, %", number("share", ".2f", 100.0)),
    *(
        (f"{which} {part}", number(f"{which} {part}", ".3f"))
        for which in ("naive", "exact", "sampled")
        for part in ("all", "strongest")
    ),
    ("sampling error, %", number("error", ".1f", 100.0)),
    ("error claimed, %", number("claimed", ".1f", 100.0)),
]


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command."""
    command = commands.add_parser("sigmas", help="r.m.s. z of merged intensities against truth")
    command.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The table."""
    before = machine()
    print(table([measured(name) for name in options.cases], COLUMNS))
    print(f"\n{told(before)}")
    return 0


def measured(name: str) -> Figures:
    """r.m.s. z of all reflections and of the strongest quarter, for each kind of σ."""
    images, per_image, signal = CASES[name]
    n = images * per_image
    problem = make(Case(images, n // MULTIPLICITY, n), signal)
    model, start = set_up(problem, "given", 1)
    result = LevenbergMarquardt().solve(model.engine, model, start)
    shift = np.array([np.mean(problem.ln_G), np.mean(problem.B)])
    mean = result.point.local.mean(axis=0)
    point = model.gauged(result.point, *np.split(shift - mean, 2))
    lin = model.engine.linearise(model, point, Loss())
    naive, from_scales = 1.0 / lin.D, exact(model.engine, lin).from_local
    strata = (np.argsort(np.argsort(model.s2)) * STRATA // len(model.s2)).astype(np.int32)
    found = sampled(model.engine, model, point, lin, Loss(), strata)
    variances = {
        "naive": naive,
        "exact": naive + from_scales,
        "sampled": naive + found.from_local,
    }
    ratio = found.from_local / from_scales
    z: Figures = {}
    for which, variance in variances.items():
        z |= pulls(problem, point.shared, variance, which)
    return {
        "case": name,
        "signal": signal,
        "share": float(np.mean(from_scales / (naive + from_scales))),
        "error": float(abs(np.mean(ratio) - 1.0)),
        "claimed": found.relative_error,
        **z,
    }


def pulls(problem: Problem, intensity: F8, variance: F8, which: str) -> Figures:
    """r.m.s. z of all and of the strongest quarter."""
    z2 = (intensity - problem.I) ** 2 / variance
    weakest_strong = np.quantile(problem.I, 0.75)
    return {
        f"{which} all": float(np.sqrt(np.mean(z2))),
        f"{which} strongest": float(np.sqrt(np.mean(z2[weakest_strong <= problem.I]))),
    }
