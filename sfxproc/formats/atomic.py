"""Files appear whole or not at all: written beside their final name, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sfxproc.errors import OutputError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on failure it is removed.

    Raises OutputError if the folder cannot be written to or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"Cannot write '{path}': {error.strerror or error}. Check that its folder exists, that "
            "you may write there and that the disk is not full, or choose another output.folder."
        ) from error
    finally:
        with suppress(OSError):  # in a folder that is none: the error to tell is another
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8; bytes of file names that are no text become \\udcff."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
