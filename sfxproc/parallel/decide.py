"""Small decisions are taken once, by rank 0, and told to all.

Were each rank to decide for itself, the last bit of another processor at a threshold could have
two ranks go different ways, and wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from sfxproc.errors import UserError
from sfxproc.parallel.comm import Comm

T = TypeVar("T")


@dataclass(frozen=True)
class Mistake:
    """A user's mistake on its way to all ranks."""

    error: UserError


def decided(comm: Comm, decide: Callable[[], T]) -> T:
    """What `decide`, called on rank 0 only, says, on all ranks. A UserError that it raises is
    raised on all."""
    outcome: T | Mistake | None = None
    if comm.rank == 0:
        try:
            outcome = decide()
        except UserError as error:
            outcome = Mistake(error)
    outcome = comm.bcast(outcome)
    if isinstance(outcome, Mistake):
        raise outcome.error
    return cast(T, outcome)
