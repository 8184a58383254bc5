"""What becomes of what tasks find.

A kind of task returns a dataclass each of whose fields declares how those of all tasks combine:

    local: Annotated[F8, PER_CRYSTAL]    D: Annotated[F8, SUMMED]

and what the tasks of a stage find combines, in the order of their numbers, to one record of the
same class (`Records`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, Protocol, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from sfxproc.parallel.comm import Comm
from sfxproc.parallel.coordinator import Arrays
from sfxproc.parallel.records import R, from_arrays

Found = dict[str, NDArray[Any]]
Array = NDArray[Any]
T_co = TypeVar("T_co", covariant=True)

FAILED = "failed"


class Combiner(Protocol[T_co]):
    """Makes one result of what tasks found; fed on rank 0 in the order of the tasks."""

    def add(self, task: int, arrays: Arrays) -> None:
        """Take one task's arrays."""

    def result(self) -> Found:
        """What has come of them, as it is kept."""

    def told(self, kept: Found) -> T_co:
        """The same as a value, on all ranks. kept : `result`, with the numbers of the tasks that
        were set aside as FAILED."""


# ---- records ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How the arrays of a field combine. join : adds a task's to those before it, in place."""

    name: str
    join: Callable[[Array, Array], object] | None = None


def add_to(total: Array, more: Array) -> None:
    """total += more."""
    total += more


PER_CRYSTAL = Rule("a row a crystal")
SUMMED = Rule("summed", add_to)
LISTED = Rule("a row a task")


def joined(join: Callable[[Array, Array], object]) -> Rule:
    """The rule of a field whose arrays join(into, other) makes one of, into the first."""
    return Rule("joined", join)


@cache
def rules_of(kind: type) -> dict[str, Rule]:
    """The rules that the fields of a class declare; of those that declare none, none."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: rule
        for name, hint in hints.items()
        for rule in getattr(hint, "__metadata__", ())
        if isinstance(rule, Rule)
    }


@dataclass(frozen=True, eq=False)
class Combined(Generic[R]):
    """What the tasks of a stage found together. failed : numbers of those that were set aside,
    whose crystals have zeros."""

    record: R
    failed: NDArray[np.int64]


@dataclass(eq=False)
class Records(Generic[R]):
    """Combines records of a kind by its rules.

    n_crystals : of all tasks. place : first and last + 1 crystal of each task; where those of two
    overlap, the later one's rows stay.
    """

    kind: type[R]
    n_crystals: int
    place: Callable[[int], tuple[int, int]]
    arrays: Found = field(default_factory=dict)
    lists: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, task: int, arrays: Arrays) -> None:
        """Add a task's record, in the order of the tasks."""
        for name, rule in rules_of(self.kind).items():
            array = arrays[name]
            if rule is LISTED:
                self.lists.setdefault(name, []).append(array)
            elif rule is PER_CRYSTAL:
                if name not in self.arrays:
                    shape = (self.n_crystals, *array.shape[1:])
                    self.arrays[name] = np.zeros(shape, dtype=array.dtype)
                self.arrays[name][slice(*self.place(task))] = array
            elif name not in self.arrays:
                self.arrays[name] = np.array(array)
            elif rule.join is not None:
                rule.join(self.arrays[name], array)

    def result(self) -> Found:
        """The combined arrays by field."""
        return {**self.arrays, **{name: np.stack(rows) for name, rows in self.lists.items()}}

    def told(self, kept: Found) -> Combined[R]:
        """The combined record."""
        return Combined(from_arrays(self.kind, kept), kept[FAILED])


# ---- task by task ------------------------------------------------------------------------------


@dataclass(eq=False)
class Listed:
    """What each task of a stage found, by `number/name`."""

    found: Found = field(default_factory=dict)

    def add(self, task: int, arrays: Arrays) -> None:
        """Add one task's arrays."""
        self.found |= {f"{task:06d}/{name}": array for name, array in arrays.items()}

    def result(self) -> Found:
        """All arrays."""
        return self.found

    def told(self, kept: Found) -> Found:
        """All arrays."""
        return kept


def listed(found: Found, n_tasks: int) -> Sequence[Arrays]:
    """The arrays of each task again."""
    out: list[dict[str, NDArray[Any]]] = [{} for _ in range(n_tasks)]
    for key, array in found.items():
        number, _, name = key.partition("/")
        if name:
            out[int(number)][name] = array
    return out


# ---- to all ranks ------------------------------------------------------------------------------


def broadcast_arrays(comm: Comm, arrays: Mapping[str, Array] | None) -> Found:
    """Rank 0's arrays, on all ranks."""
    shapes = None if arrays is None else [(n, a.shape, a.dtype.str) for n, a in arrays.items()]
    out = {}
    for name, shape, dtype in comm.bcast(shapes):
        own = np.empty(shape, dtype)
        if arrays is not None:
            own = np.ascontiguousarray(arrays[name]).reshape(shape)
        out[name] = comm.bcast_array(own)
    return out
