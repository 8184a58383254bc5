"""Signs of life that a running job leaves in its output folder, and how they are read."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import msgspec

from sfxproc.errors import OutputError
from sfxproc.formats.atomic import write_text

PROGRESS = Path("checkpoint") / "progress.json"


STOPPED = "stopped"
"""The stage of a job that saved its state and ended because it was asked to."""


INTERVAL_s = 2.0


_written: dict[Path, float] = {}  # when this process last wrote there, by its monotonic clock


class Progress(msgspec.Struct, frozen=True):
    """A sign of life: `done` of `total` pieces of a stage. `time` is seconds since 1970."""

    stage: str
    done: int
    total: int
    round: int | None
    rounds: int | None
    objective: float | None
    iteration: int | None
    time: float
    ranks: int
    host: str
    pid: int


def write_progress(
    folder: Path,
    stage: str,
    done: int,
    total: int,
    ranks: int = 1,
    *,
    round: int | None = None,
    rounds: int | None = None,
    objective: float | None = None,
    iteration: int | None = None,
    force: bool = False,
) -> None:
    """Tell in the output folder how far the job is. To be called on rank 0 alone, at any time:
    it writes at most every INTERVAL_s unless `force`.

    Where it cannot be written, nothing happens: a job does not end for want of a progress file.
    """
    now = time.monotonic()
    if not force and now - _written.get(folder, -INTERVAL_s) < INTERVAL_s:
        return
    _written[folder] = now
    sign = Progress(
        stage, done, total, round, rounds, objective, iteration,
        time.time(), ranks, socket.gethostname(), os.getpid(),
    )  # fmt: skip
    path = folder / PROGRESS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, msgspec.json.encode(sign).decode() + "\n")
    except (OSError, OutputError):
        pass


def read_progress(folder: Path) -> Progress | None:
    """The last sign of life in an output folder; None if there is none that can be read."""
    try:
        return msgspec.json.decode((folder / PROGRESS).read_bytes(), type=Progress)
    except (OSError, msgspec.DecodeError):
        return None
