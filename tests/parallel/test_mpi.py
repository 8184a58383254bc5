"""The communicator under a real launcher."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MPIEXEC = Path(sys.executable).parent / "mpiexec"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed"
    ),
    pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python"),
]


def launched(
    size: int, script: str, *arguments: str, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    command = [str(MPIEXEC), "-n", str(size), sys.executable, str(HERE / script), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "NUMBA_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_verbs_and_sums(size: int) -> None:
    ended = launched(size, "ranks_verbs.py", str(size))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("fine") == size


def test_a_bug_on_one_rank_ends_all_with_one_traceback() -> None:
    """Within 30 s, start of three Pythons included, though the others wait forever."""
    ended = launched(3, "ranks_error.py", timeout_s=30)
    assert ended.returncode != 0
    assert ended.stderr.count("Traceback (most recent call last)") == 1
    assert "ZeroDivisionError: a bug on the last rank" in ended.stderr
    assert "rank 2 on " in ended.stderr
