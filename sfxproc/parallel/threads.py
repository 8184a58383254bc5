"""How many threads a rank may use."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sfxproc.parallel.comm import Comm

SHARE_VARIABLES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")


def threads_of(asked: int, comm: Comm, environment: Mapping[str, str] | None = None) -> int:
    """The number asked for, or (asked = 0) this rank's share of the processors it may run on.

    A launcher that pins ranks has made the share already; otherwise the processors are divided
    by the number of ranks on the host.
    """
    if asked > 0:
        return asked
    environment = os.environ if environment is None else environment
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (
        os.cpu_count() or 1
    )  # fmt: skip
    if comm.size == 1:
        return processors
    if processors < (os.cpu_count() or 1):
        return processors
    told = [int(environment[n]) for n in SHARE_VARIABLES if environment.get(n, "").isdigit()]
    return max(processors // max(told[0] if told else comm.size, 1), 1)
