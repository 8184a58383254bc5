"""The benchmarks run, on the smallest problem; figures of speed are not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gate import differences  # noqa: E402
from benchmarks.ours import judge, solve  # noqa: E402
from benchmarks.problems import (  # noqa: E402
    CASES,
    Case,
    case_of,
    make,
    structure,
)
from benchmarks.worker import Spec, run  # noqa: E402


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_reflection_is_seen_and_none_twice_by_an_image() -> None:
    case = Case(520, 3_000, 30_011)  # two blocks of images, unequal numbers
    made = structure(case)
    assert len(made.reflection) == case.observations
    assert set(np.diff(made.start)) == {57, 58}
    assert np.array_equal(np.unique(made.reflection), np.arange(case.reflections))
    pair = made.image * case.reflections + made.reflection
    assert np.all(np.diff(pair) > 0)
    assert not np.array_equal(made.reflection, structure(case, seed=2).reflection)


def test_noise_has_the_variance_it_says_and_the_signal_asked_for() -> None:
    problem = make(CASES["500"], 4.6)
    truth = judge(problem, problem.ln_G, problem.B, problem.I)
    assert 2.0 * truth["objective"] / CASES["500"].observations == pytest.approx(1.0, abs=0.02)
    assert truth["cc_I"] == pytest.approx(1.0)
    y = np.maximum(problem.variance - 1.0, 0.0)
    assert np.mean(y) / np.mean(np.sqrt(y)) == pytest.approx(4.6, rel=1e-3)
    again = make(CASES["500"], 4.6)
    assert np.array_equal(problem.observed, again.observed)


def test_names_of_cases() -> None:
    assert case_of("2000-full") == Case(2000, 162_693, 3_266_000)
    assert case_of("500-full").parameters == 161_022
    with pytest.raises(ValueError, match="'20-full' is no case"):
        case_of("20-full")


@pytest.mark.parametrize("weights", ["given", "noisy", "counting"])
def test_solutions_are_near_the_truth(weights: str) -> None:
    problem = make(CASES["500"], 143.0, weights)
    found = solve(problem, "schur-cg", weights, threads=1)
    point = found.pop("point")
    assert found["converged"]
    judged = judge(problem, point.local[:, 0], point.local[:, 1], point.shared)
    assert min(judged["cc_I"], judged["cc_G"]) > 0.9999
    assert judged["cc_B"] > 0.99


def test_the_judge_does_not_mind_the_gauge() -> None:
    problem = make(CASES["tiny"], 45.0)
    truth = judge(problem, problem.ln_G, problem.B, problem.I)
    I = problem.I * np.exp(2.0 * 7.0 * problem.s2 - 0.3)
    moved = judge(problem, problem.ln_G + 0.3, problem.B + 7.0, I)
    assert moved == pytest.approx(truth)


def test_scaling_command(tmp_path: Path) -> None:
    record = tmp_path / "figures.json"
    ended = benchmarks(
        "scaling", "--sizes", "tiny", "--signals", "45", "4.6", "--peers", "xscale6e",
        "--cctbx-python", "no-such-python", "--json", str(record),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "failed: no interpreter 'no-such-python'" in ended.stdout
    runs = json.loads(record.read_text())["runs"]
    ours = [r for r in runs if r["method"] == "schur-cg"]
    assert len(ours) == 2
    assert all(r["above"] <= 1e-8 and r["peak_MB"] > 0 and r["cpu_s"] > 0 for r in ours)


def test_what_cannot_run_says_why() -> None:
    figures = run(Spec("tiny", 45.0, "xscale6e", cctbx_python=sys.executable))
    assert "No module named 'cctbx'" in figures["failed"]
    ended = benchmarks("scaling", "--sizes", "20-full")
    assert ended.returncode == 2
    assert "'20-full' is no case" in ended.stderr


def test_gate_opens_and_shuts(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    entry = {"case": "tiny", "i_over_sigma": 45.0, "method": "schur-cg"}
    baseline.write_text(json.dumps({"problems": [entry]}))
    gate = ("gate", "--repeat", "1", "--baseline", str(baseline))
    assert benchmarks(*gate, "--update").returncode == 0
    kept = json.loads(baseline.read_text())
    assert kept["problems"][0]["iterations"] > 0
    assert benchmarks(*gate).returncode == 0
    kept["problems"][0]["objective"] *= 1.001
    baseline.write_text(json.dumps(kept))
    shut = benchmarks(*gate)
    assert shut.returncode == 1
    assert "tiny at 45, schur-cg: objective" in shut.stdout


def test_what_the_gate_minds() -> None:
    entry = {"iterations": 4, "cg_iterations": 8, "objective": 100.0, "cpu_s": 1.0}
    same = {**entry, "converged": True}
    assert differences(entry, same) == []
    assert differences(entry, {**same, "iterations": 5, "cg_iterations": 12, "cpu_s": 3.0}) == []
    for worse in (
        {"iterations": 6}, {"cg_iterations": 13}, {"objective": 100.001}, {"cpu_s": 4.0},
        {"converged": False}, {"failed": "no memory"},
    ):  # fmt: skip
        assert len(differences(entry, {**same, **worse})) == 1


def test_fill_in_command() -> None:
    ended = benchmarks("fill_in", "--sizes", "200")
    assert ended.returncode == 0, ended.stderr
    for printed in ("55,964", "1,672,461", "3,618,497", "14,171,257", "66,346,347"):
        assert printed in ended.stdout


def test_sigmas_mean_something() -> None:
    done = benchmarks("sigmas", "--cases", "200 × 150")
    assert done.returncode == 0, done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[2].split("|")[1:-1]]
    z = [float(cell) for cell in cells[3:9]]
    # 2,500 reflections, 625 of them strong: errors of 0.014 and 0.028
    assert all(abs(value - 1.0) < 0.09 for value in z)
    assert z[2] <= z[0]  # uncertain scales make sigmas larger, pulls smaller
    assert z[4] == pytest.approx(z[2], rel=0.01)
