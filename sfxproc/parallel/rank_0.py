"""What rank 0 does for all: decide, make, gather.

Ranks on unlike processors may differ in the last bit of what they work out, and if that meets a
threshold each goes another way and they wait for each other for ever. So one of them decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sfxproc.errors import UserError
from sfxproc.parallel.comm import Comm

T = TypeVar("T")


def on_rank_0(comm: Comm, work: Callable[[], T]) -> T | None:
    """What rank 0 makes, None elsewhere. Called on all ranks alike, and so is a UserError of the
    work raised on all of them."""
    made, error = None, None
    if comm.rank == 0:
        try:
            made = work()
        except UserError as mistake:
            error = mistake
    error = comm.bcast(error)
    if error is not None:
        raise error
    return made


def decided(comm: Comm, decide: Callable[[], T]) -> T:
    """What rank 0 decides, on all ranks. Called on all ranks alike, and so is a UserError of the
    decision raised on all of them."""
    choice: T = comm.bcast(on_rank_0(comm, decide))
    return choice


def gathered(comm: Comm, value: T) -> list[T]:
    """Everybody's value in the order of the ranks, on rank 0; nothing elsewhere. Arrays in it may
    be of any size. Called on all ranks alike."""
    if comm.rank > 0:
        comm.send_object(value, 0)
        return []
    return [value, *(comm.receive_object(rank) for rank in range(1, comm.size))]
