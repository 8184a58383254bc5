"""What was put into simulated data, kept beside them to score a result against.

An HDF5 file of ours with content = "truth": one dataset a column, named `table/column` (columns
of different tables differ in length), and the settings as JSON in the attribute `settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from sfxproc.formats.hdf5 import create, open_native, read_array, write_array

Columns = dict[str, NDArray[Any]]


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
    columns: Columns = {}
    with open_native(path, "truth") as handle:

        def collect(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                columns[name] = read_array(handle, name)

        handle.visititems(collect)
        return columns, str(handle.attrs.get("settings", ""))
