"""What strategy "blocks" refines, as the rest of a job sees it (`Refined`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import ReflectionSums, concatenate
from sfxproc.formats.mtz_scaled import ScaledObservations
from sfxproc.models.agreement import Agreement
from sfxproc.models.error_model import ErrorModel
from sfxproc.models.scale_merge import mean_intensity
from sfxproc.parallel.combine import Listed, listed
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.records import from_arrays
from sfxproc.refine.blocks import tasks
from sfxproc.refine.blocks.rounds import Rounds
from sfxproc.refine.blocks.state import Comparison, Merging
from sfxproc.refine.refined import F8, I1, I4, Fates, Mask, Sums, Uncertain

Array = NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Positions:
    """Which crystal of the job is at each position of the blocks' order: at (n,), of n_crystals."""

    at: NDArray[np.int64]
    n_crystals: int

    def of_job(self, rows: Array, nothing: float = 0.0) -> Array:
        """Rows of all crystals of the job, `nothing` for those in no block."""
        out = np.full((self.n_crystals, *rows.shape[1:]), nothing, dtype=rows.dtype)
        out[self.at] = rows
        return out


@dataclass(frozen=True, eq=False)
class InBlocks:
    """A refinement in blocks. compared : how crystals agree, which a gauge does not change, and the
    half sets they were compared by; None before."""

    comm: Comm
    positions: Positions
    rounds: Rounds
    compared: list[tuple[I1, Agreement]]

    @property
    def errors(self) -> ErrorModel:
        """The error model."""
        return self.rounds.common.errors

    @property
    def fates(self) -> Fates:
        """What became of crystals before any was judged."""
        rounds, of_job = self.rounds, self.positions.of_job
        lost = of_job(rounds.dealing.lost_crystals())
        reasons = np.where(lost, np.uint8(0), of_job(rounds.reasons))
        return Fates(reasons, of_job(rounds.n_overlaps), lost, rounds.set_sizes)

    @property
    def in_use(self) -> Mask:
        """(n_crystals,) whose parameters are refined."""
        return self.positions.of_job(self.rounds.common.refined)

    @property
    def shared(self) -> F8:
        """(n_reflections,) the intensities."""
        return self.rounds.common.shared

    @property
    def set_of_reflection(self) -> I4:
        """(n_reflections,) the set each is in."""
        return self.rounds.common.survey.of_reflection

    @property
    def n_sets(self) -> int:
        """How many sets there are."""
        return self.rounds.common.survey.n_sets

    def agreement(self, half: I1) -> Agreement | None:
        """How all crystals agree with the merge of the others, on rank 0."""
        known = [agreement for by, agreement in self.compared if np.array_equal(by, half)]
        if not known:
            known = [self._complete(lambda: self._compare(half))]
            self.compared[:] = [(half, known[0])]
        return known[0] if self.comm.rank == 0 else None

    def _compare(self, half: I1) -> Agreement:
        rounds = self.rounds
        state = Comparison(rounds.common, half[self.positions.at])
        moments = rounds.run(tasks.MOMENTS, state).sums
        rows = rounds.run(tasks.AGREEMENT, replace(state, moments=moments))
        lost = rounds.dealing.lost_crystals()
        columns = {f.name: getattr(rows, f.name) for f in fields(rows)}
        of_job = {
            name: self.positions.of_job(np.where(lost, np.nan, column), np.nan)
            for name, column in columns.items()
        }
        return Agreement(**of_job, n_crystals=len(self.positions.at))

    def without(self, crystals: Mask, refit: bool = True) -> Self:
        """The same without some crystals."""
        rounds = self.rounds.copy()
        rounds.without(crystals[self.positions.at], refit)
        return replace(self, rounds=rounds, compared=[])

    def continued(self, name: str) -> Self:
        """More rounds from where it is."""
        rounds = self.rounds.copy()
        rounds.go_on()
        return replace(self, rounds=rounds, compared=[])

    def to_zero_mean(self) -> F8:
        """(n_sets, 2) what brings mean ln G and B of the crystals of each set to zero."""
        return self.rounds.common.to_zero_mean()

    def towards(self, other: Self, crystals: Mask) -> F8:
        """(n_sets, 2) what brings the mean ln G and B of some crystals of each set to those of
        another refinement."""
        return self.rounds.common.towards(other.rounds.common, crystals[self.positions.at])

    def shifted(self, shift: F8) -> Self:
        """With ln G and B of each set changed by shift (n_sets, 2), the intensities to match."""
        rounds = self.rounds.copy()
        rounds.shift(shift)
        return replace(self, rounds=rounds)

    def weighted_sums(self, half: I1) -> F8:
        """(6, n_reflections) of models.scale_merge."""

        def weigh() -> F8:
            state = Merging(self.rounds.common, half[None, self.positions.at])
            return np.asarray(self.rounds.run(tasks.WEIGH, state).sums[0])

        return self._complete(weigh)

    def sums(self, halves: I1) -> Sums | None:
        """What merging needs, on rank 0."""
        sums = self._complete(lambda: self._sums(halves))
        return sums if self.comm.rank == 0 else None

    def _sums(self, halves: I1) -> Sums:
        rounds, of_job = self.rounds, self.positions.of_job
        D = rounds.run(tasks.VALUE, rounds.common).D
        rounds.common = common = replace(rounds.common, D=D)
        state = Merging(common, halves[:, self.positions.at])
        found = rounds.run(tasks.MERGE, state)
        means = np.stack([mean_intensity(sums) for sums in found.sums])
        deviated = rounds.run(tasks.DEVIATE, replace(state, means=means))
        merges = tuple(
            ReflectionSums(sums[0:2], sums[2:4], sums[4:6], *deviations)
            for sums, deviations in zip(found.sums, deviated.sums, strict=True)
        )
        modelling = rounds.work.modelling
        moved = modelling.columns(common.local)
        uncertain = Uncertain(
            modelling.parameters,
            of_job(common.local),
            of_job(np.sqrt(found.variance)),
            {name: of_job(rows, np.nan) for name, rows in moved.items()},
            np.divide(found.spread, D**2, out=np.zeros_like(D), where=D > 0.0),
            np.nan,
        )
        return Sums(
            merges,
            of_job(deviated.cc),
            uncertain,
            found.pulls_by_intensity,
            found.pulls_by_partiality,
        )

    def scaled_observations(self, half: I1) -> ScaledObservations | None:
        """All scaled observations in the order of the job's crystals, on rank 0."""
        state = Merging(self.rounds.common, half[None, self.positions.at])
        n = len(self.rounds.dealing.numbers("segments"))
        found = self.rounds.dealing.task_by_task(tasks.SCALED, state, Listed())
        if self.comm.rank > 0:
            return None
        table = concatenate([from_arrays(ScaledObservations, one) for one in listed(found, n)])
        crystal = self.positions.at[table.crystal].astype(np.int32)
        order = np.argsort(crystal, kind="stable")
        return replace(table, crystal=crystal).take(order)

    def summary(self) -> Mapping[str, Any]:
        """Plain numbers and text on how it was solved, for statistics.json."""
        dealing_s = self.rounds.dealing.stages.coordinating_s
        return {**self.rounds.as_dict(), "coordinating_s": dealing_s}

    def _complete(self, work: Callable[[], T]) -> T:
        """What is worked out at a point that is refined without any crystals that are lost."""
        while True:
            found = work()
            if not self.rounds.lost_unknown:
                return found
            self.rounds.go_on()
            self.compared.clear()
