"""Records of tasks combine as their fields declare, the same on all ranks."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from sfxproc.errors import DataError
from sfxproc.lsq.components import merge_labels
from sfxproc.parallel.combine import LISTED, PER_CRYSTAL, SUMMED, Combined, Records, joined
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.records import to_arrays
from sfxproc.report.log import ConsoleLog
from sfxproc.runs.progress import SignsOfLife
from sfxproc.runs.stages import Stages
from tests.problems import on_ranks


@dataclass(frozen=True, eq=False)
class Weighed:
    """Of some crystals."""

    mass: Annotated[NDArray[np.float64], PER_CRYSTAL]
    total: Annotated[float, SUMMED]
    n: Annotated[int, SUMMED]
    spectrum: Annotated[NDArray[np.float64], SUMMED]
    labels: Annotated[NDArray[np.int32], joined(merge_labels)]
    scatter: Annotated[NDArray[np.float64], LISTED]


BORDERS = (0, 2, 3, 6)


def weigh(task: int) -> Weighed:
    first, last = BORDERS[task : task + 2]
    mass = np.arange(first, last) + 1.0
    labels = np.arange(5, dtype=np.int32)
    labels[task + 1] = task  # task and task + 1 hang together
    return Weighed(
        mass, float(mass.sum()), len(mass), np.full(3, mass.sum()), labels, np.array(0.1 * task)
    )


def combined(comm: Comm, folder: Path, failing: int = -1, share: float = 0.01) -> Combined[Weighed]:
    def work(task: int) -> dict[str, NDArray[Any]]:
        if task == failing:
            raise FloatingPointError("cannot be done")
        return to_arrays(weigh(task))

    def place(task: int) -> tuple[int, int]:
        return BORDERS[task], BORDERS[task + 1]

    stages = Stages(comm, ConsoleLog(Console(file=io.StringIO())), SignsOfLife(folder), None)
    return stages.run("weigh", work, 3, Records(Weighed, 6, place), lost_share=lambda _: share)


@pytest.mark.parametrize("ranks", [1, 3])
def test_each_field_combines_by_its_rule(ranks: int, tmp_path: Path) -> None:
    for found in on_ranks(ranks, lambda comm: combined(comm, tmp_path)):
        record = found.record
        assert record.mass.tolist() == [1, 2, 3, 4, 5, 6]
        assert (record.total, record.n) == (21.0, 6)
        assert record.spectrum.tolist() == [21.0] * 3
        assert record.labels.tolist() == [0, 0, 0, 0, 4]
        np.testing.assert_allclose(record.scatter, [0.0, 0.1, 0.2])
        assert found.failed.tolist() == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_fails_is_left_out_and_told(ranks: int, tmp_path: Path) -> None:
    for found in on_ranks(ranks, lambda comm: combined(comm, tmp_path, failing=1)):
        assert found.failed.tolist() == [1]
        assert found.record.mass.tolist() == [1, 2, 0, 4, 5, 6]
        assert (found.record.total, found.record.n) == (18.0, 5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_more_than_a_twentieth_of_the_data_is_not_given_up(ranks: int, tmp_path: Path) -> None:
    assert on_ranks(ranks, lambda comm: combined(comm, tmp_path, 1, 0.05))[0].record.n == 5
    with pytest.raises(DataError, match=r"1 of 3 tasks .* failed twice, with 6 % of the data"):
        on_ranks(ranks, lambda comm: combined(comm, tmp_path, 1, 0.06))
