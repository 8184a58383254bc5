"""Crystals that disagree with all others, left out while refining, each for a named reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Reason, Status
from sfxproc.intake.selection import Inventory, by_reason, coded
from sfxproc.merging.halves import half_of
from sfxproc.models.agreement import Agreement, Criteria, judged
from sfxproc.parallel.comm import Comm
from sfxproc.parallel.decide import decided
from sfxproc.refine.merging_job import (
    MergingJob,
)
from sfxproc.refine.refined import Refined
from sfxproc.report.log import Log
from sfxproc.settings.sections import Rejection

F8 = NDArray[np.float64]
I1 = NDArray[np.int8]
U1 = NDArray[np.uint8]
Mask = NDArray[np.bool_]
InventoryT = TypeVar("InventoryT", bound=Inventory)
RefinedT = TypeVar("RefinedT", bound=Refined)

COLUMNS = {
    "cc": "cc_to_others",
    "cc_expected": "cc_expected",
    "signal": "signal",
    "signal_sigma": "sigma_signal",
    "delta_cc_half": "delta_cc_half",
    "delta_sigma": "sigma_delta_cc_half",
    "n_outliers": "n_outliers",
}
"""Columns of Agreement that go to frames.h5, with what they are called there."""


@dataclass(eq=False)
class Judge:
    """Decides which crystals are left out while refining, and remembers why.

    half : (n_crystals,) half sets, −1 of crystals left out. reason : (n_crystals,) of those left
    out while refining; both on all ranks. agreement_then : on rank 0, (n_crystals,) columns of
    Agreement when a crystal was left out, NaN of the others.
    """

    comm: Comm
    rejection: Rejection
    log: Log
    half: I1
    reason: U1 = field(init=False)
    agreement_then: dict[str, F8] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reason = np.full(len(self.half), Reason.NONE, dtype=np.uint8)

    def leave_out(self, reason: U1) -> None:
        """Leave out the crystals that have a reason (n_crystals,)."""
        gone = reason != Reason.NONE
        self.reason = np.where(gone, reason, self.reason)
        self.half = np.where(gone, np.int8(-1), self.half)

    def newly_out(self, refined: Refined) -> Mask:
        """(n_crystals,) which crystals in use are to be left out now, decided by rank 0."""
        if not self.rejection.reject:
            return np.zeros(len(self.reason), dtype=bool)
        agreement = refined.agreement(self.half)
        used = refined.in_use & (self.reason == Reason.NONE)

        def decide() -> U1:
            assert agreement is not None
            return np.where(used, judged(agreement, criteria_of(self.rejection)), Reason.NONE)

        reason = decided(self.comm, decide)
        out: Mask = reason != Reason.NONE
        if agreement is not None:
            self._remember(agreement, out)
        self.leave_out(reason)
        tell_left_out(reason[out], self.log)
        return out

    def _remember(self, agreement: Agreement, out: Mask) -> None:
        for name in COLUMNS:
            then = self.agreement_then.setdefault(name, np.full(len(out), np.nan))
            then[out] = getattr(agreement, name)[out]

    def columns(self, refined: Refined) -> dict[str, F8]:
        """Columns of frames.h5 on rank 0, nothing elsewhere; of a crystal that was left out as it
        was then."""
        now = refined.agreement(self.half)
        if now is None:
            return {}
        gone = self.reason != Reason.NONE
        nothing = np.full(len(gone), np.nan)
        return {
            column: np.where(gone, self.agreement_then.get(name, nothing), getattr(now, name))
            for name, column in COLUMNS.items()
        }


def half_sets(data: Inventory) -> I1:
    """(n_crystals,) half set of each crystal; −1 for those left out."""
    half = half_of(data.crystals.identity)
    half[data.status == Status.LEFT_OUT] = -1
    return half


def criteria_of(wanted: Rejection) -> Criteria:
    """When a crystal is left out."""
    return Criteria(
        false_alarms=wanted.false_alarms,
        unrelated_signal=wanted.unrelated_signal,
        min_cc=wanted.min_cc,
    )


def tell_left_out(reasons: U1, log: Log) -> None:
    """Say how many crystals are left out for which reason, if any are."""
    counts = Counter(Reason(int(r)) for r in reasons)
    if counts:
        words = ", ".join(f"{why.text} {n:,}" for why, n in counts.most_common())
        log(f"{len(reasons):,} crystals are left out from here on: {words}")


def without_crystals(data: InventoryT, reason: U1) -> InventoryT:
    """The data without the crystals that have a reason (n_crystals,) to be left out."""
    gone = reason != Reason.NONE
    if not gone.any():
        return data
    lost = int(data.n_observations[gone].sum())
    already = data.left_out.get(Reason.CRYSTAL_LEFT_OUT, 0)
    return replace(
        data,
        status=np.where(gone, np.uint8(Status.LEFT_OUT), data.status),
        reason=np.where(gone, reason, data.reason),
        n_observations=np.where(gone, 0, data.n_observations),
        left_out=by_reason(coded({**data.left_out, Reason.CRYSTAL_LEFT_OUT: already + lost})),
    )


def refined_without_bad(refined: RefinedT, judge: Judge) -> RefinedT:
    """Refined further without crystals that disagree, until none does."""
    for number in range(1, judge.rejection.passes + 1):
        out = judge.newly_out(refined)
        if not out.any():
            break
        refined = refined.without(out).continued(f"without-{number}")
    return refined


def judge_of(job: MergingJob, data: Inventory | None) -> Judge:
    """Who judges the job's crystals. data : on rank 0."""

    def halves() -> NDArray[np.int8]:
        assert data is not None
        return half_sets(data)

    return Judge(job.comm, job.config.rejection, job.log, decided(job.comm, halves))
