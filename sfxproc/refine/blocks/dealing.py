"""The tasks of a refinement in blocks dealt out, and what becomes of segments whose task fails.

A segment whose task fails twice is set aside: its crystals take no part in anything any more. More
than 5 % of all observations are not given up in this way (runs.stages); a block that fails costs
only the crystals that no other block holds, and these only where blocks are all that is averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Reason
from sfxproc.models.scale_average import Averaging
from sfxproc.models.scale_start import facts_of
from sfxproc.parallel.combine import Combined, Combiner, Records
from sfxproc.parallel.coordinator import Arrays
from sfxproc.parallel.decide import decided
from sfxproc.parallel.records import R, to_arrays
from sfxproc.refine.blocks import tasks
from sfxproc.refine.blocks.combine import Averages, BlockAverages
from sfxproc.refine.blocks.state import Common, Surveyed
from sfxproc.refine.blocks.tasks import Kind
from sfxproc.refine.blocks.work import Over, Work
from sfxproc.runs.stages import Stages

F8 = NDArray[np.float64]
Mask = NDArray[np.bool_]
S = TypeVar("S")
T = TypeVar("T")


@dataclass(eq=False)
class Dealing:
    """Deals the tasks of a job.

    n_observations : (n,) of each crystal, in the order of the blocks. lost : segments set aside.
    standing : what `status` is told besides the stage.
    """

    work: Work
    stages: Stages
    n_observations: NDArray[np.int64]
    lost: frozenset[int] = frozenset()
    standing: dict[str, Any] = field(default_factory=dict)

    def lost_crystals(self, segments: frozenset[int] | None = None) -> Mask:
        """(n,) which are in segments that were set aside, or in the given ones."""
        out = np.zeros(self.work.n_crystals, dtype=bool)
        for number in self.lost if segments is None else segments:
            out[slice(*self.work.positions("segments", number))] = True
        return out

    def run(self, kind: Kind[S, R], state: S) -> R:
        """What the tasks of a kind find together, as `counted`."""
        return self.counted(kind, state)[0]

    def counted(self, kind: Kind[S, R], state: S) -> tuple[R, int]:
        """What the tasks of a kind find together, and how many did. Segments that failed before are
        left out, those that fail now from then on, whose crystals have zeros."""
        numbers = self.numbers(kind.over)

        def combiner(place: Callable[[int], tuple[int, int]]) -> Records[R]:
            return Records(kind.result, self.work.n_crystals, place)

        def share(failed: Sequence[int]) -> float:
            if kind.over == "blocks":
                return 0.0
            return self._share(self.lost | {numbers[i] for i in failed})

        done = self._deal(kind, state, numbers, combiner, self.work, share)
        if kind.over == "segments":
            self.lost |= {numbers[i] for i in done.failed.tolist()}
        return done.record, len(numbers) - len(done.failed)

    def task_by_task(self, kind: Kind[S, R], state: S, combiner: Combiner[T]) -> T:
        """What a combiner of one's own makes of segments, on rank 0; all are needed."""
        numbers = self.numbers(kind.over)

        def do(i: int) -> Arrays:
            place = self.work.positions(kind.over, numbers[i])
            return to_arrays(kind.work(self.work, state, *place))

        return self.stages.run(
            kind.name, do, len(numbers), combiner, to_all=False, all_needed=True, **self.standing
        )

    def averages(self, state: Surveyed | Common, tolerance: float, needed: bool) -> BlockAverages:
        """Averages of the blocks' own solutions, solved to a tolerance. needed : whether crystals
        that no solved block holds are lost."""
        work = replace(self.work, tolerance=tolerance)
        numbers = self.numbers("blocks")
        start, D = None, None
        if isinstance(state, Common):
            start, D = state.point(0, work.n_crystals), state.D
        averaging = Averaging(work.modelling.begin, work.s2, start, D, work.settings.b_factor)

        def unsolved(failed: Sequence[int]) -> frozenset[int]:
            solved = [n for i, n in enumerate(numbers) if i not in failed]
            held = {s for n in solved for s in range(*work.blocks.blocks[n].tolist())}
            return frozenset(range(work.count("segments"))) - self.lost - held

        def share(failed: Sequence[int]) -> float:
            return self._share(self.lost | unsolved(failed)) if needed else 0.0

        def combiner(place: Callable[[int], tuple[int, int]]) -> Averages:
            return Averages(averaging, work.n_crystals, place)

        done = self._deal(tasks.REFINE, state, numbers, combiner, work, share)
        if needed:
            self.lost |= unsolved(done.failed.tolist())
        return done.record

    def numbers(self, over: Over) -> list[int]:
        """The blocks or segments with crystals that are not lost."""
        if over == "segments":
            return [n for n in range(self.work.count(over)) if n not in self.lost]
        held = (set(range(*block)) for block in self.work.blocks.blocks.tolist())
        return [n for n, segments in enumerate(held) if segments - self.lost]

    def _share(self, segments: frozenset[int]) -> float:
        """What part of all observations segments hold."""
        n = self.n_observations
        return float(n[self.lost_crystals(segments)].sum() / max(n.sum(), 1))

    def _deal(
        self,
        kind: Kind[S, Any],
        state: S,
        numbers: list[int],
        combiner: Callable[[Callable[[int], tuple[int, int]]], Combiner[Combined[R]]],
        work: Work,
        share: Callable[[Sequence[int]], float],
    ) -> Combined[R]:
        def place(i: int) -> tuple[int, int]:
            return work.positions(kind.over, numbers[i])

        def do(i: int) -> Arrays:
            return to_arrays(kind.work(work, state, *place(i)))

        return self.stages.run(
            kind.name,
            do,
            len(numbers),
            combiner(place),
            lost_share=share,
            **self.standing,
        )


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known before anything is refined. n_rows, n_shown : observations, and how many show
    something of their reflection. set_sizes : crystals of each set, the largest first."""

    state: Surveyed
    n_rows: int
    n_shown: int
    set_sizes: NDArray[np.int64]


def surveyed(dealing: Dealing) -> Survey:
    """The facts and connected sets of the crystals that are not lost."""
    work = dealing.work
    found = dealing.run(tasks.SURVEY, None)
    facts = decided(
        dealing.stages.comm, lambda: facts_of(found.gain, found.sums, work.s2, work.settings)
    )
    lost = dealing.lost_crystals()
    shown = np.where(lost, -1, found.first_reflection)
    roots, of_reflection = np.unique(found.labels, return_inverse=True)
    root = np.where(shown >= 0, of_reflection[shown], -1)
    sizes = np.bincount(root[root >= 0], minlength=len(roots))
    order = np.argsort(-sizes, kind="stable")
    number = np.argsort(order, kind="stable")
    state = Surveyed(
        facts,
        of_crystal=np.where(root >= 0, number[root], -1).astype(np.int32),
        of_reflection=number[of_reflection].astype(np.int32),
        absent=lost,
    )
    return Survey(state, found.n_rows, found.n_shown, sizes[order][sizes[order] > 0])


def overlaps(dealing: Dealing, state: Surveyed) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(n,) why each crystal keeps its start scale, and its overlaps, of the crystals themselves."""
    found = dealing.run(tasks.OVERLAPS, state)
    return in_sets(found.reasons, state), found.n_overlaps


def in_sets(reasons: NDArray[np.uint8], state: Surveyed) -> NDArray[np.uint8]:
    """The reasons, those of crystals that are in no set made known."""
    return np.where(state.of_crystal < 0, np.uint8(Reason.TOO_FEW_OVERLAPS), reasons)
