"""The benchmarks are no part of the installed package: their folder comes onto the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
