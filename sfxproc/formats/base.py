"""What a file format is: how it is recognised, looked into, read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sfxproc.data import Floats, Stills

GUESSED_ROW_bytes, GUESSED_ROWS = 80, 300  # of an observation in a file; of them a crystal
READ_s = 0.35e-6  # CPU time that reading and selecting an observation takes


@dataclass(frozen=True, eq=False)
class Contents:
    """What a look into a file tells, its observations unread.

    exact : the numbers are counted, not extrapolated from a part. cell : (6,) in Å and degrees,
    median of some crystals; NaN where not known. s2 : (k,) (sinθ/λ)² in Å⁻² of a fair sample of
    the observations; empty where not known. read_s : CPU seconds an observation takes to read.
    """

    n_crystals: int
    n_observations: int
    exact: bool = False
    cell: Floats = field(default_factory=lambda: np.full(6, np.nan))
    s2: Floats = field(default_factory=lambda: np.empty(0))
    read_s: float = READ_s


def by_size(path: Path) -> Contents:
    """A guess from the size of the file alone."""
    n = path.stat().st_size // GUESSED_ROW_bytes
    return Contents(-(-n // GUESSED_ROWS), n)


@dataclass(frozen=True)
class Request:
    """How to read one file.

    label names the file in crystal identities; columns are the optional columns of
    `Observations` wanted; strict makes a damaged part of a file an error instead of a count.
    """

    label: str
    columns: frozenset[str] = frozenset()
    strict: bool = False


@dataclass(frozen=True)
class Format:
    """One input format: `suffixes` in lower case with their dot; `write` where it can.

    `peek` looks into a file in a moment, whatever its size; it may raise what a damaged file makes
    it raise.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, Request], Stills]
    write: Callable[[Path, Stills], None] | None = None
    peek: Callable[[Path], Contents] = by_size
