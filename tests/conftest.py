"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of experimental data, beside the checkout; absent on most machines."""
    if not SHARED.is_dir():
        pytest.skip(f"experimental data not found at {SHARED}")
    return SHARED
