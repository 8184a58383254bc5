"""Entry point: runs the command line and turns a user's mistakes into a message and a status."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING

from sfxproc import signals
from sfxproc.errors import LaunchError, Stopped, UserError

if TYPE_CHECKING:
    from sfxproc.parallel.comm import Comm

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
PATIENCE_s = 2.0
"""How long other ranks wait for rank 0 to tell a mistake that all of them met."""


def main() -> None:
    """Run the command line; exit with its status.

    0 done, 1 a bug (with traceback) or a closed pipe, 2 a user's mistake, 75 a job stopped by a
    signal (to be gone on with), 130 interrupted.
    """
    if sys.argv[1:2] == ["run"]:
        signals.install()
    # Before NumPy is loaded: our threads each call BLAS on their own, and its last bits would
    # depend on how many threads it takes.
    for name in BLAS_VARIABLES:
        os.environ.setdefault(name, "1")
    from sfxproc.cli import app
    from sfxproc.report.encoding import tolerate

    tolerate()
    try:
        app(prog_name="sfxproc")
    except Stopped as stop:
        sys.exit(_end(str(stop), stop.exit_status, together=True))
    except UserError as error:
        sys.exit(_end(str(error), error.exit_status))
    except signals.StopNow as stop:
        sys.exit(_end(str(stop), Stopped.exit_status))
    except KeyboardInterrupt:
        sys.exit(_end("interrupted", signals.INTERRUPTED))
    except SystemExit as done:
        if done.code != signals.INTERRUPTED:
            raise
        sys.exit(_end("interrupted", signals.INTERRUPTED))
    except BrokenPipeError:
        # what reads our output has enough; keep Python from failing again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _end(message: str, status: int, together: bool = False) -> int:
    """Tell the message once for all ranks, end the others, and return the status.

    together : all ranks are here, so none has to be ended; some launchers give a status of their
    own to a job in which one rank ended the others.
    """
    signals.ignore()
    comm, rank = _where()
    if rank > 0 and (comm.size == 1 or together):
        return status  # rank 0 tells it; a launch that failed did so on all ranks alike
    if rank > 0:
        time.sleep(PATIENCE_s)
    prefix = f"rank {rank}: " if rank > 0 else ""
    sys.stderr.write(paragraph(f"sfxproc: {prefix}{message}"))
    sys.stderr.flush()
    if comm.size > 1 and not together:
        comm.abort(status)
    return status


def _where() -> tuple[Comm, int]:
    """The communicator and this process's rank, the launcher's word where MPI does not work."""
    from sfxproc.parallel.comm import SerialComm, world

    try:
        comm = world()
    except LaunchError:
        ranks = [os.environ.get(name, "") for name in RANK_VARIABLES]
        return SerialComm(), next((int(r) for r in ranks if r.isdigit()), 0)
    return comm, comm.rank


def paragraph(text: str) -> str:
    """The text folded to the terminal's width; its own line breaks stay."""
    width = min(shutil.get_terminal_size().columns, 100)
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in text.splitlines():
        wrapper.subsequent_indent = "  " if line.startswith("- ") else ""
        lines.append(wrapper.fill(line))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
