"""What rank 0 makes of the blocks' own solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from sfxproc.models.scale_average import Averaging, BlockSolution
from sfxproc.parallel.combine import FAILED, Combined, Found, Records
from sfxproc.parallel.coordinator import Arrays
from sfxproc.parallel.records import from_arrays, to_arrays
from sfxproc.refine.blocks.tasks import BlockSolved

F8 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BlockAverages:
    """Averages of the blocks' solutions (models.scale_average).

    local (n, p), shared, D (n_reflections,) : averages and their information. disagreement : of the
    blocks. scatter : mean of their error models. converged : whether all solves did. solved : (n,)
    crystals that a block solved; reasons, n_overlaps, pulled : (n,) as of `BlockSolved`.
    """

    local: F8
    shared: F8
    D: F8
    disagreement: float
    scatter: float
    converged: bool
    solved: NDArray[np.bool_]
    reasons: NDArray[np.uint8]
    n_overlaps: NDArray[np.int64]
    pulled: F8


@dataclass(eq=False)
class Averages:
    """Averages blocks one by one. place : first and last + 1 crystal of each task's block."""

    averaging: Averaging
    n_crystals: int
    place: Callable[[int], tuple[int, int]]
    rows: Records[BlockSolved] = field(init=False)
    solved: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = Records(BlockSolved, self.n_crystals, self.place)
        self.solved = np.zeros(self.n_crystals, dtype=bool)

    def add(self, task: int, arrays: Arrays) -> None:
        """Add a block."""
        first, last = self.place(task)
        names = (f.name for f in fields(BlockSolution))
        self.averaging.add(first, BlockSolution(**{name: arrays[name] for name in names}))
        self.rows.add(task, arrays)
        self.solved[first:last] = True

    def result(self) -> Found:
        """The averages, their information, and how well the blocks agree."""
        point = self.averaging.point()
        rows = self.rows.result()
        return to_arrays(
            BlockAverages(
                point.local,
                point.shared,
                self.averaging.information(),
                self.averaging.disagreement(),
                float(np.mean(rows["scatter"])),
                bool(np.all(rows["converged"])),
                self.solved,
                rows["reasons"],
                rows["n_overlaps"],
                rows["pulled"],
            )
        )

    def told(self, kept: Found) -> Combined[BlockAverages]:
        """The averages as a record."""
        return Combined(from_arrays(BlockAverages, kept), kept[FAILED])
