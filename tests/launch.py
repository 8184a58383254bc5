"""Starting the program's ranks in tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

MPIEXEC = Path(sys.executable).with_name("mpiexec")


def launched(command: list[str], ranks: int) -> list[str]:
    """The command under mpiexec, if ranks are given; skips the test where there is none."""
    if not ranks:
        return command
    if not MPIEXEC.is_file():
        pytest.skip(f"no {MPIEXEC.name} beside {sys.executable}")
    return [str(MPIEXEC), "-n", str(ranks), *command]
