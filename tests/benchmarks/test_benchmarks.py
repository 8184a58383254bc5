"""The benchmarks run, on the smallest problem; figures of speed are not looked at."""

from __future__ import annotations

import heapq
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import differences
from benchmarks.ours import judge, solve
from benchmarks.problems import (
    CASES,
    Case,
    case_of,
    make,
    structure,
)
from benchmarks.scale_out import (
    Settings,
    blocks_job,
    climb,
    deal,
    global_job,
    saturation,
    times,
)
from benchmarks.worker import Spec, run

ROOT = Path(__file__).resolve().parents[2]


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
        "scaling",
        "--sizes",
        "tiny",
        "--signals",
        "45",
        "4.6",
        "--peers",
        "xscale6e",
        "--cctbx-python",
        "no-such-python",
        "--json",
        str(record),
    )
    assert ended.returncode == 0, ended.stderr
    assert "failed: no interpreter 'no-such-python'" in ended.stdout
    runs = json.loads(record.read_text())["runs"]
    ours = [r for r in runs if r["method"] == "schur-cg"]
    assert len(ours) == 2
    assert all(r["above"] <= 1e-8 and r["peak_MB"] > 0 and r["cpu_s"] > 0 for r in ours)


def test_what_cannot_run_says_why() -> None:
    figures = run(
        Spec("tiny", 45.0, "xscale6e", cctbx_python=str(Path(sys.base_prefix) / "bin" / "python3"))
    )
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
        {"iterations": 6},
        {"cg_iterations": 13},
        {"objective": 100.001},
        {"cpu_s": 4.0},
        {"converged": False},
        {"failed": "no memory"},
    ):
        assert len(differences(entry, {**same, **worse})) == 1


def test_fill_in_command() -> None:
    ended = benchmarks("fill_in", "--sizes", "200")
    assert ended.returncode == 0, ended.stderr
    for printed in ("55,964", "1,672,461", "3,618,497", "14,171,257", "66,346,347"):
        assert printed in ended.stdout


def test_border_command() -> None:
    sizes = "--blocks 12 --local 3 --common 9 --slots 4 --rows 300 --repeat 1 --exact"
    ended = benchmarks("border", *sizes.split())
    assert ended.returncode == 0, ended.stderr
    cells = [cell.strip() for cell in ended.stdout.splitlines()[-1].split("|")[1:-1]]
    assert cells[:5] == ["12", "3", "9", "4", "300"]
    assert float(cells[10].replace(",", "")) > 50.0  # MB: Python alone takes as much


def test_sigmas_mean_something() -> None:
    done = benchmarks("sigmas", "--cases", "200 × 150")
    assert done.returncode == 0, done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[2].split("|")[1:-1]]
    z = [float(cell) for cell in cells[3:9]]
    # 2,500 reflections, 625 of them strong: errors of 0.014 and 0.028
    assert all(abs(value - 1.0) < 0.09 for value in z)
    assert z[2] <= z[0]  # uncertain scales make sigmas larger, pulls smaller
    assert z[4] == pytest.approx(z[2], rel=0.01)


# ---- on paper --------------------------------------------------------------------------------

FREE = Settings(
    latency_s=0.0,
    handling_s=0.0,
    link_Bps=np.inf,
    add_Bps=np.inf,
    disk_Bps=np.inf,
    disks_Bps=np.inf,
)


def test_one_rank_takes_the_sum_of_its_tasks() -> None:
    work = times(0.5, 0.15, 400, np.random.default_rng(1))
    assert work.mean() == pytest.approx(0.5, rel=0.03)
    assert work.std() == pytest.approx(0.075, rel=0.1)
    assert deal(work, 1, 1e6, FREE).end_s == pytest.approx(work.sum(), rel=1e-12)
    slow = Settings(latency_s=7.0, handling_s=0.1, link_Bps=1e9, add_Bps=5e8)
    served = 0.1 + 400 * (0.1 + 1e6 / 1e9 + 1e6 / 5e8)  # rank 0 sends itself nothing far
    assert deal(work, 1, 1e6, slow).end_s == pytest.approx(work.sum() + served, rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 7, 64, 1000])
