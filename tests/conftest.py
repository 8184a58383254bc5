"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sfxproc import signals

# the matrices of tests are small: threads of the linear algebra library would only wait for
# each other (read when numpy is first imported, which is after this)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of experimental data, beside the checkout; absent on most machines."""
    if not SHARED.is_dir():
        pytest.skip(f"experimental data not found at {SHARED}")
    return SHARED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say that the tests under SLURM ran: nothing else tells it where they pass."""
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    n = sum(r.when == "call" and r.nodeid.startswith("tests/slurm/") for r in reports)
    if n:
        terminalreporter.write_line(f"{n} tests ran under SLURM")


@pytest.fixture(autouse=True)
def _signals_of_the_tests() -> Iterator[None]:
    """What a job run in this process does with signals must not outlive it."""
    yield
    signals.restore()
