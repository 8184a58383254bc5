"""What becomes of the arrays that tasks find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sfxproc.parallel.comm import Comm
from sfxproc.parallel.coordinator import Arrays

Found = dict[str, NDArray[Any]]


class Combiner(Protocol):
    """Makes one set of arrays of what tasks found; fed on rank 0 in the order of the tasks."""

    def add(self, task: int, arrays: Arrays) -> None:
        """Take one task's arrays."""

    def result(self) -> Found:
        """What has come of them."""


@dataclass(eq=False)
class Totals:
    """Sums of the arrays of tasks over segments; those in `rows` are laid side by side instead,
    at the positions of their segment. place : first and last+1 position of each task."""

    n_rows: int
    rows: frozenset[str]
    place: Callable[[int], tuple[int, int]]
    found: Found = field(default_factory=dict)

    def add(self, task: int, arrays: Arrays) -> None:
        """Add one task's arrays, in the order of the tasks."""
        for name, array in arrays.items():
            if name in self.rows:
                if name not in self.found:
                    shape = (self.n_rows, *array.shape[1:])
                    self.found[name] = np.zeros(shape, dtype=array.dtype)
                first, last = self.place(task)
                self.found[name][first:last] = array
            elif name in self.found:
                self.found[name] += array
            else:
                self.found[name] = np.array(array)

    def result(self) -> Found:
        """The sums and rows."""
        return self.found


def told_arrays(comm: Comm, arrays: Arrays | None) -> Found:
    """Rank 0's arrays, on all ranks."""
    shapes = None if arrays is None else [(n, a.shape, a.dtype.str) for n, a in arrays.items()]
    out = {}
    for name, shape, dtype in comm.bcast(shapes):
        own = np.empty(shape, dtype) if arrays is None else np.ascontiguousarray(arrays[name])
        out[name] = comm.bcast_array(own)
    return out


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


def listed(found: Found, n_tasks: int) -> Sequence[Arrays]:
    """The arrays of each task again."""
    out: list[dict[str, NDArray[Any]]] = [{} for _ in range(n_tasks)]
    for key, array in found.items():
        number, _, name = key.partition("/")
        if name:
            out[int(number)][name] = array
    return out
