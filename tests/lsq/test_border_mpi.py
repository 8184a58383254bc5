"""Bordered problems under a real launcher: the same bits at 1 to 4 ranks and 1 or 2 threads."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import launched

SCRIPT = Path(__file__).with_name("ranks_border.py")


def digest(ranks: int, threads: int) -> str:
    """Of all that comes out. ranks : 0 without a launcher."""
    command = launched([sys.executable, str(SCRIPT), str(threads)], ranks)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()[-1]


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")
def test_same_bits_under_a_launcher() -> None:
    serial = digest(0, 1)
    assert digest(0, 2) == serial
    for ranks in (1, 2, 3, 4):
        assert digest(ranks, 1) == serial
    assert digest(2, 2) == serial
