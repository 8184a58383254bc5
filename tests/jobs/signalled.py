"""The program, sending a signal at a moment that is always the same.

    signalled.py SIGNAL MOMENT TARGET arguments…

MOMENT: "import" (while NumPy is loaded), "begin" (before input is read), "trial" (in the third
iteration), a number N (when the state of the job has been kept N times) or "twice" (when it has
been kept once, and two signals). TARGET: the rank that gets the signal, or "launcher" for the
process that started all ranks.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sfxproc.__main__ as entry

NAME, MOMENT, TARGET = sys.argv[1:4]
sys.argv[1:4] = []
RANK = os.environ.get("PMI_RANK", "0")


def send() -> None:
    if TARGET == RANK:
        os.kill(os.getpid(), signal.Signals[NAME])
    elif (TARGET, RANK) == ("launcher", "0"):
        parent = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(parent), signal.Signals[NAME])
        time.sleep(0.5)  # until it has told the ranks


class OnImport:
    """Sends when a module is looked for."""

    sent = False

    def find_spec(self, name: str, *_: object) -> None:
        if name == "numpy" and not self.sent:
            self.sent = True
            send()


def after(function: Callable[..., Any], number: int, times: int = 1) -> Callable[..., Any]:
    """The function, sending when it has been called `number` times."""
    calls = 0

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        result = function(*arguments, **options)
        calls += 1
        if calls == number:
            for _ in range(times):
                send()
        return result

    return wrapped


if MOMENT == "import":
    sys.meta_path.insert(0, OnImport())  # type: ignore[arg-type]
else:
    import sfxproc.jobs.scale as scale
    import sfxproc.lsq.engine as engine
    import sfxproc.runs.run as runs

    if MOMENT == "begin":
        scale.compile_once = after(scale.compile_once, 1)
    elif MOMENT == "trial":
        engine.Engine.objective = after(engine.Engine.objective, 3)  # type: ignore[method-assign]
    else:
        job = runs.Run
        number, times = (1, 2) if MOMENT == "twice" else (int(MOMENT), 1)
        job.save = after(job.save, number, times)  # type: ignore[method-assign]
entry.main()
