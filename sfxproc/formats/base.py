"""What a file format is: how it is recognised, read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sfxproc.data import Stills


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
    """One input format: `suffixes` in lower case with their dot; `write` where it can."""

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, Request], Stills]
    write: Callable[[Path, Stills], None] | None = None
