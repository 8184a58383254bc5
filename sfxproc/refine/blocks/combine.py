"""What rank 0 makes of the survey's and the blocks' own solutions."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.components import flatten, join_labels
from sfxproc.models.scale_average import Averaging, BlockSolution
from sfxproc.parallel.combine import Found, Totals
from sfxproc.parallel.coordinator import Arrays
from sfxproc.refine.blocks.tasks import Work


@dataclass(eq=False)
class Survey:
    """Totals of the survey; labels of what hangs together are joined."""

    totals: Totals
    parent: NDArray[np.int32]

    def add(self, task: int, arrays: Arrays) -> None:
        """Add a segment."""
        join_labels(arrays["parent"], self.parent)
        self.totals.add(task, {k: v for k, v in arrays.items() if k != "parent"})

    def result(self) -> Found:
        """The totals, and `parent`."""
        flatten(self.parent)
        return self.totals.result() | {"parent": self.parent}


@dataclass(eq=False)
class Averages:
    """Averages of the solutions of blocks, and what was decided about their crystals."""

    averaging: Averaging
    work: Work
    scatter: list[float] = field(default_factory=list)
    decided: Found = field(default_factory=dict)

    def add(self, task: int, arrays: Arrays) -> None:
        """Add a block."""
        first, last = self.work.positions("blocks", task)
        names = (f.name for f in fields(BlockSolution))
        self.averaging.add(first, BlockSolution(**{name: arrays[name] for name in names}))
        self.scatter.append(float(arrays["scatter"][0]))
        for name in ("reasons", "n_overlaps", "pulled"):
            nothing = np.zeros(len(self.work.blocks.order), dtype=arrays[name].dtype)
            self.decided.setdefault(name, nothing)[first:last] = arrays[name]

    def result(self) -> Found:
        """The averages, their information D, and how well the blocks agree."""
        point = self.averaging.point()
        return {
            "local": point.local,
            "shared": point.shared,
            "D": self.averaging.information(),
            "disagreement": np.array([self.averaging.disagreement()]),
            "scatter": np.array([np.mean(self.scatter)]),
            **self.decided,
        }
