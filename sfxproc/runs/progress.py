"""Signs of life that a running job leaves in its output folder, and how they are read."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sfxproc import signals
from sfxproc.errors import OutputError, Stopped
from sfxproc.formats.atomic import write_text
from sfxproc.runs.names import CHECKPOINT, PROGRESS

STOPPED = "stopped"
"""The stage of a job that saved its state and ended because it was asked to."""

INTERVAL_s = 2.0


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


@dataclass(eq=False)
class SignsOfLife:
    """Tells in an output folder how far the job is, at most every INTERVAL_s unless forced.

    ranks : of the job. speaks : false on all but the first. begin : called before the first sign.
    Where one cannot be written, nothing happens: a job does not end for want of it.
    """

    folder: Path
    ranks: int = 1
    speaks: bool = True
    begin: Callable[[], None] = lambda: None
    _told_at: float = -INTERVAL_s

    def tell(
        self,
        stage: str,
        done: int = 0,
        total: int = 0,
        *,
        round: int | None = None,
        rounds: int | None = None,
        objective: float | None = None,
        iteration: int | None = None,
        force: bool = False,
    ) -> None:
        """Say how far the job is; to be called at any time, on any rank."""
        now = time.monotonic()
        if not self.speaks or (not force and now - self._told_at < INTERVAL_s):
            return
        self._told_at = now
        sign = Progress(
            stage,
            done,
            total,
            round,
            rounds,
            objective,
            iteration,
            time.time(),
            self.ranks,
            socket.gethostname(),
            os.getpid(),
        )
        path = self.folder / PROGRESS
        try:
            self.begin()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, msgspec.json.encode(sign).decode() + "\n")
        except (OSError, OutputError):
            pass

    def stopped(self, where: str) -> Stopped:
        """What ends a job on all ranks that stops because it was asked to, its state being kept.
        where : such as "after iteration 7"."""
        signals.keeping(self.folder / CHECKPOINT)
        self.tell(STOPPED, force=True)
        return Stopped(signals.farewell(where))


def read_progress(folder: Path) -> Progress | None:
    """The last sign of life in an output folder; None if there is none that can be read."""
    try:
        return msgspec.json.decode((folder / PROGRESS).read_bytes(), type=Progress)
    except (OSError, msgspec.DecodeError):
        return None
