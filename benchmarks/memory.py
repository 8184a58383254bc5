"""Peak memory of this process. Standard library only: drivers of other interpreters use it too."""

from __future__ import annotations

import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_MB() -> float:
    """Highest resident memory so far. The kernel's own mark where there is one: ru_maxrss of a
    child process can be its parent's."""
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
