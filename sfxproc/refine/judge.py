"""Crystals that disagree with all others, left out while refining, each for a named reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxproc.data import Reason, Status
from sfxproc.intake.reading import Dataset
from sfxproc.intake.selection import Inventory, by_reason, coded
from sfxproc.lsq import Engine, Point, Result
from sfxproc.models.agreement import Agreement, Criteria, agreement_of, judged
from sfxproc.models.error_model import refits_of
from sfxproc.models.scale import ScaleModel
from sfxproc.refine.choices import loss_of
from sfxproc.refine.scale_job import CrystalModel, ScaleJob, own_halves
from sfxproc.refine.solve import solve
from sfxproc.report.log import Log
from sfxproc.settings.sections import Rejection

F8 = NDArray[np.float64]
U1 = NDArray[np.uint8]
InventoryT = TypeVar("InventoryT", bound=Inventory)

TOLD = ("cc", "cc_expected", "signal", "signal_sigma", "delta_cc_half", "delta_sigma",
        "n_outliers")  # fmt: skip
"""Columns of Agreement that go to frames.h5, with what they are called there."""
NAMES = {"delta_sigma": "sigma_delta_cc_half", "cc": "cc_to_others", "signal_sigma": "sigma_signal"}


@dataclass(eq=False)
class Judging:
    """What has been decided about this rank's crystals so far.

    reason : (n_own,) of those left out. agreement_then : (n_own,) columns of Agreement at the time,
    NaN of the others.
    """

    job: ScaleJob
    data: Dataset
    reason: U1 = field(init=False)
    agreement_then: dict[str, F8] = field(init=False)

    def __post_init__(self) -> None:
        own = self.data.chunks.crystals
        n = own.stop - own.start
        self.reason = np.full(n, Reason.NONE, dtype=np.uint8)
        self.agreement_then = {name: np.full(n, np.nan) for name in TOLD}

    def __call__(self, result: Result[CrystalModel]) -> NDArray[np.bool_]:
        """(n_own,) which crystals in use are to be left out now."""
        wanted = self.job.config.rejection
        if not wanted.reject:
            return np.zeros(len(self.reason), dtype=bool)
        model = result.model.at(result.point)
        agreement = self.agreement(model, result.point)
        found = judged(agreement, criteria_of(wanted))
        used = self.data.status[self.data.chunks.crystals] == Status.USED
        new = (found != Reason.NONE) & (self.reason == Reason.NONE)
        bad: NDArray[np.bool_] = used & new
        self.reason = np.where(bad, found, self.reason)
        for name, then in self.agreement_then.items():
            then[bad] = getattr(agreement, name)[bad]
        tell_left_out(self.job.comm.allgather_rows(found[bad]), self.job.log)
        return bad

    def agreement(self, model: ScaleModel, point: Point) -> Agreement:
        """How this rank's crystals agree with the merge of those that are in use."""
        half = own_halves(self.data)
        half[self.reason != Reason.NONE] = -1
        return agreement_of(model, point, loss_of(self.job.config), half)

    def columns(self, model: ScaleModel, point: Point) -> dict[str, NDArray[Any]]:
        """Columns of frames.h5, of all crystals; of one that was left out as it was then."""
        now = self.agreement(model, point)
        gone = self.reason != Reason.NONE
        return {
            NAMES.get(name, name): self.job.comm.allgather_rows(
                np.where(gone, then, getattr(now, name))
            )
            for name, then in self.agreement_then.items()
        }

    def decided(self, n_rows: NDArray[np.int64]) -> Dataset:
        """The data without the crystals that were left out. n_rows : (n_own,) observations of each
        before."""
        everyone = self.job.comm.allgather_rows(self.reason)
        gone = everyone != Reason.NONE
        if not gone.any():
            return self.data
        kept = ~np.repeat(self.reason != Reason.NONE, n_rows)
        data = without_crystals(self.data, everyone)
        return replace(data, observations=data.observations.take(kept))


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
    lost = int(data.n_observations[gone].sum())
    already = data.left_out.get(Reason.CRYSTAL_LEFT_OUT, 0)
    return replace(
        data,
        status=np.where(gone, np.uint8(Status.LEFT_OUT), data.status),
        reason=np.where(gone, reason, data.reason),
        n_observations=np.where(gone, 0, data.n_observations),
        left_out=by_reason(coded({**data.left_out, Reason.CRYSTAL_LEFT_OUT: already + lost})),
    )


def refined_without_bad(
    job: ScaleJob, engine: Engine, result: Result[ScaleModel], judge: Judging
) -> Result[ScaleModel]:
    """The scaling solved again without crystals that disagree, until none does."""
    for number in range(1, job.config.rejection.passes + 1):
        bad = judge(result)
        if not any(job.comm.allgather(bool(bad.any()))):
            break
        model = result.model.without(bad)
        refits = refits_of(job.config.scaling.error_model)
        model = model.with_errors(replace(model.errors, refits=refits))
        again = solve(engine, model, result.point, job.config, job.run, f"without-{number}")
        result = replace(again, iterations=(*result.iterations, *again.iterations))
    return result
