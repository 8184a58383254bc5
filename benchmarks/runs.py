"""Runs in processes of their own, and tables of what they gave."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy

from benchmarks.worker import Spec

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, Any]
Column = tuple[str, Callable[[Figures], str]]


def measure(spec: Spec, repeat: int = 1) -> Figures:
    """The run of least CPU time out of `repeat`, with all of their CPU times."""
    found = [_once(spec) for _ in range(repeat)]
    times = [f.get("cpu_s", np.inf) for f in found]
    best = found[int(np.argmin(times))]
    return {**best, "cpu_s_of_all": [t for t in times if np.isfinite(t)]}


def _once(spec: Spec) -> Figures:
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(asdict(spec))]
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # CPU seconds, not spinning
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **one}, capture_output=True, text=True
    )
    if ended.returncode != 0:
        why = (ended.stderr.strip() or f"ended with status {ended.returncode}").splitlines()[-1]
        return {**asdict(spec), "failed": why}
    figures: Figures = json.loads(ended.stdout.splitlines()[-1])
    return figures


def number(name: str, style: str = ",.0f", scale: float = 1.0) -> Callable[[Figures], str]:
    """A figure as text; '–' where there is none."""

    def text(figures: Figures) -> str:
        value = figures.get(name)
        return "–" if value is None else format(scale * value, style)

    return text


def table(rows: Iterable[Figures], columns: Sequence[Column]) -> str:
    """Rows as a Markdown table; a failed run says why in its last cell."""
    lines = [[title for title, _ in columns]]
    for row in rows:
        cells = [cell(row) for _, cell in columns]
        if "failed" in row:
            cells[-1] = f"failed: {row['failed']}"
        lines.append(cells)
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    lines.insert(1, [("-" * (w - 1)) + ":" for w in widths])
    return "\n".join(
        "| " + " | ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def machine() -> Figures:
    """Where and with what the figures were made, and how loaded it is now."""
    return {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "load_1_5_15_min": os.getloadavg(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
    }


def told(facts: Figures) -> str:
    """The machine in a line."""
    load = ", ".join(f"{x:.1f}" for x in facts["load_1_5_15_min"])
    return (
        f"{facts['processors']} processors ({facts['machine']}), load {load}; "
        f"Python {facts['python']}, numpy {facts['numpy']}, numba {facts['numba']}"
    )


def write_json(path: str | None, rows: Sequence[Figures], before: Figures) -> None:
    """The rows with the machine before and after, if a path is given."""
    if path:
        record = {"before": before, "after": machine(), "runs": rows}
        Path(path).write_text(json.dumps(record, indent=1) + "\n")
