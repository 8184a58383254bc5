"""Starting the program's ranks in tests, and how a run of it ended."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

MPIEXEC = Path(sys.executable).with_name("mpiexec")


@dataclass(frozen=True)
class Ended:
    """How the program ended; `err` and `out` with their line breaks made spaces."""

    status: int
    out: str
    err: str
    lines: list[str]


def ended(status: int, out: str, err: str) -> Ended:
    """The end of a run that printed this."""
    return Ended(status, " ".join(out.split()), " ".join(err.split()), out.splitlines())


def launched(command: list[str], ranks: int) -> list[str]:
    """The command under mpiexec, if ranks are given; skips the test where there is none."""
    if not ranks:
        return command
    if not MPIEXEC.is_file():
        pytest.skip(f"no {MPIEXEC.name} beside {sys.executable}")
    return [str(MPIEXEC), "-n", str(ranks), *command]
