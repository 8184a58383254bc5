"""How many threads a rank may use."""

from __future__ import annotations

import os
import socket

from sfxproc.parallel.comm import Comm


def threads_of(asked: int, comm: Comm) -> int:
    """The number asked for, or (asked = 0) this rank's share of the processors it may run on.

    Ranks of one host that may run on the same processors (unpinned, or all within one container)
    share them; a rank pinned to processors of its own has them all.
    """
    if asked > 0:
        return asked
    processors = usable_processors()
    place = (socket.gethostname(), processors)
    return max(len(processors) // comm.allgather(place).count(place), 1)


def usable_processors() -> tuple[int, ...]:
    """The processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
