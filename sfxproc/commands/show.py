"""`sfxproc show`: what a data file holds, in one table a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sfxproc.commands.show_results import is_only_a_result, result_table
from sfxproc.data import OPTIONAL_COLUMNS, Floats, Stills
from sfxproc.errors import InputError
from sfxproc.formats.inputs import InputFile, list_inputs, read_input
from sfxproc.report.terminal import counts_table, resolution_range

CELL_NAMES = ("a", "b", "c", "α", "β", "γ")


def show(paths: Sequence[str], console: Console) -> None:
    """Print a table for every file the paths stand for, results of this program among them.

    Raises InputError for a path without files and, after all others were shown, for files that
    cannot be read.
    """
    problems = []
    for path, file in _files(paths):
        try:
            table = result_table(path)
            if table is None:
                shown = file or list_inputs([str(path)], [], Path.cwd())[0]
                table = describe(shown, read_input(shown, OPTIONAL_COLUMNS, False))
        except InputError as error:
            problems.append(str(error))
        else:
            console.print(Text(str(path), style="bold"), soft_wrap=True)
            console.print(table, "", sep="\n")
    if problems:
        raise InputError("\n".join(problems))


def _files(paths: Sequence[str]) -> Iterator[tuple[Path, InputFile | None]]:
    """The files that the paths stand for; those that are results only by their own path."""
    inputs = []
    for text in paths:
        path = Path(text).expanduser()
        if path.is_file() and is_only_a_result(path):
            yield path, None
        else:
            inputs.append(text)
    if inputs:
        yield from ((file.path, file) for file in list_inputs(inputs, [], Path.cwd()))


def describe(file: InputFile, stills: Stills) -> Table:
    """The table of one file."""
    crystals, observations = stills.crystals, stills.observations
    present = [c for c in OPTIONAL_COLUMNS if getattr(observations, c) is not None]
    missing = [c for c in OPTIONAL_COLUMNS if c not in present]
    rows: dict[str, object] = {
        "format": file.format.name,
        "images": stills.n_images,
        "crystals": len(crystals),
        "reflections": len(observations),
        "space group": stills.space_group or "not recorded",
        "unit cell": _cell(crystals.cell),
        "wavelength": _range(crystals.wavelength_A, "Å"),
        "resolution": _resolution(stills),
        "I/σ, median": _median_i_over_sigma(stills),
        "corrected for": ", ".join(sorted(stills.corrected)) or "nothing that the file tells",
        "panels": len(stills.detector) if stills.detector else "not recorded",
        "columns": ", ".join(present) or "none but hkl, intensity, variance",
        "columns missing": ", ".join(missing) or "none",
        **{f"left out, {reason.text}": n for reason, n in stills.counts.items() if n},
        **{f"note {n}" if n > 1 else "note": text for n, text in enumerate(stills.notes, 1)},
    }
    return counts_table("", rows, justify="left")


def _cell(cells: Floats) -> str:
    """Median ± spread (1.4826 times the median absolute deviation) of each parameter."""
    cells = cells[np.isfinite(cells).all(axis=1)]
    if len(cells) == 0:
        return "not recorded"
    median = np.median(cells, axis=0)
    spread = 1.4826 * np.median(np.abs(cells - median), axis=0)
    parts = [
        f"{name} {m:.2f} ± {s:.2f}" for name, m, s in zip(CELL_NAMES, median, spread, strict=True)
    ]
    return f"{'  '.join(parts[:3])} Å\n{'  '.join(parts[3:])}°"


def _range(values: Floats, unit: str) -> str:
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return "not recorded"
    low, high = f"{values.min():.5f}", f"{values.max():.5f}"
    return f"{low} {unit}" if low == high else f"{low}–{high} {unit}"


def _resolution(stills: Stills) -> str:
    """Range of d = 1/|q|, with q from each crystal's own orientation matrix."""
    crystals, observations = stills.crystals, stills.observations
    A = crystals.A[observations.crystal]
    q = np.linalg.norm(np.einsum("nij,nj->ni", A, observations.hkl.astype(float)), axis=1)
    q = q[np.isfinite(q) & (q > 0)]
    return (
        f"{resolution_range(1 / q.min(), 1 / q.max())} Å" if len(q) else "unknown: no orientation"
    )


def _median_i_over_sigma(stills: Stills) -> str:
    variance = stills.observations.variance
    good = np.isfinite(stills.observations.intensity) & (variance > 0)
    if not good.any():
        return "no usable σ"
    ratio = stills.observations.intensity[good] / np.sqrt(variance[good])
    return f"{np.median(ratio):.2f}"
