"""An output folder that this process holds: what it writes there, and how it leaves it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from sfxproc.errors import ConfigError, OutputError
from sfxproc.formats.atomic import write_text
from sfxproc.formats.checkpoint import Checkpoint
from sfxproc.runs.contents import OTHER, Claim, Contents, contents_of, has_checkpoint, in_the_way
from sfxproc.runs.contents import refusal as refusal_of
from sfxproc.runs.lock import Lock, take_lock
from sfxproc.runs.manifest import Facts, Manifest, as_json, differences, facts_of, write_manifest
from sfxproc.runs.names import (
    ALWAYS,
    CHECKPOINT,
    DONE,
    LOG,
    MANIFEST,
    OWNER,
    PROGRESS,
    READING,
)

LEAST_FREE_bytes = 1 << 20
OF_READING = re.compile(r"\d+\.h5")


@dataclass(eq=False)
class OutputFolder:
    """A folder under this process's lock; on one rank.

    lock : None if there is nothing to write, its results being complete. manifest : as it is to be;
    before : as it was found. made : folders made to get here, the innermost first. resumed :
    whether the job goes on from an earlier start. begun : whether anything was written; results :
    whether results were.
    """

    path: Path
    manifest: Manifest
    before: Manifest | None
    lock: Lock | None
    made: Sequence[Path] = ()
    resumed: bool = False
    begun: bool = False
    results: bool = False
    _listed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.begun = self.resumed
        self._listed = set(self.manifest.files)

    # ---- writing ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the folder known as this job's, before anything is written to it."""
        self._require_held()
        if not self.begun:
            write_manifest(self.path, self.manifest)
            self.begun = True

    def begin_state(self) -> None:
        """Make the checkpoint known as this job's, before anything is kept in it."""
        self.begin()
        owner = self.path / OWNER
        if not owner.exists():
            self._make(owner.parent)
            write_text(owner, as_json(self.manifest.facts) + "\n")

    def new(self, name: str) -> Path:
        """Where a file is to be written, now listed, in a folder that is there. Raises OutputError
        if somebody else's file is there."""
        self.announce([name])
        return self.path / name

    def announce(self, names: Iterable[str]) -> None:
        """List files that will be written, and make their folders; as `new`, of many at once."""
        new = [name for name in names if name not in self._listed]
        for name in new:
            path = self.path / name
            if (path.exists() or path.is_symlink()) and name not in self.manifest.earlier:
                raise OutputError(in_the_way(self.path, name))
        folders = {p.as_posix() for name in new for p in PurePosixPath(name).parents} - {"."}
        missing = sorted(name for name in folders if not (self.path / name).is_dir())
        if new or missing:
            self._listed.update(new)
            made = dict.fromkeys((*self.manifest.folders, *missing))
            self._list(files=(*self.manifest.files, *new), folders=tuple(made))
        for name in missing:
            self._make(self.path / name)

    def replace_earlier(self) -> None:
        """Remove the results of the job before this one: now there are new ones."""
        self.begin()
        self.results = True
        for name in self.manifest.earlier:
            if name not in self._listed:
                (self.path / name).unlink(missing_ok=True)
        self._list(earlier=(), folders=self._remove_empty(self.manifest.folders))

    def finish(self, log_text: str) -> tuple[str, ...]:
        """Write the log and, last, DONE; the names of all that the job wrote. Lets the folder
        go."""
        self.announce([LOG, DONE])
        write_text(self.path / LOG, log_text)
        there = (n for n in self.manifest.files if n == DONE or (self.path / n).exists())
        self._list(files=tuple(sorted(there)))
        write_text(self.path / DONE, "")
        drop_state(self.path)
        self.release()
        return self.manifest.files

    # ---- leaving ---------------------------------------------------------------------------

    def abandon(self) -> None:
        """Let go of a job that ends without results: what can be gone on from stays, otherwise all
        is as it was found, but that an earlier DONE is gone."""
        kept = self.resumed or self.results or bool(Checkpoint(self.path / CHECKPOINT).keys())
        if not kept and self.lock is not None and self.lock.held():
            with suppress(OSError, OutputError):
                self._undo()
        self.release()
        for path in self.made:
            with suppress(OSError):
                path.rmdir()

    def release(self) -> None:
        """Let other processes write."""
        if self.lock is not None:
            self.lock.release()

    def _undo(self) -> None:
        for name in set(self.manifest.files) - set(self.manifest.earlier):
            (self.path / name).unlink(missing_ok=True)
        drop_state(self.path)
        before = () if self.before is None else self.before.folders
        self._remove_empty([name for name in self.manifest.folders if name not in before])
        if self.before is not None and self.begun:
            write_manifest(self.path, self.before)
        elif self.begun:
            (self.path / MANIFEST).unlink(missing_ok=True)

    # ---- parts -----------------------------------------------------------------------------

    def _list(self, **changes: tuple[str, ...]) -> None:
        self._require_held()
        self.manifest = msgspec.structs.replace(self.manifest, **changes)
        write_manifest(self.path, self.manifest)
        self.begun = True

    def _require_held(self) -> None:
        if self.lock is None or not self.lock.held():
            raise OutputError(
                f"output.folder '{self.path}' was taken over by another process, since this one "
                "gave no sign of life for long. This one ends, without touching it."
            )

    def _remove_empty(self, folders: Sequence[str]) -> tuple[str, ...]:
        """Remove folders with nothing in them, inner ones first; those that stay."""
        for name in sorted(folders, reverse=True):
            with suppress(OSError):
                (self.path / name).rmdir()
        return tuple(name for name in folders if (self.path / name).is_dir())

    def _make(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"Cannot make the folder '{path}' ({error.strerror or error}). Remove what is in "
                "its way, or choose another output.folder."
            ) from error


