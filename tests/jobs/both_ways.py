"""Taking in the inputs of a job in both ways, into memory and into pieces, to compare them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sfxproc.data import Observations, ReferenceSet, Rows
from sfxproc.formats.checkpoint import Checkpoint
from sfxproc.intake import pieces
from sfxproc.intake.pieces import Pieces, Plan
from sfxproc.intake.reading import Dataset, read_dataset
from sfxproc.intake.recipe import TakenIn
from sfxproc.intake.selection import Inventory
from sfxproc.intake.source import Intake
from sfxproc.parallel.comm import Comm, SerialComm
from sfxproc.report.log import ConsoleLog
from sfxproc.runs.progress import SignsOfLife
from sfxproc.runs.stages import Stages
from sfxproc.settings.sections import Input, Selection, Symmetry
from tests.problems import on_ranks

SYMMETRY = Symmetry(space_group="P 43 21 2")
ALL = Selection()
NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Made:
    """What came of reading into pieces, and what the log said."""

    parts: Pieces
    inventory: Inventory
    keys: np.ndarray
    told: str

    @property
    def plan(self) -> Plan:
        return self.parts.plan

    def run(self, first: int, last: int) -> Rows | Observations:
        return self.parts.reader(self.keys)(first, last)


def make(
    folder: Path, paths: list[str], symmetry: Symmetry = SYMMETRY, selection: Selection = ALL,
    columns: frozenset[str] = NONE, part_rows: int = 7000, size: int = 20, seed: int = 3,
    ranks: int = 1, reference: ReferenceSet | None = None, keep: bool = False,
) -> Made:  # fmt: skip
    """Read into pieces, by one rank or by several. keep : a checkpoint of each stage."""
    folder.mkdir(exist_ok=True)
    intake = Intake(Input(paths=paths), symmetry, selection, columns, reference=reference)
    order = pieces.Order(size, size // 2, seed)

    def work(comm: Comm) -> tuple[TakenIn[Pieces], str]:
        log = ConsoleLog(Console(file=io.StringIO(), width=1000), speaks=comm.rank == 0)
        store = Checkpoint(folder / "kept") if keep else None
        stages = Stages(comm, log, SignsOfLife(folder, comm.size, comm.rank == 0), store)
        return pieces.read_pieces_of(intake, order, folder, stages, part_rows), log.text

    (taken, told), *others = on_ranks(ranks, work)
    for other, _ in others:
        assert (other.inventory, other.keys) == (None, None)
        np.testing.assert_array_equal(other.parts.plan.crystal_at, taken.parts.plan.crystal_at)
    assert taken.inventory is not None
    assert taken.keys is not None
    return Made(taken.parts, taken.inventory, taken.keys, told)


def whole(
    paths: list[str], symmetry: Symmetry = SYMMETRY, selection: Selection = ALL,
    columns: frozenset[str] = NONE, reference: ReferenceSet | None = None,
) -> Dataset:  # fmt: skip
    """The same by the other way of reading."""
    intake = Intake(Input(paths=paths), symmetry, selection, columns, reference=reference)
    return read_dataset(intake, SerialComm(), ConsoleLog(Console(), speaks=False))


def same_table(one: Any, two: Any) -> None:
    assert list(one.columns()) == list(two.columns())
    for name, values in one.columns().items():
        np.testing.assert_array_equal(values, two.columns()[name], err_msg=name)


def agree(made: Made, dataset: Dataset) -> None:
    """The inventories are the same, and the rows, read in any runs."""
    ours = made.inventory
    same_table(ours.crystals, dataset.crystals)
    same_table(ours.reflections, dataset.reflections)
    for name in ("status", "reason", "n_observations", "cell"):
        one, two = getattr(ours, name), getattr(dataset, name)
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two, err_msg=name)
    for name in ("left_out", "n_images", "space_group", "files"):
        assert getattr(ours, name) == getattr(dataset, name), name
    same_table(ours.classes, dataset.classes)
    assert (ours.detector is None) == (dataset.detector is None)
    if ours.detector is not None:
        same_table(ours.detector, dataset.detector)
    n = len(made.plan.crystal_at)
    for first, last in [(0, n), *made.plan.blocks.bounds.tolist()]:
        run = made.run(first, last)
        theirs = dataset.observations
        at = [np.flatnonzero(theirs.crystal == c) for c in made.plan.crystal_at[first:last]]
        rows = np.concatenate(at)
        np.testing.assert_array_equal(np.bincount(run.crystal, minlength=last - first),
                                      [len(a) for a in at])  # fmt: skip
        assert np.all(np.diff(run.crystal) >= 0)
        for name in ("reflection", "intensity", "variance", "partiality"):
            one, two = getattr(run, name), getattr(theirs, name)
            if two is None:
                assert one is None
            else:
                assert one.dtype == two.dtype
                np.testing.assert_array_equal(one, two[rows], err_msg=name)
