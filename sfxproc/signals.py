"""Signals that ask a job to end: SIGTERM, SIGUSR1 (a batch system's warning), SIGINT (Ctrl-C).

A run goes through three phases. While the program is being loaded a signal is noted, since an
import cut in two cannot be mended, and `loaded` ends the run. From then on a signal ends it at
once: `StopNow` is raised. Within `deferred` a signal is noted again: the job asks `requested` at
its stop points and ends itself when its state is kept. A second Ctrl-C does not wait for that.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
INTERRUPTED = 130  # exit status after a second Ctrl-C
NOTHING = "Nothing was kept yet; begin again"
KEPT = "What was done so far is kept in '{}'; go on"


class StopNow(BaseException):
    """A signal ends the run at once. No Exception, lest somebody on the way takes it for one."""


@dataclass
class _Now:
    """requested : the signal that came last. kept : the beginning of a sentence about it.
    complain : what told of errors in destructors before `install`. ending : `ignore` was called."""

    loading: bool = True
    patient: bool = False
    requested: str | None = None
    kept: str = NOTHING
    ending: bool = False
    complain: Callable[[sys.UnraisableHookArgs], object] | None = None
    replaced: dict[signal.Signals, Any] = field(default_factory=dict)


_now = _Now()


def install() -> None:
    """Heed signals from now on, but those that this process was told to ignore."""
    restore()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            _now.replaced[number] = signal.signal(number, _heed)
    _now.complain, sys.unraisablehook = sys.unraisablehook, _complain


def restore() -> None:
    """Put back the handlers that were there before `install`, and forget everything."""
    global _now
    for number, handler in _now.replaced.items():
        signal.signal(number, handler)
    if _now.complain is not None:
        sys.unraisablehook = _now.complain
    _now = _Now()


def ignore() -> None:
    """Heed them no more: the run is ending. What a signal cut off while it was made, such as a
    kernel being compiled, does not complain either when it is deleted."""
    for number in _now.replaced:
        signal.signal(number, signal.SIG_IGN)
    _now.ending = True


def loaded() -> None:
    """Loading is over. Raises StopNow if a signal came meanwhile."""
    _now.loading = False
    _stop_if_requested()


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block signals are noted only. Raises StopNow at its end if one came that the
    job did not get to heed."""
    before, _now.patient = _now.patient, True
    try:
        yield
    finally:
        _now.patient = before
    if not before:
        _stop_if_requested()


def requested() -> str | None:
    """The name of a signal that asked this process to end, or None."""
    return _now.requested


def keeping(folder: object) -> None:
    """Tell that the state of the job is kept in a folder, so that it can be gone on with."""
    _now.kept = KEPT.format(folder)


def farewell(where: str = "") -> str:
    """What is told when a signal has ended the run: what was kept, and how to go on.

    where : such as "after iteration 7".
    """
    by = f"by {_now.requested or 'a signal to another rank'} {where}".rstrip()
    return f"stopped {by}. {_now.kept} with `sfxproc run JOB --resume` and the same settings."


def _stop_if_requested() -> None:
    if _now.requested is not None:
        raise StopNow(farewell())


def _heed(number: int, _: FrameType | None) -> None:
    name = signal.Signals(number).name
    if name == _now.requested == "SIGINT":
        if _now.loading:
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt
    # kept also where it is raised: that is lost if it meets a destructor or a callback from C
    _now.requested = name
    if not (_now.loading or _now.patient):
        _stop_if_requested()


def _complain(found: sys.UnraisableHookArgs) -> None:
    """Tell of an error in a destructor or a callback, unless it is that a signal met one, which
    `_heed` keeps, or comes of what a signal cut off."""
    cut_off = _now.ending and _now.requested is not None
    if _now.complain is not None and not (cut_off or found.exc_type is StopNow):
        _now.complain(found)
