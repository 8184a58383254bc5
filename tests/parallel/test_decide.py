"""What rank 0 decides holds on all ranks, its mistakes too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sfxproc.data import Table
from sfxproc.errors import DataError
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.decide import decided, gathered, on_rank_0
from sfxproc.parallel.records import from_arrays, to_arrays
from tests.problems import on_ranks


@pytest.mark.parametrize("ranks", [1, 3])
def test_rank_0_decides(ranks: int) -> None:
    """Also where the others would decide otherwise, or cannot."""

    def work(comm: Comm) -> tuple[int, int | None, list[int]]:
        choice = decided(comm, lambda: 7 // (1 if comm.rank == 0 else 0))
        made = on_rank_0(comm, lambda: comm.rank + 3)
        return choice, made, gathered(comm, 10 * comm.rank)

    first, *others = on_ranks(ranks, work)
    assert first == (7, 3, [10 * rank for rank in range(ranks)])
    assert others == [(7, None, [])] * (ranks - 1)


@pytest.mark.parametrize("verb", [decided, on_rank_0])
def test_a_mistake_is_told_on_all_ranks(verb: Any) -> None:
    def refuse() -> None:
        raise DataError("nothing there")

    def work(comm: Comm) -> str:
        try:
            verb(comm, refuse)
        except DataError as error:
            return str(error)
        return "went on"

    assert on_ranks(3, work) == ["nothing there"] * 3


@dataclass(frozen=True, eq=False)
class Names(Table):
    name: np.ndarray
    size: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Kept:
    names: Names
    number: int
    sure: bool
    values: np.ndarray
    more: np.ndarray | None = None


def test_records_travel_as_arrays() -> None:
    names = Names(np.array(["å", "run\udcff", ""], dtype=object))
    arrays = to_arrays(Kept(names, 3, True, np.arange(4.0)))
    assert sorted(arrays) == ["names.name", "number", "sure", "values"]
    assert {array.dtype.kind for array in arrays.values()} == {"U", "i", "b", "f"}
    back = from_arrays(Kept, arrays)
    assert back.names.name.tolist() == names.name.tolist()
    assert back.names.name.dtype == object
    assert (back.number, back.sure, back.more, back.names.size) == (3, True, None, None)
    np.testing.assert_array_equal(back.values, np.arange(4.0))
    with pytest.raises(KeyError, match="values"):
        from_arrays(Kept, {name: a for name, a in arrays.items() if name != "values"})
