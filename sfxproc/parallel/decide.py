"""Small decisions are taken once, by rank 0, and told to all.

Were each rank to decide for itself, the last bit of another processor at a threshold could have
two ranks go different ways, and wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sfxproc.errors import UserError
from sfxproc.parallel.comm import Comm

T = TypeVar("T")


def decided(comm: Comm, decide: Callable[[], T]) -> T:
    """What `decide`, called on rank 0 only, says, on all ranks. A UserError that it raises is
    raised on all."""
    answer: T = comm.bcast(on_rank_0(comm, decide))
    return answer


def on_rank_0(comm: Comm, work: Callable[[], T]) -> T | None:
    """What `work`, called on rank 0 only, makes; None elsewhere. A UserError that it raises is
    raised on all ranks, which all must call."""
    made: T | None = None
    mistake: UserError | None = None
    if comm.rank == 0:
        try:
            made = work()
        except UserError as error:
            mistake = error
    mistake = comm.bcast(mistake)
    if mistake is not None:
        raise mistake
    return made


def gathered(comm: Comm, value: T) -> list[T]:
    """Everybody's value in the order of the ranks, on rank 0; nothing elsewhere. Arrays in it may
    be of any size. Called on all ranks alike."""
    if comm.rank > 0:
        comm.send_object(value, 0)
        return []
    return [value, *(comm.receive_object(rank) for rank in range(1, comm.size))]
