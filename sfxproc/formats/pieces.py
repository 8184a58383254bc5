"""Pieces: the selected observations of some crystals, sorted for reading a run of crystals.

The crystals of a job have a shuffled order, and each is in one piece. A piece has its crystals in
that order and a crystal's rows by reflection, so that any run of the order is one stretch of each
piece. One HDF5 file each, content "piece"; datasets keys, reflection, intensity, variance,
partiality and hkl (both optional), position, n_rows, too_few and left_out, unchunked so that no
byte beside the stretch is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Observations, Rows
from sfxproc.formats.hdf5 import create, open_native, read_array

HEAD = ("keys", "position", "n_rows", "too_few", "left_out")


@dataclass(frozen=True, eq=False)
class PieceHead:
    """What a piece holds, without its rows.

    keys : (n_keys,) int64, sorted: its unique reflections. position : (n_crystals,) int64,
    increasing: its crystals in the order. n_rows : (n_crystals,) int32, may be 0. too_few :
    (n_crystals,) bool, whether a crystal is left out for having too few. left_out : (k,) int64
    observations that were left out, by code of their reason.
    """

    path: Path
    keys: NDArray[np.int64]
    position: NDArray[np.int64]
    n_rows: NDArray[np.int32]
    too_few: NDArray[np.bool_]
    left_out: NDArray[np.int64]


def write_piece(
    path: Path,
    keys: NDArray[np.int64],
    position: NDArray[np.int64],
    rows: Rows | Observations,
    left_out: NDArray[np.int64],
    too_few: NDArray[np.bool_],
) -> None:
    """Write one piece atomically; arrays as in `PieceHead` and `Rows`. Observations, with their
    reflections, have their hkl as indexed written too.

    Raises OutputError if the folder cannot be written to, ValueError for crystals out of order.
    """
    if np.any(np.diff(position) <= 0) or np.any(np.diff(rows.crystal) < 0):
        raise ValueError("the crystals of a piece must be in their order")
    n_rows = np.bincount(rows.crystal, minlength=len(position)).astype(np.int32)
    columns: dict[str, NDArray[Any]] = rows.columns()
    del columns["crystal"]
    head = dict(zip(HEAD, (keys, position, n_rows, too_few, left_out), strict=True))
    with create(path, "piece") as handle:
        for name, values in (head | columns).items():
            handle.create_dataset(name, data=values)


def read_piece_head(path: Path) -> PieceHead:
    """Read what a piece holds. Raises InputError if there is none, or it is damaged."""
    with open_native(path, "piece") as handle:
        return PieceHead(path, *(read_array(handle, name) for name in HEAD))


def read_run(
    heads: Sequence[PieceHead],
    to_job: Sequence[NDArray[np.int32]],
    first: int,
    last: int,
    partiality: bool = False,
    hkl: bool = False,
) -> Rows | Observations:
    """The rows of the crystals at positions first … last − 1 of the order.

    heads : of all pieces. to_job : for each piece the job's reflection of each of its keys.
    partiality, hkl : whether they are wanted; with hkl, rows are observations. Raises InputError
    for a damaged piece.
    """
    spans = [np.searchsorted(head.position, [first, last]) for head in heads]
    n_rows = np.zeros(last - first, dtype=np.int64)
    for head, (a, b) in zip(heads, spans, strict=True):
        n_rows[head.position[a:b] - first] = head.n_rows[a:b]
    start = np.cumsum(n_rows) - n_rows
    total = int(n_rows.sum())
    names = ["intensity", "variance"] + ["partiality"] * partiality
    columns: dict[str, NDArray[Any]] = {name: np.empty(total, np.float32) for name in names}
    columns["reflection"] = np.empty(total, np.int32)
    if hkl:
        columns["hkl"] = np.empty((total, 3), np.int16)
    for head, (a, b), job in zip(heads, spans, to_job, strict=True):
        begin, n = int(head.n_rows[:a].sum()), head.n_rows[a:b]
        n_here = int(n.sum())
        if n_here == 0:
            continue
        # where each row goes: its crystal's place in the run, and its place in the crystal
        offset = start[head.position[a:b] - first] - (np.cumsum(n) - n)
        target = np.repeat(offset, n) + np.arange(n_here)
        with open_native(head.path, "piece") as handle:
            for name, column in columns.items():
                values = read_array(handle, name, slice(begin, begin + n_here))
                column[target] = job[values] if name == "reflection" else values
    crystal = np.repeat(np.arange(last - first, dtype=np.int32), n_rows)
    return Observations(crystal, **columns) if hkl else Rows(crystal, **columns)
