"""Native HDF5: one file holds one `Stills`, every column bit for bit.

Layout: attributes program = "sfxproc", content = "stills", version, n_images, header, space_group,
corrected and, where there are any, polarisation, counts and notes as JSON; groups `crystals`,
`observations` and, where known, `detector`, with one dataset a column. Text is UTF-8 of variable
length. The functions for tables also serve `frames.h5`.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxproc.data import (
    BeamPolarisation,
    Correction,
    Crystals,
    Detector,
    Observations,
    Reason,
    Stills,
    Table,
    TableT,
)
from sfxproc.errors import InputError
from sfxproc.formats import peek
from sfxproc.formats.atomic import atomic
from sfxproc.formats.base import Format, Request

PROGRAM = "sfxproc"
VERSION = 1
CHUNK_ROWS = 1 << 16  # 256 KiB of a float32 column: a slice reads little that it does not need


@contextmanager
def create(path: Path, content: str) -> Iterator[h5py.File]:
    """A new file of ours that appears under `path` when the block ends without an error."""
    with atomic(path) as temporary, h5py.File(temporary, "w") as handle:
        yield handle
        handle.attrs.update(program=PROGRAM, content=content, version=VERSION)


@contextmanager
def open_native(path: Path, content: str) -> Iterator[h5py.File]:
    """A file of ours that holds `content`, opened to read.

    Raises InputError if it is no HDF5, is not ours, holds something else, is of another version,
    or is damaged (also when that shows only while it is read).
    """
    try:
        with h5py.File(path, "r") as handle:
            _require_content(handle, path, content)
            yield handle
    except OSError as error:
        reason = str(error)
        if "file signature not found" in reason:
            problem = "is not an HDF5 file. Check the path, or that the copy succeeded"
        elif "truncated" in reason:
            problem = "is truncated: it was not copied or written to its end. Copy it again"
        else:
            problem = f"cannot be read ({reason}). Check that you may read it, or copy it again"
        raise InputError(f"'{path}' {problem}, or name it in input.exclude.") from error


def _require_content(handle: h5py.File, path: Path, content: str) -> None:
    attributes = handle.attrs
    if attributes.get("program") != PROGRAM or "content" not in attributes:
        names = ", ".join(list(handle)[:8]) or "nothing"
        raise InputError(
            f"'{path}' is an HDF5 file but was not written by {PROGRAM}; at its top it holds: "
            f"{names}. Detector images and files of other programs are no input: give the "
            "integrated reflections (.expt/.refl, .stream, .mtz), or name it in input.exclude."
        )
    if attributes["content"] != content:
        raise InputError(
            f"'{path}' holds {attributes['content']} of {PROGRAM}, where {content} are needed. "
            "Give another file, or name this one in input.exclude."
        )
    if attributes.get("version") != VERSION:
        raise InputError(
            f"'{path}' has format version {attributes.get('version')}, this program reads version "
            f"{VERSION}. Write it again with this version of {PROGRAM}, or install the other one."
        )


def content_of(path: Path) -> str | None:
    """What a file of ours holds ("stills", "frames" …); None of any other file."""
    try:
        with h5py.File(path, "r") as handle:
            ours = handle.attrs.get("program") == PROGRAM
            return str(handle.attrs.get("content")) if ours else None
    except OSError:
        return None


def write_array(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    """One dataset: text as UTF-8 of variable length, numbers as they are."""
    # HDF5 refuses chunks larger than the data, so an empty array gets none
    chunked = values.ndim > 0 and values.size > 0
    chunks = (min(len(values), CHUNK_ROWS), *values.shape[1:]) if chunked else None
    if values.dtype.kind in "OU":
        # file names need not be valid UTF-8: surrogates carry their raw bytes through
        data = np.array([str(v).encode("utf-8", "surrogateescape") for v in values], dtype=object)
        group.create_dataset(name, data=data, dtype=h5py.string_dtype(), chunks=chunks)
    else:
        group.create_dataset(name, data=values, chunks=chunks)


def read_array(group: h5py.Group, name: str, rows: slice | None = None) -> NDArray[Any]:
    """The dataset `name` of a group, or some rows of it; raises InputError if it is missing."""
    item = group.get(name)
    if not isinstance(item, h5py.Dataset):
        place = f"{group.name.rstrip('/')}/{name}"
        raise InputError(
            f"'{group.file.filename}' lacks the dataset '{place}': it was changed or not written "
            "to its end. Write it again, or name it in input.exclude."
        )
    wanted = ... if rows is None else rows
    if h5py.check_string_dtype(item.dtype):
        return np.asarray(item.asstr(errors="surrogateescape")[wanted], dtype=object)
    return np.asarray(item[wanted])


def write_table(group: h5py.Group, table: Table) -> None:
    """Every column of a table that is not None."""
    for name, values in table.columns().items():
        write_array(group, name, values)


def read_table(
    parent: h5py.Group,
    name: str,
    kind: type[TableT],
    wanted: Collection[str] | None = None,
    rows: slice | None = None,
) -> TableT:
    """The table of type `kind` in the group `name`, or some of its rows.

    Optional columns are read where the file has them: all of them, or only those in `wanted`.
    Raises InputError for a missing group or column and for columns of unequal length.
    """
    group = parent.get(name)
    if not isinstance(group, h5py.Group):
        raise InputError(
            f"'{parent.file.filename}' lacks the group '{name}': it was changed or not written to "
            "its end. Write it again, or name it in input.exclude."
        )
    columns: dict[str, NDArray[Any]] = {}
    for f in fields(kind):  # type: ignore[arg-type]
        optional = f.default is None
        if not optional or (f.name in group and (wanted is None or f.name in wanted)):
            columns[f.name] = read_array(group, f.name, rows)
    try:
        return kind(**columns)
    except ValueError as error:
        raise InputError(
            f"'{parent.file.filename}', group '{name}', is damaged ({error}). Write it again, or "
            "name it in input.exclude."
        ) from error


# ---- stills ----------------------------------------------------------------------------------


def write(path: Path, stills: Stills) -> None:
    """Write one file atomically. Raises OutputError if the folder cannot be written to."""
    with create(path, "stills") as handle:
        handle.attrs.update(n_images=stills.n_images, header=stills.header)
        handle.attrs.update(
            space_group=stills.space_group, corrected=json.dumps(sorted(stills.corrected))
        )
        if stills.polarisation is not None:
            handle.attrs["polarisation"] = json.dumps(asdict(stills.polarisation))
        if stills.counts:
            handle.attrs["counts"] = json.dumps({r.name: int(n) for r, n in stills.counts.items()})
        if stills.notes:
            handle.attrs["notes"] = json.dumps(stills.notes)
        write_table(handle.create_group("crystals"), stills.crystals)
        write_table(handle.create_group("observations"), stills.observations)
        if stills.detector is not None:
            write_table(handle.create_group("detector"), stills.detector)


def read(path: Path, request: Request) -> Stills:
    """Read one file; crystals keep the file names stored in it, not the label of the request.

    Every optional column of `Observations`, `reflection` included, comes only if
    requested. Raises InputError as `open_native` does, and for a damaged table.
    """
    with open_native(path, "stills") as handle:
        crystals = read_table(handle, "crystals", Crystals)
        return Stills(
            crystals,
            _observations(handle, path, request.columns, (0, len(crystals)), None),
            n_images=int(handle.attrs.get("n_images", len(crystals))),
            detector=read_table(handle, "detector", Detector) if "detector" in handle else None,
            counts=_counts(handle),
            notes=_notes(handle),
            header=str(handle.attrs.get("header", "")),
            corrected=_corrected(handle),
            polarisation=_polarisation(handle),
            space_group=str(handle.attrs.get("space_group", "")),
        )


@dataclass(frozen=True, eq=False)
class Head:
    """What a file of stills holds, without its observations: `columns` names those they have."""

    crystals: Crystals
    columns: frozenset[str]
    n_images: int
    has_detector: bool
    counts: Mapping[Reason, int]
    notes: tuple[str, ...]
    corrected: frozenset[Correction]


def read_head(path: Path) -> Head:
    """Read all but the observations of one file. Raises InputError as `read` does."""
    with open_native(path, "stills") as handle:
        crystals = read_table(handle, "crystals", Crystals)
        none = read_table(handle, "observations", Observations, rows=slice(0, 0))
        lengths = {len(handle["observations"][name]) for name in none.columns()}
        if len(lengths) > 1:
            raise InputError(
                f"'{path}', group 'observations', is damaged: its columns have from {min(lengths)} "
                f"to {max(lengths)} rows. Write it again, or name it in input.exclude."
            )
        return Head(
            crystals,
            frozenset(none.columns()),
            n_images=int(handle.attrs.get("n_images", len(crystals))),
            has_detector="detector" in handle,
            counts=_counts(handle),
            notes=_notes(handle),
            corrected=_corrected(handle),
        )


def read_detector(path: Path) -> Detector:
    """Read the detector of one file that has it. Raises InputError as `read` does."""
    with open_native(path, "stills") as handle:
        return read_table(handle, "detector", Detector)


def read_cuts(path: Path, most_rows: int) -> NDArray[np.int64]:
    """Where to cut the observations of a file that has passed `read_head` into runs of crystals.

    Returns (n_runs + 1, 2): crystal and row at which each run begins, and the numbers of crystals
    and rows. A run has most_rows rows and at most those of one crystal more; few rows are read to
    find it. Raises InputError for crystals out of order.
    """
    with open_native(path, "stills") as handle:
        column = handle["observations/crystal"]
        n_crystals = len(handle["crystals/wavelength_A"])
        cuts = [(0, 0)]
        for target in range(most_rows, len(column), most_rows):
            crystal = int(column[target])
            if not cuts[-1][0] <= crystal < n_crystals:
                raise _disordered(path, n_crystals)
            row = bisect_left(column, crystal, lo=cuts[-1][1])
            if row > cuts[-1][1]:
                cuts.append((crystal, row))
        return np.array([*cuts, (n_crystals, len(column))], dtype=np.int64)


def read_rows(
    path: Path, columns: Collection[str], crystals: tuple[int, int], rows: tuple[int, int]
) -> Observations:
    """Rows first … last − 1, which must be of the crystals first … last − 1.

    `crystal` counts from the first crystal of the file; columns are the optional ones wanted.
    Raises InputError as `read` does.
    """
    with open_native(path, "stills") as handle:
        return _observations(handle, path, columns, crystals, slice(*rows))


def _observations(
    handle: h5py.File,
    path: Path,
    columns: Collection[str],
    crystals: tuple[int, int],
    rows: slice | None,
) -> Observations:
    observations = read_table(handle, "observations", Observations, columns, rows)
    row = observations.crystal
    inside = not len(row) or (row[0] >= crystals[0] and row[-1] < crystals[1])
    if not inside or np.any(row[1:] < row[:-1]):
        raise _disordered(path, crystals[1] - crystals[0])
    return observations


def _disordered(path: Path, n_crystals: int) -> InputError:
    return InputError(
        f"'{path}': the dataset '/observations/crystal' is damaged: it must never decrease and "
        f"point at one of {n_crystals} crystals. Write the file again."
    )


def _counts(handle: h5py.File) -> dict[Reason, int]:
    return {Reason[name]: n for name, n in json.loads(handle.attrs.get("counts", "{}")).items()}


def _corrected(handle: h5py.File) -> frozenset[Correction]:
    return frozenset(Correction(word) for word in json.loads(handle.attrs.get("corrected", "[]")))


def _polarisation(handle: h5py.File) -> BeamPolarisation | None:
    told = json.loads(handle.attrs.get("polarisation", "null"))
    return told and BeamPolarisation(float(told["fraction"]), tuple(told["normal"]))


def _notes(handle: h5py.File) -> tuple[str, ...]:
    return tuple(json.loads(handle.attrs.get("notes", "[]")))


FORMAT = Format("native HDF5", (".h5", ".hdf5"), read, write, peek.native)
