"""What lies in an output folder, and why a job may not write there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import msgspec

from sfxproc import __version__
from sfxproc.errors import OutputError
from sfxproc.formats.checkpoint import Checkpoint
from sfxproc.runs.lock import lock_problem
from sfxproc.runs.manifest import Manifest, read_manifest
from sfxproc.runs.names import (
    ALWAYS,
    BEFORE_MANIFESTS,
    CHECKPOINT,
    DONE,
    LOCK,
    MANIFEST,
    OWNER,
    SIGNS,
    home_expanded,
)

OTHER = "choose another folder with `--set output.folder=NAME`"


class OutputSettings(Protocol):
    """The settings of an output folder that all kinds of job have."""

    @property
    def folder(self) -> str: ...
    @property
    def overwrite(self) -> bool: ...
    @property
    def resume(self) -> bool: ...


@dataclass(frozen=True)
class Claim:
    """What a job asks for before it begins.

    config : all its settings. inputs : lists the files that it reads, on one rank; raises
    InputError if some are missing. names : of files and, with / at the end, of folders that it will
    write besides those of every job. threads : of each rank. interval_s : between states kept.
    """

    kind: str
    config: msgspec.Struct
    output: OutputSettings
    inputs: Callable[[], Sequence[Path]]
    names: tuple[str, ...]
    threads: int | None = None
    interval_s: float = 5.0

    @property
    def folder(self) -> Path:
        """Of the output."""
        return home_expanded(self.output.folder)

    def greeting(self, ranks: int) -> str:
        """The first line of the log."""
        threads = "" if self.threads is None else f", threads of each: {self.threads}"
        return f"sfxproc {__version__}, {self.kind}; ranks: {ranks}{threads}"

    @cached_property
    def files(self) -> Sequence[Path]:
        """What the job reads, looked for once. Raises InputError if something is missing."""
        return self.inputs()


@dataclass(frozen=True)
class Contents:
    """What an output folder holds. manifest : None where there is none. files : of jobs, relative,
    that are there. state : whether one kept something to go on from. done : whether it is complete.
    strange : whether there is anything that is of no job."""

    manifest: Manifest | None = None
    files: frozenset[str] = frozenset()
    state: bool = False
    done: bool = False
    strange: bool = False

    @property
    def stopped(self) -> bool:
        """Whether there is a job that began and is not complete."""
        return not self.done and (self.state or bool(self.files))


def contents_of(folder: Path) -> Contents:
    """What is there. Raises OutputError for a manifest that cannot be read."""
    if not folder.is_dir():
        return Contents()
    manifest = read_manifest(folder)
    if manifest is not None:
        listed: Sequence[str] = (*manifest.files, *manifest.earlier)
    else:
        known = any((folder / name).is_file() for name in SIGNS)
        listed = BEFORE_MANIFESTS if known else ()
    files = frozenset(name for name in listed if (folder / name).is_file())
    folders = set() if manifest is None else set(manifest.folders)
    return Contents(
        manifest,
        files,
        state=has_checkpoint(folder) and bool(Checkpoint(folder / CHECKPOINT).keys()),
        done=DONE in files,
        strange=any(_strangers(folder, files, folders)),
    )


def has_checkpoint(folder: Path) -> bool:
    """Whether the checkpoint in a folder is a job's: that says whose it is."""
    try:
        return "sfxproc" in json.loads((folder / OWNER).read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _strangers(folder: Path, files: frozenset[str], folders: set[str]) -> Iterator[Path]:
    """Paths at the top of a folder that hold anything which is of no job."""
    own_folders = {name.partition("/")[0] for name in folders}
    for path in folder.iterdir():
        if path.name in (LOCK, f"{LOCK}.over", MANIFEST) or path.name in files:
            continue
        if path.name == CHECKPOINT and path.is_dir():
            if not has_checkpoint(folder) and any(path.iterdir()):
                yield path
        elif path.name in own_folders:
            inside = (p for p in path.rglob("*") if not p.is_dir())
            if any(p.relative_to(folder).as_posix() not in files for p in inside):
                yield path
        else:
            yield path


# ---- why not ---------------------------------------------------------------------------------


def refusal(claim: Claim, contents: Contents | None = None) -> str | None:
    """Why results must not go to the folder of a claim; None if they may. Raises OutputError and
    InputError."""
    folder = claim.folder
    above = next((p for p in folder.parents if p.exists()), folder)
    what = folder if folder.exists() else above
    if not what.is_dir():
        return f"output.folder '{folder}': '{what}' is a file, not a folder. Choose another name."
    if contents is None:
        if problem := lock_problem(folder):
            return problem
        contents = contents_of(folder)
    if contents.done and claim.output.resume:
        return None  # there is nothing to write
    return (
        _not_asked_for(claim, contents)
        or _in_the_way(claim, contents)
        or _reads_its_own_output(claim, contents)
    )


def _not_asked_for(claim: Claim, contents: Contents) -> str | None:
    """What has to be said before something may be replaced."""
    folder, given = claim.folder, claim.output
    if contents.manifest is None and contents.stopped and given.resume and not given.overwrite:
        return (
            f"output.folder '{folder}' holds a job of an earlier version of the program, which "
            f"cannot be gone on with. Begin anew with --overwrite, without --resume, or {OTHER}."
        )
    if contents.stopped:
        if given.resume or given.overwrite:
            return None
        return (
            f"output.folder '{folder}' holds a job that was stopped. Go on with it by --resume, "
            f"{OTHER}, or begin anew with --overwrite."
        )
    empty = not contents.strange and not contents.files
    if empty or given.overwrite:
        return None
    if given.resume:
        return (
            f"output.folder '{folder}' holds files but no job that can be gone on with. Choose "
            "another folder with `--set output.folder=NAME`, or write besides them with "
            "--overwrite."
        )
    return (
        f"output.folder '{folder}' exists and is not empty. Choose another with `--set "
        "output.folder=NAME`, or replace its results with --overwrite."
    )


def _in_the_way(claim: Claim, contents: Contents) -> str | None:
    """A file of somebody else where one of the job's has to go."""
    folder = claim.folder
    foreign = None
    for name in (*ALWAYS, *claim.names):
        path = folder / name
        if name.endswith("/"):
            taken = path.exists() and not path.is_dir()
        else:
            taken = (path.exists() or path.is_symlink()) and name not in contents.files
        if taken and not (name == MANIFEST and contents.manifest is not None):
            foreign = name
            break
    checkpoint = folder / CHECKPOINT
    holds = not checkpoint.is_dir() or any(checkpoint.iterdir()) if checkpoint.exists() else False
    if holds and not has_checkpoint(folder):
        foreign = CHECKPOINT
    return None if foreign is None else in_the_way(folder, foreign)


def in_the_way(folder: Path, name: str) -> str:
    """The refusal to replace what is not the program's."""
    return (
        f"output.folder '{folder}' holds '{name}', which is not of this program or not known to "
        f"be, and a job needs this name. It is not touched: move it away, or {OTHER}."
    )


def _reads_its_own_output(claim: Claim, contents: Contents) -> str | None:
    """An input that results would take the place of."""
    folder = claim.folder.resolve()
    for path in claim.files:
        for place in {path.absolute(), path.resolve()}:
            if not place.is_relative_to(folder):
                continue
            name = place.relative_to(folder).as_posix()
            if name in contents.files or name in claim.names or name.startswith(f"{CHECKPOINT}/"):
                return (
                    f"output.folder '{claim.folder}' holds '{name}', which this job reads and "
                    f"results would replace. Move it out of the folder, or {OTHER}."
                )
    return None


def require_free(claim: Claim) -> None:
    """Raise OutputError if results must not go to the folder of a claim."""
    if problem := refusal(claim):
        raise OutputError(problem)
