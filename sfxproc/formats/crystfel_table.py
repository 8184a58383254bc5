"""Reflection tables of CrystFEL streams: text to columns, many tables in one call.

The wanted tokens of every line are cut out and turned into numbers together. Where that fails
the tables, then their lines, are halved until the damaged lines are found; they are counted
and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sfxproc.data import Floats, Ints, Observations
from sfxproc.errors import InputError

_MANY = 10_000
_MAX_INDEX = np.iinfo(np.int16).max
_MAX_WIDTH = 128
_BLANK, _NEWLINE = 32, 10
_SHORT = "a reflection table has fewer rows than num_reflections says"
_UNREADABLE = "a reflection line cannot be read and was skipped"

Panels = dict[str, tuple[float, float]]
"""File coordinates (min_fs, min_ss) of the corner of each panel, in panel order."""


@dataclass(frozen=True)
class Layout:
    """Columns of a table: how many; the ranges that hold I and σ; the panel. h k l come first."""

    n_columns: int
    intensity: tuple[tuple[int, int], ...]
    panel: int | None = None


_UP_TO_2_1 = Layout(9, ((3, 4), (5, 6)))
LAYOUTS = {
    "2.0": _UP_TO_2_1,
    "2.1": _UP_TO_2_1,
    "2.2": Layout(9, ((3, 5),)),
    "2.3": Layout(10, ((3, 5),), panel=9),
}
_INDICES = (0, 3)
_POSITION = (7, 9)


@dataclass
class Damage:
    """What is wrong with a stream, counted by kind with the line of the first."""

    path: Path
    strict: bool
    found: dict[str, int] = field(default_factory=dict)
    first_line: dict[str, int] = field(default_factory=dict)
    n_missing: int = 0

    def add(self, kind: str, offset: int) -> None:
        """Count a damaged place at a byte offset of the file.

        Raises InputError in strict mode, or if there are too many to believe the file at all.
        """
        self.found[kind] = self.found.get(kind, 0) + 1
        if kind not in self.first_line:
            self.first_line[kind] = _line_number(self.path, offset)
        if self.strict:
            raise InputError(
                f"'{self.path}', line {self.first_line[kind]}: {kind}. Repair the stream or copy "
                "it again, or set input.strict to false to leave out what is damaged."
            )
        if self.found[kind] > _MANY:
            raise InputError(
                f"'{self.path}' is damaged in more than {_MANY} places, the first at line "
                f"{self.first_line[kind]}: {kind}. The stream is not what its first line says: "
                "copy it again or leave it out with input.exclude."
            )

    def add_missing(self, n_rows: int, offset: int) -> None:
        """Count a table that lacks n_rows of those its crystal states. Raises as `add`."""
        self.n_missing += n_rows
        self.add(_SHORT, offset)

    def notes(self) -> list[str]:
        """One sentence a kind."""
        more = {_SHORT: f", {self.n_missing} rows missing"}
        return [
            f"{kind} (times: {n}{more.get(kind, '')}, first at line {self.first_line[kind]})"
            for kind, n in self.found.items()
        ]


@dataclass(frozen=True)
class TableText:
    """Whole lines of a table, their byte offset in the file and the crystal they belong to."""

    offset: int
    text: bytes
    crystal: int


def observations_of(
    tables: Sequence[TableText],
    layout: Layout,
    columns: frozenset[str],
    panels: Panels,
    damage: Damage,
) -> Iterator[Observations]:
    """The rows of the tables in their order, in pieces.

    columns : the wanted ones of panel, x_px, y_px; needs a layout with panels. A panel that is
    not in `panels` is added to it. Raises InputError only through `damage`.
    """
    if not tables:
        return
    crystal = np.repeat(
        np.array([t.crystal for t in tables], dtype=np.int32),
        [t.text.count(b"\n") for t in tables],
    )
    try:
        yield _bulk(b"".join(t.text for t in tables), crystal, layout, columns, panels)
        return
    except ValueError:
        pieces = list(tables) if len(tables) > 1 else list(_lines(tables[0]))
    if len(pieces) == 1:
        damage.add(_UNREADABLE, pieces[0].offset)
        return
    middle = len(pieces) // 2
    for half in (pieces[:middle], pieces[middle:]):
        yield from observations_of(half, layout, columns, panels, damage)


def _lines(table: TableText) -> Iterator[TableText]:
    offset = table.offset
    for line in table.text.splitlines(keepends=True):
        yield TableText(offset, line if line.endswith(b"\n") else line + b"\n", table.crystal)
        offset += len(line)


def _bulk(
    text: bytes, crystal: Ints, layout: Layout, columns: frozenset[str], panels: Panels
) -> Observations:
    """Parse whole lines; ValueError unless each has the right columns and numbers in them."""
    data = np.frombuffer(text + b" " * _MAX_WIDTH, dtype=np.uint8)
    blank = data <= _BLANK
    first = ~blank
    first[1:] &= blank[:-1]
    starts: Ints = np.flatnonzero(first)
    ends = np.flatnonzero(data == _NEWLINE)
    n = len(ends)
    if len(starts) != n * layout.n_columns:
        raise ValueError("a line has too many or too few columns")
    starts = starts.reshape(n, layout.n_columns)
    if np.any(starts[:, -1] > ends) or np.any(starts[1:, 0] < ends[:-1]):
        raise ValueError("a line has too many or too few columns")
    edges = np.column_stack([starts, ends + 1])
    hkl = _numbers(data, edges, _INDICES, np.int64)
    if np.any(np.abs(hkl) > _MAX_INDEX):
        raise ValueError("a Miller index is out of range")
    values = np.column_stack([_numbers(data, edges, c, np.float64) for c in layout.intensity])
    with np.errstate(over="ignore"):
        return Observations(
            crystal=crystal,
            hkl=hkl.astype(np.int16),
            intensity=values[:, 0].astype(np.float32),
            variance=np.square(values[:, 1]).astype(np.float32),
            **(_positions(data, edges, layout.panel, columns, panels) if layout.panel else {}),
        )


def _numbers(
    data: NDArray[np.uint8], edges: Ints, columns: tuple[int, int], dtype: type[Any]
) -> NDArray[Any]:
    """Columns from, up to of every line as numbers, (n, up to − from)."""
    begin, end = edges[:, columns[0]], edges[:, columns[1]]
    letters = _letters(data, begin, end, fill=_BLANK)
    numbers = np.fromstring(letters.tobytes(), dtype=dtype, sep=" ")
    return numbers.reshape(len(edges), columns[1] - columns[0])


def _letters(data: NDArray[np.uint8], begin: Ints, end: Ints, fill: int) -> NDArray[np.uint8]:
    """The bytes begin:end of every line, (n, longest), filled up at their end."""
    length = end - begin
    width = int(np.max(length, initial=1))
    if width > _MAX_WIDTH:
        raise ValueError("a column is too wide")
    letters = sliding_window_view(data, width)[begin]
    letters[np.arange(width) >= length[:, None]] = fill
    return letters


def _positions(
    data: NDArray[np.uint8],
    edges: Ints,
    panel_column: int,
    columns: frozenset[str],
    panels: Panels,
) -> dict[str, Any]:
    """The wanted ones of panel, x_px, y_px; positions count from the panel's own corner."""
    if not columns:
        return {}
    file_px: Floats = _numbers(data, edges, _POSITION, np.float64)
    begin, end = edges[:, panel_column], edges[:, panel_column + 1]
    letters = _letters(data, begin, end, fill=0)
    letters[letters <= _BLANK] = 0
    names = letters.view(f"S{letters.shape[1]}")[:, 0]
    unique, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    texts = [decoded(name) for name in unique]
    for i in np.argsort(first):
        panels.setdefault(texts[i], (0.0, 0.0))
    number = {name: i for i, name in enumerate(panels)}
    panel = np.array([number[name] for name in texts], dtype=np.int16)[inverse]
    panel_px = file_px - np.array(list(panels.values()))[panel]
    found = {
        "panel": panel,
        "x_px": panel_px[:, 0].astype(np.float32),
        "y_px": panel_px[:, 1].astype(np.float32),
    }
    return {name: column for name, column in found.items() if name in columns}


def decoded(text: bytes) -> str:
    """Text of a stream; bytes that are not UTF-8 stay visible as escapes."""
    return text.decode("utf-8", errors="backslashreplace")


def _line_number(path: Path, offset: int) -> int:
    """Line, from 1, that holds the byte at `offset`."""
    line = 1
    with path.open("rb") as handle:
        while offset > 0 and (data := handle.read(min(offset, 1 << 23))):
            line += data.count(b"\n")
            offset -= len(data)
    return line
