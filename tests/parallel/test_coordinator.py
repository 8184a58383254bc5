"""Dealing tasks: every one is done, in whatever place; failures are retried, then set aside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launch import launched

HERE = Path(__file__).resolve().parent
LAUNCHERS = ("PMI", "OMPI", "SLURM", "MPI_")
N = 12
RANKS = (1, 2, 3, 4)
SQUARES = sum(t**2 for t in range(N))


def dealt(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "ranks_deal.py"), *arguments]
    command = launched(command, ranks if ranks > 1 else 0)
    alone = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=alone
    )


def told(ranks: int, *arguments: str) -> dict[str, Any]:
    ended = dealt(ranks, *arguments)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("ranks", RANKS)
def test_each_task_is_done_once_and_consumed_in_order(ranks: int) -> None:
    found = told(ranks, "plain")
    assert found["order"] == found["tried"] == list(range(N))
    assert (found["total"], found["failed"], found["halted"]) == (SQUARES, {}, False)
    assert found["progress"] == N
    assert all(found["by_rank"]), "a rank without work"


@pytest.mark.parametrize("ranks", RANKS)
def test_what_fails_once_is_done_by_another(ranks: int, tmp_path: Path) -> None:
    found = told(ranks, "once", str(tmp_path / "tried"))
    assert found["order"] == list(range(N))
    assert found["tried"].count(5) == 2
    assert found["failed"] == {}
    if ranks > 1:
        assert all(tried.count(5) <= 1 for tried in found["by_rank"])


@pytest.mark.parametrize("ranks", RANKS)
def test_what_fails_twice_is_set_aside(ranks: int) -> None:
    found = told(ranks, "twice")
    assert found["order"] == [t for t in range(N) if t not in (0, 7)]
    assert set(found["failed"]) == {"0", "7"}
    reason = found["failed"]["7"]
    assert "rank " in reason
    assert " on " in reason
    assert "Traceback" in reason
    assert "ValueError: task 7 never works" in reason
    assert found["tried"].count(7) == 2
    assert found["progress"] == N


@pytest.mark.parametrize("ranks", RANKS)
def test_a_mistake_ends_the_job(ranks: int) -> None:
    ended = dealt(ranks, "mistake")
    assert ended.returncode != 0
    assert ended.stderr.count("UserError: the file of task 4 is no good") == 1


@pytest.mark.parametrize("ranks", RANKS)
def test_any_rank_can_have_it_stopped(ranks: int) -> None:
    found = told(ranks, "halt")
    assert found["halted"]
    assert len(found["tried"]) < N
    assert found["order"] == list(range(len(found["order"])))


@pytest.mark.parametrize("ranks", RANKS)
def test_what_is_kept_is_not_done_again(ranks: int) -> None:
    found = told(ranks, "kept")
    assert found["tried"] == [t for t in range(N) if t not in (0, 5)]
    assert found["order"] == list(range(N))
    assert found["total"] == SQUARES
