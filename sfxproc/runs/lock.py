"""One process at a time writes to an output folder; a lock file there says which.

The file is made where there is none, which of several processes one can do. It counts until its
owner removes it or is gone:

- on this machine, when there is no process of its number and start;
- an earlier start of the same SLURM job, since a job is queued again only when that has ended;
- elsewhere, when the file was not renewed for SILENT_s. Its owner does so every BEAT_s. Ages are
  differences of times that the file system gives, so clocks of machines need not agree.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from sfxproc.errors import OutputError
from sfxproc.formats.atomic import write_text
from sfxproc.runs.names import LOCK

BEAT_s, SILENT_s = 20.0, 180.0
ATTEMPTS, PAUSE_s = 20, 0.05
GONE_STATES = ("Z", "X")  # of a process that has ended, in /proc


class Owner(msgspec.Struct, frozen=True):
    """A process that writes. began : clock ticks from the machine's start to its own. namespace :
    in which its number counts. slurm, restarts : its SLURM job, and how often that was queued
    again."""

    host: str = "an unknown machine"
    pid: int = 0
    began: int = 0
    namespace: str = ""
    slurm: str = ""
    restarts: int = 0
    since: str = ""


@dataclass(eq=False)
class Lock:
    """A lock that this process has. note : whose it took over, for the log; empty if nobody's."""

    path: Path
    owner: Owner
    note: str = ""
    _released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        threading.Thread(target=self._beat, daemon=True).start()

    def held(self) -> bool:
        """Whether it still is this process's: one that was suspended for long may have lost it."""
        return read_owner(self.path) == self.owner

    def release(self) -> None:
        """Let others write."""
        self._released.set()
        if self.held():
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(BEAT_s):
            with suppress(OSError):
                if self.held():
                    os.utime(self.path)


def take_lock(folder: Path) -> Lock:
    """Take the lock of a folder. Raises OutputError if another process has it, OSError if the
    folder cannot be written to."""
    path, mine = folder / LOCK, this_process()
    for _ in range(ATTEMPTS):
        if _made(path, mine):
            return Lock(path, mine)
        owner = read_owner(path)
        if owner is None:  # released meanwhile
            continue
        gone = why_gone(owner, _silence_s(path))
        if gone is None and owner.pid:
            raise OutputError(in_use(folder, owner))
        if gone is not None and _taken_over(path, owner, mine):
            return Lock(path, mine, f"the lock of process {owner.pid} on {owner.host} ({gone})")
        time.sleep(PAUSE_s)  # being written, or taken over by another
    raise OutputError(in_use(folder, read_owner(path) or Owner()))


def lock_problem(folder: Path) -> str | None:
    """Why another process keeps this one from writing; None if none does. For a first look: only
    `take_lock` can tell for sure."""
    owner = read_owner(folder / LOCK)
    if owner is None or why_gone(owner, _silence_s(folder / LOCK)) is not None:
        return None
    return in_use(folder, owner)


def in_use(folder: Path, owner: Owner) -> str:
    """The refusal, with what to do."""
    return (
        f"output.folder '{folder}' is in use: process {owner.pid} on {owner.host} has been writing "
        f"there since {owner.since}. Wait for it (`sfxproc status {folder}` tells how far it is), "
        "or choose another folder with `--set output.folder=NAME`. If that process is no more, "
        f"remove '{folder / LOCK}'."
    )


def read_owner(path: Path) -> Owner | None:
    """Whose a lock file is; None if there is none, an Owner without a number if it says nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Owner)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError):
        return Owner()


def why_gone(owner: Owner, silent_s: float) -> str | None:
    """Why an owner that renewed its lock `silent_s` ago is no more; None if it may be there."""
    here = this_process()
    if owner.pid and (owner.host, owner.namespace) == (here.host, here.namespace):
        return None if began_of(owner.pid) == owner.began else "it is no more"
    if owner.slurm and owner.slurm == here.slurm and owner.restarts < here.restarts:
        return "an earlier start of this job"
    return f"no sign of life for {silent_s:.0f} s" if silent_s > SILENT_s else None


def this_process() -> Owner:
    """This process as an owner."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    slurm, restarts = (os.environ.get(f"SLURM_{k}", "") for k in ("JOB_ID", "RESTART_COUNT"))
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        began=began_of(os.getpid()) or 0,
        namespace=namespace,
        slurm=slurm,
        restarts=int(restarts) if restarts.isdigit() else 0,
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    )


def began_of(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks; None if there is none that runs."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in GONE_STATES else int(rest[18])


def _made(path: Path, owner: Owner) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(handle, msgspec.json.encode(owner) + b"\n")
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True


def _taken_over(path: Path, owner: Owner, mine: Owner) -> bool:
    """Whether this process, and no other one, has taken a lock over from an owner that is gone."""
    marker = path.with_name(f"{path.name}.over")
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        if _silence_s(marker) > SILENT_s:  # who made it was killed
            marker.unlink(missing_ok=True)
        return False
    try:
        if read_owner(path) != owner:
            return False
        silent_s = marker.stat().st_mtime - path.stat().st_mtime
        if why_gone(owner, silent_s) is None:
            return False
        write_text(path, msgspec.json.encode(mine).decode() + "\n")
        return True
    except FileNotFoundError:
        return False
    finally:
        marker.unlink(missing_ok=True)


def _silence_s(path: Path) -> float:
    """Time since a file was renewed, by this machine's clock; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
