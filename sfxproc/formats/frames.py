"""`frames.h5`: what became of every crystal, and the merge in float64.

Group `crystals`: every column of `Crystals`, its identity, status and reason as words, and what
was refined, one dataset a column. Group `reflections`: the merge, half sets included; MTZ keeps
float32 only, so this is the master copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Crystals, Merged, Reason, Reflections, Status
from sfxproc.errors import InputError
from sfxproc.formats import hdf5

CODES: dict[str, type[Status] | type[Reason]] = {"status": Status, "reason": Reason}


@dataclass(frozen=True)
class Frames:
    """The content of a `frames.h5`: columns has `status` and `reason` as codes (int8) and the
    refined values by name; merged is None where nothing was merged."""

    crystals: Crystals
    columns: Mapping[str, NDArray[Any]]
    attributes: Mapping[str, Any]
    merged: Merged | None


def write_frames(
    path: Path,
    crystals: Crystals,
    columns: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any],
    merged: Merged | None = None,
) -> None:
    """Write `frames.h5` atomically.

    columns : (n, ...) arrays, a row a crystal; `status` and `reason` (codes of `Status` and
        `Reason`) must be among them. attributes : text, numbers or small arrays for the file.
    Raises OutputError if the folder cannot be written to, ValueError for a column of another
    length.
    """
    with hdf5.create(path, "frames") as handle:
        handle.attrs.update(attributes)
        group = handle.create_group("crystals")
        hdf5.write_table(group, crystals)
        hdf5.write_array(group, "identity", np.array(crystals.identity, dtype=object))
        for name in (*CODES, *(n for n in columns if n not in CODES)):
            values = columns[name]
            if len(values) != len(crystals):
                raise ValueError(f"column {name}: {len(values)} rows, {len(crystals)} crystals")
            if name in CODES:
                values = np.array([_word(CODES[name](v)) for v in values], dtype=object)
            hdf5.write_array(group, name, values)
        if merged is not None:
            group = handle.create_group("reflections")
            hdf5.write_table(group, merged.reflections)
            for name in _merged_arrays():
                if (values := getattr(merged, name)) is not None:
                    hdf5.write_array(group, name, values)


def read_frames(path: Path) -> Frames:
    """Read a `frames.h5`. Raises InputError if it is damaged or something else."""
    with hdf5.open_native(path, "frames") as handle:
        crystals = hdf5.read_table(handle, "crystals", Crystals)
        group = handle["crystals"]
        known = {"identity", *CODES, *(f.name for f in fields(Crystals))}
        columns = {name: _codes(path, name, hdf5.read_array(group, name)) for name in CODES}
        columns |= {name: hdf5.read_array(group, name) for name in group if name not in known}
        merged = None
        if "reflections" in handle:
            reflections = hdf5.read_table(handle, "reflections", Reflections)
            group = handle["reflections"]
            arrays = {n: hdf5.read_array(group, n) for n in _merged_arrays() if n in group}
            merged = Merged(reflections, **arrays)
        own = ("program", "content", "version")
        attributes = {name: v for name, v in handle.attrs.items() if name not in own}
    return Frames(crystals, columns, attributes, merged)


def _merged_arrays() -> list[str]:
    return [f.name for f in fields(Merged) if f.name != "reflections"]


def _word(member: Status | Reason) -> str:
    return member.name.lower().replace("_", " ")


def _codes(path: Path, name: str, words: NDArray[Any]) -> NDArray[Any]:
    code = {_word(member): int(member) for member in CODES[name]}
    unknown = sorted(set(words) - set(code))
    if unknown:
        raise InputError(
            f"'{path}': the dataset '/crystals/{name}' holds '{unknown[0]}', which is none of: "
            f"{', '.join(code)}. The file was changed, or written by a newer version."
        )
    return np.array([code[w] for w in words], dtype=np.int8)
