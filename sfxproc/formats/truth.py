"""What was put into simulated data, kept beside them to score a result against.

An HDF5 file of ours with content = "truth": one dataset a column, named `table/column` (columns
of different tables differ in length), and the settings as JSON in the attribute `settings`.
`reflections/ideal_weight` and `ideal_weighted` are the sums Σ f²/V and Σ f·I_obs/V of the ideal
merge (simulate.counting); those of the parts of one set add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxproc.errors import InputError
from sfxproc.formats.hdf5 import create, open_native, read_array, write_array
from sfxproc.formats.inputs import missing_file

Columns = dict[str, NDArray[Any]]

SUMS = ("reflections/ideal_weight", "reflections/ideal_weighted")
NEEDED = (
    "crystals/number",
    "crystals/ln_G",
    "crystals/B_A2",
    "crystals/A",
    "crystals/profile_radius",
    "crystals/wrong",
    "reflections/hkl",
    "reflections/intensity",
    *SUMS,
)


def truth_path(data: Path) -> Path:
    """Where the truth of a data file lies: `<stem>.truth.h5` beside it."""
    return data.with_name(f"{data.stem}.truth.h5")


def write_truth(path: Path, columns: Mapping[str, NDArray[Any]], settings_json: str) -> None:
    """Write the columns (arrays of any shape, numbers or text) and settings atomically.

    Raises OutputError if the folder cannot be written to.
    """
    with create(path, "truth") as handle:
        handle.attrs["settings"] = settings_json
        for name, values in columns.items():
            parent, _, leaf = name.rpartition("/")
            write_array(handle.require_group(parent) if parent else handle, leaf, values)


def read_truth(path: Path) -> tuple[Columns, str]:
    """The columns and the settings (JSON) of a truth file; raises InputError if it is not one."""
    if not path.is_file():
        raise missing_file(path, "The truth")
    columns: Columns = {}
    with open_native(path, "truth") as handle:

        def collect(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                columns[name] = read_array(handle, name)

        handle.visititems(collect)
        return columns, str(handle.attrs.get("settings", ""))


def read_truth_set(paths: Sequence[Path]) -> tuple[Columns, str]:
    """The truth of one set of stills from the files of its parts, and the settings of the first.

    Columns of reflections are those of the whole set, the sums of the ideal merge added up; other
    columns stand end to end. Raises InputError if a file is no truth, lacks columns that scoring
    needs, is of another set than the first, or has crystals in common with another one.
    """
    first, settings = _read_needed(paths[0])
    whole = dict(first)
    for path in paths[1:]:
        part, _ = _read_needed(path)
        for name, values in part.items():
            if name in SUMS and len(values) == len(whole[name]):
                whole[name] = whole[name] + values
            elif name.startswith("reflections/"):
                if not np.array_equal(values, first.get(name, np.empty(0))):
                    raise InputError(
                        f"'{path}' and '{paths[0]}' hold other true reflections, so they are no "
                        "parts of one set. Give the truth of data that were made with the same "
                        "settings but for first_crystal and n_crystals."
                    )
            else:
                whole[name] = np.concatenate([whole[name], values])
    number, count = np.unique(whole["crystals/number"], return_counts=True)
    if np.any(count > 1):
        raise InputError(
            f"The truth files {', '.join(repr(str(p)) for p in paths)} hold crystal "
            f"{number[np.argmax(count)]} more than once. Give each part of the set once."
        )
    return whole, settings


def _read_needed(path: Path) -> tuple[Columns, str]:
    columns, settings = read_truth(path)
    if missing := [name for name in NEEDED if name not in columns]:
        raise InputError(
            f"'{path}' lacks {', '.join(missing)}: it was written by an earlier version. Simulate "
            "the data again with the same settings, which makes the same data."
        )
    return columns, settings