def drop_state(folder: Path) -> None:
    """Remove a job's checkpoint from its output folder: files as jobs keep them, and folders that
    are empty then. What else somebody put there stays; a file that will not go does no harm."""
    if not has_checkpoint(folder):
        return
    checkpoint = folder / CHECKPOINT
    with suppress(OSError):
        Checkpoint(checkpoint).clear()
        for path in (checkpoint / READING).rglob("*.h5"):
            if OF_READING.fullmatch(path.name):
                path.unlink(missing_ok=True)
        for path in checkpoint.rglob(".*.part"):
            path.unlink(missing_ok=True)
        (folder / PROGRESS).unlink(missing_ok=True)
        (folder / OWNER).unlink(missing_ok=True)
        inner = sorted((p for p in checkpoint.rglob("*") if p.is_dir()), reverse=True)
        for path in (*inner, checkpoint):
            with suppress(OSError):
                path.rmdir()


# ---- taking hold -----------------------------------------------------------------------------


def hold(claim: Claim) -> OutputFolder:
    """The folder of a claim under a lock, or its complete results; on one rank.

    The DONE of an earlier job is removed at once, as is its checkpoint unless it is to be gone on
    with; its results only when new ones are there. Raises OutputError if the folder must not or
    cannot be written to, InputError if inputs are missing, ConfigError if what is there and is to
    be gone on with is of another job.
    """
    folder = claim.folder
    if problem := refusal_of(claim):
        raise OutputError(problem)
    contents = contents_of(folder)
    if contents.done and claim.output.resume:
        return _complete(claim, contents)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder)
        return _held(claim, lock, made)
    except BaseException as error:
        if lock is not None:
            lock.release()
        for path in made:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            raise OutputError(
                f"Cannot write to output.folder '{folder}': {error.strerror or error}. Choose "
                "another folder or correct its permissions."
            ) from error
        raise


def _held(claim: Claim, lock: Lock, made: Sequence[Path]) -> OutputFolder:
    """The folder, all looked at again now that nobody else writes there."""
    folder = claim.folder
    contents = contents_of(folder)
    if problem := refusal_of(claim, contents):
        raise OutputError(problem)
    if contents.done and claim.output.resume:
        lock.release()
        return _complete(claim, contents)
    facts = facts_of(claim.config, claim.files)
    resumed = claim.output.resume and contents.stopped and contents.manifest is not None
    if resumed and contents.manifest is not None:
        _require_same(contents.manifest.facts, facts, claim, complete=False)
        manifest = contents.manifest
    else:
        earlier = tuple(sorted(contents.files - {DONE}))
        folders = () if contents.manifest is None else contents.manifest.folders
        manifest = Manifest(facts, (), earlier, folders)
        drop_state(folder)
    if contents.done:
        (folder / DONE).unlink(missing_ok=True)
    _remove_parts(folder, (*contents.files, *claim.names, *ALWAYS))
    if shutil.disk_usage(folder).free < LEAST_FREE_bytes:
        raise OutputError(
            f"The disk of output.folder '{folder}' is full; free some space or choose another."
        )
    return OutputFolder(folder, manifest, contents.manifest, lock, made, resumed)


def _complete(claim: Claim, contents: Contents) -> OutputFolder:
    """Results that are there already, if they are of this job."""
    if contents.manifest is None:  # nobody knows of what settings
        files = tuple(sorted(contents.files))
        none = Facts("", {}, {})
        return OutputFolder(claim.folder, Manifest(none, files), None, lock=None)
    facts = facts_of(claim.config, claim.files)
    _require_same(contents.manifest.facts, facts, claim, complete=True)
    if has_checkpoint(claim.folder):  # of one that was killed just before it removed it
        drop_state(claim.folder)
    return OutputFolder(claim.folder, contents.manifest, contents.manifest, lock=None)


def _require_same(kept: Facts, given: Facts, claim: Claim, complete: bool) -> None:
    if differing := differences(kept, given, version=not complete):
        what = "is complete" if complete else "was stopped"
        raise ConfigError(
            "\n".join(
                [
                    f"The job that {what} in '{claim.folder}' is not this one (there → here):",
                    *differing,
                    f"Put back what was changed, {OTHER}, or begin anew with --overwrite, without "
                    "--resume.",
                ]
            )
        )


def _remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Remove what a process that was killed had begun to write of these files."""
    for name in names:
        if not name.endswith("/"):
            path = folder / name
            for part in path.parent.glob(f".{path.name}.*.part"):
                part.unlink(missing_ok=True)
