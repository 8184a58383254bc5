"""How far a job is, told by its output folder alone: `sfxproc status FOLDER`.

A running job rewrites `checkpoint/progress.json` now and then, and its lock names the process, of
which this machine knows whether it is there if it is its own; `DONE` and the last line of `log.txt`
tell that and how it ended. Nobody asks the scheduler.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec

from sfxproc.errors import InputError
from sfxproc.runs.lock import read_owner, why_gone
from sfxproc.runs.names import CHECKPOINT, DONE, LOCK, LOG, MANIFEST, SETTINGS
from sfxproc.runs.progress import STOPPED, Progress, read_progress

QUIET_s = 120.0
SILENT_s = 1800.0


class Status(msgspec.Struct, frozen=True):
    """Whether a job is finished, and a sentence or two about it."""

    finished: bool
    text: str


def status_of(folder: Path, now: float | None = None) -> Status:
    """What the files of an output folder tell. now : seconds since 1970, default the clock's.

    Raises InputError if no job has written there.
    """
    now = time.time() if now is None else now
    if not folder.is_dir():
        raise InputError(
            f"There is no folder '{folder}'. Give the output.folder of a job, where it writes."
        )
    if (folder / DONE).exists():
        return Status(True, f"Finished. {_closing_sentence(folder / LOG)}".rstrip())
    files = [folder / name for name in (SETTINGS, LOG, CHECKPOINT, MANIFEST, LOCK)]
    if not any(path.exists() for path in files):
        raise InputError(
            f"'{folder}' is not the folder of a job: it holds neither {DONE} nor {CHECKPOINT}/. "
            "Give the output.folder of a job; one that has just begun writes there soon."
        )
    progress = read_progress(folder)
    if progress is None:
        told, outlook = "Not finished.", _age(now - _newest(folder))
    else:
        told, outlook = _told(progress), _outlook(progress, now - progress.time)
    return Status(False, f"{told} {_killed(folder) or outlook}")


def _killed(folder: Path) -> str | None:
    """That the process which has the lock is no more, if that is certain."""
    owner = read_owner(folder / LOCK)
    if owner is None or why_gone(owner, silent_s=0.0) is None:
        return None
    return f"Process {owner.pid} on {owner.host} is no more: it was killed; go on with --resume."


def _told(progress: Progress) -> str:
    """How far the job was at its last sign of life."""
    parts = [progress.stage]
    if progress.total:
        share = 100 * progress.done / progress.total
        parts[0] += f": {progress.done:,} of {progress.total:,} ({share:.0f} %)"
    if progress.round is not None:
        of = "" if progress.rounds is None else f" of at most {progress.rounds}"
        parts.append(f"round {progress.round}{of}")
    if progress.iteration is not None:
        parts.append(f"iteration {progress.iteration}")
    if progress.objective is not None:
        parts.append(f"objective {progress.objective:.6g}")
    ranks = "1 rank" if progress.ranks == 1 else f"{progress.ranks} ranks"
    where = f"{ranks}, the first on {progress.host} as process {progress.pid}"
    return f"Not finished. {', '.join(parts)}; {where}."


def _outlook(progress: Progress, age_s: float) -> str:
    if progress.stage == STOPPED:
        return f"It saved its state and stopped {_span(age_s)} ago: go on with --resume."
    return _age(age_s)


def _age(age_s: float) -> str:
    """What the time since the last sign of life means."""
    if age_s < QUIET_s:
        return f"Last sign of life {_span(age_s)} ago."
    if age_s < SILENT_s:
        return f"No sign of life for {_span(age_s)}: it is in a long step, or was killed."
    return f"No sign of life for {_span(age_s)}: it was probably killed; go on with --resume."


def _span(seconds: float) -> str:
    """A time in its largest unit; clocks of two machines may disagree, so 0 if negative."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


def _newest(folder: Path) -> float:
    """When anything in the folder was last written, seconds since 1970."""
    paths = [folder, *folder.iterdir(), *(folder / CHECKPOINT).glob("*")]
    return max(path.stat().st_mtime for path in paths if path.exists())


def _closing_sentence(log: Path) -> str:
    """The last line of a log without the seconds before it."""
    try:
        lines = log.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return ""
    last = next((line for line in reversed(lines) if line.strip()), "")
    return re.sub(r"^\s*[\d.]+ s  ", "", last)
