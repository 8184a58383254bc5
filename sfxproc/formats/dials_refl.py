"""DIALS reflection tables (`.refl`, msgpack), versions 1 and 2.

["dials::af::reflection_table", version, {"identifiers": {id: text}, "nrows": n,
 "data": {column: [type, [n, bytes]]}}], little-endian, C order.

Source: DIALS 3.12, array_family/reflection_table_msgpack_adapter.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from sfxproc.errors import InputError
from sfxproc.formats.atomic import atomic

MAGIC = "dials::af::reflection_table"
VERSIONS = (1, 2)

ELEMENTS: dict[str, tuple[str, int]] = {
    "bool": ("?", 1),
    "int": ("<i4", 1),
    "std::size_t": ("<u8", 1),
    "double": ("<f8", 1),
    "vec2<double>": ("<f8", 2),
    "vec3<double>": ("<f8", 3),
    "mat3<double>": ("<f8", 9),
    "int6": ("<i4", 6),
    "cctbx::miller::index<>": ("<i4", 3),
}
"""Type name in the file: numpy type and number of values a row."""


class Flag(IntFlag):
    """Bits of the `flags` column that matter here."""

    INTEGRATED_SUM = 256
    INTEGRATED_PRF = 512
    OVERLOADED = 1024


@dataclass(frozen=True, eq=False)
class ReflectionTable:
    """The readable columns of a table, each (n_rows,) or (n_rows, k).

    identifiers : experiment identifier of each value of `id`.
    skipped : `name (type)` of the columns that were not read.
    """

    path: Path
    n_rows: int
    columns: Mapping[str, NDArray[Any]]
    identifiers: Mapping[int, str]
    skipped: tuple[str, ...]

    def column(self, name: str) -> NDArray[Any]:
        """A column that must be there; InputError lists the ones that are."""
        if name not in self.columns:
            raise InputError(
                f"'{self.path}' has no column '{name}', only {', '.join(sorted(self.columns))}. "
                "Give a table of indexed spots or of integrated reflections."
            )
        return self.columns[name]


def read_table(path: Path) -> ReflectionTable:
    """Read a table; shoeboxes, strings and unknown types are skipped and named.

    Raises InputError if the file is not such a table, is cut short, or a column is inconsistent.
    """
    try:
        # Text columns are written as raw memory by DIALS, hence the lenient decoding.
        top = msgpack.unpackb(path.read_bytes(), strict_map_key=False, unicode_errors="replace")
    except OSError as error:
        raise InputError(
            f"Cannot read '{path}': {error.strerror}. Check the path and its permissions."
        ) from error
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise InputError(
            f"'{path}' is cut short or is not a DIALS reflection table ({error}). Copy it again; a "
            "table in the pickle format of old versions must be saved anew with DIALS 2.1 or later."
        ) from error
    try:
        magic, version, body = top
        if magic != MAGIC:
            raise ValueError(f"it does not begin with '{MAGIC}'")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, not one of {VERSIONS}")
        n_rows = int(body["nrows"])
        columns, skipped = {}, []
        for name, (kind, values) in body["data"].items():
            if kind in ELEMENTS:
                columns[name] = _decode(name, kind, values, n_rows)
            else:
                skipped.append(f"{name} ({kind})")
        identifiers = {int(k): str(v) for k, v in (body.get("identifiers") or {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"'{path}' is not a DIALS reflection table that can be read: {what}. Write it again "
            "with DIALS, or leave it out with input.exclude."
        ) from error
    return ReflectionTable(path, n_rows, columns, identifiers, tuple(skipped))


def write_table(
    path: Path, columns: Mapping[str, tuple[str, NDArray[Any]]], identifiers: Sequence[str]
) -> None:
    """Write a version 1 table atomically; columns are (type name, values), as in `ELEMENTS`."""
    data = {}
    n_rows = 0
    for name, (kind, values) in columns.items():
        n_rows = len(values)
        encoded = np.ascontiguousarray(values, dtype=ELEMENTS[kind][0]).tobytes()
        data[name] = [kind, [n_rows, encoded]]
    body = {"identifiers": dict(enumerate(identifiers)), "nrows": n_rows, "data": data}
    with atomic(path) as temporary:
        temporary.write_bytes(msgpack.packb([MAGIC, 1, body]))


def _decode(name: str, kind: str, values: Any, n_rows: int) -> NDArray[Any]:
    dtype, width = ELEMENTS[kind]
    n, raw = values
    expected = n_rows * width * np.dtype(dtype).itemsize
    if n != n_rows or len(raw) != expected:
        raise ValueError(
            f"column '{name}' holds {n} rows in {len(raw)} bytes where {n_rows} rows in "
            f"{expected} bytes are due"
        )
    flat = np.frombuffer(raw, dtype=dtype)
    return flat if width == 1 else flat.reshape(n_rows, width)
