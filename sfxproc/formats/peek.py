"""A look into a file of each format: how much it holds, found without reading it all.

Whatever a damaged file makes the libraries raise goes to the caller, who can do without.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import gemmi
import h5py
import msgpack
import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Floats
from sfxproc.formats.base import Contents
from sfxproc.formats.crystfel_stream import CRYSTAL, VALUES
from sfxproc.symmetry import cells_from_A, s_squared

SAMPLE_ROWS = 1 << 16
SAMPLE_CRYSTALS = 100
PIECE_bytes, PIECES = 1 << 20, 16  # of a stream
STREAM_READ_s = 1.2e-6  # CPU time that a line of a stream takes

_ROW = re.compile(rb"^ *(-?\d+) +(-?\d+) +(-?\d+) +-?[\d.]+ +[\d.]+ ", re.M)
_REAL = re.compile(rb'"real_space_[abc]": *\[\s*([^,]+),\s*([^,]+),\s*([^\]]+?)\s*\]')
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}  # markers of binary data, and how long their length is


def native(path: Path) -> Contents:
    """By the shapes of the data sets."""
    with h5py.File(path, "r") as handle:
        rows = handle["observations/hkl"]
        cell = _median(handle["crystals/cell"][:SAMPLE_CRYSTALS])
        hkl = rows[:SAMPLE_ROWS]
        return Contents(len(handle["crystals/wavelength_A"]), len(rows), True, cell, _s2(hkl, cell))


def mtz(path: Path) -> Contents:
    """By the header: one batch is one crystal."""
    head = gemmi.read_mtz_file(str(path), with_data=False)
    s2 = np.linspace(head.min_1_d2, head.max_1_d2, 1000) / 4.0  # stills fill s² evenly
    cell = np.array(head.cell.parameters)
    return Contents(len(head.batches), head.nreflections, True, cell, s2)


def stream(path: Path) -> Contents:
    """By pieces from all over the file, as much as a small file holds."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        if size <= PIECES * PIECE_bytes:
            pieces = [handle.read()]
        else:
            pieces = []
            for start in np.linspace(0, size - PIECE_bytes, PIECES).astype(np.int64).tolist():
                handle.seek(start)
                pieces.append(handle.read(PIECE_bytes))
    more = size / max(sum(len(piece) for piece in pieces), 1)
    hkl = np.array([m.groups() for piece in pieces for m in _ROW.finditer(piece)], dtype=np.int32)
    cells = [m.groups() for piece in pieces for m in VALUES["cell"].finditer(piece)]
    n_crystals = sum(piece.count(CRYSTAL) for piece in pieces)
    told = [int(n) for piece in pieces for n in VALUES["n_reflections"].findall(piece)]
    if more > 1.0 and any(told):  # better than counting the crystals that begin in the pieces
        n_crystals = round(len(hkl) * len(told) / sum(told))
    cell = _median(np.array(cells, dtype=np.float64).reshape(-1, 6) * [10, 10, 10, 1, 1, 1])
    s2 = _s2(hkl.reshape(-1, 3), cell)
    return Contents(
        round(more * n_crystals), round(more * len(hkl)), more == 1.0, cell, s2, STREAM_READ_s
    )


def dials(path: Path) -> Contents:
    """Crystals by the .expt, rows by the head of the .refl; not all need be indexed."""
    with path.with_suffix(".expt").open("rb") as handle:
        text = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        n_crystals = sum(1 for _ in re.finditer(rb'"real_space_a"', text))
        found = [m.groups() for m in islice(_REAL.finditer(text), 3 * SAMPLE_CRYSTALS)]
    real = np.array(found, dtype=np.float64).reshape(-1, 3, 3)
    cell = _median(cells_from_A(np.linalg.inv(real)))
    n_rows, hkl = 0, np.empty((0, 3), np.int32)
    with path.with_suffix(".refl").open("rb") as handle:
        for name, n, at in _columns(handle):
            n_rows = n
            if name == "miller_index":
                step = max(n // SAMPLE_ROWS, 1)
                stored = np.memmap(handle, "<i4", "r", at, (n, 3))
                hkl = np.array(stored[::step])
    return Contents(n_crystals, n_rows, True, cell, _s2(hkl[hkl.any(axis=1)], cell))


def _columns(handle: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Name, rows and first byte of each column of a reflection table, the data skipped over."""
    at = 0

    def told(kind: str) -> Any:
        nonlocal at
        handle.seek(at)
        reader = msgpack.Unpacker(handle, read_size=1 << 12, strict_map_key=False)
        try:
            value = reader.unpack() if kind == "value" else getattr(reader, f"read_{kind}_header")()
        except msgpack.OutOfData as error:
            raise ValueError("the table ends early") from error
        at += reader.tell()
        return value

    told("array"), told("value"), told("value")  # magic, version
    for _ in range(told("map")):
        if told("value") != "data":
            told("value")
            continue
        for _ in range(told("map")):
            name = told("value")
            told("array"), told("value"), told("array")  # [type, [n, bytes]]
            n = told("value")
            handle.seek(at)
            width = _BYTES[handle.read(1)[0]]
            length = int.from_bytes(handle.read(width), "big")
            at += 1 + width
            yield name, n, at
            at += length


def _median(cells: Floats) -> Floats:
    known = cells[np.isfinite(cells).all(axis=1)]
    if not len(known):
        return np.full(6, np.nan)
    return np.asarray(np.median(known, axis=0))


def _s2(hkl: NDArray[Any], cell: Floats) -> Floats:
    """Of some rows (n, 3); none if the cell is not known."""
    step = max(len(hkl) // SAMPLE_ROWS, 1)
    if not np.isfinite(cell).all():
        return np.empty(0)
    return s_squared(hkl[::step], cell)
