"""One run in a process of its own: `python -m benchmarks.worker '{"case": …}'` prints its figures.

Compiling is kept out of the figures by solving the tiny case first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import peak_MB
from benchmarks.ours import judge, solve
from benchmarks.problems import CASES, Problem, case_of, make
from sfxproc.errors import UserError

PEERS = {
    "xscale6e": ("peer_cctbx.py", ("1e-6",)),
    "scitbx-lbfgs": ("peer_scitbx.py", ("1e-12", "30")),
}
"""Drivers of other programs, with the arguments that bring them to our minimum."""


@dataclass(frozen=True)
class Spec:
    """What to run. cctbx_python : interpreter for the peers."""

    case: str
    i_over_sigma: float
    method: str
    weights: str = "given"
    threads: int = 1
    seed: int = 1
    cctbx_python: str = ""


def run(spec: Spec) -> dict[str, Any]:
    """Make the problem, solve it, judge the solution. 'failed' tells why there is none."""
    case = case_of(spec.case)
    figures: dict[str, Any] = {
        **asdict(spec),
        **asdict(case),
        "parameters": case.parameters,
        "load": os.getloadavg()[0],
    }
    try:
        if spec.method in PEERS:
            problem = make(case, spec.i_over_sigma, spec.weights, spec.seed)
            found = ask_peer(problem, spec)
        else:
            tiny = make(CASES["tiny"], 45.0, spec.weights)
            solve(tiny, spec.method, spec.weights, spec.threads)
            problem = make(case, spec.i_over_sigma, spec.weights, spec.seed)
            found = solve(problem, spec.method, spec.weights, spec.threads)
            found["peak_MB"] = peak_MB()
            point = found.pop("point")
            found.update(judge(problem, point.local[:, 0], point.local[:, 1], point.shared))
    except (UserError, ValueError, ArithmeticError, MemoryError) as error:
        return {**figures, "failed": str(error) or type(error).__name__}
    if spec.weights == "counting":  # variances move with the model: another function is minimised
        found["objective"] = found["solver_objective"]
    return {**figures, **found}


def ask_peer(problem: Problem, spec: Spec) -> dict[str, Any]:
    """Have another program solve the same arrays; judged like ours."""
    driver, arguments = PEERS[spec.method]
    with tempfile.TemporaryDirectory() as folder:
        given, solution = f"{folder}/problem.npz", f"{folder}/solution.npz"
        problem.save(given)
        command = [spec.cctbx_python, str(Path(__file__).with_name(driver)), given, solution]
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True)
        if ended.returncode != 0:
            raise ValueError((ended.stderr.strip() or "no message").splitlines()[-1])
        with np.load(solution) as s:
            arrays = {name: s[name] for name in s.files}
    found = {
        "wall_s": float(arrays["wall"]),
        "cpu_s": float(arrays["cpu"]),
        "peak_MB": float(arrays["peak"]),
        "iterations": int(arrays["iterations"]),
        "evaluations": int(arrays["evaluations"]),
    }
    with np.errstate(invalid="ignore", over="ignore"):
        ln_G = np.log(np.abs(arrays["G"]))
        found.update(judge(problem, ln_G, arrays["B"], arrays["I"]))
    return found


if __name__ == "__main__":
    print(json.dumps(run(Spec(**json.loads(sys.argv[1])))))
