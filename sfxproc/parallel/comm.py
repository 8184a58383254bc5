"""The only user of MPI, with a serial twin that behaves the same on one process.

A job started by a launcher that MPI does not know would run N times over as rank 0 of 1 and
overwrite itself; that is refused here.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from functools import cache
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sfxproc.errors import LaunchError

NAP_s = 0.002
PIECE_bytes = 1 << 30  # of one message: MPI counts in 32 bits, and not every MPI knows more
HEADER, BODY = 1, 2  # tags of the control channel
LINGER_s = 0.5  # for a message to pass the launcher, which drops what it holds on an abort
ALONE = "one process has nobody to send to or receive from"
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE", "MV2_COMM_WORLD_SIZE")


class Comm(Protocol):
    """What the program needs of a communicator."""

    rank: int
    size: int

    def barrier(self) -> None:
        """Wait for all ranks."""

    def bcast(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""

    def allgather(self, value: Any) -> list[Any]:
        """Everybody's value, in rank order, on all ranks."""

    def allgather_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Arrays of equal row shape laid end to end in rank order, on all ranks."""

    def gather_arrays(self, array: NDArray[Any]) -> list[NDArray[Any]] | None:
        """Arrays of any length and equal dtype, in rank order, on rank 0; None elsewhere."""

    def bcast_array(self, array: NDArray[Any]) -> NDArray[Any]:
        """Rank 0's array, into arrays of the same shape and dtype on the other ranks."""

    def exchange(self, parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Send parts[r] to rank r; returns what each rank sent here. Rows of equal shape."""

    def send_array(self, array: NDArray[Any], dest: int) -> None:
        """Send to another rank, which must be receiving it."""

    def receive_array(self, array: NDArray[Any], source: int) -> NDArray[Any]:
        """What another rank sends, into an array of its shape and dtype, contiguous."""

    def any_true(self, flag: bool) -> bool:
        """Whether the flag of any rank is up, on all ranks."""

    def send_object(self, value: Any, dest: int) -> None:
        """A control message to another rank; arrays in it are not copied. Returns once it has
        left, which for a large one is when the other rank receives it."""

    def receive_object(self, source: int) -> Any:
        """The next control message of another rank; waits for it without taking a processor."""

    def probe(self) -> int | None:
        """A rank whose control message can be received now, or None."""

    def abort(self, status: int) -> None:
        """End all ranks at once."""


class SerialComm:
    """One process, no MPI."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Nothing to wait for."""

    def bcast(self, value: Any) -> Any:
        """The value."""
        return value

    def allgather(self, value: Any) -> list[Any]:
        """The value in a list."""
        return [value]

    def allgather_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows."""
        return rows

    def gather_arrays(self, array: NDArray[Any]) -> list[NDArray[Any]] | None:
        """The array in a list."""
        return [array]

    def bcast_array(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array."""
        return array

    def exchange(self, parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """The parts."""
        return parts

    def send_array(self, array: NDArray[Any], dest: int) -> None:
        """Raises ValueError."""
        raise ValueError(ALONE)

    def receive_array(self, array: NDArray[Any], source: int) -> NDArray[Any]:
        """Raises ValueError."""
        raise ValueError(ALONE)

    def any_true(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def send_object(self, value: Any, dest: int) -> None:
        """Raises ValueError."""
        raise ValueError(ALONE)

    def receive_object(self, source: int) -> Any:
        """Raises ValueError."""
        raise ValueError(ALONE)

    def probe(self) -> int | None:
        """None: nobody sends."""
        return None

    def abort(self, status: int) -> None:
        """End this process."""
        sys.exit(status)


class MpiComm:
    """Ranks of an MPI job. Arrays travel as buffers, everything else pickled.

    First made on all ranks at once. Control messages have a channel of their own, so that they
    never meet those of arrays.
    """

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        self._comm = mpi.COMM_WORLD
        self._control = control_channel(mpi)
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()

    def barrier(self) -> None:
        """Wait for all ranks, without taking a processor from those that still work."""
        request = self._comm.Ibarrier()
        while not request.Test():
            time.sleep(NAP_s)

    def bcast(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        return self._comm.bcast(value, root=0)

    def allgather(self, value: Any) -> list[Any]:
        """Everybody's value, in rank order."""
        return list(self._comm.allgather(value))

    def allgather_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Rows of all ranks laid end to end."""
        rows = np.ascontiguousarray(rows)
        width = int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.itemsize
        counts = self._comm.allgather(len(rows))
        out = np.empty((sum(counts), *rows.shape[1:]), dtype=rows.dtype)
        if width:
            row = self._mpi.BYTE.Create_contiguous(width).Commit()
            self._comm.Allgatherv([rows, len(rows), row], [out, counts, row])
            row.Free()
        return out

    def gather_arrays(self, array: NDArray[Any]) -> list[NDArray[Any]] | None:
        """Arrays of any length on rank 0."""
        array = np.ascontiguousarray(array)
        shapes = self._comm.gather(array.shape, root=0)
        if self.rank != 0:
            self.send_array(array, 0)
            return None
        out = [array]
        for source in range(1, self.size):
            out.append(self.receive_array(np.empty(shapes[source], dtype=array.dtype), source))
        return out

    def bcast_array(self, array: NDArray[Any]) -> NDArray[Any]:
        """Rank 0's array, written into everybody's."""
        for piece in pieces(array):
            self._comm.Bcast([piece, self._mpi.BYTE], root=0)
        return array

    def exchange(self, parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """All-to-all of rows."""
        counts = self._comm.alltoall([len(p) for p in parts])
        template = parts[0]
        received = [np.empty((n, *template.shape[1:]), dtype=template.dtype) for n in counts]
        requests = [
            self._comm.Irecv([piece, self._mpi.BYTE], source=r)
            for r, a in enumerate(received)
            for piece in pieces(a)
        ]
        for r, part in enumerate(parts):
            self.send_array(part, r)
        self._mpi.Request.Waitall(requests)
        return received

    def send_array(self, array: NDArray[Any], dest: int) -> None:
        """To another rank."""
        for piece in pieces(np.ascontiguousarray(array)):
            self._comm.Send([piece, self._mpi.BYTE], dest=dest)

    def receive_array(self, array: NDArray[Any], source: int) -> NDArray[Any]:
        """From another rank."""
        for piece in pieces(array):
            self._comm.Recv([piece, self._mpi.BYTE], source=source)
        return array

    def any_true(self, flag: bool) -> bool:
        """Whether any rank's flag is up."""
        found = np.array([flag], dtype=np.int32)
        self._comm.Allreduce(self._mpi.IN_PLACE, found, op=self._mpi.LOR)
        return bool(found[0])

    def send_object(self, value: Any, dest: int) -> None:
        """The sizes of what follows, the pickle, then each array's buffer."""
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        parts = [np.frombuffer(pickled, np.uint8)]
        parts += [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        sizes = np.array([len(part) for part in parts], dtype=np.int64)
        requests = [self._control.Isend([sizes, self._mpi.BYTE], dest, HEADER)]
        for part in parts:
            for piece in pieces(part):
                requests.append(self._control.Isend([piece, self._mpi.BYTE], dest, BODY))
        while not self._mpi.Request.Testall(requests):
            time.sleep(NAP_s)

    def receive_object(self, source: int) -> Any:
        """As `send_object` sent it; arrays lie in memory of their own and can be written."""
        status = self._mpi.Status()
        while not self._control.Iprobe(source, HEADER, status):
            time.sleep(NAP_s)
        sizes = np.empty(status.Get_count(self._mpi.BYTE) // 8, dtype=np.int64)
        self._control.Recv([sizes, self._mpi.BYTE], source, HEADER)
        parts = [np.empty(size, dtype=np.uint8) for size in sizes]
        for part in parts:
            for piece in pieces(part):
                self._control.Recv([piece, self._mpi.BYTE], source, BODY)
        return pickle.loads(parts[0].data, buffers=parts[1:])

    def probe(self) -> int | None:
        """A rank whose control message has come."""
        status = self._mpi.Status()
        if not self._control.Iprobe(self._mpi.ANY_SOURCE, HEADER, status):
            return None
        return int(status.Get_source())

    def abort(self, status: int) -> None:
        """End all ranks at once."""
        sys.stderr.flush()
        time.sleep(LINGER_s)
        self._comm.Abort(status)


@cache
def control_channel(mpi: Any) -> Any:
    """The channel of control messages, made once, when the job begins: all ranks must take part,
    which they do not where a rank asks for its communicator again to tell of an error."""
    return mpi.COMM_WORLD.Dup()


def pieces(array: NDArray[Any]) -> list[NDArray[np.uint8]]:
    """The bytes of a contiguous array in pieces that one message can hold; none if it is empty.

    Raises ValueError if it is not contiguous: what were received into a copy would be lost.
    """
    if not array.flags.c_contiguous:
        raise ValueError("only contiguous arrays travel")
    flat = array.reshape(-1).view(np.uint8)
    return [flat[i : i + PIECE_bytes] for i in range(0, len(flat), PIECE_bytes)]


def launched_tasks(environment: Mapping[str, str]) -> int:
    """How many processes the launcher says it started (1 if it says nothing).

    SLURM_NTASKS counts only inside an srun step: in a batch script it is set for the one
    process of the shell too.
    """
    counts = [environment.get(name, "") for name in SIZE_VARIABLES]
    if "SLURM_STEP_ID" in environment and environment.get("SLURM_STEP_NUM_TASKS"):
        counts.append(environment["SLURM_STEP_NUM_TASKS"])
    return max((int(c) for c in counts if c.isdigit()), default=1)


def world(environment: Mapping[str, str] | None = None) -> Comm:
    """The communicator of this job: MPI's if it was started by a launcher, else the serial one.

    Raises LaunchError if a launcher started several processes that cannot see each other.
    """
    environment = os.environ if environment is None else environment
    tasks = launched_tasks(environment)
    if tasks == 1 and not any(name in environment for name in SIZE_VARIABLES):
        return SerialComm()
    try:
        from mpi4py import MPI
    except ImportError as error:
        if tasks == 1:
            return SerialComm()
        raise LaunchError(
            f"A launcher started {tasks} processes but mpi4py cannot be used here ({error}), so "
            "each would do the whole job and overwrite the others. Install MPI support with "
            "`pip install 'sfxproc[mpi]'`, or start one process without the launcher."
        ) from error
    comm = MpiComm(MPI)
    if tasks > 1 and comm.size == 1:
        raise LaunchError(
            f"A launcher started {tasks} processes but MPI ({MPI.Get_library_version().split()[0]}"
            ") sees only one, so each would do the whole job and overwrite the others. Start it "
            "with the launcher of the same MPI: `mpiexec -n N sfxproc run …` with the mpiexec "
            "beside this Python, or under SLURM `srun --mpi=pmi2 sfxproc run …`."
        )
    if comm.size == 1:
        return SerialComm()
    _end_all_on_error(comm)
    return comm


def _end_all_on_error(comm: MpiComm) -> None:
    """An uncaught error on one rank prints one traceback and ends every rank."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        lines = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(f"rank {comm.rank} on {socket.gethostname()}:\n{lines}")
        comm.abort(1)

    sys.excepthook = hook