def test_a_network_without_cost_is_list_scheduling(ranks: int) -> None:
    work = times(0.5, 0.4, 300, np.random.default_rng(2))
    free = [0.0] * ranks
    for task_s in work:
        heapq.heapreplace(free, free[0] + task_s)
    stage = deal(work, ranks, 1e6, FREE)
    assert stage.end_s == pytest.approx(max(free), rel=1e-12)
    assert stage.end_s <= work.sum() / ranks + work.max()  # Graham's bound
    assert stage.served_s == 0.0


def test_rank_0_serves_no_more_than_it_can() -> None:
    settings = Settings()
    result_bytes = 16.0 * 50_000
    serve_s = 50e-6 + result_bytes / 5e9 + result_bytes / 2e9
    work = np.full(20_000, 0.1)
    assert saturation(0.1, 50_000, settings) == pytest.approx(0.1 / serve_s)
    many, few = (int(f * 0.1 / serve_s) for f in (4.0, 0.5))
    assert deal(work, many, result_bytes, settings).end_s == pytest.approx(
        20_000 * serve_s, rel=0.02
    )
    assert deal(work, few, result_bytes, settings).end_s == pytest.approx(
        20_000 * 0.1 / few, rel=0.02
    )


def test_results_wait_for_those_before_them() -> None:
    work = np.array([5.5, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert deal(work, 2, 0.0, FREE).waiting == 5
    assert deal(work[1:], 2, 0.0, FREE).waiting <= 1
    assert deal(work, 1, 0.0, FREE).waiting == 0


def test_sums_climb_a_tree() -> None:
    settings = Settings(latency_s=1.0, link_Bps=1.0, add_Bps=2.0)
    assert climb(np.zeros(1), 4.0, settings) == 0.0
    for ranks, depth in ((2, 1), (8, 3), (1024, 10)):
        assert climb(np.zeros(ranks), 4.0, settings) == depth * (1.0 + 4.0 + 2.0)
    assert climb(np.zeros(5), 4.0, settings) == 2 * 7.0 + 2.0  # the fifth has long been there
    late = np.array([0.0, 0.0, 100.0, 0.0])  # its sibling has come meanwhile
    assert climb(late, 4.0, settings) == 100.0 + 2.0 + 7.0


def test_jobs_on_one_rank_lose_nothing_and_on_more_lose_something() -> None:
    for job in (blocks_job, global_job):
        one = job(20_000, 50_000, 1, FREE)
        assert one["efficiency"] == pytest.approx(1.0)
        found = [job(20_000, 50_000, ranks, Settings()) for ranks in (4, 64, 4096)]
        efficiency = [f["efficiency"] for f in found]
        assert efficiency == sorted(efficiency, reverse=True)
        assert 0.7 < efficiency[0] < 1.0
        assert found[-1]["most"].startswith("few ")
    each = FREE.linearise_ns + FREE.products * FREE.product_ns + FREE.objective_ns
    seconds = FREE.iterations * FREE.rows * 20_000 * each * 1e-9
    assert global_job(20_000, 50_000, 1, FREE)["wall_s"] == pytest.approx(seconds, rel=0.02)


def test_scale_out_command() -> None:
    ended = benchmarks(
        "scale_out",
        "--ranks",
        "16",
        "--crystals",
        "5000",
        "--reflections",
        "1000",
        "--handling-s",
        "0.1",
        "--refine-s",
        "1.5",
        "--gradient-s",
        "0.5",
        "--step-s",
        "0.5",
    )
    assert ended.returncode == 0, ended.stderr
    assert "rank 0 at 1,000 reflections: refine 15, others 5." in ended.stdout
    assert ended.stdout.count("|     5,000 |") + ended.stdout.count("|    5,000 |") == 2


def test_the_page_shows_what_the_program_says() -> None:
    page = (ROOT / "docs" / "scale_out.md").read_text(encoding="utf-8")
    shown = {tuple(line.split()) for line in page.splitlines()}
    ended = benchmarks("scale_out", "--ranks", "64", "1024", "--crystals", "100000")
    rows = [line for line in ended.stdout.splitlines() if line.startswith("|   100,000 ")]
    rows += [line for line in ended.stdout.splitlines() if line.startswith("|  100,000 ")]
    assert len(rows) == 8
    for row in rows:
        assert tuple(row.split()) in shown
    for line in ended.stdout.splitlines():
        if line.startswith("Ranks that"):
            assert all(n.strip(",.") in page for n in line.split() if n[0].isdigit())
