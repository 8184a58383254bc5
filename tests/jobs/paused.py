"""The program, waiting before it reads its input until a file is there.

    paused.py FILE arguments…

FILE.waiting appears when it waits, and it goes on when FILE does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import sfxproc.__main__ as entry
import sfxproc.jobs.scale as scale

FILE = Path(sys.argv[1])
sys.argv[1:2] = []
simulated_inputs = scale.simulated_inputs


def waiting(*arguments: Any) -> Any:
    inputs = simulated_inputs(*arguments)
    FILE.with_suffix(".waiting").touch()
    while not FILE.exists():
        time.sleep(0.02)
    return inputs


scale.simulated_inputs = waiting
entry.main()
