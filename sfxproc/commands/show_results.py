"""What files that this program writes hold: merged sets, frames.h5, spots and lists of lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from rich.table import Table

from sfxproc.data import Reason, Status
from sfxproc.errors import ConfigError, InputError
from sfxproc.formats.crystfel_hkl import read_hkl, symmetry_of
from sfxproc.formats.frames import read_frames
from sfxproc.formats.hdf5 import content_of
from sfxproc.formats.mtz import is_unmerged, open_mtz
from sfxproc.formats.peak_lists import read_peak_list
from sfxproc.formats.peak_texts import looks_like_lines
from sfxproc.formats.reference import read_reference
from sfxproc.formats.spots import read_spots
from sfxproc.report.terminal import counts_table, resolution_range

LINES = (".csv", ".pkslst", ".npy", ".json")  # a .txt may be a list of files, too

Rows = dict[str, object]


def result_table(path: Path) -> Table | None:
    """The table of a result; None for what is none, stills and lists of files among it.

    Raises InputError for a result that cannot be read.
    """
    rows = _rows(path)
    return None if rows is None else counts_table("", rows, justify="left")


def is_only_a_result(path: Path) -> bool:
    """Whether a file is no input of a merging job, nor a list of such."""
    suffix = path.suffix.lower()
    return suffix in (".hkl", *LINES) or (suffix == ".txt" and looks_like_lines(path))


def _rows(path: Path) -> Rows | None:
    suffix = path.suffix.lower()
    if suffix == ".mtz":
        return None if is_unmerged(path) else _merged(path)
    if suffix == ".hkl":
        return _list(path)
    if suffix in (".h5", ".hdf5"):
        content = content_of(path)
        return (
            _frames(path) if content == "frames" else _spots(path) if content == "spots" else None
        )
    return _lines(path) if is_only_a_result(path) else None


def _merged(path: Path) -> Rows:
    mtz = open_mtz(path)
    wavelengths = sorted({round(d.wavelength, 5) for d in mtz.datasets if d.wavelength > 0})
    rows: Rows = {
        "format": "merged MTZ",
        "reflections": mtz.nreflections,
        "space group": mtz.spacegroup.xhm(),
        "unit cell": _cell(mtz.cell.parameters),
        "wavelength": ", ".join(f"{w:.5f} Å" for w in wavelengths) or "not recorded",
        "resolution": f"{resolution_range(mtz.resolution_low(), mtz.resolution_high())} Å",
        "columns": ", ".join(mtz.column_labels()[3:]),
    }
    try:
        taken = read_reference(path)
    except InputError:
        return rows
    table = taken.reflections
    assert table.intensity is not None  # a reference has them
    assert table.sigma is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = table.intensity / table.sigma
    mean = float(np.mean(ratio[np.isfinite(ratio)])) if np.isfinite(ratio).any() else None
    return rows | {"taken for the data": taken.columns, "measured": len(table), "I/σ, mean": mean}


def _list(path: Path) -> Rows:
    hkl, intensity, sigma, n = read_hkl(path)
    known = sigma > 0
    return {
        "format": "CrystFEL reflection list",
        "reflections": len(hkl),
        "symmetry": symmetry_of(path),
        "unit cell": "not recorded: --unit-cell of compare takes one",
        "measurements": int(n.sum()),
        "I/σ, mean": float(np.mean(intensity[known] / sigma[known])) if known.any() else None,
    }


def _frames(path: Path) -> Rows:
    frames = read_frames(path)
    status = Counter(int(s) for s in frames.columns["status"])
    reason = Counter(int(r) for r in frames.columns["reason"] if r != Reason.NONE)
    rows: Rows = {
        "format": "crystals and merge of a job",
        "space group": str(frames.attributes.get("space_group", "not recorded")),
        "unit cell": _cell(frames.attributes.get("unit_cell", ())),
        "crystals": len(frames.crystals),
        **{Status(code).name.lower().replace("_", " "): n for code, n in sorted(status.items())},
        **{f"reason: {Reason(code).text}": n for code, n in sorted(reason.items())},
    }
    if frames.merged is not None:
        table = frames.merged.reflections
        rows["reflections"] = len(table)
        rows["resolution"] = f"{resolution_range(table.d_A.max(), table.d_A.min())} Å"
    own = {"status", "reason"}
    return rows | {"columns": ", ".join(name for name in frames.columns if name not in own)}


def _spots(path: Path) -> Rows:
    found = read_spots(path)
    wavelength = found.spots.wavelength_A
    return {
        "format": "spots",
        "images": found.n_shots,
        "spots": len(found.spots),
        "wavelength": f"{wavelength.min():.5f}–{wavelength.max():.5f} Å",
        "pixel": f"{found.pixel_mm:g} mm",
    }


def _lines(path: Path) -> Rows:
    try:
        lines = read_peak_list(path)
    except ConfigError as error:  # it asks for a setting
        raise InputError(str(error)) from error
    return {
        "format": "lines of a powder pattern",
        "lines": len(lines.q2),
        "spacings": f"{resolution_range(lines.q2[0] ** -0.5, lines.q2[-1] ** -0.5)} Å",
        "columns": ", ".join(
            name for name in ("q2", "sigma", "intensity") if getattr(lines, name) is not None
        ),
        **{f"note {n}" if n > 1 else "note": text for n, text in enumerate(lines.notes, 1)},
    }


def _cell(values: object) -> str:
    cell = np.asarray(values, dtype=np.float64)
    if cell.shape != (6,):
        return "not recorded"
    return f"{' '.join(f'{v:.2f}' for v in cell[:3])} Å {' '.join(f'{v:.2f}' for v in cell[3:])}°"
