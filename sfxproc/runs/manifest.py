"""What a job wrote in its output folder, and what tells it from other jobs.

`manifest.json` names a file before it is written, so that what a killed job leaves is known too.
Nothing else in the folder is ever removed or replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec

from sfxproc import __version__
from sfxproc.errors import OutputError
from sfxproc.formats.atomic import write_text
from sfxproc.runs.names import MANIFEST

NO_MATTER = (
    "output.folder",
    "output.overwrite",
    "output.resume",
    "output.checkpoint_interval_s",
    "parallel.threads",
)
"""Settings that cannot change results."""
MOST_TOLD = 20  # differences between two jobs


class Stamp(msgspec.Struct, frozen=True):
    """A file as it was: reading it all would take too long."""

    bytes: int
    changed: str

    def __str__(self) -> str:
        return f"{self.bytes:,} bytes, changed {self.changed}"


class Facts(msgspec.Struct, frozen=True):
    """What a job's results depend on: program, settings that matter by dotted path, input files by
    absolute path."""

    sfxproc: str
    settings: dict[str, str]
    inputs: dict[str, Stamp]


class Manifest(msgspec.Struct, frozen=True):
    """What of a folder is a job's.

    files : written by the job, relative to the folder. earlier : of a job before it, still there
    until there are results to take their place. folders : made by either.
    """

    facts: Facts
    files: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


# ---- facts -----------------------------------------------------------------------------------


def facts_of(config: msgspec.Struct, files: Sequence[Path]) -> Facts:
    """The facts of a job that reads these files; those that are not there are left out."""
    paths = [path.absolute() for path in files]
    stamps = {str(path): stamp_of(path) for path in paths}
    return Facts(
        __version__,
        dict(_leaves(msgspec.to_builtins(config), "")),
        {path: stamp for path, stamp in stamps.items() if stamp is not None},
    )


def stamp_of(path: Path) -> Stamp | None:
    """Size and time of change of a file; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    seconds, ns = divmod(status.st_mtime_ns, 1_000_000_000)
    changed = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return Stamp(status.st_size, f"{changed}.{ns:09d} UTC")


def differences(kept: Facts, given: Facts, version: bool) -> list[str]:
    """What differs between two jobs, a line each, the first so many of many. version : whether
    that of the program counts."""
    there, here = (_told(facts, version) for facts in (kept, given))
    names = [*there, *(name for name in here if name not in there)]
    lines = [
        f"- {name}: {there.get(name, 'not set')} → {here.get(name, 'not set')}"
        for name in names
        if there.get(name) != here.get(name)
    ]
    if len(lines) > MOST_TOLD:
        lines[MOST_TOLD:] = [f"- and {len(lines) - MOST_TOLD} more"]
    return lines


def _told(facts: Facts, version: bool) -> dict[str, str]:
    program = {"sfxproc": facts.sfxproc} if version else {}
    files = {f"file '{path}'": str(stamp) for path, stamp in facts.inputs.items()}
    return program | facts.settings | files


def _leaves(tree: Mapping[str, object], path: str) -> Iterator[tuple[str, str]]:
    """Settings that matter by dotted path, as text; those that are not set are left out."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        elif f"{path}{name}" not in NO_MATTER and value is not None:
            yield f"{path}{name}", value if isinstance(value, str) else json.dumps(value)


# ---- the file --------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None if it has none. Raises OutputError for one that is no
    manifest of ours: nobody knows then what in the folder is whose."""
    path = folder / MANIFEST
    try:
        manifest = msgspec.convert(json.loads(path.read_bytes()), Manifest)
        names = (*manifest.files, *manifest.earlier, *manifest.folders)
        if outside := [name for name in names if not is_inside(name)]:
            raise ValueError(f"'{outside[0]}' is not in the folder")
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:  # of which a ValidationError is one
        raise OutputError(
            f"'{path}' cannot be read as the list of what a job wrote in output.folder "
            f"({error}). Choose another folder with `--set output.folder=NAME`, or move this file "
            "away; nothing in the folder counts as a job's then."
        ) from error


def is_inside(name: str) -> bool:
    """Whether a relative path cannot lead out of the folder that it starts from."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, whole or not at all. Raises OutputError."""
    write_text(folder / MANIFEST, as_json(manifest) + "\n")


def as_json(value: msgspec.Struct) -> str:
    """JSON in plain letters: names of files may hold bytes that are no text, which only an escape
    can write."""
    return json.dumps(msgspec.to_builtins(value), indent=1)
